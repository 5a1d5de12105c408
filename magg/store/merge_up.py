"""States of parent cells, merged into those of ever coarser cells."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from magg.statistics import Compiled, merge_states

State = Mapping[str, NDArray[Any]]
# Cells by their NESTED ids.
States = dict[int, State]


@dataclass
class Gathering:
    """Parent cells that come in any order, merged into cells one order coarser as soon as can be.

    So few states are in memory at once, and what they are merged into does not depend on the
    order in which they come.

    Parameters
    ----------
    statistics : mapping of str to Compiled
    expected : mapping of int to int
        How many parent cells will come of each coarser cell.
    """

    statistics: Mapping[str, Compiled]
    expected: Mapping[int, int]
    merged: States = field(default_factory=dict)
    _waiting: dict[int, States] = field(default_factory=dict)

    def add(self, states: States) -> None:
        """Take the states of some parent cells."""
        complete: States = {}
        for cell, state in states.items():
            siblings = self._waiting.setdefault(cell >> 2, {})
            siblings[cell] = state
            if len(siblings) == self.expected[cell >> 2]:
                complete |= self._waiting.pop(cell >> 2)
        self.merged |= one_order_up(self.statistics, complete)

    def finished(self) -> States:
        """Return all coarser cells, those too of which fewer parent cells came."""
        for cells in self._waiting.values():
            self.merged |= one_order_up(self.statistics, cells)
        self._waiting = {}
        return self.merged


def one_order_up(statistics: Mapping[str, Compiled], states: States) -> States:
    """Merge states of cells into those of the cells that are one order coarser.

    Of a coarser cell only that is known which is known of all its parts.
    """
    parts: dict[int, list[int]] = {}
    for cell in sorted(states):
        parts.setdefault(cell >> 2, []).append(cell)
    known = {
        coarse: frozenset.intersection(*(frozenset(states[cell]) for cell in cells))
        for coarse, cells in parts.items()
    }
    merged: States = {}
    for names in set(known.values()):
        if not names:
            merged |= {coarse: {} for coarse in parts if not known[coarse]}
            continue
        alike = [coarse for coarse in parts if known[coarse] == names]
        lengths = [len(parts[coarse]) for coarse in alike]
        cells = [cell for coarse in alike for cell in parts[coarse]]
        starts = np.cumsum([0, *lengths[:-1]])
        columns = {name: np.concatenate([states[cell][name] for cell in cells]) for name in names}
        coarser = merge_states(statistics, columns, starts)
        for place, coarse in enumerate(alike):
            merged[coarse] = {name: array[place : place + 1] for name, array in coarser.items()}
    return merged


def alike(states: States) -> Iterator[tuple[list[int], State]]:
    """Yield cells of which the same is known, with their states as one; if nothing, none."""
    groups: dict[frozenset[str], list[int]] = {}
    for cell, state in states.items():
        groups.setdefault(frozenset(state), []).append(cell)
    for names, cells in groups.items():
        if not names:
            continue
        yield cells, {name: np.concatenate([states[c][name] for c in cells]) for name in names}
