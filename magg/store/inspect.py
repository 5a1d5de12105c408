"""What a store holds, told without changing it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from magg.errors import StoreError, StoreNotFoundError
from magg.grid import to_decimal
from magg.store import schema
from magg.store.declared import parent_cells
from magg.store.levels import Holdings
from magg.store.marks import Marks, list_marks
from magg.store.open import DEFAULT_REGION, local_path, normalise, open_objects, open_store, told_of
from magg.store.template import provenances

if TYPE_CHECKING:
    import zarr

STATES = ("data", "empty", "partial", "failed", "interrupted", "missing")


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
    with told_of(place):
        try:
            root = zarr.open_group(open_store(place, read_only=True, region=region), mode="r")
        except FileNotFoundError as error:
            if isinstance(error, StoreError):
                raise
            # A prefix of a bucket that holds nothing is not there; a folder may be empty.
            empty = not next(iter(open_objects(place, region).list()), [])
            if empty and local_path(place) is None:
                raise StoreNotFoundError(f"there is no store at {place}") from None
            raise StoreError(f"{place} is no Zarr store") from None
    if schema.PROVENANCE not in root.attrs:
        raise StoreError(f"{place} is a Zarr store, but none of magg")
    return root


def child_orders(root: zarr.Group) -> list[int]:
    """Return the child orders of a store, or of a Zarr group laid out like one, ascending."""
    mark = root.attrs.get(schema.PROVENANCE)
    if mark is not None:
        return sorted(mark["orders"])
    return sorted(int(name) for name in root.group_keys() if name.isdecimal())


def describe(path: str | Path, region: str | None = DEFAULT_REGION) -> dict[str, Any]:
    """Return what a store holds, as plain data.

    Returns
    -------
    dict
        ``store``, ``parent_order``, ``child_order``, ``orders`` (all of them, ascending),
        ``has_state``, ``absent_variables`` (coarser orders to the statistics that they lack, and
        why), ``parent_cells``, ``child_cells``,
        ``variables`` (name to dtype, units and chunks written), ``config_digest``, ``versions``,
        and ``cells``: how many parent cells are done with ``data``, done and ``empty``, done but
        for skipped granules (``partial``), ``failed`` at their last attempt, ``interrupted``
        while they were written, and ``missing`` altogether; ``first`` and ``last`` tell when
        cells were done (ISO 8601, UTC).

    Raises
    ------
    StoreError
        If there is no store of magg at this place, or its template was never finished.
    """
    root = open_group(path, region)
    finished = provenances(root)
    if not finished:
        raise StoreError(f"{path}: the store was never finished; run again to complete it")
    order, made = max(finished.items())
    group = root[str(order)]
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
        "orders": child_orders(root),
        "has_state": Holdings.of(root).state,
        "absent_variables": _absent(root),
        "cells": cell_states(path, [to_decimal(word) for word in parents], region),
        "variables": variables,
        "config_digest": made["config_digest"],
        "versions": made["versions"],
    }


def _absent(root: zarr.Group) -> dict[int, dict[str, str]]:
    absent = {
        order: root[f"{order}"].attrs["absent_variables"] for order in Holdings.of(root).orders
    }
    return {order: dict(reasons) for order, reasons in absent.items() if reasons}


def cell_states(
    path: str | Path, cells: Sequence[str], region: str | None = DEFAULT_REGION
) -> dict[str, Any]:
    """Return how many cells are in which state, as `describe` tells it; costs one listing."""
    marks = list_marks(normalise(path), region)
    states = Counter(_state(cell, marks) for cell in cells)
    times = [mark.time for done in marks.done.values() for mark in done]
    return {name: states[name] for name in STATES} | {
        "first": min(times).isoformat(timespec="seconds") if times else None,
        "last": max(times).isoformat(timespec="seconds") if times else None,
    }


def _state(cell: str, marks: Marks) -> str:
    done = marks.done.get(cell)
    if cell in marks.failed:
        return "failed"
    if done:
        return max(done, key=lambda mark: mark.time).status
    return "interrupted" if cell in marks.writing else "missing"
