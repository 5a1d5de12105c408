"""h5py over a granule: by its path where it is local, over bytes fetched beforehand elsewhere.

h5py holds a lock of its own while HDF5 reads, so a file object that fetches would let one granule
at a time wait for its server. Here h5py sees only bytes that are in memory. Where it needs others
it fails, after having noted which; they are fetched outside the lock, all together, and h5py begins
anew. A granule that is laid out in pages, as the cloud-optimised ones are, has its metadata in its
head, and is read in one pass; one whose metadata lies scattered takes five or six.
"""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

from magg.errors import GranuleError
from magg.granules.bytesource import DAMAGED, ByteSource, LocalSource
from magg.granules.pool import run_all
from magg.granules.remote import ObjectSource

# What h5py raises on damaged files, beside OSError: its messages come out of the C library.
HDF5_ERRORS = (OSError, RuntimeError, KeyError, ValueError, TypeError, OverflowError)
NOT_HDF5 = "is not an HDF5 file (a saved login or error page, perhaps); download it again"
SIGNATURE = b"\x89HDF\r\n\x1a\n"
# Scattered metadata lie in small pieces, with others like them soon behind.
BLOCK = 64 << 10
LONGEST_RUN = 16  # blocks

T = TypeVar("T")


class HeldFile(io.RawIOBase):
    """A seekable file over those blocks of a source that are in memory.

    Parameters
    ----------
    size : int
        Bytes of the whole source.
    head : memoryview
        Its first bytes.
    blocks : dict of int to memoryview
        Others, by the number of the block.

    Attributes
    ----------
    missing : set of int
        Blocks that were wanted and are not here. What was read before counts for nothing if there
        are any.
    """

    def __init__(self, size: int, head: memoryview, blocks: dict[int, memoryview]) -> None:
        self._size, self._head, self._blocks = size, head, blocks
        self._position = 0
        self.missing: set[int] = set()

    def readable(self) -> bool:
        """Return True."""
        return True

    def seekable(self) -> bool:
        """Return True."""
        return True

    def tell(self) -> int:
        """Return the position."""
        return self._position

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Move to a position and return it."""
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._size}
        self._position = max(0, base[whence] + offset)
        return self._position

    def readinto(self, buffer: Any) -> int:
        """Fill the buffer as far as the source goes and return the number of bytes.

        Raises
        ------
        OSError
            If not all of them are in memory; the blocks are noted in `missing`.
        """
        view = memoryview(buffer).cast("B")
        start = self._position
        stop = start + max(0, min(len(view), self._size - start))
        if not self.holds(start, stop):
            raise OSError("bytes that are not in memory yet")
        place = start
        while place < stop:
            if place < len(self._head):
                part = self._head[place:stop]
            else:
                number, within = divmod(place, BLOCK)
                part = self._blocks[number][within : within + stop - place]
            view[place - start : place - start + len(part)] = part
            place += len(part)
        self._position = stop
        return stop - start

    def holds(self, start: int, stop: int) -> bool:
        """Tell whether the bytes ``[start, stop)`` are in memory; note the blocks if not."""
        first = max(start, len(self._head)) // BLOCK
        wanted = range(first, -(-stop // BLOCK)) if start < stop else range(0)
        absent = [number for number in wanted if number not in self._blocks]
        self.missing.update(absent)
        return not absent


def read_hdf5(source: ByteSource, parse: Callable[[Any, HeldFile | None], T]) -> T:
    """Read from a granule with h5py.

    Parameters
    ----------
    source : ByteSource
    parse : callable
        Takes the h5py.File and, unless the granule is local, the file object below it. May be
        called several times, and only what the last call returns counts. Where something raises
        while ``missing`` is not empty, it may go on with other parts of the file, so that more
        of what is missing is found at once.

    Raises
    ------
    GranuleError
        If the granule is not HDF5, or damaged.
    """
    if isinstance(source, LocalSource):
        # By its path: a file driven through Python is ten times slower.
        return _parsed(source, source.name, lambda file: parse(file, None))
    blocks: dict[int, memoryview] = {}
    head = source.head if isinstance(source, ObjectSource) else memoryview(b"")
    count = -(-source.size // BLOCK)
    passes = 0
    while True:
        held, passes = HeldFile(source.size, head, blocks), passes + 1
        result = _pass(source, held, parse)
        if not held.missing:
            return result[0]
        # The further one has to go, the more there is to be read along.
        ahead = {n + more for n in held.missing for more in range(passes) if n + more < count}
        for fetched in run_all(
            [partial(_run, source, *run) for run in _runs(ahead - blocks.keys())]
        ):
            blocks |= fetched


def _pass(
    source: ByteSource, held: HeldFile, parse: Callable[[Any, HeldFile | None], T]
) -> list[T]:
    """Return what was parsed, or nothing where bytes were missing."""
    try:
        return [_parsed(source, held, lambda file: parse(file, held))]
    except GranuleError:
        if held.missing:
            return []
        raise


def _parsed(source: ByteSource, place: str | HeldFile, parse: Callable[[Any], T]) -> T:
    import h5py

    try:
        with h5py.File(place, "r", locking="best-effort") as file:
            return parse(file)
    except GranuleError:
        raise
    except HDF5_ERRORS as error:
        incomplete = isinstance(place, HeldFile) and bool(place.missing)
        signed = incomplete or _has_signature(source)
        problem = f"{DAMAGED} ({error})" if signed else NOT_HDF5
        # What goes through h5py holds its file driver, which crashes the interpreter at its end
        # if it is still there; so it is kept as the cause for local files alone.
        cause = error if isinstance(place, str) else None
        raise GranuleError(f"{source.name}: {problem}", granule=source.granule) from cause


def _runs(numbers: set[int]) -> list[tuple[int, int]]:
    """Return the first and last of blocks that follow each other: one request each."""
    runs: list[tuple[int, int]] = []
    for number in sorted(numbers):
        if runs and number == runs[-1][1] + 1 and number - runs[-1][0] < LONGEST_RUN:
            runs[-1] = runs[-1][0], number
        else:
            runs.append((number, number))
    return runs


def _run(source: ByteSource, first: int, last: int) -> dict[int, memoryview]:
    """Fetch blocks that follow each other."""
    data = source.read(first * BLOCK, min((last + 1) * BLOCK, source.size))
    return {n: data[(n - first) * BLOCK : (n - first + 1) * BLOCK] for n in range(first, last + 1)}


def _has_signature(source: ByteSource) -> bool:
    """Tell whether HDF5 would find its signature: at 0, 512, 1024, 2048..."""
    place = 0
    while place + len(SIGNATURE) <= source.size:
        if source.read(place, place + len(SIGNATURE)) == SIGNATURE:
            return True
        place = place * 2 or 512
    return False
