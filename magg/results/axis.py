"""Which cells stand where: the cells axis of one order of a store.

The axis holds the cells of one unit after the other. Units are the parent cells, in the order of
the chunks, or single cells where an order is coarser than those. So the ids of a part of the axis
are worked out from the units, which one small array tells, and no array of ids need be read.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from magg.errors import StoreError, StoreNotFoundError
from magg.grid import Words, prefixes, to_decimal, words_of
from magg.store.inspect import child_orders
from magg.store.open import DEFAULT_REGION, open_store, told_of
from magg.store.schema import PARENTS

if TYPE_CHECKING:
    import zarr

Runs = NDArray[np.int64]  # (n, 2): starts and ends of parts of an axis, ascending and disjoint


@dataclass(frozen=True, eq=False, slots=True)
class Axis:
    """The cells axis of one order.

    Parameters
    ----------
    order : int
        That of the cells.
    unit_order : int
        That of the units.
    units : ndarray of uint64, shape (n,)
        Prefixes of the units (see `magg.grid.prefixes`) in the order of the axis; 0 where the axis
        has room for a unit that is not there.
    """

    order: int
    unit_order: int
    units: Words

    @property
    def per_unit(self) -> int:
        """Number of cells in a unit."""
        return 1 << 2 * (self.order - self.unit_order)

    def everything(self) -> Runs:
        """Return the runs of all units that are there."""
        return merged(self._runs_of_units(np.flatnonzero(self.units)))

    def find(self, first: Words, last: Words) -> Runs:
        """Return the runs of the cells whose prefixes lie in some ranges, ends included.

        A range either lies within one unit or ends with one.
        """
        shift = np.uint64(2 * (self.order - self.unit_order))
        by_prefix = np.argsort(self.units, kind="stable")
        held = self.units[by_prefix]
        whole = (first >> shift) != (last >> shift)
        within = np.zeros((0, 2), dtype=np.int64)
        at = np.searchsorted(held, first[~whole] >> shift)
        hit = at < held.size
        hit[hit] = held[at[hit]] == (first[~whole] >> shift)[hit]
        if hit.any():
            start = by_prefix[at[hit]] * self.per_unit
            mask = np.uint64(self.per_unit - 1)
            ends = (ends[~whole][hit] & mask for ends in (first, last))
            low, high = (end.astype(np.int64) for end in ends)
            within = np.stack([start + low, start + high + 1], axis=-1)
        lows = np.searchsorted(held, first[whole] >> shift)
        highs = np.searchsorted(held, last[whole] >> shift, side="right")
        units = [by_prefix[low:high] for low, high in zip(lows, highs, strict=True)]
        found = self._runs_of_units(np.concatenate([np.zeros(0, dtype=np.int64), *units]))
        return merged(np.concatenate([within, found]))

    def places(self, wanted: Words) -> NDArray[np.int64]:
        """Return the positions of the cells with some prefixes, -1 for those that are not here."""
        shift = 2 * (self.order - self.unit_order)
        by_prefix = np.argsort(self.units, kind="stable")
        held = self.units[by_prefix]
        units = wanted >> np.uint64(shift)
        at = np.minimum(np.searchsorted(held, units), held.size - 1)
        within = (wanted & np.uint64(self.per_unit - 1)).astype(np.int64)
        # Prefix 0 is no cell, and the room of units that are not there.
        hit = (held[at] == units) & (wanted > 0)
        return np.where(hit, (by_prefix[at] << shift) + within, -1)

    def prefixes(self, positions: NDArray[np.int64]) -> Words:
        """Return the prefixes, at the order of the axis, of the cells at some positions."""
        shift = 2 * (self.order - self.unit_order)
        units = self.units[positions >> shift]
        within = (positions & (self.per_unit - 1)).astype(np.uint64)
        return np.asarray((units << np.uint64(shift)) | within, dtype=np.uint64)

    def ids(self, positions: NDArray[np.int64]) -> NDArray[np.uint64]:
        """Return the HEALPix NESTED ids of the cells at some positions."""
        return self.prefixes(positions) - (np.uint64(1) << np.uint64(2 * self.order))

    def words(self, positions: NDArray[np.int64]) -> Words:
        """Return the Morton words of the cells at some positions."""
        return words_of(self.ids(positions), self.order)

    def _runs_of_units(self, places: NDArray[np.int64]) -> Runs:
        starts = np.asarray(places, dtype=np.int64) * self.per_unit
        return np.stack([starts, starts + self.per_unit], axis=-1)


def open_root(
    store: str | os.PathLike[str] | zarr.Group, region: str | None = DEFAULT_REGION
) -> zarr.Group:
    """Return the root group of a store that is given by its place, or is open.

    Raises
    ------
    StoreNotFoundError
        If there is nothing at this place.
    StoreError
        If it cannot be read.
    TypeError
        If the region is no text.
    """
    import zarr

    if not (region is None or isinstance(region, str)):
        raise TypeError(
            "region is the AWS region of the store's bucket, such as 'us-west-2'; "
            "a part of the Earth goes to within=..."
        )
    if isinstance(store, zarr.Group):
        return store
    place = os.fspath(store)
    try:
        with told_of(place):
            return zarr.open_group(open_store(place, read_only=True, region=region), mode="r")
    except FileNotFoundError as error:
        raise StoreNotFoundError(f"there is no store at {place}") from error


def orders(
    store: str | os.PathLike[str] | zarr.Group, region: str | None = DEFAULT_REGION
) -> list[int]:
    """Return the orders of the cells that a store holds, the coarsest first.

    Parameters
    ----------
    store : str, path or zarr.Group
        Where the store is, or its root group if it is open.
    region : str, optional
        AWS region of the store's bucket.

    Raises
    ------
    StoreNotFoundError
        If there is no store.
    """
    return child_orders(open_root(store, region))


def choose_order(root: zarr.Group, order: int | None) -> int:
    """Return an order that a store holds: the one wanted, or else the finest.

    Raises
    ------
    StoreError
        If the store does not hold it; says which ones it holds.
    """
    held = child_orders(root)
    if not held or order not in (None, *held):
        raise StoreError(f"the store has no cells of order {order}; it has the orders {held}")
    return held[-1] if order is None else order


def parents_of(root: zarr.Group) -> Words | None:
    """Return the Morton words of a store's parent cells in the order of their chunks.

    None for a group that is only laid out like a store of magg, and has no list of them.
    """
    if PARENTS not in root:
        return None
    parents = np.asarray(root[PARENTS][:], dtype=np.uint64)
    # A run that died while it grew the store may have left room that no cell took.
    return parents[parents > 0]


def axis_of(root: zarr.Group, order: int) -> Axis:
    """Return the cells axis of an order that a store holds; reads one small array."""
    parents = parents_of(root)
    if parents is not None:
        parent_order = len(to_decimal(parents[0]).lstrip("-")) - 1 if parents.size else order
        if order >= parent_order:
            return Axis(order, parent_order, prefixes(parents, parent_order))
    group: Any = root.get(f"{order}")
    if group is None or "morton" not in group:
        raise StoreError(f"the cells of order {order} were never finished; run again")
    return Axis(order, order, prefixes(group["morton"][:], order))


def merged(runs: Runs) -> Runs:
    """Return runs in ascending order, those that touch or overlap made one."""
    if not len(runs):
        return np.zeros((0, 2), dtype=np.int64)
    runs = runs[np.argsort(runs[:, 0], kind="stable")]
    reach = np.maximum.accumulate(runs[:, 1])
    starts = np.flatnonzero(np.append(True, runs[1:, 0] > reach[:-1]))
    return np.stack([runs[starts, 0], np.maximum.reduceat(runs[:, 1], starts)], axis=-1)


def holds(runs: Runs, positions: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Return which positions lie in some runs."""
    run = np.searchsorted(runs[:, 0], positions, side="right") - 1
    return np.asarray((run >= 0) & (positions < runs[np.maximum(run, 0), 1]))


def positions_of(runs: Runs) -> NDArray[np.int64]:
    """Return every position of some runs."""
    lengths = runs[:, 1] - runs[:, 0]
    starts = np.cumsum(lengths) - lengths
    offsets = np.arange(int(lengths.sum()), dtype=np.int64) - np.repeat(starts, lengths)
    return np.asarray(np.repeat(runs[:, 0], lengths) + offsets, dtype=np.int64)


def selector(runs: Runs) -> slice | NDArray[np.int64]:
    """Return what selects some runs of an array: a slice where that is enough."""
    return slice(*map(int, runs[0])) if len(runs) == 1 else positions_of(runs)


def batches(runs: Runs, chunk: int, cells: int) -> Iterator[Runs]:
    """Cut runs into pieces of whole chunks that together have at most so many cells.

    Parameters
    ----------
    runs : ndarray
    chunk : int
        Length of the chunks of the arrays.
    cells : int
        At least one chunk goes into a piece, however long chunks are.
    """
    span = max(1, cells // chunk) * chunk
    gathered: list[tuple[int, int]] = []
    number, chunks = -1, 0
    for start, end in runs.tolist():
        while start < end:
            if start // chunk != number:
                if chunks == span // chunk:
                    yield np.array(gathered, dtype=np.int64)
                    gathered, chunks = [], 0
                number, chunks = start // chunk, chunks + 1
            stop = min(end, (number + 1) * chunk)
            if gathered and gathered[-1][1] == start:
                gathered[-1] = (gathered[-1][0], stop)
            else:
                gathered.append((start, stop))
            start = stop
    if gathered:
        yield np.array(gathered, dtype=np.int64)
