"""The orders of a store: which cells each has, in which chunks, and who writes those.

The child order, and coarser orders with at least 4,096 cells in a parent cell, have one chunk per
parent cell, which its worker writes. The chunks of still coarser orders hold the cells of many
parent cells, lest they be tiny objects; only consolidation writes them (`magg.store.consolidate`).

Cells stand in the order of the store's parent cells; cells that are coarser than these stand where
the first parent cell within them does. So cells that are appended never move others.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from magg.grid import Grid, Words, nested_ids
from magg.store.schema import PROVENANCE

if TYPE_CHECKING:
    import zarr

# Cells of a parent cell that are worth an object of their own: 16 kB of float32. With fewer, the
# request to write them, and each to read them, costs more than it moves.
WORTH_A_CHUNK = 4**6
# Cells in a chunk that parent cells share: 64 kB of float32.
SHARED_CHUNK = 4**7
STATE = "state"


@dataclass(frozen=True, slots=True)
class Level:
    """One order of a store.

    Parameters
    ----------
    order : int
    grid : Grid
        Parent and child order of the store.
    """

    order: int
    grid: Grid

    @property
    def is_below(self) -> bool:
        """Whether the cells are coarser than parent cells."""
        return self.order < self.grid.parent_order

    @property
    def per_parent(self) -> int:
        """Number of cells in a parent cell; 0 where the cells are coarser."""
        return 0 if self.is_below else 1 << 2 * (self.order - self.grid.parent_order)

    @property
    def is_own(self) -> bool:
        """Whether a chunk holds the cells of one parent cell."""
        return self.order == self.grid.child_order or self.per_parent >= WORTH_A_CHUNK

    @property
    def chunk(self) -> int:
        """Number of cells in a chunk."""
        return self.per_parent if self.is_own else SHARED_CHUNK

    @property
    def depth(self) -> int:
        """How many orders coarser than the child order this is."""
        return self.grid.child_order - self.order

    def ids(self, parents: Words) -> NDArray[np.uint64]:
        """Return the NESTED ids of the cells, in the order of the store.

        Parameters
        ----------
        parents : ndarray of uint64, shape (n,)
            Morton words of the parent cells, in the order of the store.
        """
        within = nested_ids(parents, self.grid.parent_order)
        if self.is_below:
            coarse = within >> np.uint64(2 * (self.grid.parent_order - self.order))
            _, first = np.unique(coarse, return_index=True)
            return np.asarray(coarse[np.sort(first)], dtype=np.uint64)
        first_child = within * np.uint64(self.per_parent)
        ids = first_child[:, np.newaxis] + np.arange(self.per_parent, dtype=np.uint64)
        return np.asarray(ids.ravel(), dtype=np.uint64)


@dataclass(frozen=True, slots=True)
class Holdings:
    """What a store holds beside the statistics of its child cells.

    Parameters
    ----------
    orders : tuple of int
        Coarser orders, the finest first.
    state : bool
        Whether it keeps the state of the child cells.
    """

    orders: tuple[int, ...] = ()
    state: bool = False

    @classmethod
    def of(cls, root: zarr.Group) -> Holdings:
        """Return what a store says of itself."""
        mark = root.attrs[PROVENANCE]
        orders = sorted(mark["orders"], reverse=True)
        return cls(tuple(orders[1:]), bool(mark.get("state", False)))

    @classmethod
    def from_extent(cls, extent: Iterable[str]) -> Holdings:
        """Return what an extent names."""
        parts = set(extent)
        orders = sorted((int(part) for part in parts - {STATE}), reverse=True)
        return cls(tuple(orders), STATE in parts)

    @property
    def extent(self) -> frozenset[str]:
        """The orders, and ``state`` where that is kept, as text."""
        return frozenset([*map(str, self.orders), *[STATE] * self.state])

    def joined(self, other: Holdings) -> Holdings:
        """Return what two hold together."""
        orders = sorted({*self.orders, *other.orders}, reverse=True)
        return Holdings(tuple(orders), self.state or other.state)


NOTHING = Holdings()


def levels_of(grid: Grid, orders: Iterable[int]) -> list[Level]:
    """Return the levels of some orders, the finest first."""
    return [Level(order, grid) for order in sorted(orders, reverse=True)]
