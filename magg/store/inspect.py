"""What a store holds, told without changing it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from magg.errors import StoreError
from magg.store import schema
from magg.store.open import DEFAULT_REGION, normalise, open_store
from magg.store.template import parent_cells

if TYPE_CHECKING:
    import zarr


def open_group(path: str | Path, region: str | None = DEFAULT_REGION) -> zarr.Group:
    """Open the root group of a store of magg for reading.

    Raises
    ------
    StoreNotFoundError
        If there is nothing at this place.
    StoreError
        If what is there is no store of magg.
    """
    import zarr

    place = normalise(path)
    try:
        root = zarr.open_group(open_store(place, read_only=True, region=region), mode="r")
    except FileNotFoundError as error:
        if isinstance(error, StoreError):
            raise
        raise StoreError(f"{place} is no Zarr store") from None
    if schema.PROVENANCE not in root.attrs:
        raise StoreError(f"{place} is a Zarr store, but none of magg")
    return root


def child_orders(root: zarr.Group) -> list[int]:
    """Return the child orders that a store holds, finest first."""
    return sorted((int(name) for name in root.group_keys() if name.isdecimal()), reverse=True)


def describe(path: str | Path, region: str | None = DEFAULT_REGION) -> dict[str, Any]:
    """Return what a store holds, as plain data.

    Returns
    -------
    dict
        ``store``, ``parent_order``, ``child_order``, ``parent_cells``, ``child_cells``,
        ``variables`` (name to dtype, units and chunks written), ``config_digest`` and
        ``versions``.

    Raises
    ------
    StoreError
        If there is no store of magg at this place, or its template was never finished.
    """
    root = open_group(path, region)
    orders = child_orders(root)
    group = root[str(orders[0])] if orders else None
    if group is None or schema.PROVENANCE not in group.attrs:
        raise StoreError(f"{path}: the store was never finished; run again to complete it")
    made = group.attrs[schema.PROVENANCE]
    parents = parent_cells(root)
    variables = {
        name: {
            "dtype": str(array.dtype),
            "units": array.attrs.get("units", ""),
            "long_name": array.attrs.get("long_name", ""),
            "chunks_written": array.nchunks_initialized,
        }
        for name, array in sorted(group.arrays())
        if name not in ("cell_ids", "morton")
    }
    return {
        "store": normalise(path),
        "parent_order": made["parent_order"],
        "child_order": made["child_order"],
        "parent_cells": len(parents),
        "child_cells": int(np.prod(group["cell_ids"].shape)),
        "variables": variables,
        "config_digest": made["config_digest"],
        "versions": made["versions"],
    }
