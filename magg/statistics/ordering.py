"""Rows ordered by child cell, handed out in blocks of whole segments.

Rows arrive along the track, so the same child cell comes in long runs. Where it does, the runs are
sorted, not the rows: a hundredth of the work and of the memory. Where it does not (photons,
shuffled rows), the rows are sorted band by band, a band being neighbouring child cells with about
a million rows, so that no permutation of all rows is ever held.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

# Rows of a block: a float64 column of it fits the L2 cache beside a few more.
BLOCK_ROWS = 1 << 15
# Rows of a band: 30 MB of permutation and workspace, and a pass over all child indices per band.
BAND_ROWS = 3 << 18
# Mean length from which runs are sorted instead of rows; shorter ones would need more memory.
LONG_RUN = 32
# Rows per step where something has to be made of every child index.
_STEP = 1 << 17

Indices = NDArray[np.intp]
Children = NDArray[np.unsignedinteger]


@dataclass(frozen=True, slots=True)
class Segments:
    """Some neighbouring child cells and their rows.

    Parameters
    ----------
    cells : ndarray of int, shape (s,)
        Child cells that have rows, ascending.
    counts : ndarray of int, shape (s,)
        Number of rows of each.
    rows : slice or ndarray of int, shape (n,)
        Where the rows are, ordered by child cell and else in their original order.
    """

    cells: Indices
    counts: Indices
    rows: slice | Indices


@dataclass(frozen=True, slots=True)
class Ordering:
    """The rows of a parent cell in the order of child cells.

    Parameters
    ----------
    cells : ndarray of int, shape (m,)
        Child cells that have rows, ascending.
    counts : ndarray of int, shape (m,)
        Number of rows of each.
    blocks : callable
        Called with the most rows of a block, `BLOCK_ROWS` if left out, yields the rows in blocks of
        whole segments, in the order of child cells; a single segment may have more.
    """

    cells: Indices
    counts: Indices
    blocks: Callable[..., Iterator[Segments]]


def order_rows(child: Children) -> Ordering:
    """Order rows by child cell; those of a cell stay in their original order.

    Parameters
    ----------
    child : ndarray of uint16 or uint32, shape (n,)
        Child cell of each row.
    """
    if not child.size:
        none = np.zeros(0, dtype=np.intp)
        return Ordering(none, none, partial(_blocks_of_rows, child, none, none))
    changes = child[1:] != child[:-1]
    if (np.count_nonzero(changes) + 1) * LONG_RUN <= child.size:
        starts = np.concatenate(([0], np.flatnonzero(changes) + 1))
        del changes  # a byte for each row
        return _order_runs(child, starts)
    del changes
    counts = _count(child)
    cells = np.flatnonzero(counts)
    counts = counts[cells]
    return Ordering(cells, counts, partial(_blocks_of_rows, child, cells, counts))


def _order_runs(child: Children, starts: Indices) -> Ordering:
    lengths = np.diff(starts, append=child.size)
    order = np.argsort(child[starts], kind="stable")
    starts, lengths = starts[order], lengths[order]
    ends = np.cumsum(lengths)
    # From here on places are those of the ordered rows, until they become rows again.
    shifts = starts - (ends - lengths)
    run_cells = child[starts]
    first_runs = np.flatnonzero(np.concatenate(([True], run_cells[1:] != run_cells[:-1])))
    cells = run_cells[first_runs].astype(np.intp)
    segment_ends = ends[np.append(first_runs[1:], starts.size) - 1]
    counts = np.diff(segment_ends, prepend=0)
    first_runs = np.append(first_runs, starts.size)
    return Ordering(
        cells, counts, partial(_blocks_of_runs, cells, counts, first_runs, shifts, lengths)
    )


def _blocks_of_runs(
    cells: Indices,
    counts: Indices,
    first_runs: Indices,
    shifts: Indices,
    lengths: Indices,
    block_rows: int = BLOCK_ROWS,
) -> Iterator[Segments]:
    segment_ends = np.cumsum(counts)
    steps = np.arange(min(block_rows, int(segment_ends[-1])))
    for first, last in cuts(segment_ends, block_rows):
        runs = slice(first_runs[first], first_runs[last])
        stop = int(segment_ends[last - 1])
        start = stop - int(counts[first:last].sum())
        if runs.stop - runs.start == 1:
            shift = int(shifts[runs.start])
            rows: slice | Indices = slice(start + shift, stop + shift)
        else:
            rows = np.repeat(shifts[runs] + start, lengths[runs])
            rows += steps[: stop - start] if stop - start <= steps.size else np.arange(stop - start)
        yield Segments(cells[first:last], counts[first:last], rows)


def _blocks_of_rows(
    child: Children, cells: Indices, counts: Indices, block_rows: int = BLOCK_ROWS
) -> Iterator[Segments]:
    for band_first, band_last in cuts(np.cumsum(counts), BAND_ROWS):
        band = slice(band_first, band_last)
        if band_last - band_first == cells.size:
            rows = np.argsort(child, kind="stable")
        else:
            rows = _rows_between(child, int(cells[band_first]), int(cells[band_last - 1]))
            rows = rows[np.argsort(child[rows], kind="stable")]
        band_ends = np.cumsum(counts[band])
        for first, last in cuts(band_ends, block_rows):
            segments = slice(band_first + first, band_first + last)
            stop = int(band_ends[last - 1])
            start = stop - int(counts[segments].sum())
            yield Segments(cells[segments], counts[segments], rows[start:stop])


def cuts(ends: Indices, most: int) -> Iterator[tuple[int, int]]:
    """Yield ranges of segments with at most so many rows each, or of one segment with more.

    Parameters
    ----------
    ends : ndarray of int
        How many rows there are up to the end of each segment.
    most : int
    """
    first, done = 0, 0
    while first < ends.size:
        last = max(first + 1, int(np.searchsorted(ends, done + most, side="right")))
        yield first, last
        first, done = last, int(ends[last - 1])


def _count(child: Children) -> Indices:
    # In steps, because bincount makes an int64 copy of what it counts.
    counts = np.zeros(int(child.max()) + 1, dtype=np.intp)
    for start in range(0, child.size, _STEP):
        counts += np.bincount(child[start : start + _STEP], minlength=counts.size)
    return counts


def _rows_between(child: Children, lowest: int, highest: int) -> Indices:
    low, width = child.dtype.type(lowest), child.dtype.type(highest - lowest)
    parts = []
    for start in range(0, child.size, _STEP):
        # Unsigned numbers below the lowest wrap around and come out above the width.
        part = np.flatnonzero(child[start : start + _STEP] - low <= width)
        part += start
        parts.append(part)
    return np.concatenate(parts)
