"""Ground tracks over the turning Earth, the cells they cross, and footprints as CMR gives them.

Written from the geometry of a circular orbit, apart from what the package does.
"""

from __future__ import annotations

import numpy as np

from magg.grid import locate

RADIUS_KM, ORBIT_S, INCLINATION = 6371.0, 94.22 * 60, np.radians(92.0)
EARTH = 7.292115e-5
BEAMS_KM = (-3.3, -3.2, -0.05, 0.05, 3.2, 3.3)


def positions(node, u, across_km=0.0):
    """Return lat, lon of points at arguments of latitude u (radians), offset to the right."""

    def ground(angle):
        x, y, z = (
            np.cos(angle),
            np.sin(angle) * np.cos(INCLINATION),
            np.sin(angle) * np.sin(INCLINATION),
        )
        turn = np.radians(node) - EARTH * angle / (2 * np.pi) * ORBIT_S
        return np.stack(
            [x * np.cos(turn) - y * np.sin(turn), x * np.sin(turn) + y * np.cos(turn), z]
        )

    here, ahead = ground(u), ground(u + 1e-6)
    forward = ahead - here
    right = np.cross(forward / np.linalg.norm(forward, axis=0), here, axis=0)
    point = here + right * across_km / RADIUS_KM
    point /= np.linalg.norm(point, axis=0)
    return np.degrees(np.arcsin(point[2])), np.degrees(np.arctan2(point[1], point[0]))


def true_words(node, first, last):
    """Return order-29 words of rows of all beams, 400 m apart."""
    u = np.radians(np.arange(first, last, 0.4 / 111.2))
    return np.concatenate([locate(*positions(node, u, beam)) for beam in BEAMS_KM])


def outline(node, first, last, vertices, half_km=3.5):
    """Return lon, lat of a ring with so many vertices a side, closed, counted from its start."""
    u = np.radians(np.linspace(first, last, vertices))
    lat1, lon1 = positions(node, u, -half_km)
    lat2, lon2 = positions(node, u[::-1], half_km)
    ring = np.column_stack([np.r_[lon1, lon2], np.r_[lat1, lat2]]).round(5)
    return np.concatenate([ring, ring[:1]])


def simplified(ring, tolerance):
    """Return a ring without the vertices that lie within so many degrees (Douglas-Peucker)."""
    lon = np.degrees(np.unwrap(np.radians(ring[:, 0])))
    points = np.column_stack([lon, ring[:, 1]])
    keep = {0, len(points) // 2 - 1, len(points) // 2, len(points) - 1}
    pending = list(zip(sorted(keep)[:-1], sorted(keep)[1:], strict=True))
    while pending:
        a, b = pending.pop()
        if b - a < 2:
            continue
        along = points[b] - points[a]
        offset = points[a + 1 : b] - points[a]
        apart = np.abs(along[0] * offset[:, 1] - along[1] * offset[:, 0])
        apart /= max(np.hypot(*along), 1e-12)
        worst = int(np.argmax(apart))
        if apart[worst] > tolerance:
            keep.add(a + 1 + worst)
            pending += [(a, a + 1 + worst), (a + 1 + worst, b)]
    return ring[sorted(keep)]


def gpolygon(ring):
    """Return a UMM-G extent of one polygon."""
    points = [{"Longitude": float(lon), "Latitude": float(lat)} for lon, lat in ring]
    return {
        "HorizontalSpatialDomain": {"Geometry": {"GPolygons": [{"Boundary": {"Points": points}}]}}
    }
