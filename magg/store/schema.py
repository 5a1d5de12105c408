"""What a store holds: its arrays and attributes, as plain descriptions.

The group ``{child_order}/`` follows the Zarr DGGS convention, version 1, and so opens in xdggs
0.7; the attributes of xdggs' own on ``cell_ids`` serve xdggs 0.6. Variables carry CF attributes.
"""

from __future__ import annotations

import base64
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from magg import __version__
from magg.config import PipelineConfig
from magg.grid import LATITUDE_CONVENTION, Grid
from magg.statistics import Statistic

DIMENSION = "cells"
PARENTS = "parent_cells"
PROVENANCE = "magg"
# Of the store's layout, not of magg: raised when a store of before can no longer be continued.
LAYOUT_VERSION = 1

WGS84 = {"name": "WGS84", "semimajor_axis": 6378137.0, "inverse_flattening": 298.257223563}
DGGS_CONVENTION = {
    "schema_url": (
        "https://raw.githubusercontent.com/zarr-conventions/dggs/refs/tags/v1/schema.json"
    ),
    "spec_url": "https://github.com/zarr-conventions/dggs/blob/v1/README.md",
    "uuid": "7b255807-140c-42ca-97f6-7a1cfecdbc38",
    "name": "dggs",
    "description": "Discrete Global Grid Systems convention for zarr",
}
MULTISCALES_CONVENTION = {
    "schema_url": (
        "https://raw.githubusercontent.com/zarr-conventions/multiscales/refs/tags/v1/schema.json"
    ),
    "spec_url": "https://github.com/zarr-conventions/multiscales/blob/v1/README.md",
    "uuid": "d35379db-88df-4056-af3a-620245f8e347",
    "name": "multiscales",
    "description": "Multiscale layout of zarr datasets",
}
# CF cell methods, and whether the result has the unit of its source.
CELL_METHODS = {
    "min": "minimum",
    "max": "maximum",
    "mean": "mean",
    "average": "mean",
    "median": "median",
    "std": "standard_deviation",
    "var": "variance",
    "sum": "sum",
    "ptp": "range",
}
KEEPS_UNITS = {*CELL_METHODS, "quantile", "percentile"} - {"var"}


@dataclass(frozen=True)
class ArraySpec:
    """One array along the cells axis."""

    name: str
    dtype: np.dtype[Any]
    fill: np.generic
    attributes: dict[str, Any] = field(default_factory=dict)


def array_specs(
    config: PipelineConfig, grid: Grid, sources: Mapping[str, Mapping[str, str]]
) -> list[ArraySpec]:
    """Return the coordinates and variables of a store.

    Parameters
    ----------
    config : PipelineConfig
    grid : Grid
    sources : mapping
        Column name to the attributes (``units``, ``long_name``) that its dataset has.
    """
    word = np.dtype(np.uint64)
    coordinates = [
        ArraySpec("cell_ids", word, word.type(0), _cell_id_attributes(grid)),
        ArraySpec(
            "morton",
            word,
            word.type(0),
            {"long_name": "Morton word of the cell, as mortie packs it"},
        ),
    ]
    variables = [
        ArraySpec(
            name,
            statistic.fill.dtype,
            statistic.fill,
            _variable_attributes(statistic, sources.get(statistic.source or "", {})),
        )
        for name, statistic in config.statistics.items()
    ]
    return coordinates + variables


def root_mark(grid: Grid) -> dict[str, Any]:
    """Return what marks the root of a store as magg's."""
    return {"layout_version": LAYOUT_VERSION, "orders": [grid.child_order]}


def pyramid_attributes(orders: Sequence[int], has_state: bool) -> dict[str, Any]:
    """Return the attributes of the root of a store that holds several orders, or the state."""
    mark = {"layout_version": LAYOUT_VERSION, "orders": sorted(orders)}
    if has_state:
        mark["state"] = True
    if len(orders) == 1:
        return {PROVENANCE: mark}
    return {
        PROVENANCE: mark,
        "zarr_conventions": [MULTISCALES_CONVENTION],
        "multiscales": {"layout": [{"asset": str(o)} for o in sorted(orders, reverse=True)]},
    }


def level_attributes(
    leaf: Mapping[str, Any],
    order: int,
    made_from: str,
    accuracy: Mapping[str, str],
    absent: Mapping[str, str],
) -> dict[str, Any]:
    """Return the attributes of the group of a coarser order, from those of the child order."""
    return {
        **leaf,
        "dggs": leaf["dggs"] | {"refinement_level": order},
        "made_from": made_from,
        "approximate_variables": {name: words for name, words in accuracy.items() if words},
        "absent_variables": dict(absent),
    }


def group_attributes(config: PipelineConfig, grid: Grid, catalog_digest: str) -> dict[str, Any]:
    """Return the attributes of the group ``{child_order}/``, provenance included."""
    return {
        "Conventions": "CF-1.11",
        "zarr_conventions": [DGGS_CONVENTION],
        "dggs": {
            "name": "healpix",
            "refinement_level": grid.child_order,
            "indexing_scheme": "nested",
            "spatial_dimension": DIMENSION,
            "ellipsoid": WGS84,
            "coordinate": "cell_ids",
            "compression": "none",
        },
        PROVENANCE: provenance(config, grid, catalog_digest),
    }


def provenance(config: PipelineConfig, grid: Grid, catalog_digest: str) -> dict[str, Any]:
    """Return what made a store: config, grid, conventions and versions."""
    return {
        "layout_version": LAYOUT_VERSION,
        "parent_order": grid.parent_order,
        "child_order": grid.child_order,
        "latitude_convention": LATITUDE_CONVENTION,
        "config_digest": config.digest,
        "config": config.identity(),
        "catalog_digest": catalog_digest,
        "versions": _versions(),
    }


def differences(stored: Mapping[str, Any], wanted: Mapping[str, Any]) -> list[str]:
    """Return what keeps a run from continuing a store, as readable lines.

    Catalog and versions may differ: newer granules and newer software may add to a store.
    """
    may_differ = {"catalog_digest", "config_digest", "versions"}
    return [
        f"{place}: the store has {ours!r}, this run {theirs!r}"
        for place, ours, theirs in _walk("", _only(stored, may_differ), _only(wanted, may_differ))
    ]


def _only(provenance: Mapping[str, Any], leave_out: set[str]) -> dict[str, Any]:
    return {key: value for key, value in provenance.items() if key not in leave_out}


def _walk(place: str, ours: Any, theirs: Any) -> list[tuple[str, Any, Any]]:
    if isinstance(ours, Mapping) and isinstance(theirs, Mapping):
        return [
            found
            for key in [*ours, *(key for key in theirs if key not in ours)]
            for found in _walk(f"{place}.{key}".lstrip("."), ours.get(key), theirs.get(key))
        ]
    return [] if ours == theirs else [(place, ours, theirs)]


def _cell_id_attributes(grid: Grid) -> dict[str, Any]:
    # xdggs 0.6 takes every attribute for a parameter of the grid, so there may be no other here.
    return {
        "grid_name": "healpix",
        "level": grid.child_order,
        "indexing_scheme": "nested",
        "ellipsoid": WGS84,
    }


def _variable_attributes(statistic: Statistic, source: Mapping[str, str]) -> dict[str, Any]:
    function = (statistic.function or "").removeprefix("np.").removeprefix("numpy.")
    plain = function.removeprefix("nan")
    attributes: dict[str, Any] = {}
    if plain in KEEPS_UNITS and "units" in source:
        attributes["units"] = source["units"]
    if plain in CELL_METHODS:
        attributes["cell_methods"] = f"{DIMENSION}: {CELL_METHODS[plain]}"
    attributes.update(statistic.attrs)
    if function not in ("len", "count") and not np.isnan(statistic.fill):
        attributes["_FillValue"] = _xarray_fill(statistic.fill)
    return attributes


def _xarray_fill(fill: np.generic) -> int | str:
    """Return a fill value as xarray writes it into the attributes of a Zarr v3 array."""
    if fill.dtype.kind == "f":
        return base64.standard_b64encode(struct.pack("<d", float(fill))).decode()
    return int(fill)


def _versions() -> dict[str, str]:
    from importlib.metadata import version

    packages = ("numpy", "mortie", "zarr", "h5py")
    return {"magg": __version__} | {package: version(package) for package in packages}
