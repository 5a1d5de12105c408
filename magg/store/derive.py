"""Coarser orders of a parent cell from what the store holds of its child cells."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from magg.grid import Grid, to_decimal
from magg.statistics import (
    Compiled,
    from_state,
    merge_states,
    mergeable,
    restorable,
    state_of_values,
)
from magg.store.declared import grid_of_store, parent_cells, statistics_of
from magg.store.levels import STATE, Holdings, levels_of
from magg.store.pieces import Piece, PieceName, read_piece, shared, write_piece

if TYPE_CHECKING:
    import zarr
    from obstore.store import ObjectStore

    from magg.store.marks import Marks

    Values = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class Leaves:
    """The child cells of a store.

    Parameters
    ----------
    root : zarr.Group
    grid : Grid
    has : Holdings
        What the store holds beside them.
    statistics : mapping of str to Compiled
    cells : mapping of str to int
        Decimal Morton id of every parent cell to its chunk.
    """

    root: zarr.Group
    grid: Grid
    has: Holdings
    statistics: Mapping[str, Compiled]
    cells: Mapping[str, int]

    @classmethod
    def of(cls, root: zarr.Group) -> Leaves:
        """Return those of a store."""
        cells = {to_decimal(word): chunk for chunk, word in enumerate(parent_cells(root))}
        return cls(root, grid_of_store(root), Holdings.of(root), statistics_of(root), cells)

    def lacks(self, marks: Marks, cell: str) -> bool:
        """Tell whether a cell is done, and nobody made all orders of it."""
        whole = [n for n in marks.usable(cell) if set(self.has.orders) <= set(n.has.orders)]
        # A mark may be that of a dead worker, who had begun to delete the cell's own chunks.
        return len(marks.done.get(cell, ())) == 1 and (not whole or cell in marks.writing)

    def derive(self, objects: ObjectStore, marks: Marks, making: str, cell: str) -> None:
        """Write a cell's own chunks at coarser orders, and a piece for the others."""
        given = max(marks.usable(cell), key=_worth, default=None)
        keeps_state = given is not None and given.has.state and given.source == "rows"
        derived = self._from_children(self.cells[cell], from_state_arrays=keeps_state)
        found = (read_piece(objects, given) if given else None) or Piece()
        levels = levels_of(self.grid, self.has.orders)
        for level in levels:
            if level.is_own:
                self._write_own(level.order, self.cells[cell], derived.values[level.order])
        values = {
            level.order: found.values.get(level.order) or derived.values[level.order]
            for level in shared(levels)
        }
        name = PieceName(
            cell, making, marks.done[cell][0].digest, Holdings(self.has.orders), "leaves"
        )
        write_piece(objects, name, Piece(values, found.state or derived.state))

    def _from_children(self, chunk: int, *, from_state_arrays: bool) -> Piece:
        """Return the values at every order down to the parent order, and the parent's state."""
        if from_state_arrays:
            names = [name for name, how in mergeable(self.statistics).items() if how == "exact"]
            state = self._read(f"{self.grid.child_order}/{STATE}", None, chunk)
        else:
            names = restorable(self.statistics)
            values = self._read(f"{self.grid.child_order}", names, chunk)
            state = state_of_values(self.statistics, values)
        found: dict[int, Values] = {}
        for order in range(self.grid.child_order - 1, self.grid.parent_order - 1, -1):
            found[order] = {}
            if state:
                cells = len(next(iter(state.values())))
                state = merge_states(self.statistics, state, np.arange(0, cells, 4))
                all_values = from_state(self.statistics, state)
                found[order] = {name: all_values[name] for name in names if name in all_values}
        return Piece(found, state)

    def _read(self, place: str, names: list[str] | None, chunk: int) -> Values:
        group, children = self.root[place], self.grid.children
        there = slice(chunk * children, (chunk + 1) * children)
        wanted = names if names is not None else list(group.array_keys())
        return {name: group[name][there] for name in wanted}

    def _write_own(self, order: int, chunk: int, values: Mapping[str, NDArray[Any]]) -> None:
        group = self.root[f"{order}"]
        for name, array in values.items():
            if name in group:
                group[name][chunk * len(array) : (chunk + 1) * len(array)] = array


def _worth(name: PieceName) -> tuple[bool, int]:
    return name.source == "rows", len(name.has.extent)
