"""Footprints: from the spatial extent that CMR gives of a granule to the cells it may cross.

CMR's polygons are simplified: few vertices, which lie on the outline of the real track, joined by
edges that are great circles (geodetic collections) or straight in longitude and latitude
(cartesian ones). Between two of its points a ground track leaves the great circle, because the
Earth turns meanwhile: at most by ``OMEGA * L**2 / (4 * v)`` over a length L, 15 km over 2,400 km.
So outlines are padded by `PAD_KM` and by that, in whole rings of small cells.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from magg.catalog.area import Area, Ring, box_ring, densified
from magg.errors import CatalogError
from magg.grid import LATITUDE_CONVENTION, Words, separation
from magg.projections import EARTH_RADIUS_KM

Kind = Literal["polygon", "orbit", "none"]

# Cells in which outlines are padded: 6.4 km wide. A ring of them is nowhere narrower than 4 km.
FINE_ORDER, RING_KM = 10, 4.0
# Beams of ICESat-2 lie 3.3 km to either side; polygons may be drawn about the middle one.
PAD_KM = 8.0
# What the orbit alone tells: pointing is off by kilometres, latitudes may be geocentric.
ORBIT_PAD_KM, ORBIT_PAD_DEG = 36.0, 1.0
KM_PER_DEGREE = np.pi * EARTH_RADIUS_KM / 180.0
BEND_PER_KM = 7.292e-5 / (4 * 7.0)  # angular velocity of the Earth, km/s of a ground track
LONGEST_EDGE_KM = 10_000.0
CARTESIAN_STEP = 0.5

# ICESat-2: 1387 orbits in 91 turns of the Earth against the orbit's plane.
INCLINATION, TURN_PER_ORBIT = 92.0, 91 * 360.0 / 1387


@dataclass
class _Shape:
    """What is known of one granule: rings to fill, lines to follow, and how far off they may be."""

    rings: list[Ring] = field(default_factory=list)
    planar: list[Ring] = field(default_factory=list)
    lines: list[Ring] = field(default_factory=list)
    pad_km: float = PAD_KM


def footprint_cells(
    extent: Mapping[str, Any] | None, order: int, *, representation: str = "", short_name: str = ""
) -> tuple[Words, Kind]:
    """Return the cells that a granule may cross, and what they were found by.

    Parameters
    ----------
    extent : mapping or None
        ``SpatialExtent`` of CMR's UMM-G, and beside it ``OrbitCalculatedSpatialDomains``.
    order : int
        Order of the cells.
    representation : str
        The collection's ``GranuleSpatialRepresentation``; unless it is "GEODETIC", edges of
        polygons are also read as straight in longitude and latitude.
    short_name : str
        The product. Orbits are known of ICESat-2's (``ATL...``) alone.

    Returns
    -------
    words : ndarray of uint64
        Morton words, ascending; none where nothing is known of the footprint.
    kind : {"polygon", "orbit", "none"}

    Raises
    ------
    CatalogError
        If the extent is malformed.
    """
    extent = extent or {}
    try:
        shapes = list(_geometry(_domain(extent).get("Geometry") or {}, representation))
        kind: Kind = "polygon"
        if not shapes and re.match("ATL[0-9]", short_name):
            shapes, kind = list(_orbits(extent)), "orbit"
        words = [_cells(shape, order) for shape in shapes]
    except (KeyError, TypeError, ValueError, IndexError, CatalogError) as error:
        raise CatalogError(f"its spatial extent cannot be understood ({error!r})") from None
    if not words:
        return np.zeros(0, dtype=np.uint64), "none"
    return np.unique(np.concatenate(words)), kind


def _domain(extent: Mapping[str, Any]) -> Mapping[str, Any]:
    return extent.get("HorizontalSpatialDomain") or {}


def _geometry(geometry: Mapping[str, Any], representation: str) -> Iterator[_Shape]:
    for polygon in geometry.get("GPolygons") or ():
        holes = (polygon.get("ExclusiveZone") or {}).get("Boundaries") or ()
        boundaries = (polygon["Boundary"], *holes)
        rings = [_ring(_points(boundary["Points"])) for boundary in boundaries]
        # The vertices are the track's however the edges are meant, so great circles always count.
        yield _Shape(rings=rings, planar=[] if representation == "GEODETIC" else rings)
    for box in geometry.get("BoundingRectangles") or ():
        edges = [box[f"{side}BoundingCoordinate"] for side in ("West", "South", "East", "North")]
        yield _Shape(planar=[_wide_enough(edges)])
    for line in geometry.get("Lines") or ():
        yield _Shape(lines=[_points(line["Points"])])
    if points := geometry.get("Points"):
        yield _Shape(lines=[_points([point, point]) for point in points])


def _points(points: Sequence[Mapping[str, float]]) -> Ring:
    """Return positions without jumps in longitude."""
    ring = np.array([(point["Longitude"], point["Latitude"]) for point in points], dtype=np.float64)
    if len(ring) < 2 or not np.isfinite(ring).all() or np.abs(ring[:, 1]).max() > 90.0:
        raise ValueError("impossible positions")
    ring[:, 0] = np.degrees(np.unwrap(np.radians(ring[:, 0])))
    return ring


def _ring(points: Ring) -> Ring:
    """Return a closed ring, which UMM-G demands and not every provider delivers."""
    gap = (points[-1] - points[0] + [180.0, 0.0]) % 360.0 - [180.0, 0.0]
    return points if np.abs(gap).max() < 1e-9 else np.concatenate([points, points[:1]])


def _wide_enough(edges: list[float]) -> Ring:
    """Return the ring of a box, also of one that is only a line or a point."""
    west, south, east, north = (float(edge) for edge in edges)
    if north - south < 1e-3:
        south, north = max(-90.0, south - 1e-3), min(90.0, north + 1e-3)
    if west == east:
        west, east = west - 1e-3, east + 1e-3
    return box_ring(((west + 180) % 360 - 180, south, east, north))


def _cells(shape: _Shape, order: int) -> Words:
    """Return the cells inside the rings of a shape, and those near its outlines."""
    import mortie

    found: list[Words] = []
    outlines = [*shape.lines, *shape.rings]
    if shape.rings:
        lat, lon = [r[:, 1] for r in shape.rings], [_wrapped(r) for r in shape.rings]
        cover = mortie.morton_coverage(lat, lon, order=max(1, order), latitude=LATITUDE_CONVENTION)
        found.append(_at_order(cover, order))
    if shape.planar:
        outlines += [densified(ring, CARTESIAN_STEP) for ring in shape.planar]
        closed = tuple(_closed(ring) for ring in shape.planar)
        found.append(Area((closed,)).cells(order))
    for line in outlines:
        fine = np.asarray(
            mortie.linestring_coverage(
                line[:, 1], _wrapped(line), order=FINE_ORDER, latitude=LATITUDE_CONVENTION
            ),
            dtype=np.uint64,
        )
        rings = int(np.ceil((shape.pad_km + _bend_km(line)) / RING_KM))
        border = np.asarray(mortie.morton_buffer(fine, k=rings), dtype=np.uint64)
        near = np.concatenate([fine, border])
        found.append(_at_order(near, order))
    return np.unique(np.concatenate(found))


def _at_order(words: Words, order: int) -> Words:
    import mortie

    return np.asarray(mortie.moc_to_order(words, order, max_cells=None), dtype=np.uint64)


def _wrapped(ring: Ring) -> Any:
    return np.ascontiguousarray((ring[:, 0] + 180.0) % 360.0 - 180.0)


def _closed(ring: Ring) -> Ring:
    """Return a ring closed on the plane, by way of the pole that it goes round."""
    turn = ring[-1, 0] - ring[0, 0]
    if abs(turn) > 180.0:
        pole = 90.0 if ring[:, 1].mean() > 0 else -90.0
        ring = np.concatenate([ring, [(ring[-1, 0], pole), (ring[0, 0], pole)]])
    return np.concatenate([ring, ring[:1]])


def _bend_km(line: Ring) -> float:
    """Return how far a ground track through the points may be from the great circles between."""
    apart = separation(line[:-1, 1], line[:-1, 0], line[1:, 1], line[1:, 0])
    longest = min(LONGEST_EDGE_KM, float(apart.max()) * KM_PER_DEGREE)
    return BEND_PER_KM * longest**2


# --- orbits ------------------------------------------------------------------------------------


def _orbits(extent: Mapping[str, Any]) -> Iterator[_Shape]:
    """Yield the tracks of a granule of which CMR tells the orbit and no polygon."""
    orbit = _domain(extent).get("Orbit")
    if orbit:
        first = _argument(orbit["StartLatitude"], orbit["StartDirection"])
        last = _argument(orbit["EndLatitude"], orbit["EndDirection"])
        last += 360.0 if last < first else 0.0
        node = float(orbit["AscendingCrossing"])
        yield _track(node, first, last)
        if first >= 270.0:  # south of the node, it may be the next crossing that is meant
            yield _track(node, first - 360.0, last - 360.0)
        return
    for domain in extent.get("OrbitCalculatedSpatialDomains") or ():
        if domain.get("EquatorCrossingLongitude") is not None:
            # Providers mean the ascending or the descending crossing, and say not which.
            crossing = float(domain["EquatorCrossingLongitude"])
            yield _track(crossing, 0.0, 360.0)
            yield _track(crossing - 180.0 + TURN_PER_ORBIT / 2, -180.0, 360.0)


def _argument(latitude: float, direction: str) -> float:
    """Return degrees along the orbit since the ascending node, in [0, 360)."""
    sine = np.sin(np.radians(float(latitude))) / np.sin(np.radians(INCLINATION))
    rising = float(np.degrees(np.arcsin(np.clip(sine, -1.0, 1.0))))
    return (rising if direction == "A" else 180.0 - rising) % 360.0


def _track(node: float, first: float, last: float) -> _Shape:
    """Return a piece of the ground track whose orbit crosses the equator northwards at a node."""
    u = np.radians(np.arange(first - ORBIT_PAD_DEG, last + ORBIT_PAD_DEG + 0.5, 0.5))
    tilt = np.radians(INCLINATION)
    lat = np.degrees(np.arcsin(np.sin(tilt) * np.sin(u)))
    lon = node + np.degrees(np.arctan2(np.cos(tilt) * np.sin(u), np.cos(u)))
    lon -= TURN_PER_ORBIT * np.degrees(u) / 360.0
    return _Shape(lines=[np.column_stack([lon, lat])], pad_km=ORBIT_PAD_KM)
