"""Statistics of coarse cells that are had from their rows alone.

These are expressions that compare rows with a statistic of their own cell, which differs from order
to order, and functions of users' own. They are computed by the same nodes as for child cells, over
the same ordered rows, in stages: what rows are compared with comes first. Reductions are folded
block by block; the rows of what is sorted, and of users' own functions, are put together first, one
such column at a time.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from magg.statistics.cells import Cells, first_of_each
from magg.statistics.merging import Values, evaluate
from magg.statistics.order import sort_segments
from magg.statistics.ordering import Ordering, Segments
from magg.statistics.segments import Array, Block, Kind, Node, Program, is_local, reachable


@dataclass(frozen=True, slots=True)
class _Part:
    # Some rows of some neighbouring cells of an order: cells ``first`` to ``last`` of those that
    # have rows. Of the first of them, rows may have come before.
    first: int
    last: int
    continued: bool
    block: Block


class Column:
    """One value of each row, put together block by block.

    Parameters
    ----------
    size : int
        Number of rows.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._done = 0
        self._values: Array | None = None

    def append(self, values: Array) -> None:
        """Add the values of the next rows."""
        if self._values is None:
            self._values = np.empty(self._size, dtype=values.dtype)
        self._values[self._done : self._done + values.size] = values
        self._done += values.size

    @property
    def room(self) -> int:
        """How many values are still to come."""
        return self._size - self._done

    def taken(self) -> Array:
        """Return all values, and let go of them."""
        values, self._values = self._values, None
        assert values is not None and self._done == self._size  # noqa: S101, PT018
        return values


class RowsOfLevels:
    """The rows of a parent cell, and the coarse cells that they are in.

    Parameters
    ----------
    rows : Ordering
    columns : mapping of str to ndarray, shape (n,)
    levels : sequence of Cells
        The child order and the coarse ones, the finest first.
    """

    def __init__(
        self, rows: Ordering, columns: Mapping[str, Array], levels: Sequence[Cells]
    ) -> None:
        self._rows = rows
        self._columns = columns
        self._children = levels[0].cells
        self._levels = levels[1:]
        sizes = [level.cells.size for level in self._levels]
        ends = np.cumsum(sizes).tolist()
        self._slices = [slice(end - size, end) for end, size in zip(ends, sizes, strict=True)]

    def complete(self, roots: Sequence[Node], known: Sequence[Node], values: Values) -> None:
        """Compute what nodes need of the rows, and add it to the values that are known.

        Parameters
        ----------
        roots : sequence of Node
        known : sequence of Node
            The nodes whose values are known.
        values : dict of str to ndarray
            One for each coarse cell of all orders, one order after the other.
        """
        for stage in _stages(roots, known):
            folds = [node for node in stage if node.fold is not None]
            if folds:
                self._fold(folds, values)
            sorts = {node.inputs[0].key: node.inputs[0] for node in stage if node.order is not None}
            for key, ordered in sorts.items():
                of_it = [node for node in stage if node.order and node.inputs[0].key == key]
                self._order(ordered, of_it, values)
            for node in stage:
                if node.fold is None and node.order is None:
                    self._call(node, values)

    def _fold(self, folds: list[Node], values: Values) -> None:
        given = _compared_with(folds)
        evaluate(given, values)
        program = Program(folds, given)
        results: list[list[Array]] = [[] for _ in self._levels]
        for segments in self._rows.blocks():
            for index, result in enumerate(results):
                part = self._part(index, segments)
                computed = program.run(part.block, self._values(given, values, index, part))
                if not result:
                    size = self._levels[index].cells.size
                    result += [np.empty(size, dtype=array.dtype) for array in computed]
                for node, array, whole in zip(folds, computed, result, strict=True):
                    if part.continued and node.fold is not None:
                        array[0] = node.fold.ufunc(whole[part.first], array[0])
                    whole[part.first : part.last] = array
        for node, arrays in zip(folds, zip(*results, strict=True), strict=True):
            values[node.key] = np.concatenate(arrays)

    def _order(self, ordered: Node, statistics: list[Node], values: Values) -> None:
        program = Program(statistics, [ordered])
        results = []
        for index, level in enumerate(self._levels):
            (rows,) = self._together(ordered.inputs, values, index)
            sort_segments(rows, level.first_rows, level.counts)
            results.append(program.run(_whole(level), [rows]))
            del rows  # before those of the next order are put together
        for node, arrays in zip(statistics, zip(*results, strict=True), strict=True):
            values[node.key] = np.concatenate(arrays)

    def _call(self, node: Node, values: Values) -> None:
        results, arrays = [], None
        for index, level in enumerate(self._levels):
            if arrays is None or not all(is_local(rows) for rows in node.inputs):
                arrays = None  # lets go of the former before the next are made
                arrays = self._together(node.inputs, values, index)
            results.append(node.compute(_whole(level), *arrays))
        values[node.key] = np.concatenate(results)

    def _together(self, nodes: Sequence[Node], values: Values, index: int) -> list[Array]:
        """Return the values of nodes for all rows, in the order of child cells."""
        given = _compared_with(nodes)
        evaluate(given, values)
        program = Program(nodes, given)
        size = int(self._rows.counts.sum())
        together = [Column(size) for _ in nodes]
        for segments in self._rows.blocks():
            part = self._part(index, segments)
            computed = program.run(part.block, self._values(given, values, index, part))
            for column, array in zip(together, computed, strict=True):
                column.append(array)
        return [column.taken() for column in together]

    def _part(self, index: int, segments: Segments) -> _Part:
        level = self._levels[index]
        cells = segments.cells >> 2 * (index + 1)
        starts = first_of_each(cells)
        first = int(np.searchsorted(level.cells, cells[0]))
        block = Block(self._columns, segments.rows, np.add.reduceat(segments.counts, starts))
        begun = int(self._children[level.first_children[first]]) < int(segments.cells[0])
        return _Part(first, first + starts.size, begun, block)

    def _values(
        self, given: Sequence[Node], values: Values, index: int, part: _Part
    ) -> list[Array]:
        # Of the cells of a part.
        of_level = [values[node.key][self._slices[index]] for node in given]
        return [array[part.first : part.last] for array in of_level]


def _whole(level: Cells) -> Block:
    return Block({}, slice(0, 0), level.counts)


def _stages(roots: Sequence[Node], known: Sequence[Node]) -> list[list[Node]]:
    # What takes rows, by how many others have to be known before.
    depths = dict.fromkeys((node.key for node in known), 0)
    stages: dict[int, list[Node]] = {}
    for node in reachable(*roots, given=known):
        depth = max((depths[source.key] for source in node.inputs), default=0)
        if _takes_rows(node):
            stages.setdefault(depth, []).append(node)
            depth += 1
        depths[node.key] = depth
    return [stages[depth] for depth in sorted(stages)]


def _takes_rows(node: Node) -> bool:
    # The sizes of what is ordered come with the statistics of it.
    if node.kind is not Kind.SEGMENT or not any(rows.kind is Kind.ROW for rows in node.inputs):
        return False
    return node.order is not None or node.inputs[0].label != "sort"


def _compared_with(nodes: Sequence[Node]) -> list[Node]:
    """Return the values of cells that rows are compared with on the way to nodes."""
    found: dict[str, Node] = {}
    stack = list(nodes)
    seen: set[str] = set()
    while stack:
        node = stack.pop()
        for source in node.inputs:
            if source.kind is Kind.SEGMENT:
                found[source.key] = source
            elif source.key not in seen:
                seen.add(source.key)
                stack.append(source)
    return list(found.values())
