"""Order statistics of coarse cells, from the sorted rows of finer ones.

Sorting the rows of every coarse cell anew would cost several times what is done for the child
cells. But once the rows of finer cells are sorted (*runs*), every s-th value of each run, taken
together and sorted, tells between which two of these samples a value of a given rank must lie
(selection by regular sampling). Only what lies strictly between them is looked at, a few values of
each run. The samples of a coarser cell are those of its parts, merged; digests are made of them.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from magg.statistics.cells import Cells, Indices, lengths_of
from magg.statistics.digests import digest_of_sample
from magg.statistics.order import missing_values, sort_keys, sort_segments
from magg.statistics.segments import Array, OrderStatistic

# Mean number of rows of a cell up to which sorting all of them costs less than selecting.
SORTED_ROWS = 1200
# About how many values between bounds are looked at together.
MOST_BETWEEN = 1 << 18

Floats = NDArray[np.float64]


class Ordered:
    """The rows of a parent cell in the order of their values, of ever coarser cells.

    Parameters
    ----------
    values : ndarray, shape (n,)
        All rows, those of each child cell sorted, NaN last; is sorted further in place.
    levels : sequence of Cells
        The child order and the coarse ones, the finest first.
    digests : bool
        Whether digests will be asked for.
    """

    def __init__(self, values: Array, levels: Sequence[Cells], *, digests: bool) -> None:
        self._values = values
        self._for_digests = digests
        self._levels = levels
        missing = missing_values(values, levels[0].first_rows, levels[0].counts)
        # How many values of each cell are not NaN, for every order.
        self._known = [levels[0].counts - missing]
        for level in levels[1:]:
            self._known.append(np.add.reduceat(self._known[-1], level.starts))
        self._sorted = 0  # up to which level each cell is one run
        self._samples: _Samples | None = None  # of the coarsest order

    def order_statistics(self, orders: Sequence[OrderStatistic]) -> list[Floats]:
        """Return order statistics of all coarse cells, one order after the other.

        Parameters
        ----------
        orders : sequence of OrderStatistic

        Returns
        -------
        list of ndarray, shape (m,)
        """
        counts = np.concatenate([level.counts for level in self._levels[1:]])
        known = np.concatenate(self._known[1:])
        sizes = [counts if order.complete else np.maximum(known, 1) for order in orders]
        ranks = [order.ranks(size) for order, size in zip(orders, sizes, strict=True)]
        places = {lower.tobytes(): lower for lower, _ in ranks}  # those that differ
        below, above = self._at(np.stack(list(places.values())), known)
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

    def digests(self) -> Floats:
        """Return the digests of the cells of the coarsest order, shape (m, k, 2).

        Of order statistics of coarse cells, these must have been asked for before.
        """
        if self._samples is None:
            rows = zip(self._levels[-1].first_rows, self._known[-1], strict=True)
            return np.stack([digest_of_sample(self._values[f : f + n], n) for f, n in rows])
        runs, sizes = self._levels[self._sorted], self._known[self._sorted]
        firsts = np.searchsorted(runs.first_children, self._levels[-1].first_children)
        digests = []
        for points, first, size in zip(
            self._samples.of_cells(), firsts, lengths_of(firsts, sizes.size), strict=True
        ):
            known = sizes[first : first + size]
            starts = runs.first_rows[first : first + size][known > 0]
            last = starts + known[known > 0] - 1
            ends = self._values.take(np.concatenate([starts, last]))
            digests.append(digest_of_sample(points, int(known.sum()), ends))
        return np.stack(digests)

    def _at(self, ranks: Indices, known: Indices) -> tuple[Array, Array]:
        # The values of ranks, shape (t, m), and of the ranks above them; above the highest comes
        # the highest, and where no value has the rank they mean nothing.
        last = np.maximum(known - 1, 0)
        lower = np.minimum(ranks, last)
        upper = np.minimum(lower + 1, last)
        below, above = (np.empty(ranks.shape, dtype=self._values.dtype) for _ in range(2))
        done = 0
        for index, level in enumerate(self._levels[1:], 1):
            if self._values.size > SORTED_ROWS * level.cells.size:
                break
            first = level.first_rows
            sort_segments(self._values, first, level.counts)
            self._sorted = index
            these = slice(done, done + first.size)
            below[:, these] = self._values.take(first + lower[:, these])
            above[:, these] = self._values.take(first + upper[:, these])
            done += first.size
        if done < known.size:
            self._select(below[:, done:], above[:, done:], lower[:, done:], upper[:, done:])
        return below, above

    def _select(self, below: Array, above: Array, lower: Indices, upper: Indices) -> None:
        # For all levels whose rows are not sorted, as many at once as need little memory.
        runs, levels = self._levels[self._sorted], self._levels[self._sorted + 1 :]
        sizes, targets = self._known[self._sorted], len(lower)
        step = _step(sizes, targets, alone=levels[-1].cells.size == 1, digests=self._for_digests)
        self._samples = _Samples(self._values, runs.first_rows, sizes, step)
        together = max(1, MOST_BETWEEN // (targets * step * sizes.size))
        done = 0
        for first in range(0, len(levels), together):
            some = levels[first : first + together]
            ends = done + np.cumsum([level.cells.size for level in some])
            bounds = []
            for level, end in zip(some, ends.tolist(), strict=True):
                these = slice(end - level.cells.size, end)
                self._samples.coarsen(level.starts)
                bounds.append(self._samples.around(lower[:, these], upper[:, these]))
            these = slice(done, int(ends[-1]))
            below[:, these], above[:, these] = _Selection(self._values, runs, sizes, some).between(
                lower[:, these],
                upper[:, these],
                *(np.concatenate(parts, axis=1) for parts in zip(*bounds, strict=True)),
            )
            done = these.stop


class _Selection:
    # Selects among sorted runs, the cells of an order, for some coarser orders at once.

    def __init__(self, values: Array, runs: Cells, sizes: Indices, levels: Sequence[Cells]) -> None:
        self._values = values
        # Every level has all runs for itself.
        self._starts = np.tile(runs.first_rows, len(levels))
        self._sizes = np.tile(sizes, len(levels))
        firsts = [
            np.searchsorted(runs.first_children, level.first_children) + index * sizes.size
            for index, level in enumerate(levels)
        ]
        self._first_runs = np.concatenate(firsts)
        self._runs_of_cells = lengths_of(self._first_runs, self._sizes.size)

    def between(
        self,
        lower: Indices,
        upper: Indices,
        floor: Array,
        has_floor: NDArray[np.bool_],
        ceiling: Array,
        has_ceiling: NDArray[np.bool_],
    ) -> tuple[Array, Array]:
        """Return the values of ranks, shape (t, m), which lie between a floor and a ceiling."""
        begin, end = self._count(self._for_runs(np.stack([floor, ceiling])))
        begin *= self._for_runs(has_floor)
        end = np.where(self._for_runs(has_ceiling), end, self._sizes)
        before = np.add.reduceat(begin, self._first_runs, axis=1)
        until = np.add.reduceat(end, self._first_runs, axis=1)
        below = np.where(lower < before, floor, ceiling)
        above = np.where(upper < before, floor, ceiling)
        # Where the bounds are the values, as with many equal ones, nothing else is looked at.
        wanted = (upper >= before) & (lower < until)
        inside = np.where(self._for_runs(wanted), np.maximum(end - begin, 0), 0)
        found, first, sizes = self._gather(begin, inside)
        sort_segments(found, first, sizes)
        for ranks, result in ((lower, below), (upper, above)):
            at = (wanted & (ranks >= before) & (ranks < until)).ravel()
            result.ravel()[at] = found.take(first[at] + (ranks - before).ravel()[at])
        return below, above

    def _gather(self, begin: Indices, inside: Indices) -> tuple[Array, Indices, Indices]:
        # So many values of each run from where they begin; and where those of each cell are.
        sizes = inside.ravel()
        ends = np.cumsum(sizes)
        places = np.repeat((begin + self._starts).ravel() - (ends - sizes), sizes)
        places += np.arange(places.size)
        targets, runs = inside.shape
        first_runs = (np.arange(targets)[:, None] * runs + self._first_runs).ravel()
        of_cells = np.add.reduceat(sizes, first_runs)
        return self._values.take(places), np.cumsum(of_cells) - of_cells, of_cells

    def _count(self, bounds: Array) -> Indices:
        # How many values of each run are at most the floor, and how many below the ceiling: a
        # binary search in all runs at once, with steps of powers of two.
        floor, ceiling = bounds
        found = np.zeros(bounds.shape, dtype=np.intp)
        smaller = np.empty(bounds.shape, dtype=np.bool_)
        before = self._starts - 1
        step = 1 << int(self._sizes.max()).bit_length() >> 1
        while step:
            further = found + step
            inside = further <= self._sizes
            further += before
            values = self._values.take(further, mode="clip")  # what is not inside does not count
            np.less_equal(values[0], floor, out=smaller[0])
            np.less(values[1], ceiling, out=smaller[1])
            inside &= smaller
            found += step * inside
            step >>= 1
        return found

    def _for_runs(self, of_cells: NDArray[np.generic]) -> Array:
        return np.repeat(of_cells, self._runs_of_cells, axis=-1)


def _step(sizes: Indices, targets: int, *, alone: bool, digests: bool) -> int:
    # With this the samples of a level cost about as much as what lies between them.
    step = (sizes.sum() / (targets * sizes.size)) ** 0.5
    if digests:
        # Samples of r runs give ranks to 0.29 * s * sqrt(r), one standard deviation; so this is
        # 0.024 % of the rows of a cell that is alone in its order.
        step = min(step, sizes.sum() / (1200 * sizes.size**0.5)) if alone else 1
    return max(1, int(step))


class _Samples:
    # Every s-th value of each run, sorted within each cell. The first of a run has a place below s
    # that differs from run to run, so that runs that are alike are not sampled alike: fractions of
    # multiples of the golden ratio are spread evenly. If S samples of a run are at most v, then of
    # its values at least s * (S - 1) + place + 1 are, and at most s * S + place.

    def __init__(self, values: Array, starts: Indices, sizes: Indices, step: int) -> None:
        firsts = (np.arange(sizes.size) * 0.6180339887498949 % 1 * step).astype(np.intp)
        counts = np.maximum(sizes - firsts + step - 1, 0) // step
        ends = np.cumsum(counts)
        places = np.arange(int(ends[-1]))
        places -= np.repeat(ends - counts, counts)
        places *= step
        places += np.repeat(starts + firsts, counts)
        self._step = step
        self._values = values.take(places)
        self._keys = sort_keys(self._values)
        self._counts = counts
        # By how many values s * S may be too many, and too few.
        self._over = (step - 1 - firsts) * (counts > 0)
        self._under = np.minimum(firsts, sizes)

    def of_cells(self) -> list[Array]:
        """Return the samples of each cell, sorted."""
        return np.split(self._values, np.cumsum(self._counts)[:-1])

    def coarsen(self, starts: Indices) -> None:
        """Merge the samples of cells to those of coarser cells."""
        self._counts = np.add.reduceat(self._counts, starts)
        self._over = np.add.reduceat(self._over, starts)
        self._under = np.add.reduceat(self._under, starts)
        ends = np.cumsum(self._counts)
        for start, end in zip((ends - self._counts).tolist(), ends.tolist(), strict=True):
            # Stable, because that kind merges what is sorted already.
            self._keys[start:end].sort(kind="stable")

    def around(
        self, lower: Indices, upper: Indices
    ) -> tuple[Array, NDArray[np.bool_], Array, NDArray[np.bool_]]:
        """Return the highest bound below and the lowest above, each with whether there is one."""
        floor = (lower - self._under) // self._step
        ceiling = (upper + self._over) // self._step
        return *self._at(np.minimum(floor, self._counts - 1)), *self._at(ceiling)

    def _at(self, places: Indices) -> tuple[Array, NDArray[np.bool_]]:
        there = (places >= 0) & (places < self._counts)
        if not self._values.size:
            return np.zeros(places.shape, dtype=self._values.dtype), there
        first = np.cumsum(self._counts) - self._counts
        return self._values.take((first + places) * there), there
