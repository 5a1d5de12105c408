"""Cells as pixels: each has the value of the cell that holds its centre, found by its place."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from magg import __version__
from magg.errors import require_extra
from magg.exports.source import NOTHING, Source, crs_of
from magg.grid import centres, locate, prefixes, words_of
from magg.projections import EARTH_RADIUS_KM, Polar, projection_for, side_km
from magg.results.axis import holds, merged, positions_of
from magg.results.outlines import outlines, points_a_side

TILE = 512
PIXELS_ASIDE = 1024  # a million pixels at once
MOST_PIXELS = 10_000_000_000
BINS = 36_000  # of longitude, to find where data have their widest gap
LEAST_GAP = 20.0  # degrees
M_PER_DEGREE = math.pi * EARTH_RADIUS_KM * 1e3 / 180.0

Extent = tuple[float, float, float, float]  # west, south, east, north in the unit of a CRS


def write_geotiff(source: Source, path: Path, crs: Any, resolution: float | None) -> None:
    """Write the cells of a source to a file.

    Raises
    ------
    MissingExtraError
        If rasterio or pyproj is not installed.
    ValueError
        If the CRS is none, no cell has a value, or there would be too many pixels.
    """
    try:
        import rasterio
        from rasterio.crs import CRS
        from rasterio.transform import from_origin
        from rasterio.windows import Window
    except ImportError as error:
        raise require_extra("rasterio", "export") from error
    import pyproj

    target = crs_of(_usual_crs(source) if crs is None else crs)
    west, south, east, north = _extent(source, target)
    pixel = _usual_resolution(source, target) if resolution is None else float(resolution)
    # On multiples of the resolution, so that exports of two stores lie on each other.
    first_x, first_y = _down(west / pixel), _up(north / pixel)
    width, height = _up(east / pixel) - first_x, first_y - _down(south / pixel)
    if width * height > MOST_PIXELS:
        raise ValueError(
            f"{width:,} by {height:,} pixels are too many; give a coarser resolution than "
            f"{pixel:g}, or a smaller part with within"
        )
    kinds = [array.dtype for array in source.arrays.values()]
    options = {
        "driver": "GTiff",
        "width": width,
        "height": height,
        "count": len(kinds),
        "dtype": np.result_type(np.float32, *kinds).name,
        "nodata": np.nan,
        "crs": CRS.from_wkt(target.to_wkt()),
        "transform": from_origin(first_x * pixel, first_y * pixel, pixel, pixel),
        "tiled": True,
        "blockxsize": TILE,
        "blockysize": TILE,
        "compress": "deflate",
        "predictor": 3,
        "bigtiff": "IF_SAFER",
        "sparse_ok": True,
    }
    inverse = pyproj.Transformer.from_crs(target, "OGC:CRS84", always_xy=True)
    with rasterio.open(path, "w", **options) as file:
        _describe(file, source)
        for row, column in _windows(height, width):
            rows = np.arange(row, min(row + PIXELS_ASIDE, height))
            columns = np.arange(column, min(column + PIXELS_ASIDE, width))
            x, y = np.meshgrid((first_x + columns + 0.5) * pixel, (first_y - rows - 0.5) * pixel)
            bands = _bands(source, _places(source, inverse, x, y), options["dtype"])
            if bands is not None:
                window = Window(column, row, columns.size, rows.size)
                file.write(bands, window=window)


def _down(number: float) -> int:
    return math.floor(number + 1e-9)  # 90 / 0.005 is a little more than 18,000


def _up(number: float) -> int:
    return math.ceil(number - 1e-9)


def _places(
    source: Source, inverse: Any, x: NDArray[np.float64], y: NDArray[np.float64]
) -> NDArray[np.int64]:
    """Return the position of the cell at each pixel's centre, -1 where there is none."""
    lon, lat = inverse.transform(x, y)
    words = locate(np.ravel(lat), _within_a_turn(np.ravel(lon)))
    places = source.axis.places(prefixes(words, source.axis.order)).reshape(x.shape)
    return np.where(holds(source.runs, places), places, -1)


def _within_a_turn(lon: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.where(np.isfinite(lon), np.remainder(lon + 180.0, 360.0) - 180.0, np.nan)


def _bands(source: Source, places: NDArray[np.int64], dtype: Any) -> NDArray[Any] | None:
    """Return the values of the variables at pixels, or None where no cell is."""
    wanted, pixel = np.unique(places, return_inverse=True)
    present = wanted[wanted >= 0]
    if not present.size:
        return None
    columns = source.read(merged(np.stack([present, present + 1], axis=-1)))
    missing = wanted.size - present.size
    bands = np.full((len(columns), wanted.size), np.nan, dtype=dtype)
    for band, (values, has) in zip(bands, columns.values(), strict=True):
        band[missing:] = np.where(has, values, np.nan)
    return bands[:, pixel.reshape(places.shape)]


def _describe(file: Any, source: Source) -> None:
    file.update_tags(
        TIFFTAG_SOFTWARE=f"magg {__version__}",
        healpix_order=source.axis.order,
        AREA_OR_POINT="Area",
    )
    for number, (name, array) in enumerate(source.arrays.items(), 1):
        file.set_band_description(number, name)
        if units := str(array.attrs.get("units", "")):
            file.set_band_unit(number, units)
        if long_name := str(array.attrs.get("long_name", "")):
            file.update_tags(number, long_name=long_name)


def _windows(height: int, width: int) -> Iterator[tuple[int, int]]:
    for row in range(0, height, PIXELS_ASIDE):
        for column in range(0, width, PIXELS_ASIDE):
            yield row, column


# --- where the data are ----------------------------------------------------------------------


def _usual_crs(source: Source) -> str:
    """Return the coordinate reference system that suits the units that are asked for."""
    per_unit = source.axis.per_unit
    begun = np.stack([source.runs[:, 0] // per_unit, -(-source.runs[:, 1] // per_unit)], axis=-1)
    units = source.axis.units[positions_of(merged(begun))]
    units = units[units > 0]
    if not units.size:
        raise ValueError(NOTHING)
    order = source.axis.unit_order
    words = words_of(units - (np.uint64(1) << np.uint64(2 * order)), order)
    projection = projection_for(*centres(words))
    if isinstance(projection, Polar):
        return "EPSG:3413" if projection.pole > 0 else "EPSG:3031"
    return "EPSG:4326"


def _usual_resolution(source: Source, crs: Any) -> float:
    """Return a round number that is at most two thirds of the side of a cell."""
    metres = side_km(source.axis.order) * 1e3 / 1.5
    unit = M_PER_DEGREE if crs.is_geographic else crs.axis_info[0].unit_conversion_factor
    most = metres / unit
    power = 10.0 ** math.floor(math.log10(most))
    return max(step * power for step in (1, 2, 5) if step * power <= most * (1 + 1e-9))


def _extent(source: Source, crs: Any) -> Extent:
    """Return the extent of the cells that have a value."""
    import pyproj

    forward = pyproj.Transformer.from_crs("OGC:CRS84", crs, always_xy=True)
    around = np.zeros(2 * BINS + 1, dtype=np.int64)
    boxes = []
    for cells in source.cells():
        points = points_a_side(source.axis.order, cells.words.size)
        lat, lon = outlines(cells.words, points, source.axis.order)
        if crs.is_geographic:
            bins = np.floor((lon + 270.0) * BINS / 360.0).astype(np.int64)
            np.add.at(around, bins.min(axis=1), 1)
            np.add.at(around, bins.max(axis=1) + 1, -1)
            x, y = np.zeros(1), lat
        else:
            x, y = (v[np.isfinite(v)] for v in forward.transform(lon, lat))
        if x.size and y.size:
            boxes.append((x.min(), y.min(), x.max(), y.max()))
    if not boxes:
        raise ValueError(NOTHING)
    west, south = np.min(boxes, axis=0)[:2]
    east, north = np.max(boxes, axis=0)[2:]
    if crs.is_geographic:
        west, east = _span(np.cumsum(around) > 0)
    return float(west), float(south), float(east), float(north)


def _span(occupied: NDArray[np.bool_]) -> tuple[float, float]:
    """Return west and east of what is occupied, cut open in its widest gap."""
    turn = occupied[:BINS] | occupied[BINS : 2 * BINS]
    held = np.flatnonzero(turn)
    gaps = np.diff(held, append=held[0] + BINS) - 1
    widest = int(np.argmax(gaps))
    if gaps[widest] * 360.0 / BINS < LEAST_GAP:
        return -180.0, 180.0
    west = (held[(widest + 1) % held.size] * 360.0 / BINS - 270.0 + 180.0) % 360.0 - 180.0
    return west, west + (BINS - gaps[widest]) * 360.0 / BINS
