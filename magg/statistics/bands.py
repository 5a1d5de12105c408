"""Order statistics of coarse cells without all rows in memory.

Rows that are sorted in their child cells come one after the other and are put together to *bands*:
neighbouring cells of one order with at most `BAND_ROWS` rows. Up to that order the statistics are
had from one band after the other. Of the few cells that are coarser than a band, samples are kept,
which tell between what bounds a value of a given rank must lie; then all rows are looked at once
more, in whatever order, and only what lies between the bounds is kept.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from itertools import pairwise

import numpy as np

from magg.statistics.cells import Cells, Indices, first_of_each, starts_among, within
from magg.statistics.ordering import Segments, cuts
from magg.statistics.rows import Column
from magg.statistics.segments import Array, OrderStatistic
from magg.statistics.selection import (
    Band,
    Floats,
    Mask,
    Samples,
    Wanted,
    best_step,
    digests_of,
    known_of,
)

# Rows of a band: 4 MB of float32.
BAND_ROWS = 1 << 20


class Ordered:
    """The order statistics of coarse cells, from the rows of their child cells.

    Parameters
    ----------
    levels : sequence of Cells
        The child order and the coarse ones, the finest first.
    orders : sequence of OrderStatistic
    digests : bool
        Whether digests will be asked for.
    """

    def __init__(
        self, levels: Sequence[Cells], orders: Sequence[OrderStatistic], *, digests: bool
    ) -> None:
        self._levels, self._orders, self._for_digests = levels, orders, digests
        # More where a child cell is large, of which several columns are in memory anyway.
        most = max(BAND_ROWS, 4 * int(levels[0].counts.max()))
        # The coarsest of the levels whose cells fit into a band.
        self._depth = max(k for k, level in enumerate(levels) if level.counts.max() <= most)
        self._bands = deque(cuts(np.cumsum(levels[self._depth].counts), most))
        self._step = None
        if self.is_partial:  # samples can be joined if their step is the same
            alone = levels[-1].cells.size == 1
            self._step = best_step(levels[0].counts, len(orders), alone=alone, digests=digests)
        stops = np.cumsum([0, *(level.cells.size for level in levels[1:])]).tolist()
        self._places = [slice(*ends) for ends in pairwise(stops)]
        self._results = np.empty((len(orders), stops[-1]))
        self._digests: list[Floats] = []
        self._seen: list[tuple[Samples, Array, Array, Indices]] = []
        self._band: Column | None = None

    @property
    def is_partial(self) -> bool:
        """Whether there are cells coarser than a band, for which rows are needed once more."""
        return self._depth < len(self._levels) - 1

    def append(self, rows: Array) -> None:
        """Take the rows of the next child cells, sorted in each, NaN last."""
        while rows.size:
            if self._band is None:
                first, last = self._bands[0]
                size = int(self._levels[self._depth].counts[first:last].sum())
                self._band = Column(size)
            room = self._band.room
            self._band.append(rows[:room])
            rows = rows[room:]
            if not self._band.room:
                self._end_band(self._band.taken())
                self._band = None

    def complete(self, rows: Iterable[tuple[Segments, Array]]) -> None:
        """Take all rows once more, sorted or not, of some child cells at a time."""
        samples, lows, highs, known = self._joined()
        levels = self._levels[self._depth + 1 :]
        known_of_levels = known_of(self._levels[self._depth :], known)[1:]
        wanted = Wanted(
            self._orders,
            np.concatenate([level.counts for level in levels]),
            np.concatenate(known_of_levels),
        )
        bounds = samples.bounds(levels, wanted.lower, wanted.upper)
        if self._for_digests:
            firsts = starts_among(self._levels[self._depth], levels[-1])
            ends = np.fmin.reduceat(lows, firsts), np.fmax.reduceat(highs, firsts)
            self._digests.append(digests_of(samples, known_of_levels[-1], *ends))
        sieve = _Sieve(self._depth + 1, levels, *bounds)
        for segments, values in rows:
            sieve.add(segments, values)
        found = wanted.between(*sieve.at(wanted.lower, wanted.upper))
        self._results[:, self._places[self._depth].start :] = found

    def order_statistics(self) -> list[Floats]:
        """Return the order statistics of all coarse cells, one order after the other."""
        return list(self._results)

    def digests(self) -> Floats:
        """Return the digests of the cells of the coarsest order, shape (m, k, 2)."""
        return np.concatenate(self._digests)

    def _end_band(self, values: Array) -> None:
        first, last = self._bands.popleft()
        levels = within(self._levels[: self._depth + 1], first, last)
        before = int(self._levels[self._depth].first_children[first])
        band = Band(values, levels, digests=self._for_digests, step=self._step, before=before)
        if self._depth:
            found = band.order_statistics(self._orders)
            done = 0
            for level, whole, place in zip(
                levels[1:], self._levels[1:], self._places, strict=False
            ):
                start = place.start + int(np.searchsorted(whole.cells, level.cells[0]))
                size = level.cells.size
                self._results[:, start : start + size] = found[:, done : done + size]
                done += size
        if self.is_partial:
            self._seen.append((band.samples(), *band.ends(), band.known[-1]))
        elif self._for_digests:
            self._digests.append(band.digests())

    def _joined(self) -> tuple[Samples, Array, Array, Indices]:
        """Return what is kept of the bands: samples, lowest and highest value, and their number."""
        samples, lows, highs, known = zip(*self._seen, strict=True)
        self._seen = []
        return (
            Samples.joined(samples),
            np.concatenate(lows),
            np.concatenate(highs),
            np.concatenate(known),
        )


class _Sieve:
    # Keeps of rows in any order what lies strictly between the bounds of their cells, of several
    # levels, and counts what does not lie above the lower one.

    def __init__(
        self,
        depth: int,
        levels: Sequence[Cells],
        floor: Array,
        has_floor: Mask,
        ceiling: Array,
        has_ceiling: Mask,
    ) -> None:
        self._levels = [(2 * k, level.cells) for k, level in enumerate(levels, depth)]
        sizes = [level.cells.size for level in levels]
        self._firsts = np.cumsum(sizes) - sizes
        self._floor, self._has_floor = floor, has_floor
        self._ceiling, self._has_ceiling = ceiling, has_ceiling
        self._before = np.zeros(floor.shape, dtype=np.intp)
        self._kept: dict[tuple[int, int], list[Array]] = {}

    def add(self, segments: Segments, rows: Array) -> None:
        """Take the rows of some child cells."""
        starts = first_of_each(segments.cells >> self._levels[0][0])
        first_rows = (np.cumsum(segments.counts) - segments.counts)[starts]
        for start, values in zip(starts, np.split(rows, first_rows[1:]), strict=True):
            self._add_to(int(segments.cells[start]), values)

    def _add_to(self, child: int, values: Array) -> None:
        # All of these are of one cell, and so is that at every coarser level.
        where = [int(np.searchsorted(cells, child >> shift)) for shift, cells in self._levels]
        for cell in self._firsts + where:
            for target in range(len(self._floor)):
                at = target, cell
                # Where there is no bound above: all but NaN.
                top = self._ceiling[at] if self._has_ceiling[at] else None
                inside = values == values if top is None else values < top
                if self._has_floor[at]:
                    low = values <= self._floor[at]
                    self._before[at] += np.count_nonzero(low)
                    np.greater(inside, low, out=inside)
                self._kept.setdefault(at, []).append(values[inside])

    def at(self, *ranks: Indices) -> list[Array]:
        """Return the values of ranks, one for each pair of bounds."""
        results = [np.where(rank < self._before, self._floor, self._ceiling) for rank in ranks]
        for at, parts in self._kept.items():
            inside = np.sort(np.concatenate(parts))
            for rank, result in zip(ranks, results, strict=True):
                place = rank[at] - self._before[at]
                if 0 <= place < inside.size:
                    result[at] = inside[place]
        return results
