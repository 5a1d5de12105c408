"""Footprints: from the spatial extent that CMR gives of a granule to the cells it may cross.

CMR's polygons are simplified: few vertices, which lie on the outline of the real track, joined by
edges that are great circles (geodetic collections) or straight in longitude and latitude
(cartesian ones). Between two of its points a ground track leaves the great circle, because the
Earth turns meanwhile: at most by ``OMEGA * L**2 / (4 * v)`` over a length L, 15 km over 2,400 km.
So outlines are padded by `PAD_KM` and by that, in whole rings of small cells.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from magg.catalog.area import Area, Ring, box_ring, densified
from magg.grid import LATITUDE_CONVENTION, Words, separation
from magg.projections import EARTH_RADIUS_KM

Kind = Literal["polygon", "orbit", "none"]

# Cells in which outlines are padded: 6.4 km wide. A ring of them is nowhere narrower than 4 km.
FINE_ORDER, RING_KM, MOST_RINGS = 10, 4.0, 3
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


@dataclass(frozen=True)
class Footprint:
    """The cells that a granule may cross: ascending Morton words, and what they were found by.

    Kind "none" has no words: nothing is known; ``problem`` says what is wrong where something is.
    """

    words: Words
    kind: Kind
    problem: str = ""


def footprints(
    extents: Iterable[Mapping[str, Any] | None],
    order: int,
    *,
    representation: str = "",
    short_name: str = "",
) -> list[Footprint]:
    """Return the cells that granules may cross.

    Parameters
    ----------
    extents : iterable of mapping or None
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
    list of Footprint
        One for each extent.
    """
    has_orbit = re.match("ATL[0-9]", short_name) is not None
    read = [_read(extent or {}, representation, has_orbit=has_orbit) for extent in extents]
    filled = iter(_filled([shape for shapes, _, _ in read for shape in shapes], order))
    found = []
    for shapes, kind, problem in read:
        words = [np.concatenate([next(filled), _near(shape, order)]) for shape in shapes]
        none = np.zeros(0, dtype=np.uint64)
        found.append(Footprint(np.unique(np.concatenate([none, *words])), kind, problem))
    return found


def _read(
    extent: Mapping[str, Any], representation: str, *, has_orbit: bool
) -> tuple[list[_Shape], Kind, str]:
    try:
        shapes = list(_geometry(_domain(extent).get("Geometry") or {}, representation))
        if shapes:
            return shapes, "polygon", ""
        shapes = list(_orbits(extent)) if has_orbit else []
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
        return [], "none", f"its spatial extent cannot be understood ({error!r})"
    return shapes, "orbit" if shapes else "none", ""


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


def _filled(shapes: Sequence[_Shape], order: int) -> list[Words]:
    """Return the cells inside the rings of each shape."""
    import mortie

    planar = [tuple(map(_closed, shape.planar)) for shape in shapes]
    cells = [Area((rings,) if rings else ()).cells(order) for rings in planar]
    # In one call for all: mortie starts its threads anew for each.
    simple = [n for n, shape in enumerate(shapes) if len(shape.rings) == 1]
    for n, cover in zip(simple, _covered([shapes[n].rings[0] for n in simple], order), strict=True):
        cells[n] = np.concatenate([cells[n], cover])
    for n, shape in enumerate(shapes):
        if len(shape.rings) > 1:
            cover = mortie.morton_coverage(
                [ring[:, 1] for ring in shape.rings],
                [_wrapped(ring) for ring in shape.rings],
                order=max(1, order),
                latitude=LATITUDE_CONVENTION,
            )
            cells[n] = np.concatenate([cells[n], _at_order(cover, order)])
    return cells


def _covered(rings: Sequence[Ring], order: int) -> list[Words]:
    """Return the cells inside each ring of great circles."""
    import mortie

    if not rings:
        return []
    values, offsets = mortie.polygons_to_morton_mocs(
        np.concatenate([ring[:, 1] for ring in rings]),
        np.concatenate([_wrapped(ring) for ring in rings]),
        np.cumsum([0, *map(len, rings)]),
        order=max(1, order),
        latitude=LATITUDE_CONVENTION,
    )
    return [_at_order(part, order) for part in np.split(values, offsets[1:-1])]


def _near(shape: _Shape, order: int) -> Words:
    """Return the cells near the outlines of a shape."""
    import mortie

    planar = [densified(ring, CARTESIAN_STEP) for ring in shape.planar]
    found: list[Words] = []
    for line in [*shape.lines, *shape.rings, *planar]:
        pad, fine, ring_km = shape.pad_km + _bend_km(line), FINE_ORDER, RING_KM
        while pad > MOST_RINGS * ring_km:
            fine, ring_km = fine - 1, 2 * ring_km
        on_line = np.asarray(
            mortie.linestring_coverage(
                line[:, 1], _wrapped(line), order=fine, latitude=LATITUDE_CONVENTION
            ),
            dtype=np.uint64,
        )
        border = mortie.morton_buffer(on_line, k=int(np.ceil(pad / ring_km)))
        found.append(_at_order(np.concatenate([on_line, np.asarray(border, np.uint64)]), order))
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
