"""The outlines of cells in degrees, such that a plane map of longitude and latitude is right.

After Gorski et al. 2005 (HEALPix, ApJ 622, 759-771), sections 4.1 and 5: a base cell is a unit
square of which x grows to the north-east and y to the north-west.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from magg.grid import centres, nested_ids

Floats = NDArray[np.float64]

# Of the southern corner of each base cell: rings from the north pole in units of a base cell's
# side, and longitude in units of 45 degrees.
_RINGS = np.repeat([2.0, 3.0, 4.0], 4)
_EIGHTHS = np.array([1, 3, 5, 7, 0, 2, 4, 6, 1, 3, 5, 7], dtype=np.float64)
# Corners in the order north, west, south, east: counterclockwise on a map.
_CORNERS = np.array([(1, 1), (0, 1), (0, 0), (1, 0), (1, 1)], dtype=np.float64)


def outlines(words: NDArray[np.uint64], points_a_side: int, order: int) -> tuple[Floats, Floats]:
    """Return the vertices of cells, unbroken in longitude.

    A cell that has a pole for a corner has it twice, first and last, at the longitudes of its two
    sides: on a plane map it reaches the pole along its whole width.

    Parameters
    ----------
    words : ndarray of uint64, shape (n,)
        Morton words.
    points_a_side : int
        How many points stand for each of the four sides, which are curved.
    order : int
        That of the cells.

    Returns
    -------
    lat, lon : ndarray of float64, shape (n, 4 * points_a_side + 1)
        Geodetic WGS84 degrees of closed rings (but for those at a pole). Longitudes lie within
        90 degrees of the cell's centre, so that they may leave [-180, 180].
    """
    import mortie

    ids = nested_ids(words, order)
    side = 2.0**order
    along = np.arange(4 * points_a_side + 1) / points_a_side
    dx, dy = (np.interp(along, np.arange(5), _CORNERS[:, axis]) for axis in (0, 1))
    x = (_even_bits(ids, order)[:, np.newaxis] + dx) / side
    y = (_even_bits(ids >> np.uint64(1), order)[:, np.newaxis] + dy) / side
    lat, lon = _on_sphere(np.asarray(ids >> np.uint64(2 * order), dtype=np.int64), x, y)
    polar = np.abs(lat) == 90.0
    lat = np.asarray(mortie.authalic_to_geodetic(lat.ravel())).reshape(lat.shape)
    middle = centres(words)[1][:, np.newaxis]
    lon = middle + (lon - middle + 180.0) % 360.0 - 180.0
    for cell in np.flatnonzero(polar.any(axis=1)):
        first = int(np.argmax(polar[cell]))
        lat[cell], lon[cell] = (_turned(ring[cell], first) for ring in (lat, lon))
        lon[cell, 0], lon[cell, -1] = lon[cell, 1], lon[cell, -2]
    return lat, lon


def points_a_side(order: int, cells: int) -> int:
    """Return how many points the sides of cells need to look as curved as they are."""
    return 8 if order <= 6 or cells <= 1_000 else 1


def _even_bits(ids: NDArray[np.uint64], order: int) -> Floats:
    """Return the number that every second bit of each id makes, below the base cell."""
    found = np.zeros(ids.shape, dtype=np.uint64)
    for bit in range(order):
        found |= ((ids >> np.uint64(2 * bit)) & np.uint64(1)) << np.uint64(bit)
    return found.astype(np.float64)


def _on_sphere(base: NDArray[np.int64], x: Floats, y: Floats) -> tuple[Floats, Floats]:
    """Return latitude and longitude on the authalic sphere of points in base cells, in degrees."""
    ring = _RINGS[base][:, np.newaxis] - x - y
    # Rings from the nearer pole, where that is less than one; a belt of ones lies between.
    near = np.minimum(np.minimum(ring, 4.0 - ring), 1.0)
    cap = 90.0 - np.degrees(2.0 * np.arcsin(near / np.sqrt(6.0)))
    belt = np.degrees(np.arcsin(np.clip((2.0 - ring) * 2.0 / 3.0, -1.0, 1.0)))
    lat = np.where(near < 1.0, np.where(ring < 2.0, cap, -cap), belt)
    eighths = _EIGHTHS[base][:, np.newaxis] + (x - y) / np.where(near > 0.0, near, 1.0)
    return lat, 45.0 * eighths


def _turned(ring: Floats, first: int) -> Floats:
    """Return a closed ring that begins at another of its points."""
    turned = np.roll(ring[:-1], -first)
    return np.append(turned, turned[0])
