"""Decoded chunks that a further cell will need, kept for it.

A track leaves one cell in the middle of a chunk and enters the next one there. So chunks of which
a cell takes a part are kept, decoded, for those that take the rest: those of local files up to 32
MiB in this process, and coordinates of any granule up to 8 MiB. Coordinates that leave memory go
to a temporary file, so that they are decoded once however many granules there are.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Hashable
from typing import Any

from numpy.typing import NDArray

from magg.granules.cache import OnceCache
from magg.granules.spill import Spill

CACHE_BYTES = 32 << 20
COORDINATE_BYTES = 8 << 20

_spill = Spill()
_kept: OnceCache[NDArray[Any]] = OnceCache(CACHE_BYTES)
_coordinates: OnceCache[NDArray[Any]] = OnceCache(COORDINATE_BYTES, leaving=_spill.put)


def key_of(version: Hashable, path: str, chunk: int, *, coordinate: bool) -> tuple[Hashable, ...]:
    """Return the key of a chunk; ``version`` stands for a granule as it is."""
    return version, path, chunk, coordinate


def kept_chunk(key: tuple[Hashable, ...]) -> NDArray[Any] | None:
    """Return a decoded chunk if it is kept."""
    if not key[-1]:
        return _kept.peek(key)
    values = _coordinates.peek(key)
    return _spill.get(key) if values is None else values


def decoded_once(key: tuple[Hashable, ...], decode: Callable[[], NDArray[Any]]) -> NDArray[Any]:
    """Decode a chunk and keep it, unless another thread has just done so."""
    if not key[-1]:
        return _kept.get(key, decode)
    spilled = _spill.get(key)
    return _coordinates.get(key, decode) if spilled is None else spilled


def forget_chunks() -> None:
    """Forget everything that is kept."""
    _kept.clear()
    _coordinates.clear()
    _spill.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=forget_chunks)
