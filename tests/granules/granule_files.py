"""Small HDF5 granules of every kind, and what a plain reading of them gives."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from healpix_geo.nested import lonlat_to_healpix

from magg.config import Column, Coordinates, DataSource, QualityFilter
from magg.grid import Grid, nested_ids

BEAMS = ("gt1l", "gt1r", "gt2l", "gt2r", "gt3l", "gt3r")
FILL = np.float32(3.4028235e38)
SEGMENTS = "/{group}/land_ice_segments/"
GRID = Grid(6, 12)


def data_source(**changes: Any) -> DataSource:
    options: dict[str, Any] = {
        "groups": BEAMS,
        "coordinates": Coordinates(SEGMENTS + "latitude", SEGMENTS + "longitude"),
        "variables": {"h_li": Column(SEGMENTS + "h_li"), "s_li": SEGMENTS + "h_li_sigma"},
        "quality_filter": QualityFilter(SEGMENTS + "atl06_quality_summary", 0),
    }
    return DataSource(**{**options, **changes})


def track(rows: int, seed: int = 0) -> dict[str, np.ndarray]:
    """Rows 20 m apart on a meridian in western Greenland, with bad and missing ones."""
    rng = np.random.default_rng(seed)
    height = rng.normal(1000, 50, rows).astype("f4")
    height[rng.random(rows) < 0.05] = FILL
    return {
        "latitude": 70 + seed * 0.01 + np.arange(rows) * 1.8e-4,
        "longitude": np.full(rows, -50.0) + rng.normal(0, 1e-6, rows),
        "h_li": height,
        "h_li_sigma": rng.uniform(0.01, 0.3, rows).astype("f4"),
        "atl06_quality_summary": (rng.random(rows) < 0.2).astype("i1"),
    }


def write_granule(
    path: Path,
    beams: Mapping[str, Mapping[str, np.ndarray]],
    attributes: Mapping[str, Mapping[str, Any]] | None = None,
    **options: Any,
) -> str:
    """Write beams as they are; ``options`` go to every dataset that has rows."""
    fills = {"h_li": FILL, "h_li_sigma": FILL}
    if attributes is None:
        attributes = {name: {"_FillValue": fill} for name, fill in fills.items()}
    with h5py.File(path, "w") as file:
        for beam, datasets in beams.items():
            group = file.create_group(f"{beam}/land_ice_segments")
            for name, values in datasets.items():
                kept = options if values.size and values.ndim else {}
                made = group.create_dataset(name, data=values, fillvalue=fills.get(name), **kept)
                made.attrs.update(attributes.get(name, {}))
    return str(path)


CHUNKED = {"chunks": (1000,), "compression": "gzip"}


def plain_cells(latitude: np.ndarray, longitude: np.ndarray, order: int) -> np.ndarray:
    """NESTED ids by another library, -1 where there is no position."""
    with np.errstate(invalid="ignore"):
        valid = (np.abs(latitude) <= 90) & (longitude >= -180) & (longitude <= 360)
    ids = np.full(len(latitude), -1, dtype=np.int64)
    lon, lat = longitude[valid].astype("f8") % 360, latitude[valid].astype("f8")
    ids[valid] = lonlat_to_healpix(lon, lat, order, ellipsoid="WGS84", num_threads=1)
    return ids


def plain_read(
    granules: Sequence[str], cell: int, grid: Grid, columns: Collection[str], value: int = 0
) -> dict[str, np.ndarray]:
    """Read with h5py and numpy alone: whole datasets, ATL06 names and fill values."""
    wanted = int(nested_ids(np.array([cell], "u8"), grid.parent_order)[0])
    names = {"h_li": "h_li", "s_li": "h_li_sigma"}
    parts: dict[str, list[np.ndarray]] = {"child": [], **{name: [] for name in columns}}
    for granule in granules:
        with h5py.File(granule) as file:
            for beam in (beam for beam in BEAMS if beam in file):
                rows = {k: v[:] for k, v in file[beam]["land_ice_segments"].items() if k in NEEDED}
                ids = plain_cells(rows["latitude"], rows["longitude"], grid.child_order)
                keep = (ids >= 0) & (ids // grid.children == wanted)
                keep &= rows["atl06_quality_summary"] == value
                for name in columns:
                    keep &= np.isfinite(rows[names[name]]) & (rows[names[name]] != FILL)
                parts["child"].append(ids[keep] % grid.children)
                for name in columns:
                    parts[name].append(rows[names[name]][keep])
    return {name: np.concatenate(arrays) for name, arrays in parts.items()}


NEEDED = ("latitude", "longitude", "h_li", "h_li_sigma", "atl06_quality_summary")


def assert_same(rows: Any, plain: Mapping[str, np.ndarray]) -> None:
    np.testing.assert_array_equal(rows.child, plain["child"])
    assert set(rows.columns) == set(plain) - {"child"}
    for name, values in rows.columns.items():
        np.testing.assert_array_equal(values, plain[name])
        assert values.dtype == plain[name].dtype
