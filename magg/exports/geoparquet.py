"""Cells as GeoParquet 1.1 (https://geoparquet.org/releases/v1.1.0/), a row group at a time."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from magg import __version__
from magg.errors import require_extra
from magg.exports.source import NOTHING, Cells, Source, crs_of
from magg.grid import centres
from magg.results.outlines import outlines, points_a_side

LONGITUDE_LATITUDE = "OGC:CRS84"
# In these no meridian is an edge of the map.
SEAMLESS = ("stereographic", "azimuthal")
BEYOND_WHICH_SIDES_CURVE = 88.0  # degrees: nearer to a pole the sides of any cell are curved

Geometries = NDArray[Any]  # of shapely's polygons and multi-polygons


def write_geoparquet(source: Source, path: Path, crs: Any) -> None:
    """Write the cells of a source to a file.

    Raises
    ------
    MissingExtraError
        If pyarrow, shapely or pyproj is not installed.
    ValueError
        If the CRS is none or cannot show a cell, or no cell has a value.
    """
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
        import shapely
    except ImportError as error:
        raise require_extra("pyarrow with shapely", "export") from error

    target = crs_of(LONGITUDE_LATITUDE if crs is None else crs)
    schema = _schema(source)
    kinds: set[str] = set()
    boxes = []
    with pq.ParquetWriter(path, schema, compression="zstd") as writer:
        for cells in source.cells():
            geometries = polygons(cells, source.axis.order, target)
            kinds |= {geometry.geom_type for geometry in geometries}
            boxes.append(shapely.total_bounds(geometries))
            columns = [
                pa.array(cells.ids.astype(np.int64)),
                *(pa.array(v, mask=~has) for v, has in cells.columns.values()),
                pa.array(shapely.to_wkb(geometries, flavor="iso"), type=pa.binary()),
            ]
            writer.write_table(pa.table(columns, schema=schema))
        if not boxes:
            raise ValueError(NOTHING)
        box = np.concatenate([np.min(boxes, axis=0)[:2], np.max(boxes, axis=0)[2:]])
        geometry = {
            "encoding": "WKB",
            "geometry_types": sorted(kinds),
            "crs": target.to_json_dict(),
            "edges": "planar",
            "bbox": box.tolist(),
        }
        about = {
            "version": "1.1.0",
            "primary_column": "geometry",
            "columns": {"geometry": geometry},
        }
        writer.add_key_value_metadata({"geo": json.dumps(about)})


def polygons(cells: Cells, order: int, crs: Any) -> Geometries:
    """Return the polygons of cells in a coordinate reference system.

    In longitude and latitude, and on maps that end at the antimeridian, a cell that lies across
    it is two polygons.

    Parameters
    ----------
    cells : Cells
    order : int
    crs : pyproj.CRS

    Raises
    ------
    ValueError
        If a cell has no place in the CRS.
    """
    import shapely

    found: Geometries = np.empty(cells.words.size, dtype=object)
    curved = np.abs(centres(cells.words)[0]) > BEYOND_WHICH_SIDES_CURVE
    for part, points in ((~curved, points_a_side(order, cells.words.size)), (curved, 8)):
        if part.any():
            lat, lon = outlines(cells.words[part], points, order)
            found[part] = shapely.polygons(np.stack([lon, lat], axis=-1))
    if crs.is_geographic or not _is_seamless(crs):
        west, _, east, _ = shapely.bounds(found).T
        across = np.flatnonzero((west < -180.0) | (east > 180.0))
        found[across] = [_split(polygon) for polygon in found[across]]
    if not crs.is_geographic:
        found = _projected(found, crs)
    return found


def _is_seamless(crs: Any) -> bool:
    operation = crs.coordinate_operation
    method = operation.method_name.lower() if operation else ""
    return any(word in method for word in SEAMLESS)


def _split(polygon: Any) -> Any:
    """Return a polygon cut at the antimeridian, its parts within [-180, 180]."""
    import shapely

    parts = []
    for turn in (-360.0, 0.0, 360.0):
        part = shapely.intersection(polygon, shapely.box(turn - 180.0, -90.0, turn + 180.0, 90.0))
        if part.area > 0:
            moved = shapely.transform(part, lambda at, by=turn: at - [by, 0.0])
            parts += [one for one in shapely.get_parts([moved]) if one.geom_type == "Polygon"]
    return shapely.multipolygons(parts) if len(parts) > 1 else parts[0]


def _projected(geometries: Geometries, crs: Any) -> Geometries:
    import pyproj
    import shapely

    forward = pyproj.Transformer.from_crs(LONGITUDE_LATITUDE, crs, always_xy=True).transform

    def moved(at: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.stack(forward(at[:, 0], at[:, 1]), axis=-1)

    projected: Geometries = shapely.transform(geometries, moved)
    lost = int(np.count_nonzero(~np.isfinite(shapely.bounds(projected)).all(axis=1)))
    if lost:
        raise ValueError(
            f"{lost:,} cells have no place in {crs.name}; choose another CRS or a smaller part"
        )
    return projected


def _schema(source: Source) -> Any:
    import pyarrow as pa

    fields = [pa.field("cell_ids", pa.int64(), metadata={"long_name": _about_ids(source)})]
    for name, array in source.arrays.items():
        told = {k: str(array.attrs[k]) for k in ("long_name", "units") if k in array.attrs}
        fields.append(pa.field(name, pa.from_numpy_dtype(array.dtype), metadata=told))
    fields.append(pa.field("geometry", pa.binary()))
    return pa.schema(fields, metadata={"creator": f"magg {__version__}"})


def _about_ids(source: Source) -> str:
    return f"HEALPix NESTED index at order {source.axis.order}, WGS84 ellipsoid"
