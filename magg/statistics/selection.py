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

from magg.statistics.cells import Cells, Indices, lengths_of, starts_among
from magg.statistics.digests import digest_of_sample
from magg.statistics.order import missing_values, sort_keys, sort_segments
from magg.statistics.segments import Array, OrderStatistic

# Mean number of rows of a cell up to which sorting all of them costs less than selecting.
SORTED_ROWS = 1200
# About how many values between bounds are looked at together.
MOST_BETWEEN = 1 << 18

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]


class Wanted:
    """The ranks between which order statistics of some cells lie.

    Parameters
    ----------
    orders : sequence of OrderStatistic
    counts, known : ndarray of int, shape (m,)
        Number of rows of each cell, with and without NaN.

    Attributes
    ----------
    lower, upper : ndarray of int, shape (t, m)
        The ranks of the neighbours, each pair once. Above the highest value comes the highest, and
        where no value has a rank it means nothing.
    """

    def __init__(self, orders: Sequence[OrderStatistic], counts: Indices, known: Indices) -> None:
        self._orders = orders
        self._known = known
        self._sizes = [counts if order.complete else np.maximum(known, 1) for order in orders]
        self._ranks = [order.ranks(size) for order, size in zip(orders, self._sizes, strict=True)]
        distinct = {lower.tobytes(): lower for lower, _ in self._ranks}
        self._rows = {key: row for row, key in enumerate(distinct)}
        last = np.maximum(known - 1, 0)
        self.lower = np.minimum(np.stack(list(distinct.values())), last)
        self.upper = np.minimum(self.lower + 1, last)

    def between(self, below: Array, above: Array) -> Floats:
        """Return the statistics, shape (s, m), from the values of the ranks, shape (t, m)."""
        results = []
        for order, size, (lower, upper) in zip(self._orders, self._sizes, self._ranks, strict=True):
            row = self._rows[lower.tobytes()]
            first = below[row].astype(np.float64)
            second = np.where(upper > lower, above[row], below[row]).astype(np.float64)
            with np.errstate(all="ignore"):
                result = order.between(first, second, size)
            result[self._known < size] = np.nan
            results.append(result)
        return np.stack(results)


class Band:
    """Rows of neighbouring cells in the order of their values, of ever coarser cells.

    Parameters
    ----------
    values : ndarray, shape (n,)
        All rows, those of each child cell sorted, NaN last; is sorted further in place.
    levels : sequence of Cells
        The child order and the coarse ones, the finest first.
    digests : bool
        Whether digests of the coarsest cells will be asked for.
    step : int, optional
        Every how many rows there are samples; by default what is best for these cells alone.
    before : int, optional
        How many runs other bands have, so that those of this one are sampled differently.
    """

    def __init__(
        self,
        values: Array,
        levels: Sequence[Cells],
        *,
        digests: bool,
        step: int | None = None,
        before: int = 0,
    ) -> None:
        self._values = values
        self._for_digests = digests
        self._step, self._before = step, before
        self._levels = levels
        missing = missing_values(values, levels[0].first_rows, levels[0].counts)
        self.known = known_of(levels, levels[0].counts - missing)
        """How many values of each cell are not NaN, for every order."""
        self._sorted = 0  # up to which level each cell is one run
        self._samples: Samples | None = None  # of the coarsest order

    def order_statistics(self, orders: Sequence[OrderStatistic]) -> Floats:
        """Return order statistics of all coarse cells, one order after the other.

        Parameters
        ----------
        orders : sequence of OrderStatistic

        Returns
        -------
        ndarray, shape (s, m)
        """
        counts = np.concatenate([level.counts for level in self._levels[1:]])
        wanted = Wanted(orders, counts, np.concatenate(self.known[1:]))
        return wanted.between(*self._at(wanted.lower, wanted.upper))

    def digests(self) -> Floats:
        """Return the digests of the cells of the coarsest order, shape (m, k, 2).

        Of order statistics of coarse cells, these must have been asked for before.
        """
        if self._samples is None:
            rows = zip(self._levels[-1].first_rows, self.known[-1], strict=True)
            return np.stack([digest_of_sample(self._values[f : f + n], n) for f, n in rows])
        return digests_of(self._samples, self.known[-1], *self.ends())

    def samples(self) -> Samples:
        """Return samples of the cells of the coarsest order; asked for as `digests` is."""
        if self._samples is None:
            assert self._step is not None  # noqa: S101 - or they could not be joined
            self._samples = self._sampled(self._step)
        return self._samples

    def ends(self) -> tuple[Array, Array]:
        """Return the lowest and the highest value of the cells of the coarsest order."""
        runs, sizes = self._levels[self._sorted], self.known[self._sorted]
        firsts = starts_among(runs, self._levels[-1])
        lows = self._values.take(runs.first_rows)
        highs = self._values.take(runs.first_rows + np.maximum(sizes - 1, 0))
        # Where a run has no value it begins with NaN, which these ignore.
        return np.fmin.reduceat(lows, firsts), np.fmax.reduceat(highs, firsts)

    def _at(self, lower: Indices, upper: Indices) -> tuple[Array, Array]:
        # The values of ranks, shape (t, m).
        below, above = (np.empty(lower.shape, dtype=self._values.dtype) for _ in range(2))
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
        if done < lower.shape[1]:
            self._select(below[:, done:], above[:, done:], lower[:, done:], upper[:, done:])
        return below, above

    def _sampled(self, step: int) -> Samples:
        runs, sizes = self._levels[self._sorted], self.known[self._sorted]
        return Samples.of(self._values, runs.first_rows, sizes, step, self._before)

    def _select(self, below: Array, above: Array, lower: Indices, upper: Indices) -> None:
        # For all levels whose rows are not sorted, as many at once as need little memory.
        runs, levels = self._levels[self._sorted], self._levels[self._sorted + 1 :]
        sizes, targets = self.known[self._sorted], len(lower)
        step = self._step or best_step(
            sizes, targets, alone=levels[-1].cells.size == 1, digests=self._for_digests
        )
        self._samples = self._sampled(step)
        together = max(1, MOST_BETWEEN // (targets * step * sizes.size))
        done = 0
        for first in range(0, len(levels), together):
            some = levels[first : first + together]
            these = slice(done, done + sum(level.cells.size for level in some))
            wanted = lower[:, these], upper[:, these]
            bounds = self._samples.bounds(some, *wanted)
            selection = _Selection(self._values, runs, sizes, some)
            below[:, these], above[:, these] = selection.between(*wanted, *bounds)
            done = these.stop


class _Selection:
    # Selects among sorted runs, the cells of an order, for some coarser orders at once.

    def __init__(self, values: Array, runs: Cells, sizes: Indices, levels: Sequence[Cells]) -> None:
        self._values = values
        # Every level has all runs for itself.
        self._starts = np.tile(runs.first_rows, len(levels))
        self._sizes = np.tile(sizes, len(levels))
        firsts = [
            starts_among(runs, level) + index * sizes.size for index, level in enumerate(levels)
        ]
        self._first_runs = np.concatenate(firsts)
        self._runs_of_cells = lengths_of(self._first_runs, self._sizes.size)

    def between(
        self,
        lower: Indices,
        upper: Indices,
        floor: Array,
        has_floor: Mask,
        ceiling: Array,
        has_ceiling: Mask,
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


def known_of(levels: Sequence[Cells], known: Indices) -> list[Indices]:
    """Return how many values cells have, for every level, from those of the first."""
    result = [known]
    for level in levels[1:]:
        result.append(np.add.reduceat(result[-1], level.starts))
    return result


def best_step(sizes: Indices, targets: int, *, alone: bool, digests: bool) -> int:
    """Return every how many values there should be samples of runs.

    Parameters
    ----------
    sizes : ndarray of int
        Of the runs.
    targets : int
        How many ranks will be looked for in each cell.
    alone : bool
        Whether a single cell is all that is left at the coarsest order.
    digests : bool
    """
    # With this the samples of a level cost about as much as what lies between them.
    step = (sizes.sum() / (targets * sizes.size)) ** 0.5
    if digests:
        # Samples of r runs give ranks to 0.29 * s * sqrt(r), one standard deviation; so this is
        # 0.024 % of the rows of a cell that is alone in its order.
        step = min(step, sizes.sum() / (1200 * sizes.size**0.5)) if alone else 1
    return max(1, int(step))


def digests_of(samples: Samples, known: Indices, lows: Array, highs: Array) -> Floats:
    """Return digests of cells from their samples, numbers of values, lowest and highest value."""
    return np.stack(
        [
            digest_of_sample(points, number, np.stack(ends))
            for points, number, *ends in zip(
                samples.of_cells(), known.tolist(), lows, highs, strict=True
            )
        ]
    )


class Samples:
    """Every s-th value of each run, sorted within each cell.

    The first of a run has a place below s that differs from run to run, so that runs that are
    alike are not sampled alike: fractions of multiples of the golden ratio are spread evenly. If S
    samples of a run are at most v, then of its values at least s * (S - 1) + place + 1 are, and at
    most s * S + place.

    Parameters
    ----------
    values : ndarray, shape (n,)
    counts, over, under : ndarray of int, shape (m,)
        Of each cell: the number of its samples, and by how many values s * S may be too many and
        too few.
    step : int
    """

    def __init__(
        self, values: Array, counts: Indices, over: Indices, under: Indices, step: int
    ) -> None:
        self._values = values
        self._keys = sort_keys(values)
        self._counts, self._over, self._under = counts, over, under
        self._step = step

    @classmethod
    def of(
        cls, values: Array, starts: Indices, sizes: Indices, step: int, before: int = 0
    ) -> Samples:
        """Return those of sorted runs, each of which is a cell for now; others came before."""
        numbers = np.arange(before, before + sizes.size)
        firsts = (numbers * 0.6180339887498949 % 1 * step).astype(np.intp)
        counts = np.maximum(sizes - firsts + step - 1, 0) // step
        ends = np.cumsum(counts)
        places = np.arange(int(ends[-1]))
        places -= np.repeat(ends - counts, counts)
        places *= step
        places += np.repeat(starts + firsts, counts)
        over = (step - 1 - firsts) * (counts > 0)
        return cls(values.take(places), counts, over, np.minimum(firsts, sizes), step)

    @classmethod
    def joined(cls, parts: Sequence[Samples]) -> Samples:
        """Return those of the cells of all parts, which have the same step."""
        arrays = zip(*((p._values, p._counts, p._over, p._under) for p in parts), strict=True)
        values, counts, over, under = map(np.concatenate, arrays)
        return cls(values, counts, over, under, parts[0]._step)

    def of_cells(self) -> list[Array]:
        """Return the samples of each cell, sorted."""
        return np.split(self._values, np.cumsum(self._counts)[:-1])

    def bounds(
        self, levels: Sequence[Cells], lower: Indices, upper: Indices
    ) -> tuple[Array, Mask, Array, Mask]:
        """Merge the samples to those of ever coarser cells; return bounds of ranks in all of them.

        These are the highest bound below and the lowest above, each with whether there is one, in
        the shape of the ranks, (t, m), one order after the other.
        """
        found, done = [], 0
        for level in levels:
            self._coarsen(level.starts)
            these = slice(done, done + level.cells.size)
            found.append(self._around(lower[:, these], upper[:, these]))
            done = these.stop
        floor, has_floor, ceiling, has_ceiling = (
            np.concatenate(parts, axis=1) for parts in zip(*found, strict=True)
        )
        return floor, has_floor, ceiling, has_ceiling

    def _coarsen(self, starts: Indices) -> None:
        self._counts = np.add.reduceat(self._counts, starts)
        self._over = np.add.reduceat(self._over, starts)
        self._under = np.add.reduceat(self._under, starts)
        ends = np.cumsum(self._counts)
        for start, end in zip((ends - self._counts).tolist(), ends.tolist(), strict=True):
            # Stable, because that kind merges what is sorted already.
            self._keys[start:end].sort(kind="stable")

    def _around(self, lower: Indices, upper: Indices) -> tuple[Array, Mask, Array, Mask]:
        floor = (lower - self._under) // self._step
        ceiling = (upper + self._over) // self._step
        return *self._at(np.minimum(floor, self._counts - 1)), *self._at(ceiling)

    def _at(self, places: Indices) -> tuple[Array, Mask]:
        there = (places >= 0) & (places < self._counts)
        if not self._values.size:
            return np.zeros(places.shape, dtype=self._values.dtype), there
        first = np.cumsum(self._counts) - self._counts
        return self._values.take((first + places) * there), there
