"""What the worker of a parent cell does for the orders coarser than the child order."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from magg.grid import Grid
from magg.store import pieces, shared
from magg.store.chunkbytes import chunk_name
from magg.store.chunks import write_coarse_chunks
from magg.store.declared import grid_of_store, variables_of
from magg.store.levels import STATE, Holdings, levels_of
from magg.store.open import object_names, open_objects, open_store, remove_together
from magg.store.pieces import PIECES, Piece, PieceName
from magg.store.schema import PROVENANCE

if TYPE_CHECKING:
    Values = Mapping[str, NDArray[Any]]


def write_coarser(
    path: str,
    chunk: int,
    grid: Grid,
    values: Mapping[int, Values],
    child_state: Values,
    parent_state: Values,
    name: PieceName,
    *,
    version: str,
    region: str | None = None,
) -> None:
    """Write a cell's own chunks at coarser orders, and then its piece.

    Parameters
    ----------
    path : str
        Where the store is.
    chunk : int
        Which chunk of the store is the cell's.
    grid : Grid
    values : mapping of int to mapping of str to ndarray
        Order to the statistics of its cells in the parent cell, none coarser than that.
    child_state : mapping of str to ndarray
        State of the child cells where it is kept, else empty.
    parent_state : mapping of str to ndarray
        State of the parent cell.
    name : PieceName
    version : str
        As `magg.store.chunks.write_chunks`.
    region : str, optional
        AWS region of the bucket.
    """
    levels = levels_of(grid, values)
    own: dict[str, Values] = {f"{o.order}": values[o.order] for o in levels if o.is_own}
    if child_state:
        own[f"{grid.child_order}/{STATE}"] = child_state
    if own:
        write_coarse_chunks(path, chunk, own, version=version, region=region)
    piece = Piece({o.order: values[o.order] for o in pieces.shared(levels)}, parent_state)
    pieces.write_piece(open_objects(path, region), name, piece)


def take_back(
    path: str,
    cell: str,
    chunk: int,
    grid: Grid,
    orders: Iterable[int],
    variables: Iterable[str],
    *,
    was_done: bool,
    region: str | None = None,
) -> None:
    """Take what a cell has in the coarser orders of a store out of them, all of it.

    Whoever calls this has said before that it writes the cell.
    """
    objects = open_objects(path, region)
    if was_done:
        shared.withdraw(path, objects, cell, region)
    # Pieces first: a cell without one is done again, whatever else it has.
    remove_together(objects, object_names(objects, f"{PIECES}/{cell}"))
    names = tuple(variables)
    own = [f"{o.order}" for o in levels_of(grid, orders) if o.is_own]
    remove_together(objects, [chunk_name(group, name, chunk) for group in own for name in names])


def take_back_all(path: str, cell: str, chunk: int, region: str | None = None) -> None:
    """Do as `take_back` in a store of which only the place is known."""
    import zarr

    root = zarr.open_group(open_store(path, region=region), mode="r")
    orders = Holdings.of(root).orders if PROVENANCE in root.attrs else ()
    if orders:
        grid = grid_of_store(root)
        variables = variables_of(root[f"{grid.child_order}"])
        take_back(path, cell, chunk, grid, orders, variables, was_done=True, region=region)
