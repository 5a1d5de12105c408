"""The cells of several orders that have rows, and which of them make up which."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Indices = NDArray[np.intp]


@dataclass(frozen=True, slots=True)
class Cells:
    """Cells of one order that have rows.

    Parameters
    ----------
    cells : ndarray of int, shape (m,)
        Their indices within the parent cell, ascending.
    counts : ndarray of int, shape (m,)
        Number of rows of each.
    starts : ndarray of int, shape (m,)
        Where the runs of their parts start among the cells of the next finer order.
    first_children : ndarray of int, shape (m,)
        The same among the child cells that have rows.
    """

    cells: Indices
    counts: Indices
    starts: Indices
    first_children: Indices

    @property
    def first_rows(self) -> Indices:
        """Where the rows of each start among all rows ordered by child cell."""
        return np.cumsum(self.counts) - self.counts


def levels_of(cells: Indices, counts: Indices, levels: int) -> list[Cells]:
    """Return the child cells that have rows, and those of so many coarser orders."""
    every = np.arange(cells.size)
    result = [Cells(cells, counts, every, every)]
    for _ in range(levels):
        finer = result[-1]
        coarse = finer.cells >> 2
        starts = first_of_each(coarse)
        counts = np.add.reduceat(finer.counts, starts) if starts.size else finer.counts
        result.append(Cells(coarse[starts], counts, starts, finer.first_children[starts]))
    return result


def within(levels: Sequence[Cells], first: int, last: int) -> list[Cells]:
    """Return what some neighbouring cells of the coarsest level consist of, at every level.

    Parameters
    ----------
    levels : sequence of Cells
        As `levels_of` returns them.
    first, last : int
        Which of the cells of the coarsest level; the last is not among them.
    """
    result = []
    for depth in range(len(levels) - 1, -1, -1):
        level, some = levels[depth], slice(first, last)
        starts, firsts = level.starts[some], level.first_children[some]
        result.append(
            Cells(level.cells[some], level.counts[some], starts - starts[0], firsts - firsts[0])
        )
        if depth:
            is_last = last == level.cells.size
            last = levels[depth - 1].cells.size if is_last else int(level.starts[last])
            first = int(starts[0])
    return result[::-1]


def first_of_each(values: Indices) -> Indices:
    """Return where runs of equal values start."""
    changes: Indices = np.flatnonzero(values[1:] != values[:-1]) + 1
    return np.concatenate(([0], changes)) if values.size else changes


def starts_among(finer: Cells, coarser: Cells) -> Indices:
    """Return where the cells of a level start among those of a finer one."""
    return np.searchsorted(finer.first_children, coarser.first_children)


def lengths_of(starts: Indices, size: int) -> Indices:
    """Return the lengths of runs that start there, the last of which ends at the size."""
    lengths = np.empty_like(starts)
    np.subtract(starts[1:], starts[:-1], out=lengths[:-1])
    lengths[-1:] = size - starts[-1:]
    return lengths
