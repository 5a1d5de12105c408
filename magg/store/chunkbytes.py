"""Chunks as objects of their own, written without zarr where very many small ones are written.

Going through zarr costs a millisecond of CPU a chunk, whatever is in it. All arrays of a store
along the cells have one dimension, little-endian values and one compressor, so that the bytes of a
chunk are those of its values, compressed. A test compares them with what zarr writes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from concurrent.futures import Executor
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from magg.store.open import remove_objects

if TYPE_CHECKING:
    from obstore.store import ObjectStore
    from zarr.codecs import BloscCodec

CNAME, LEVEL = "zstd", 5


def compressor() -> BloscCodec:
    """Return what the arrays of a store are compressed with, as zarr takes it."""
    from zarr.codecs import BloscCodec

    return BloscCodec(cname=CNAME, clevel=LEVEL, shuffle="shuffle")


def encode(values: NDArray[Any]) -> bytes:
    """Return the bytes of a chunk.

    Parameters
    ----------
    values : ndarray, shape (chunk length,)
        All values of the chunk; those beyond the end of the array are fill values.
    """
    from numcodecs import Blosc

    little = np.ascontiguousarray(values, dtype=values.dtype.newbyteorder("<"))
    return bytes(Blosc(cname=CNAME, clevel=LEVEL, shuffle=Blosc.SHUFFLE).encode(little))


def chunk_name(group: int | str, variable: str, chunk: int) -> str:
    """Return the name of the object that holds a chunk."""
    return f"{group}/{variable}/c/{chunk}"


class Chunk(NamedTuple):
    """A chunk that is to be written.

    Parameters
    ----------
    name : str
        See `chunk_name`.
    values : ndarray, shape (chunk length,)
    fill : scalar
        The fill value of its array.
    """

    name: str
    values: NDArray[Any]
    fill: Any


def put_chunks(objects: ObjectStore, chunks: Iterable[Chunk], pool: Executor) -> None:
    """Write chunks, several at once; one that holds nothing but fill values is no object.

    They are compressed here, one after the other: threads that do so at once take twice the CPU.
    """
    encoded = (
        (name, None if is_fill(values, fill) else encode(values)) for name, values, fill in chunks
    )
    for _ in pool.map(lambda chunk: _put(objects, *chunk), encoded):
        pass


def _put(objects: ObjectStore, name: str, data: bytes | None) -> None:
    if data is None:
        remove_objects(objects, name)
    else:
        objects.put(name, data)


def in_chunks(values: NDArray[Any], length: int, fill: Any) -> Iterator[NDArray[Any]]:
    """Yield an array in chunks, the last one filled up to the same length."""
    for start in range(0, len(values), length):
        part = values[start : start + length]
        yield np.append(part, np.full(length - len(part), fill, values.dtype))


def chunks_of(
    group: int | str,
    variable: str,
    values: NDArray[Any],
    length: int,
    fill: Any,
    first: int = 0,
) -> Iterator[Chunk]:
    """Yield values of a variable as chunks, the first of which has the number ``first``."""
    for number, part in enumerate(in_chunks(values, length, fill), first):
        yield Chunk(chunk_name(group, variable, number), part, fill)


def is_fill(values: NDArray[Any], fill: Any) -> bool:
    """Tell whether a chunk holds nothing but fill values, and so is better not there."""
    return bool((np.isnan(values) if fill != fill else values == fill).all())
