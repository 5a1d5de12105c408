"""Statistics of the rows of one parent cell, per child cell and for every coarser order."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from magg.errors import StatisticError
from magg.statistics.aggregate import check_rows
from magg.statistics.bands import Ordered
from magg.statistics.casting import cast, empty_output
from magg.statistics.cells import Cells, levels_of, starts_among
from magg.statistics.declare import Compiled
from magg.statistics.digests import empty
from magg.statistics.merging import (
    COUNT,
    Values,
    centres_of,
    evaluate,
    leaves_of,
    merge,
    order_statistics_among,
    states_among,
)
from magg.statistics.ordering import Segments, order_rows
from magg.statistics.rows import RowsOfLevels
from magg.statistics.segments import Array, Block, Node, Program
from magg.statistics.states import Kept


@dataclass(frozen=True, slots=True)
class Level:
    """Statistics of all cells of one order within a parent cell.

    Parameters
    ----------
    values : dict of str to ndarray, shape (cells,)
        By the names of the statistics, in the declared dtypes; cells without rows hold the fill
        value, and 0 for counts.
    state : dict of str to ndarray, shape (cells, ...)
        By the names of `magg.statistics.state_specs`; empty unless it was asked for. Digests are
        among them at the coarsest level only.
    """

    values: dict[str, Array]
    state: dict[str, Array] = field(default_factory=dict)


def aggregate_levels(
    statistics: Mapping[str, Compiled],
    child: NDArray[np.unsignedinteger],
    columns: Mapping[str, Array],
    children: int,
    levels: int,
    *,
    state: bool = False,
) -> list[Level]:
    """Compute statistics of rows per child cell and for coarser orders.

    Counts, extremes and order statistics of every order are those of the rows, to the last bit;
    sums, and what is made of them, are within the rounding of float64.

    Beside the outputs it takes what `aggregate` takes and, for order statistics, a band of at most
    a million rows (`magg.statistics.bands`); for a user's own function and for order statistics of
    what compares rows with a statistic of their cell, the rows that these get, twice.

    Parameters
    ----------
    statistics : mapping of str to Compiled
    child : ndarray of uint16 or uint32, shape (n,)
        Child cell of each row, below ``children``, in nested order.
    columns : mapping of str to ndarray, shape (n,)
        At least the columns that the statistics use.
    children : int
        Number of child cells, a multiple of ``4**levels``.
    levels : int
        How many coarser orders to compute.
    state : bool, optional
        Whether to return what coarser cells can be made of, too.

    Returns
    -------
    list of Level
        The first is what `aggregate` returns. Level k has ``children / 4**k`` cells, of which cell
        i consists of the cells 4i to 4i+3 of the level before.

    Raises
    ------
    StatisticError
        As `aggregate` does, and if ``children`` is no multiple of ``4**levels``.
    """
    check_rows(statistics, child, columns, children)
    if levels < 0 or children % 4**levels:
        raise StatisticError(f"{children} child cells cannot be merged over {levels} orders")
    kept = Kept(statistics) if state else None
    digests = {} if kept is None else {node.key: name for name, node in kept.digests.items()}
    work = _Work([compiled.node for compiled in statistics.values()], child, columns, levels)
    cells = work.cells
    finest = work.of_children(digests)
    coarse, digested = work.of_coarse(finest, digests)
    results = _results(statistics, kept, children, cells[:1], finest)
    results += _results(statistics, kept, children >> 2, cells[1:], coarse)
    for key, name in digests.items():
        results[-1].state[name] = empty(children >> 2 * levels)
        if digested:
            results[-1].state[name][cells[-1].cells] = digested[key]
    return results


class _Work:
    # What is computed of the rows of a parent cell.

    def __init__(
        self,
        roots: Sequence[Node],
        child: NDArray[np.unsignedinteger],
        columns: Mapping[str, Array],
        levels: int,
    ) -> None:
        self._roots = roots
        self._columns = columns
        self._rows = order_rows(child)
        self.cells = levels_of(self._rows.cells, self._rows.counts, levels)
        leaves = leaves_of([COUNT, *roots])
        self._states = states_among(leaves)
        self._orders: dict[str, list[Node]] = {}
        for node in order_statistics_among(leaves):
            self._orders.setdefault(node.inputs[0].key, []).append(node)
        self._first: Ordered | None = None

    def of_children(self, digests: Collection[str]) -> Values:
        """Return values of the child cells with rows; of_coarse gets what is ordered first."""
        nodes = [*self._roots, *self._states, *centres_of(self._states)]
        if not self._rows.cells.size:
            return {}
        first = []
        if self._orders and (digests or len(self.cells) > 1):
            key, statistics = next(iter(self._orders.items()))
            first = [statistics[0].inputs[0]]
            self._first = self._ordered(key, digests)
        program = Program([*nodes, *first])
        pieces = []
        for segments in self._rows.blocks():
            values = program.run(Block(self._columns, segments.rows, segments.counts))
            if self._first is not None:
                self._first.append(values.pop())
            pieces.append(values)
        arrays = [np.concatenate(parts) for parts in zip(*pieces, strict=True)]
        return {node.key: array for node, array in zip(nodes, arrays, strict=True)}

    def of_coarse(self, finest: Values, digests: Collection[str]) -> tuple[Values, Values]:
        """Return values of the coarse cells, one order after the other, and digests by key."""
        if not self._rows.cells.size or not (digests or len(self.cells) > 1):
            return {}, {}
        values = self._merged(finest)
        digested: Values = {}
        for key, statistics in self._orders.items():
            rows = statistics[0].inputs[0]
            ordered, self._first = self._first, None
            if ordered is None:
                ordered = self._ordered(key, digests)
                for _, sorted_rows in self._each_block(rows):
                    ordered.append(sorted_rows)
            if ordered.is_partial:
                ordered.complete(self._each_block(*rows.inputs))
            found = ordered.order_statistics()
            values.update(zip([node.key for node in statistics], found, strict=True))
            if key in digests:
                digested[key] = ordered.digests()
        if len(self.cells) > 1:
            known = [*self._states, *(node for nodes in self._orders.values() for node in nodes)]
            RowsOfLevels(self._rows, self._columns, self.cells).complete(self._roots, known, values)
            evaluate(self._roots, values)
        return values, digested

    def _ordered(self, key: str, digests: Collection[str]) -> Ordered:
        orders = [node.order for node in self._orders[key] if node.order is not None]
        return Ordered(self.cells, orders, digests=key in digests)

    def _each_block(self, rows: Node) -> Iterator[tuple[Segments, Array]]:
        program = Program([rows])
        for segments in self._rows.blocks():
            block = Block(self._columns, segments.rows, segments.counts)
            yield segments, program.run(block)[0]

    def _merged(self, finest: Values) -> Values:
        """Return the states of the coarse cells, and what they were merged with."""
        cells = self.cells
        if len(cells) == 1:
            return {}
        first = merge(self._states, finest, cells[1].starts)
        if len(cells) == 2:
            return first
        # All further orders at once, each from the first coarse one, which has far fewer cells.
        number, further = cells[1].cells.size, cells[2:]
        parts = {key: np.tile(array, len(further)) for key, array in first.items()}
        starts = [
            starts_among(cells[1], level) + index * number for index, level in enumerate(further)
        ]
        rest = merge(self._states, parts, np.concatenate(starts))
        return {key: np.concatenate([array, rest[key]]) for key, array in first.items()}


def _results(
    statistics: Mapping[str, Compiled],
    kept: Kept | None,
    children: int,
    levels: Sequence[Cells],
    values: Values,
) -> list[Level]:
    # Of several orders, the finest of which has so many cells; arrays of all, then cut by order.
    sizes = [children >> 2 * order for order in range(len(levels))]
    stops = np.cumsum(sizes, dtype=np.intp).tolist()
    cuts = [slice(stop - size, stop) for size, stop in zip(sizes, stops, strict=True)]
    places = np.zeros(0, dtype=np.intp)
    if values:
        places = np.concatenate(
            [level.cells + cut.start for level, cut in zip(levels, cuts, strict=True)]
        )
    results = [Level({}) for _ in levels]
    for name, compiled in statistics.items():
        output = empty_output(compiled, sum(sizes))
        if values:
            output[places] = cast(compiled, values[compiled.node.key])
        for result, cut in zip(results, cuts, strict=True):
            result.values[name] = output[cut]
    if kept is None:
        return results
    states = kept.arrays(values, kept.states) if values else {}
    for spec in kept.specs():
        if spec.is_digest:
            continue
        output = spec.empty(sum(sizes))
        if values:
            output[places] = states[spec.name]
        for result, cut in zip(results, cuts, strict=True):
            result.state[spec.name] = output[cut]
    return results
