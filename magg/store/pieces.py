"""What the worker of a parent cell leaves for the orders whose chunks parent cells share.

A piece is one small object, ``.magg/coarse/{cell}/{making}.{digest}.{extent}.{source}``. Making
and digest are those of the cell's record, without which a piece means nothing. The extent names
the coarser orders that the cell was made for, with all statistics, and ``state`` where the state
of its child cells was kept, such as ``11-10-9-state``. The source is ``rows`` where the statistics
were computed from the observations, ``leaves`` where from what the store holds of the child cells.

The object is compressed with zlib. Its first line is JSON: a list that names its arrays, each with
its order (or ``null`` where it is of the state of the parent cell; `magg.statistics.state_specs`),
name, dtype and shape. Their little-endian bytes follow in the same order.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from isal import isal_zlib
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
    held = [(order, arrays) for order, arrays in sorted(piece.values.items(), reverse=True)]
    header, body = [], []
    for order, arrays in (*held, (None, piece.state)):
        for name, array in arrays.items():
            little = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<"))
            header.append([order, name, little.dtype.str, little.shape])
            body.append(little.tobytes())
    return isal_zlib.compress(b"\n".join([json.dumps(header).encode(), b"".join(body)]), 1)


def decode(data: bytes) -> Piece:
    """Return the piece of some bytes.

    Raises
    ------
    ValueError
        If they are not those of a piece.
    """
    try:
        head, _, body = isal_zlib.decompress(data).partition(b"\n")
        header, at = json.loads(head), 0
    except (isal_zlib.error, ValueError) as error:  # type: ignore[misc]  # typed as an instance
        raise ValueError(f"is no piece ({error})") from None
    values: dict[int, dict[str, NDArray[Any]]] = {}
    state: dict[str, NDArray[Any]] = {}
    for order, name, kind, shape in header:
        array = np.frombuffer(body, np.dtype(kind), math.prod(shape), at).reshape(shape)
        at += array.nbytes
        (state if order is None else values.setdefault(order, {}))[name] = array
    return Piece(values, state)


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
