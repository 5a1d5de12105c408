"""Parts of the Earth to parts of a cells axis: a box, a polygon, or decimal Morton ids.

An area has the cells that it touches. One that goes through a sixteenth of a cell's side at a
corner may miss that cell. Only cells along the edge of an area are looked at one by one: from the
units of the axis downwards, those that no edge crosses are inside or outside as a whole.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from magg.catalog.area import POINTS_A_SIDE, Area, Ring, area_of, densified, inside
from magg.errors import CatalogError, GridError
from magg.grid import Words, centres, from_decimal, locate, prefixes, words_of
from magg.results.axis import Axis, Runs, merged

DEGREES_OF_BASE_CELL = 58.6
POINTS_AT_ONCE = 1_000_000
_MORTON = re.compile(r"-?[1-6][1-4]*")


def runs_within(axis: Axis, within: Any) -> Runs:
    """Return the runs of the cells that are asked for.

    Parameters
    ----------
    axis : Axis
    within : optional
        None for all; a decimal Morton id (text or a number) or a list of them as text; west,
        south, east, north in degrees; else what `magg.catalog.area.area_of` takes as a polygon.

    Raises
    ------
    ValueError
        If it is none of these (a `GridError` or `CatalogError`).
    """
    if within is None:
        return axis.everything()
    cells = _morton_cells(within)
    if cells:
        return _cells_within(axis, cells)
    boxed = _is_box(within)
    try:
        area = area_of(bbox=within) if boxed else area_of(within)
    except CatalogError as error:
        raise CatalogError(f"within: {error}") from None
    if area is None:
        return axis.everything()
    return _area_within(axis, area)


def _morton_cells(within: Any) -> list[str]:
    """Return the decimal Morton ids that are asked for, or none where it is something else."""
    if isinstance(within, int | np.integer) and not isinstance(within, bool):
        return [str(within)]
    if isinstance(within, str):
        return [within] if _MORTON.fullmatch(within) and not Path(within).exists() else []
    if isinstance(within, Sequence) and all(isinstance(cell, str) for cell in within):
        return list(within)
    return []


def _is_box(within: Any) -> bool:
    return isinstance(within, Sequence | np.ndarray) and not isinstance(within, str)


def _cells_within(axis: Axis, cells: Sequence[str]) -> Runs:
    """Return the runs of the cells of an axis that are in some cells, or that hold them."""
    first, last = [], []
    for cell in cells:
        if not _MORTON.fullmatch(cell):
            raise GridError(f"within: {cell!r} is not a decimal Morton id such as -6134114")
        order = len(cell.lstrip("-")) - 1
        prefix = int(prefixes(np.array([from_decimal(cell)], dtype=np.uint64), order)[0])
        finer = 2 * (axis.order - order)
        low = prefix << finer if finer >= 0 else prefix >> -finer
        first.append(low)
        last.append(low + (1 << max(finer, 0)) - 1)
    return axis.find(np.array(first, dtype=np.uint64), np.array(last, dtype=np.uint64))


def _area_within(axis: Axis, area: Area) -> Runs:
    found = [np.zeros((0, 2), dtype=np.int64)]
    for rings in area.polygons:
        first, last = _ranges(axis, rings)
        found.append(axis.find(first, last))
    return merged(np.concatenate(found))


def _ranges(axis: Axis, rings: Sequence[Ring]) -> tuple[Words, Words]:
    """Return the first and last prefixes of ranges of cells that a polygon touches."""
    units = np.unique(axis.units[axis.units > 0])
    edges = _on_edges(axis, units, rings)
    firsts, lasts = [], []
    level, cells = axis.unit_order, units
    while True:
        finer = np.uint64(2 * (axis.order - level))
        crossed = np.isin(cells, np.unique(edges >> finer))
        whole = cells[~crossed]
        lat, lon = centres(words_of(whole - (np.uint64(1) << np.uint64(2 * level)), level))
        whole = whole[inside(rings, lon, lat)]
        if level == axis.order:
            whole = np.concatenate([whole, cells[crossed]])
        firsts.append(whole << finer)
        lasts.append(((whole + np.uint64(1)) << finer) - np.uint64(1))
        if level == axis.order:
            return np.concatenate(firsts), np.concatenate(lasts)
        down = min(2, axis.order - level)
        children = np.arange(4**down, dtype=np.uint64)
        cells = ((cells[crossed] << np.uint64(2 * down))[:, np.newaxis] + children).ravel()
        level += down


def _on_edges(axis: Axis, units: Words, rings: Sequence[Ring]) -> Words:
    """Return the prefixes of the cells of the axis that the edges of a polygon cross."""
    step = DEGREES_OF_BASE_CELL / 2**axis.order / POINTS_A_SIDE
    shift = np.uint64(2 * (axis.order - axis.unit_order))
    found = [np.zeros(0, dtype=np.uint64)]
    for ring in rings:
        for points in _pieces(ring, step):
            cells = np.unique(prefixes(locate(points[:, 1], points[:, 0] % 360.0), axis.order))
            found.append(cells[np.isin(cells >> shift, units)])
    return np.unique(np.concatenate(found))


def _pieces(ring: Ring, step: float) -> Iterator[NDArray[np.float64]]:
    """Yield the points along a ring, a million at once at most however long it is."""
    ring = densified(ring, step * POINTS_AT_ONCE / 2)
    points = np.ceil(np.abs(np.diff(ring, axis=0)).max(axis=1) / step)
    piece = (np.cumsum(points) // (POINTS_AT_ONCE / 2)).astype(int)
    bounds = [0, *(np.flatnonzero(np.diff(piece)) + 1).tolist(), len(points)]
    for first, last in pairwise(bounds):
        yield densified(ring[first : last + 1], step)
