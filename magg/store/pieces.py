"""What the worker of a parent cell leaves for the orders whose chunks parent cells share.

A piece is one small object, ``.magg/coarse/{cell}/{making}.{digest}.{extent}.{source}``. Making
and digest are those of the cell's record, without which a piece means nothing. The extent names
the coarser orders that the cell was made for, with all statistics, and ``state`` where the state
of its child cells was kept, such as ``11-10-9-state``. The source is ``rows`` where the statistics
were computed from the observations, ``leaves`` where from what the store holds of the child cells.

The object is compressed with zlib. It holds arrays in NumPy's ``.npy`` format, without pickles, one
after the other: which orders it has values for (uint8), then for each of these the statistics, a
row for each cell and a named field for each statistic, and last the state of the parent cell, one
row with a named field for each array of states (see `magg.statistics.state_specs`).
"""

from __future__ import annotations

import io
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from magg.store.levels import STATE, Holdings, Level
from magg.store.makings import FOLDER

if TYPE_CHECKING:
    from obstore.store import ObjectStore

PIECES = f"{FOLDER}/coarse"

Values = Mapping[str, NDArray[Any]]
Source = Literal["rows", "leaves"]


@dataclass(frozen=True)
class Piece:
    """The content of a piece.

    Parameters
    ----------
    values : dict of int to dict of str to ndarray
        Order to the statistics of its cells in the parent cell, shape (cells,).
    state : dict of str to ndarray
        State of the parent cell, shape (1,) or (1, k, 2).
    """

    values: Mapping[int, Values] = field(default_factory=dict)
    state: Values = field(default_factory=dict)


@dataclass(frozen=True)
class PieceName:
    """What the name of a piece tells.

    Parameters
    ----------
    cell, making, digest : str
    has : Holdings
        What the cell was made for; named in full, so that one listing tells what is missing.
    source : {"rows", "leaves"}
    """

    cell: str
    making: str
    digest: str
    has: Holdings
    source: Source = "rows"

    @classmethod
    def parse(cls, name: str) -> PieceName:
        """Return what a name tells, with its folder or without."""
        cell, _, rest = name.rpartition("/")
        making, digest, extent, source = rest.split(".")
        told: Source = "rows" if source == "rows" else "leaves"
        has = Holdings.from_extent(part for part in extent.split("-") if part)
        return cls(cell.rpartition("/")[2], making, digest, has, told)

    def __str__(self) -> str:
        extent = "-".join([*map(str, self.has.orders), *[STATE] * self.has.state])
        return f"{PIECES}/{self.cell}/{self.making}.{self.digest}.{extent}.{self.source}"


def encode(piece: Piece) -> bytes:
    """Return the bytes of a piece."""
    orders = sorted(piece.values, reverse=True)
    buffer = io.BytesIO()
    np.save(buffer, np.array(orders, dtype=np.uint8), allow_pickle=False)
    for arrays in (*(piece.values[order] for order in orders), piece.state):
        np.save(buffer, _table(arrays), allow_pickle=False)
    return zlib.compress(buffer.getvalue(), 1)


def decode(data: bytes) -> Piece:
    """Return the piece of some bytes.

    Raises
    ------
    ValueError
        If they are not those of a piece.
    """
    try:
        buffer = io.BytesIO(zlib.decompress(data))
    except zlib.error as error:
        raise ValueError(f"is no piece ({error})") from None
    orders = np.load(buffer, allow_pickle=False)
    *values, state = (_arrays(np.load(buffer, allow_pickle=False)) for _ in range(len(orders) + 1))
    return Piece(dict(zip(orders.tolist(), values, strict=True)), state)


def read_piece(objects: ObjectStore, name: PieceName) -> Piece | None:
    """Return a piece, or None where it is gone."""
    try:
        return decode(bytes(objects.get(str(name)).bytes()))
    except FileNotFoundError:
        return None


def write_piece(objects: ObjectStore, name: PieceName, piece: Piece) -> None:
    """Write a piece."""
    objects.put(str(name), encode(piece))


def shared(levels: Iterable[Level]) -> list[Level]:
    """Return the levels whose values are in pieces."""
    return [level for level in levels if not level.is_own and not level.is_below]


def _table(arrays: Values) -> NDArray[Any]:
    """Return arrays of equal length as one array of named fields."""
    length = len(next(iter(arrays.values()))) if arrays else 0
    fields = [(name, array.dtype, array.shape[1:]) for name, array in arrays.items()]
    table = np.zeros(length, dtype=fields)
    for name, array in arrays.items():
        table[name] = array
    return table


def _arrays(table: NDArray[Any]) -> Values:
    return {name: np.ascontiguousarray(table[name]) for name in table.dtype.names or ()}
