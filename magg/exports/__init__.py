"""Stores for other programs: GeoParquet of cells, GeoTIFF in a projection of choice."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from magg.exports.source import open_source
from magg.store.open import DEFAULT_REGION

if TYPE_CHECKING:
    import zarr

__all__ = ["export"]

PARQUET, TIFF = (".parquet", ".geoparquet"), (".tif", ".tiff")


def export(
    store: str | os.PathLike[str] | zarr.Group,
    path: str | os.PathLike[str],
    *,
    variables: Sequence[str] | None = None,
    order: int | None = None,
    within: Any = None,
    crs: Any = None,
    resolution: float | None = None,
    region: str | None = DEFAULT_REGION,
) -> Path:
    """Write the cells of a store that have a value to a file for other programs.

    ``.parquet`` or ``.geoparquet`` makes GeoParquet 1.1: one row a cell, with its id, its
    polygon and its variables (null where it has no value). ``.tif`` or ``.tiff`` makes a GeoTIFF:
    one band a variable, in which a pixel has the value of the cell that holds its centre, and NaN
    where there is none. The file appears when it is whole.

    Memory is bounded: at most 65,536 cells, or a million pixels and the chunks beneath them, are
    held at once, however large the store is.

    Parameters
    ----------
    store : str, path or zarr.Group
        Where the store is (a local path or ``s3://bucket/prefix``), or its root group.
    path : str or path
        Where the file goes; its suffix says which kind it is.
    variables : sequence of str, optional
        All of them where left out.
    order : int, optional
        Which of the store's orders; the finest where left out.
    within : optional
        A part of the Earth only: a box, a polygon or a cell, as `magg.open_results` takes it.
    crs : optional
        A coordinate reference system as pyproj takes it, such as ``"EPSG:3031"``. Where left out,
        GeoParquet has longitude and latitude, and a GeoTIFF has EPSG:3031 or EPSG:3413 for polar
        data and EPSG:4326 for other. Longitudes of a GeoTIFF may go beyond 180 degrees, so that
        data across the antimeridian stay together.
    resolution : float, optional
        Of the pixels of a GeoTIFF, in the unit of the coordinate reference system; where left
        out, a round number that is at most two thirds of a cell.
    region : str, default "us-west-2"
        AWS region of the store's bucket.

    Returns
    -------
    Path
        Where the file is.

    Raises
    ------
    MissingExtraError
        If the extra ``export`` is not installed.
    StoreNotFoundError, StoreError
        If there is no store, or it lacks a variable or the order.
    ValueError
        If the suffix, CRS, resolution or part of the Earth makes no sense, or no cell has a value.
    """
    target = Path(path).expanduser()
    suffix = target.suffix.lower()
    if suffix not in PARQUET + TIFF:
        raise ValueError(
            f"{target.name}: magg exports GeoParquet ({' or '.join(PARQUET)}) and "
            f"GeoTIFF ({' or '.join(TIFF)}); give the file such a suffix"
        )
    if resolution is not None and (suffix in PARQUET or not resolution > 0):
        raise ValueError(
            f"resolution is that of the pixels of a GeoTIFF, and more than 0, not {resolution!r}"
        )
    source = open_source(store, variables, order, within, region)
    # Beside the target, so that it can be renamed; what a failure leaves is removed.
    partial = target.with_name(f".{target.stem}.partial{suffix}")
    try:
        if suffix in PARQUET:
            from magg.exports.geoparquet import write_geoparquet

            write_geoparquet(source, partial, crs)
        else:
            from magg.exports.geotiff import write_geotiff

            write_geotiff(source, partial, crs, resolution)
        partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)
    return target
