"""The HEALPix grid in Morton order, over mortie.

A *Morton word* is mortie's packed uint64: four bits of base cell (1 to 12), two bits per order,
then a suffix that holds the order. Points are located once, at order 29; every coarser cell is
then a right shift of the same word (`prefixes`), so binning costs one conversion a point however
many orders are wanted.

Latitudes are geodetic on WGS84 and go through the authalic latitude, which makes the cells equal
in area on the ellipsoid and gives the ids of ``healpix_geo`` with ``ellipsoid="WGS84"``.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from magg.errors import GridError

LATITUDE_CONVENTION = "authalic"
# Orders 28 and 29 of a point live in the suffix of its word, beyond the reach of a plain shift.
FINEST_ORDER = 27
# A chunk holds all children of a parent cell: 4**10 of them are a million values.
MOST_ORDERS_BETWEEN = 10

Words = NDArray[np.uint64]
ChildIndices = NDArray[np.unsignedinteger[Any]]


@dataclass(frozen=True, slots=True)
class Grid:
    """The two orders that a run works with.

    Parameters
    ----------
    parent_order : int
        Order of the parent cells, the units of work.
    child_order : int
        Order of the child cells, the units of output; not coarser than the parent cells.

    Raises
    ------
    GridError
        If an order is impossible, or the orders are too far apart for one chunk.
    """

    parent_order: int
    child_order: int

    def __post_init__(self) -> None:
        for name in ("parent_order", "child_order"):
            order = getattr(self, name)
            if not 0 <= order <= FINEST_ORDER:
                raise GridError(f"{name} must be between 0 and {FINEST_ORDER}, not {order}")
        if self.child_order < self.parent_order:
            raise GridError(
                f"child_order ({self.child_order}) must not be coarser than "
                f"parent_order ({self.parent_order})"
            )
        if self.child_order - self.parent_order > MOST_ORDERS_BETWEEN:
            raise GridError(
                f"child_order ({self.child_order}) may be at most {MOST_ORDERS_BETWEEN} orders "
                f"finer than parent_order ({self.parent_order}); raise parent_order"
            )

    @property
    def children(self) -> int:
        """Number of child cells in a parent cell, which is the length of a chunk."""
        return 1 << 2 * (self.child_order - self.parent_order)


def locate(latitude: ArrayLike, longitude: ArrayLike) -> Words:
    """Return the order-29 Morton words of points.

    Parameters
    ----------
    latitude, longitude : array_like of float
        Geodetic WGS84 degrees, shape (n,). Longitude may lie in [-180, 360].

    Returns
    -------
    ndarray of uint64, shape (n,)
        0 (which is no cell) where a coordinate is not finite or out of range.
    """
    import mortie

    lat = np.ascontiguousarray(latitude, dtype=np.float64)
    lon = np.ascontiguousarray(longitude, dtype=np.float64)
    valid = (np.abs(lat) <= 90.0) & (lon >= -180.0) & (lon <= 360.0)
    if not valid.all():
        # mortie panics (a BaseException) on some values out of range, so it never sees them.
        words = np.zeros(lat.shape, dtype=np.uint64)
        words[valid] = locate(lat[valid], lon[valid])
        return words
    if not lat.size:
        return np.zeros(0, dtype=np.uint64)
    words = mortie.geo2mort(lat, lon % 360.0, latitude=LATITUDE_CONVENTION)
    return np.asarray(words, dtype=np.uint64)


def prefixes(words: Words | np.uint64, order: int) -> Words:
    """Return what identifies the cell of each word at an order, comparable across words.

    Equal prefixes mean the same cell; a parent's prefix is the child's shifted right by two bits
    an order. A word of 0 has prefix 0, which is no cell.
    """
    return np.asarray(words, dtype=np.uint64) >> np.uint64(60 - 2 * order)


def child_indices(words: Words, grid: Grid) -> ChildIndices:
    """Return the place of each word's child cell within its parent cell.

    Returns
    -------
    ndarray, shape (n,)
        0 to ``grid.children - 1``; uint16 where that fits (numpy then sorts by radix), else
        uint32.
    """
    index = prefixes(words, grid.child_order) & np.uint64(grid.children - 1)
    return index.astype(np.uint16 if grid.children <= 1 << 16 else np.uint32)


def nested_ids(words: Words, order: int) -> NDArray[np.uint64]:
    """Return the HEALPix NESTED ids, at an order, of the cells that hold the words."""
    return prefixes(words, order) - (np.uint64(1) << np.uint64(2 * order))


def words_of(nested: ArrayLike, order: int) -> Words:
    """Return the Morton words of HEALPix NESTED ids at an order."""
    import mortie

    ids = np.asarray(nested, dtype=np.uint64)
    if not ids.size:
        return np.zeros(0, dtype=np.uint64)
    base, within = ids >> np.uint64(2 * order), ids & np.uint64(4**order - 1)
    return np.asarray(mortie.norm2mort(within, base, order), dtype=np.uint64)


def children_of(parents: Words, grid: Grid) -> NDArray[np.uint64]:
    """Return the NESTED ids of all child cells of parent cells, in Morton order.

    Parameters
    ----------
    parents : ndarray of uint64, shape (n,)
        Morton words at ``grid.parent_order``.

    Returns
    -------
    ndarray of uint64, shape (n * grid.children,)
    """
    first = nested_ids(parents, grid.parent_order) * np.uint64(grid.children)
    ids = first[:, np.newaxis] + np.arange(grid.children, dtype=np.uint64)
    return np.asarray(ids.ravel(), dtype=np.uint64)


def centres(words: Words) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the centres of cells as geodetic WGS84 latitude and longitude in [-180, 180)."""
    import mortie

    lat, lon = mortie.mort2geo(np.asarray(words, dtype=np.uint64), latitude=LATITUDE_CONVENTION)
    return np.asarray(lat), (np.asarray(lon) + 180.0) % 360.0 - 180.0


@lru_cache(maxsize=256)
def latitudes_of(cell: int, order: int) -> tuple[float, float]:
    """Return latitudes between which all of a cell lies, a few percent of its height beyond it.

    Parameters
    ----------
    cell : int
        Morton word at the order.
    order : int
    """
    finer = min(order + 5, FINEST_ORDER)
    inside = Grid(order, finer)
    latitude, _ = centres(words_of(children_of(np.asarray([cell], dtype=np.uint64), inside), finer))
    # No point of a cell is as far from its centre as 1.2 times the root of its area (1.05, for
    # the cells at the edge of the polar caps).
    margin = 1.2 * 58.7 / 2**finer
    return float(latitude.min() - margin), float(latitude.max() + margin)


def to_decimal(word: int | np.uint64) -> str:
    """Return the decimal Morton id of a word, such as ``"-6134114"``."""
    import mortie

    return str(mortie.MortonWord(int(word)))


def from_decimal(cell: str, order: int | None = None) -> int:
    """Return the Morton word of a decimal Morton id.

    Parameters
    ----------
    cell : str
        A sign for the south, a base digit 1 to 6, then one digit 1 to 4 per order.
    order : int, optional
        The order that the id must have.

    Raises
    ------
    GridError
        If the id is malformed or of another order.
    """
    import mortie

    try:
        word = int(mortie.decimal_to_word(str(cell)))
    except ValueError as error:
        raise GridError(
            f"{cell!r} is not a decimal Morton id ({error}); it looks like -6134114: an optional "
            "minus, a base digit 1 to 6, then one digit 1 to 4 per order"
        ) from None
    digits = len(str(cell).lstrip("-")) - 1
    if order is not None and digits != order:
        raise GridError(f"cell {cell!r} is of order {digits}, where order {order} is wanted")
    return word


def separation(
    lat1: ArrayLike, lon1: ArrayLike, lat2: ArrayLike, lon2: ArrayLike
) -> NDArray[np.float64]:
    """Return great-circle distances in degrees (haversine formula), broadcasting the arguments."""
    phi1, phi2 = np.radians(lat1), np.radians(lat2)
    half_lat, half_lon = (phi2 - phi1) / 2, np.radians(np.subtract(lon2, lon1)) / 2
    h = np.sin(half_lat) ** 2 + np.cos(phi1) * np.cos(phi2) * np.sin(half_lon) ** 2
    return np.asarray(np.degrees(2 * np.arcsin(np.sqrt(np.clip(h, 0.0, 1.0)))))
