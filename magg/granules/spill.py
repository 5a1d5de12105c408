"""Arrays that memory has no room for, in a temporary file that no name leads to."""

from __future__ import annotations

import os
import shutil
import tempfile
import threading
from collections.abc import Hashable
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray


class Spill:
    """Arrays by key in one file, which vanishes with the process.

    Parameters
    ----------
    share : float
        Of the room that the disk has when the first array comes, so much may be taken. What does
        not fit, or cannot be written, is dropped: whoever asks for it computes it again.
    """

    def __init__(self, share: float = 0.5) -> None:
        self._share = share
        self._file: IO[bytes] | None = None
        self.clear()

    def clear(self) -> None:
        """Forget everything, and the file (also after a fork, where the parent goes on with it)."""
        self._lock = threading.Lock()
        if self._file is not None:
            self._file.close()
        self._file = None
        self._places: dict[Hashable, tuple[int, np.dtype[Any], int]] = {}
        self._end = self._room = 0

    def __contains__(self, key: Hashable) -> bool:
        return key in self._places

    def put(self, key: Hashable, array: NDArray[Any]) -> None:
        """Write a one-dimensional array, unless its key is here already."""
        with self._lock:
            if key in self._places:
                return
            try:
                if self._file is None:
                    # Open as long as the process lives, which is what keeps it.
                    self._file = tempfile.TemporaryFile(prefix="magg-", buffering=0)  # noqa: SIM115
                    free = shutil.disk_usage(tempfile.gettempdir()).free
                    self._room = int(free * self._share)
                if self._end + array.nbytes > self._room:
                    return
                self._write(array.tobytes())
            except OSError:
                return
            self._places[key] = self._end, array.dtype, array.size
            self._end += array.nbytes

    def get(self, key: Hashable, start: int = 0, stop: int | None = None) -> NDArray[Any] | None:
        """Return items of an array, or None if it is not here."""
        place = self._places.get(key)
        if place is None or self._file is None:
            return None
        offset, dtype, size = place
        stop = size if stop is None else stop
        length, at = max(0, stop - start) * dtype.itemsize, offset + start * dtype.itemsize
        try:
            data = os.pread(self._file.fileno(), length, at)
        except OSError:
            return None
        return np.frombuffer(data, dtype) if len(data) == length else None

    def _write(self, data: bytes) -> None:
        assert self._file is not None  # noqa: S101 - for the type checker
        done = 0
        while done < len(data):
            done += os.pwrite(self._file.fileno(), data[done:], self._end + done)
