"""The outlines of cells in degrees, such that a plane map of longitude and latitude is right."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from magg.grid import LATITUDE_CONVENTION, Words, centres

Floats = NDArray[np.float64]


def outlines(words: Words, points_a_side: int = 1) -> tuple[Floats, Floats]:
    """Return the vertices of cells, unbroken in longitude.

    A cell that has a pole for a corner has it twice, first and last, at the longitudes of its two
    sides: on a plane map it reaches the pole along its whole width.

    Parameters
    ----------
    words : ndarray of uint64, shape (n,)
        Morton words of one order.
    points_a_side : int
        How many points stand for each of the four sides, which are curved.

    Returns
    -------
    lat, lon : ndarray of float64, shape (n, 4 * points_a_side + 1)
        Geodetic WGS84 degrees of closed rings (but for those at a pole). Longitudes lie within
        90 degrees of the cell's centre, so that they may leave [-180, 180].
    """
    import mortie

    # mortie returns a single ring for a single word.
    rings = mortie.mort2polygon(words, step=points_a_side, latitude=LATITUDE_CONVENTION)
    rings = np.asarray(rings, dtype=np.float64).reshape(words.size, 4 * points_a_side + 1, 2)
    for number in np.flatnonzero((np.abs(rings[..., 0]) > 90.0 - 1e-9).any(axis=1)):
        ring = rings[number, :-1]
        ring = np.roll(ring, -int(np.argmax(np.abs(ring[:, 0]))), axis=0)
        ring = np.concatenate([ring, ring[:1]])
        ring[0, 1], ring[-1, 1] = ring[1, 1], ring[-2, 1]
        rings[number] = ring
    lat, lon = np.moveaxis(rings, -1, 0)
    middle = centres(words)[1][:, np.newaxis]
    return lat, middle + (lon - middle + 180.0) % 360.0 - 180.0


def points_a_side(order: int, cells: int) -> int:
    """Return how many points the sides of cells need to look as curved as they are."""
    return 8 if order <= 6 or cells <= 1_000 else 1
