"""Filling the chunks that parent cells share, from the pieces that their workers left.

Safe at any time and from anywhere: it takes a lock, looks which cells are done and which of these
nobody is writing, and writes every shared chunk from these alone (see `magg.store.shared`). It
costs a listing where nothing has changed, else that and a read of each piece.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from magg.errors import StoreError
from magg.grid import Words, from_decimal, nested_ids, to_decimal
from magg.statistics import Compiled, from_state
from magg.store import lock, makings, pieces, records, shared
from magg.store.chunkbytes import Chunk, chunks_of, put_chunks
from magg.store.declared import grid_of_store, parent_cells, statistics_of
from magg.store.groups import COORDINATES, Contents
from magg.store.levels import Holdings, Level, levels_of
from magg.store.marks import list_marks_of
from magg.store.merge_up import Gathering, States, alike, one_order_up
from magg.store.open import open_objects, open_store
from magg.store.pieces import Piece, PieceName, read_piece
from magg.store.shared import Manifest

if TYPE_CHECKING:
    import zarr
    from obstore.store import ObjectStore

AT_ONCE = 32
# Pieces in memory at once: some 20 MB.
PIECES_A_BLOCK = 256
NOTHING_LEFT = Piece()


Arrays = Mapping[str, "zarr.Array[Any]"]
# Parent cells that are done, to their pieces.
Names = Mapping[str, PieceName | None]


class OutOfTimeError(Exception):
    """There was not enough time; what is written is right, and the rest is missing."""


def consolidate(
    path: str,
    region: str | None = None,
    *,
    without: Collection[str] = (),
    within_s: float | None = None,
    anew: bool = False,
) -> int:
    """Fill the shared chunks of a store with the values of the cells that are done.

    Parameters
    ----------
    path : str
        Where the store is.
    region : str, optional
        AWS region of the bucket.
    without : collection of str
        Cells to leave out, which are about to be done again.
    within_s : float, optional
        Stop after so many seconds.
    anew : bool, default False
        Write all chunks though they should be right already.

    Returns
    -------
    int
        How many cells the shared chunks now hold the values of.

    Raises
    ------
    OutOfTimeError
        If ``within_s`` was not enough.
    StoreError
        If somebody else consolidates for so long, or took this process for dead meanwhile.
    """
    patience = lock.STALE_AFTER_S if within_s is None else within_s
    ends = None if within_s is None else time.monotonic() + within_s
    if not _levels(_open(path, region)):
        return 0
    objects = open_objects(path, region)
    with shared.hold_shared(path, region, patience) as hold:

        def check() -> None:
            if ends is not None and time.monotonic() > ends:
                raise OutOfTimeError
            if not hold.is_mine():
                raise _LostError

        try:
            return _fill(_open(path, region), objects, path, set(without), anew, check)
        except _LostError:
            pass
    with shared.hold_shared(path, region):
        shared.erase(objects)  # what was written last may have come too late
    raise StoreError(f"{path}: this process stood still; its coarser orders have to be made again")


def leave_out(path: str, cells: Collection[str], region: str | None = None) -> None:
    """Take cells that are about to be done again out of the shared chunks."""
    manifest = shared.read_manifest(open_objects(path, region))
    if manifest is not None and not manifest.cells.keys().isdisjoint(cells):
        consolidate(path, region, without=cells)


class _LostError(Exception):
    """Somebody else has the lock."""


def _open(path: str, region: str | None) -> zarr.Group:
    import zarr

    return zarr.open_group(open_store(path, region=region), mode="r+")


def _levels(root: zarr.Group) -> list[Level]:
    """Return the levels of a store whose chunks are shared."""
    orders = Holdings.of(root).orders
    return [level for level in levels_of(grid_of_store(root), orders) if not level.is_own]


def _fill(
    root: zarr.Group,
    objects: ObjectStore,
    path: str,
    without: set[str],
    anew: bool,
    check: Callable[[], None],
) -> int:
    levels, parents = _levels(root), parent_cells(root)
    making, names = _names(path, objects, {to_decimal(word) for word in parents} - without)
    found = shared.read_manifest(objects)
    orders = tuple(level.order for level in levels)
    cells = {cell: str(name or "") for cell, name in names.items()}
    wanted = Manifest(making, orders, cells, is_complete=True)
    if found == wanted and not anew:
        return len(cells)
    if not any(cells.values()):
        shared.erase(objects)
        return 0
    before = found.cells if found is not None else {}
    shared.write_manifest(objects, replace(wanted, cells=before | cells, is_complete=False))
    found_all = _write(root, objects, levels, parents, names, check)
    check()
    shared.write_manifest(objects, replace(wanted, is_complete=found_all))
    return len(cells)


def _names(path: str, objects: ObjectStore, cells: set[str]) -> tuple[str, Names]:
    """Return the making of a store, and of each cell that is surely done the best piece, if any."""
    making = makings.current(objects, path)
    marks = list_marks_of(objects)
    names: dict[str, PieceName | None] = {}
    for cell, done in marks.done.items():
        busy = cell in marks.writing and records.is_being_changed(objects, cell, done[0])
        if cell in cells and len(done) == 1 and not busy:
            names[cell] = max(marks.usable(cell), key=_worth, default=None)
    return making, names


def _worth(name: PieceName) -> tuple[int, bool, str]:
    return len(name.has.orders), name.source == "rows", str(name)


def _write(
    root: zarr.Group,
    objects: ObjectStore,
    levels: list[Level],
    parents: Words,
    names: Names,
    check: Callable[[], None],
) -> bool:
    """Write all chunks of all levels, those without values too; tell whether no piece was gone."""
    order = levels[0].grid.parent_order
    below = [level for level in levels if level.is_below]
    words = np.array([from_decimal(cell) for cell in names], dtype=np.uint64)
    ids = dict(zip(names, nested_ids(words, order).tolist(), strict=True))
    statistics = statistics_of(root)
    gathering = Gathering(statistics, Counter(cell >> 2 for cell in ids.values()))
    found_all = True
    with ThreadPoolExecutor(AT_ONCE) as pool:
        variables = _variables(root, levels)
        buffers = [
            _Buffer(variables[level.order], objects, level, pool) for level in pieces.shared(levels)
        ]
        for start in range(0, len(parents), PIECES_A_BLOCK):
            check()
            block = [to_decimal(word) for word in parents[start : start + PIECES_A_BLOCK]]
            found = _read(objects, {cell: names[cell] for cell in block if cell in names}, pool)
            # Gone where a twin of the worker who left it writes it once more.
            found_all &= all(found[cell] is not NOTHING_LEFT for cell in found if names[cell])
            for cell in block:
                for buffer in buffers:
                    buffer.add(found[cell].values if cell in found else {})
            if below:
                gathering.add({ids[cell]: piece.state for cell, piece in found.items()})
        for buffer in buffers:
            buffer.flush()
        if below:
            coarser = gathering.finished()
            _write_below(variables, objects, below, parents, coarser, statistics, pool, check)
    return found_all


def _read(
    objects: ObjectStore, names: Mapping[str, PieceName | None], pool: ThreadPoolExecutor
) -> dict[str, Piece]:
    """Return the pieces of cells that are done; of those that have none, one without content."""
    read = pool.map(lambda name: read_piece(objects, name) if name else None, names.values())
    return {cell: piece or NOTHING_LEFT for cell, piece in zip(names, read, strict=True)}


class _Buffer:
    """A chunk of every variable of one level, written when it is full."""

    def __init__(
        self, arrays: Arrays, objects: ObjectStore, level: Level, pool: ThreadPoolExecutor
    ) -> None:
        self._arrays = arrays
        self._objects, self._level, self._pool = objects, level, pool
        self._chunk, self._used = 0, 0
        self._values = self._empty()

    def add(self, values: Mapping[int, Mapping[str, NDArray[Any]]]) -> None:
        """Take the values of the next parent cell; those that it lacks stay fill values."""
        there = slice(self._used, self._used + self._level.per_parent)
        for name, array in values.get(self._level.order, {}).items():
            if name in self._values:
                self._values[name][there] = array
        self._used = there.stop
        if self._used == self._level.chunk:
            self.flush()

    def flush(self) -> None:
        """Write what there is."""
        if self._used:
            chunks = _chunks(self._arrays, self._level, self._values.items(), self._chunk)
            put_chunks(self._objects, chunks, self._pool)
            self._chunk, self._used, self._values = self._chunk + 1, 0, self._empty()

    def _empty(self) -> dict[str, NDArray[Any]]:
        return {
            name: np.full(self._level.chunk, array.fill_value, dtype=array.dtype)
            for name, array in self._arrays.items()
        }


def _chunks(
    arrays: Arrays, level: Level, values: Iterable[tuple[str, NDArray[Any]]], first: int = 0
) -> Iterator[Chunk]:
    """Yield the chunks of variables of a level."""
    for name, array in values:
        yield from chunks_of(level.order, name, array, level.chunk, arrays[name].fill_value, first)


def _variables(root: zarr.Group, levels: list[Level]) -> dict[int, Arrays]:
    """Return the variables of each order, as arrays of the child order: these are alike."""
    leaf = root[f"{levels[0].grid.child_order}"]
    arrays = {name: array for name, array in leaf.arrays() if name not in COORDINATES}
    found: dict[int, Arrays] = {}
    for level in levels:
        held = Contents.of(root[f"{level.order}"].attrs, arrays).accuracy
        found[level.order] = {name: arrays[name] for name in held}
    return found


def _write_below(
    variables: Mapping[int, Arrays],
    objects: ObjectStore,
    levels: list[Level],
    parents: Words,
    states: States,
    statistics: Mapping[str, Compiled],
    pool: ThreadPoolExecutor,
    check: Callable[[], None],
) -> None:
    """Write the levels that are coarser than parent cells."""
    order = levels[0].grid.parent_order - 1
    for level in levels:
        for _ in range(order - level.order):
            states = one_order_up(statistics, states)
        order = level.order
        check()
        ids = level.ids(parents)
        places = dict(zip(ids.tolist(), range(len(ids)), strict=True))
        arrays = variables[order]
        found = _values_of(arrays, places, states, statistics)
        put_chunks(objects, _chunks(arrays, level, found), pool)


def _values_of(
    arrays: Arrays,
    places: Mapping[int, int],
    states: States,
    statistics: Mapping[str, Compiled],
) -> Iterator[tuple[str, NDArray[Any]]]:
    """Yield the variables of a level and their values, fill values where these are not known."""
    known = [
        ([places[cell] for cell in cells], from_state(statistics, state))
        for cells, state in alike(states)
    ]
    for name, array in arrays.items():
        values = np.full(len(places), array.fill_value, dtype=array.dtype)
        for where, found in known:
            if name in found:
                values[where] = found[name]
        yield name, values
