"""Values of given ranks among the rows of coarse cells, from the sorted rows of finer ones.

Sorting the rows of every coarse cell anew would cost several times what is done for the child
cells. But once the rows of finer cells are sorted (*runs*), every s-th value of each run, taken
together and sorted, tells between which two of these samples a value of a given rank must lie
(selection by regular sampling). Only what lies strictly between them is looked at, a few values of
each run. The samples of a coarser cell are those of its parts, merged.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from magg.statistics.cells import Cells, Indices
from magg.statistics.digests import digest_of_runs
from magg.statistics.order import missing_values, sort_keys, sort_segments
from magg.statistics.segments import Array, OrderStatistic

# Mean number of rows of a cell up to which sorting all of them costs less than selecting.
SORTED_ROWS = 1200


class Selection:
    """Ranks among the rows of the cells of one order after the other, from fine to coarse.

    Parameters
    ----------
    values : ndarray, shape (n,)
        All rows, those of each child cell sorted, NaN last; is sorted further in place.
    children : Cells
        The child cells.
    targets : int
        How many ranks of each cell are asked for.
    """

    def __init__(self, values: Array, children: Cells, targets: int) -> None:
        self._values = values
        self._targets = targets
        self._samples: _Samples | None = None
        self._first_runs: Indices
        self._take_runs(children)

    def coarsen(self, level: Cells) -> None:
        """Go on to the cells of the next coarser order."""
        if self._samples is None and self._values.size <= SORTED_ROWS * level.cells.size:
            sort_segments(self._values, level.first_rows, level.counts)
            self._take_runs(level)
            return
        if self._samples is None:
            self._samples = _Samples(self._values, self._starts, self._sizes, self._targets)
        self._first_runs = self._first_runs[level.starts]
        self._samples.coarsen(level.starts)

    def _take_runs(self, level: Cells) -> None:
        # Where the runs start, how many of their values are not NaN, and the first of each cell.
        self._starts = level.first_rows
        self._sizes = level.counts - missing_values(self._values, self._starts, level.counts)
        self._first_runs = np.arange(self._starts.size)

    def known_sizes(self) -> Indices:
        """Return how many values of each cell are not NaN, shape (m,)."""
        return np.add.reduceat(self._sizes, self._first_runs)

    def order_statistics(
        self, orders: Sequence[OrderStatistic], counts: Indices
    ) -> list[NDArray[np.float64]]:
        """Return order statistics of all cells.

        Parameters
        ----------
        orders : sequence of OrderStatistic
        counts : ndarray of int, shape (m,)
            Number of rows of each cell, NaN included.
        """
        known = self.known_sizes()
        sizes = [counts if order.complete else np.maximum(known, 1) for order in orders]
        ranks = [order.ranks(size) for order, size in zip(orders, sizes, strict=True)]
        places = {lower.tobytes(): lower for lower, _ in ranks}  # those that differ
        below, above = self.at(np.stack(list(places.values())))
        rows = {key: row for row, key in enumerate(places)}
        results = []
        for order, size, (lower, upper) in zip(orders, sizes, ranks, strict=True):
            row = rows[lower.tobytes()]
            first = below[row].astype(np.float64)
            second = np.where(upper > lower, above[row], below[row]).astype(np.float64)
            with np.errstate(all="ignore"):
                result = order.between(first, second, size)
            result[known < size] = np.nan
            results.append(result)
        return results

    def digests(self) -> NDArray[np.float64]:
        """Return the digest of each cell, shape (m, k, 2)."""
        stops = np.append(self._first_runs[1:], self._starts.size)
        runs = [slice(*ends) for ends in zip(self._first_runs, stops, strict=True)]
        digests = [
            digest_of_runs(self._values, self._starts[run], self._sizes[run]) for run in runs
        ]
        return np.stack(digests)

    def at(self, ranks: Indices) -> tuple[Array, Array]:
        """Return the values of ranks, and of the ranks above them.

        Parameters
        ----------
        ranks : ndarray of int, shape (t, m)
            From 0, for each cell. Where no value of a cell has the rank, what is returned means
            nothing; above the highest comes the highest.

        Returns
        -------
        tuple of ndarray, shape (t, m)
        """
        last = np.maximum(self.known_sizes() - 1, 0)
        lower = np.minimum(ranks, last)
        upper = np.minimum(lower + 1, last)
        if self._samples is None:
            first = self._starts[self._first_runs]
            return self._values.take(first + lower), self._values.take(first + upper)
        low, high = self._samples.around(lower, upper)
        return self._between(lower, upper, low, high)

    def _between(
        self, lower: Indices, upper: Indices, low: tuple[Array, Array], high: tuple[Array, Array]
    ) -> tuple[Array, Array]:
        """Find what lies strictly between bounds, and the values of ranks among it."""
        lengths = np.diff(self._first_runs, append=self._starts.size)
        floor, has_floor = low
        ceiling, has_ceiling = high
        begin = self._count(np.repeat(floor, lengths, axis=1), closed=True)
        begin[~np.repeat(has_floor, lengths, axis=1)] = 0
        end = self._count(np.repeat(ceiling, lengths, axis=1), closed=False)
        end = np.where(np.repeat(has_ceiling, lengths, axis=1), end, self._sizes)
        before = np.add.reduceat(begin, self._first_runs, axis=1)
        until = np.add.reduceat(end, self._first_runs, axis=1)
        below = np.where(lower < before, floor, ceiling)
        above = np.where(upper < before, floor, ceiling)
        # Where both are answered by the bounds, as with many equal values, nothing is looked at.
        wanted = (upper >= before) & (lower < until)
        inside = np.where(np.repeat(wanted, lengths, axis=1), np.maximum(end - begin, 0), 0)
        found, stops = self._gather(begin, inside)
        sizes = np.add.reduceat(inside, self._first_runs, axis=1).ravel()
        first = stops - sizes
        sort_segments(found, first, sizes)
        for ranks, result in ((lower, below), (upper, above)):
            at = (wanted & (ranks >= before) & (ranks < until)).ravel()
            result.ravel()[at] = found.take(first[at] + (ranks - before).ravel()[at])
        return below, above

    def _gather(self, begin: Indices, inside: Indices) -> tuple[Array, Indices]:
        # The values between, one cell after the other, and where each cell's end.
        sizes = inside.ravel()
        ends = np.cumsum(sizes)
        places = np.repeat((begin + self._starts).ravel() - (ends - sizes), sizes)
        places += np.arange(places.size)
        targets, runs = inside.shape
        last_runs = np.append(self._first_runs[1:], runs) - 1
        of_cells = (np.arange(targets)[:, None] * runs + last_runs).ravel()
        return self._values.take(places), ends[of_cells]

    def _count(self, bounds: Array, *, closed: bool) -> Indices:
        # How many values of each run are below bounds, or equal too if closed: a binary search in
        # all runs at once, with steps of powers of two.
        compare = np.less_equal if closed else np.less
        found = np.zeros(bounds.shape, dtype=np.intp)
        before = self._starts - 1
        step = 1 << int(self._sizes.max()).bit_length() >> 1
        while step:
            further = found + step
            inside = further <= self._sizes
            values = self._values.take(before + np.where(inside, further, 1), mode="clip")
            inside &= compare(values, bounds)
            found += step * inside
            step >>= 1
        return found


class _Samples:
    # Every s-th value of each run (the last of s), sorted within each cell. If S samples of a cell
    # are at most v, then at least s * S of its values are, and at most s - 1 more for each run.

    def __init__(self, values: Array, starts: Indices, sizes: Indices, targets: int) -> None:
        # With this the samples of a level cost about as much as what lies between them.
        step = max(1, round((sizes.sum() / (3 * targets * sizes.size)) ** 0.5))
        counts = sizes // step
        ends = np.cumsum(counts)
        places = np.arange(int(ends[-1]))
        places -= np.repeat(ends - counts, counts)
        places *= step
        places += np.repeat(starts + step - 1, counts)
        self._step = step
        self._values = values.take(places)
        self._counts = counts
        self._unsure = np.minimum(sizes, step - 1)

    def coarsen(self, starts: Indices) -> None:
        self._counts = np.add.reduceat(self._counts, starts)
        self._unsure = np.add.reduceat(self._unsure, starts)
        if self._values.size:
            keys = sort_keys(self._values)
            ends = np.cumsum(self._counts)
            for end, count in zip(ends.tolist(), self._counts.tolist(), strict=True):
                # Stable, because that kind merges what is sorted already.
                keys[end - count : end].sort(kind="stable")

    def around(
        self, lower: Indices, upper: Indices
    ) -> tuple[tuple[Array, Array], tuple[Array, Array]]:
        """Return the highest bound below and the lowest above, and whether there are such."""
        floor = (lower - self._unsure) // self._step
        ceiling = upper // self._step
        return self._at(np.minimum(floor, self._counts - 1)), self._at(ceiling)

    def _at(self, places: Indices) -> tuple[Array, Array]:
        there = (places >= 0) & (places < self._counts)
        first = np.cumsum(self._counts) - self._counts
        if not self._values.size:
            return np.zeros(places.shape, dtype=self._values.dtype), there
        return self._values.take(np.where(there, first + places, 0)), there
