"""Areas: from GeoJSON, boxes and names to the parent cells that they touch.

Edges are straight in longitude and latitude, as GeoJSON (RFC 7946) has it. A point is inside where
it is inside an odd number of rings, so that neither the order of a ring nor which ring is the hole
matters.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from magg.errors import CatalogError
from magg.grid import Grid, Words, centres, children_of, locate, prefixes, words_of

Ring = NDArray[np.float64]  # (n, 2): longitude (without jumps, so it may leave ±180) and latitude

# Drawn by hand, a degree or so outside the coast and the fronts of the ice shelves (the South
# Shetland Islands are inside): to choose cells with, not to measure with.
OUTLINES: dict[str, list[tuple[float, float]]] = {
    "antarctica": [
        (-180, -76.5), (-165, -76.5), (-150, -75.0), (-135, -73.0), (-120, -72.0), (-105, -70.8),
        (-90, -70.8), (-80, -70.0), (-77, -68.5), (-71, -66.0), (-66, -63.5), (-63, -61.5),
        (-54, -60.0), (-52, -62.5), (-56, -65.0), (-57, -70.0), (-57, -73.0), (-50, -76.0),
        (-38, -76.5), (-30, -74.0), (-22, -71.5), (-12, -69.5), (0, -68.5), (20, -68.0),
        (35, -67.0), (48, -65.0), (58, -65.0), (70, -66.0), (80, -65.0), (92, -63.5),
        (102, -63.5), (112, -64.5), (130, -64.0), (145, -65.5), (155, -67.0), (165, -69.0),
        (172, -70.0), (174, -74.0), (180, -76.5),
    ],
    "greenland": [
        (-45, 59.2), (-42, 59.2), (-38, 64.3), (-30, 67.3), (-20.5, 69.5), (-16.5, 74.0),
        (-15.5, 78.5), (-9.5, 81.0), (-10, 82.3), (-25, 84.2), (-42, 84.2), (-62, 82.5),
        (-66.5, 81.4), (-69.5, 80.2), (-75, 78.7), (-74.5, 77.0), (-72, 75.4), (-60, 74.5),
        (-58.5, 72.5), (-56.5, 69.0), (-55, 67.0), (-54, 64.0), (-51.5, 61.3), (-47.5, 59.8),
    ],
}  # fmt: skip

POINTS_A_SIDE = 16  # of a cell, along the edges of an area
EDGES_AT_ONCE = 4_000_000  # points times edges that are compared in one go


@dataclass(frozen=True, eq=False)
class Area:
    """A part of the Earth.

    Parameters
    ----------
    polygons : tuple of tuples of ndarray, each (n, 2)
        Closed rings of longitude and latitude in degrees, without jumps in longitude; the rings
        of one polygon are its outline and its holes, in any order.
    """

    polygons: tuple[tuple[Ring, ...], ...]

    def cells(self, order: int) -> Words:
        """Return the Morton words of the cells that the area touches, ascending.

        A cell of which only a corner smaller than a sixteenth of its side is inside may be missed.
        """
        chosen = [_cells_of(rings, order) for rings in self.polygons]
        return np.unique(np.concatenate([np.zeros(0, dtype=np.uint64), *chosen]))

    def boxes(self, margin: float = 0.0) -> list[tuple[float, float, float, float]]:
        """Return west, south, east and north in degrees of a box about each polygon.

        West is greater than east where a box crosses the antimeridian. Boxes are made wider by
        a margin, in degrees of latitude.
        """
        return [_box(np.concatenate(rings), margin) for rings in self.polygons]


def area_of(polygon: Any = None, bbox: Sequence[float] | None = None) -> Area | None:
    """Return the area that a caller describes, or None for the whole Earth.

    Parameters
    ----------
    polygon : mapping, str, Path or object with ``__geo_interface__``, optional
        GeoJSON (polygon, multi-polygon, feature, collection of features or geometries), the path
        of such a file, or ``"antarctica"`` or ``"greenland"`` (outlines drawn by hand).
    bbox : sequence of float, optional
        West, south, east, north; west greater than east crosses the antimeridian.

    Raises
    ------
    CatalogError
        If it is no area, or both are given.
    """
    if polygon is not None and bbox is not None:
        raise CatalogError("give a polygon or a bbox, not both")
    if bbox is not None:
        return Area(((box_ring(bbox),),))
    if polygon is None or isinstance(polygon, Area):
        return polygon
    if isinstance(polygon, str) and polygon.lower() in OUTLINES:
        return Area(((_unbroken(OUTLINES[polygon.lower()], polygon),),))
    if isinstance(polygon, str | Path):
        polygon = _read(polygon)
    document = getattr(polygon, "__geo_interface__", polygon)
    polygons = tuple(_polygons(document, "polygon"))
    if not polygons:
        raise CatalogError("polygon: the GeoJSON holds no polygon")
    return Area(polygons)


def box_ring(bbox: Sequence[float]) -> Ring:
    """Return the ring of a box of west, south, east and north degrees."""
    try:
        west, south, east, north = (float(edge) for edge in bbox)
    except (TypeError, ValueError):
        raise CatalogError(f"bbox is west, south, east, north in degrees, not {bbox!r}") from None
    if not (-90 <= south < north <= 90 and -180 <= west <= 360 and -180 <= east <= 360):
        raise CatalogError(
            f"bbox {west:g}, {south:g}, {east:g}, {north:g} is impossible: it is west, south, "
            "east, north in degrees, and south must be less than north"
        )
    if east <= west:
        east += 360.0
    if east - west > 360.0:
        raise CatalogError(f"bbox from {west:g} to {east:g} goes more than once around the Earth")
    corners = [(west, south), (east, south), (east, north), (west, north), (west, south)]
    return np.array(corners, dtype=np.float64)


def densified(ring: Ring, step: float) -> Ring:
    """Return a line with points at most so many degrees apart, straight in lon and lat."""
    pieces = np.maximum(1, np.ceil(np.abs(np.diff(ring, axis=0)).max(axis=1) / step)).astype(int)
    edge = np.repeat(np.arange(pieces.size), pieces)
    along = (np.arange(edge.size) - np.repeat(np.cumsum(pieces) - pieces, pieces)) / pieces[edge]
    points = ring[edge] + along[:, np.newaxis] * (ring[edge + 1] - ring[edge])
    return np.concatenate([points, ring[-1:]])


def _read(path: str | Path) -> Any:
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        known = " and ".join(repr(name) for name in OUTLINES)
        raise CatalogError(
            f"polygon: there is no file {str(path)!r}; named areas are {known}"
        ) from None
    except ValueError as error:
        raise CatalogError(f"{path} is not GeoJSON: {error}") from None


def _polygons(document: Any, place: str) -> Iterator[tuple[Ring, ...]]:
    """Yield the polygons of GeoJSON, whatever wraps them."""
    kind = document.get("type") if isinstance(document, Mapping) else None
    inner: Iterable[Any] = ()
    try:
        if kind == "FeatureCollection":
            inner = ((f"features[{n}]", one) for n, one in enumerate(document["features"]))
        elif kind == "GeometryCollection":
            inner = ((f"geometries[{n}]", one) for n, one in enumerate(document["geometries"]))
        elif kind == "Feature":
            inner = [("geometry", document["geometry"])]
        elif kind == "MultiPolygon":
            for n, rings in enumerate(document["coordinates"]):
                yield tuple(_unbroken(ring, f"{place}.coordinates[{n}]") for ring in rings)
        elif kind == "Polygon":
            yield tuple(_unbroken(ring, f"{place}.coordinates") for ring in document["coordinates"])
        else:
            raise CatalogError(
                f"{place}: an area is a GeoJSON polygon, multi-polygon, feature or collection, "
                f"not {kind or type(document).__name__}"
            )
    except (KeyError, TypeError):
        raise CatalogError(f"{place}: is not valid GeoJSON ({kind})") from None
    for name, one in inner:
        yield from _polygons(one, f"{place}.{name}")


def _unbroken(positions: Any, place: str) -> Ring:
    """Return a closed ring without jumps in longitude, which goes by way of the pole it rounds.

    An edge never spans more than half the Earth, unless it is one of two that are whole turns.
    """
    try:
        ring = np.array([position[:2] for position in positions], dtype=np.float64)
        if ring.ndim != 2 or len(ring) < 3 or not np.isfinite(ring).all():
            raise ValueError
    except (TypeError, ValueError, IndexError):
        raise CatalogError(f"{place}: a ring is a list of at least three [lon, lat]") from None
    if np.abs(ring[:, 1]).max() > 90 or np.abs(ring[:, 0]).max() > 540:
        raise CatalogError(f"{place}: a position is [lon, lat] in degrees, in this order")
    if not np.array_equal(ring[0], ring[-1]):
        ring = np.concatenate([ring, ring[:1]])
    steps = np.diff(ring[:, 0])
    around = (np.abs(steps) > 180.0) & (np.abs(steps) < 360.0)
    steps[around] -= 360.0 * np.sign(steps[around])
    whole = np.abs(steps) == 360.0
    if whole.sum() == 1:  # not along the parallel, but from one name of a point to the other
        steps[whole] = 0.0
    ring[1:, 0] = ring[0, 0] + np.cumsum(steps)
    if abs(ring[-1, 0] - ring[0, 0]) > 180.0:
        pole = 90.0 if ring[:, 1].mean() > 0 else -90.0
        by_pole = [(ring[-1, 0], pole), (ring[0, 0], pole), ring[0]]
        ring = np.concatenate([ring, np.array(by_pole)])
    return ring


def _cells_of(rings: Sequence[Ring], order: int) -> Words:
    """Descend from the coarsest cells; a cell is touched if an edge or its centre is inside."""
    step = 58.6 / 2**order / POINTS_A_SIDE
    edges = np.concatenate([densified(ring, step) for ring in rings])
    on_edges = locate(edges[:, 1], edges[:, 0] % 360.0)
    words = words_of(np.arange(12), 0)
    level = 0
    while True:
        lat, lon = centres(words)
        touched = np.isin(prefixes(words, level), np.unique(prefixes(on_edges, level)))
        rest = np.flatnonzero(~touched)
        touched[rest] = inside(rings, lon[rest], lat[rest])
        words = words[touched]
        if level == order:
            return words
        finer = min(order, level + 2)
        words = words_of(children_of(words, Grid(level, finer)), finer)
        level = finer


def inside(rings: Sequence[Ring], lon: NDArray[np.float64], lat: NDArray[np.float64]) -> Any:
    """Return which points, shape (n,), are inside an odd number of rings."""
    odd = np.zeros(lon.shape, dtype=bool)
    for ring in rings:
        x1, y1, x2, y2 = *ring[:-1].T, *ring[1:].T
        level = y1 != y2
        x1, y1, x2, y2 = x1[level], y1[level], x2[level], y2[level]
        size = max(1, EDGES_AT_ONCE // max(1, x1.size))
        for first in range(0, lon.size, size):
            part = slice(first, first + size)
            y = lat[part, np.newaxis]
            crosses = (y1 > y) != (y2 > y)
            x = x1 + (y - y1) / (y2 - y1) * (x2 - x1)
            within = np.zeros(len(y), dtype=bool)
            for turn in (-360.0, 0.0, 360.0):  # a ring may lie on either side of ±180
                right = crosses & (lon[part, np.newaxis] + turn < x)
                within |= right.sum(axis=1) % 2 == 1
            odd[part] ^= within
    return odd


def _box(points: Ring, margin: float) -> tuple[float, float, float, float]:
    (west, south), (east, north) = points.min(axis=0), points.max(axis=0)
    south, north = max(-90.0, south - margin), min(90.0, north + margin)
    # A degree of longitude is shorter towards the poles; at a pole the box goes all around.
    shrink = np.cos(np.radians(max(abs(south), abs(north))))
    wider = margin / shrink if shrink > 1e-6 else 360.0
    if east - west + 2 * wider >= 360.0:
        return -180.0, float(south), 180.0, float(north)
    west, east = ((edge + 180.0) % 360.0 - 180.0 for edge in (west - wider, east + wider))
    return float(west), float(south), float(east), float(north)
