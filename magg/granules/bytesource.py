"""A granule as a run of bytes: what all sources promise, and the source that is a local file."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Any, Protocol, Self

from magg.errors import GranuleChangedError, GranuleError, GranuleNotFoundError

DAMAGED = "the file is damaged or incomplete; download it again"


class ByteSource(Protocol):
    """A granule as a run of bytes; ``read`` may be called from several threads at once.

    Attributes
    ----------
    granule : str
        Path or URL, as it is in the catalog.
    name : str
        The same for messages and records: without a signature.
    size : int
        Bytes.
    etag : str
        Changes when the content changes: the object's ETag, or a file's time of modification (ns)
        and inode.
    """

    granule: str
    name: str
    size: int
    etag: str

    def read(self, start: int, stop: int) -> memoryview:
        """Return exactly the bytes ``[start, stop)``, or raise `GranuleError`."""
        ...

    def check_unchanged(self) -> None:
        """Raise `GranuleChangedError` if the granule is not what it was when it was opened."""
        ...

    def ask_unchanged(self) -> None:
        """Do the same where nothing is read, asking the server."""
        ...

    def drop_head(self) -> None:
        """Let go of bytes that came when the granule was opened."""
        ...

    def close(self) -> None:
        """Let go of the granule; may be called twice."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(self, *exc: object) -> None: ...


class Closing:
    """What makes a source a context manager."""

    def close(self) -> None:
        """Let go of the granule; may be called twice."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


class LocalSource(Closing):
    """A file of this machine, read with ``pread``, which threads may share.

    Parameters
    ----------
    path : str
    """

    def __init__(self, path: str) -> None:
        self.granule = self.name = path
        self._fd = -1
        try:
            # Looked at before it is opened: opening a pipe would wait for its writer.
            if not stat.S_ISREG(Path(path).stat().st_mode):
                raise GranuleError(f"{path}: is not a regular file", granule=path)
            self._fd = os.open(path, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0))
        except GranuleError:
            raise
        except FileNotFoundError:
            raise GranuleNotFoundError(
                f"{path}: there is no such file; download it, or correct the catalog", granule=path
            ) from None
        except PermissionError as error:
            raise GranuleError(
                f"{path}: may not be read ({error.strerror}); change its permissions", granule=path
            ) from error
        except (OSError, ValueError) as error:
            raise GranuleError(f"{path}: cannot be opened ({error})", granule=path) from error
        self._status = _status(os.fstat(self._fd))
        self.size, modified, inode = self._status
        # A copy that keeps the times of a file still has an inode of its own.
        self.etag = f"{modified}-{inode}"

    def read(self, start: int, stop: int) -> memoryview:
        """Return exactly the bytes ``[start, stop)``, or raise `GranuleError`."""
        try:
            data = os.pread(self._fd, stop - start, start)
            while len(data) < stop - start:  # one pread stops at 2 GiB, or at a signal
                more = os.pread(self._fd, stop - start - len(data), start + len(data))
                if not more:
                    break
                data += more
        except OSError as error:
            raise GranuleError(f"{self.name}: {error}", granule=self.name) from error
        return whole(data, start, stop, self.name)

    def drop_head(self) -> None:
        """Do nothing: opening a file brings none of its bytes."""

    def ask_unchanged(self) -> None:
        """Raise what `check_unchanged` does."""
        self.check_unchanged()

    def check_unchanged(self) -> None:
        """Raise `GranuleChangedError` if the path has another file, or it was written to."""
        try:
            unchanged = (
                _status(Path(self.name).stat()) == self._status == _status(os.fstat(self._fd))
            )
        except OSError:
            unchanged = False
        if not unchanged:
            raise changed(self.name)

    def close(self) -> None:
        """Close the file; may be called twice."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def _status(status: os.stat_result) -> tuple[int, int, int]:
    return status.st_size, status.st_mtime_ns, status.st_ino


class ShortAnswerError(GranuleError):
    """Another number of bytes came than was asked for."""


def whole(data: Any, start: int, stop: int, name: str, granule: str = "") -> memoryview:
    """Return the data if they are as long as the range that was asked for."""
    if len(data) != stop - start:
        raise ShortAnswerError(
            f"{name}: ends early: {len(data)} bytes came of the {stop - start} from {start} on; "
            f"{DAMAGED}",
            granule=granule or name,
        )
    return memoryview(data)


def changed(name: str, granule: str = "") -> GranuleChangedError:
    """Return the error about a granule that was replaced or written to meanwhile."""
    return GranuleChangedError(
        f"{name}: changed while it was being read; run again", granule=granule or name
    )
