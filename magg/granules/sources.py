"""Where the bytes of a granule come from: a local file, or an object behind S3 or HTTP(S).

Everything above reads byte ranges of a `ByteSource` and does not know where the granule is. h5py,
which reads the metadata, gets the path of a local file and a block-cached file object otherwise.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol, Self
from urllib.parse import urlsplit

from magg.errors import GranuleError, GranuleNotFoundError

# What h5py raises on damaged files, beside OSError: its messages come out of the C library.
HDF5_ERRORS = (OSError, RuntimeError, KeyError, ValueError, TypeError, OverflowError)
DAMAGED = "the file is damaged or incomplete; download it again"
NOT_HDF5 = "is not an HDF5 file (a saved login or error page, perhaps); download it again"
SIGNATURE = b"\x89HDF\r\n\x1a\n"
REMOTE_SCHEMES = ("s3", "http", "https")


class ByteSource(Protocol):
    """A granule as a run of bytes; ``read`` may be called from several threads at once.

    Attributes
    ----------
    name : str
        Path or URL, for messages.
    size : int
        Bytes.
    etag : str
        Changes when the content changes: the object's ETag, or a file's time of modification (ns)
        and inode.
    """

    name: str
    size: int
    etag: str

    def read(self, start: int, stop: int) -> memoryview:
        """Return exactly the bytes ``[start, stop)``, or raise `GranuleError`."""
        ...

    def check_unchanged(self) -> None:
        """Raise `GranuleError` if the granule is not what it was when it was opened."""
        ...

    def close(self) -> None:
        """Let go of the granule; may be called twice."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(self, *exc: object) -> None: ...


def is_remote(granule: str) -> bool:
    """Tell whether a granule is a URL that needs the network."""
    return urlsplit(granule).scheme in REMOTE_SCHEMES


def open_source(granule: str) -> ByteSource:
    """Open a granule for reading ranges of bytes.

    Parameters
    ----------
    granule : str
        A local path, or a URL that begins with ``s3://``, ``https://`` or ``http://``.

    Raises
    ------
    GranuleNotFoundError
        If there is nothing at that place.
    GranuleError
        If it is no regular file, may not be read, or the URL is of another kind.
    """
    if is_remote(granule):
        from magg.granules.remote import ObjectSource

        return ObjectSource(granule)
    if "://" in granule and not Path(granule).exists():
        raise GranuleError(
            f"{granule}: granules are local paths or URLs that begin with s3://, https:// or "
            "http://; correct the catalog",
            granule=granule,
        )
    return LocalSource(granule)


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
        self.name = path
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

    def check_unchanged(self) -> None:
        """Raise `GranuleError` if another file is at the path, or the file was written to."""
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


@contextmanager
def open_hdf5(source: ByteSource) -> Iterator[Any]:
    """Open the granule with h5py and translate whatever h5py raises inside.

    Yields
    ------
    h5py.File

    Raises
    ------
    GranuleError
        If it is not HDF5, or damaged.
    """
    import h5py

    from magg.granules.remote import BlockFile

    # A file driven through Python is ten times slower, so a local one goes by its path.
    remote = None if isinstance(source, LocalSource) else BlockFile(source)
    try:
        with h5py.File(remote or source.name, "r", locking="best-effort") as file:
            yield file
    except HDF5_ERRORS as error:
        if not (remote and remote.failure):
            if isinstance(error, GranuleError):
                raise
            problem = f"{DAMAGED} ({error})" if _has_signature(source) else NOT_HDF5
            raise GranuleError(f"{source.name}: {problem}", granule=source.name) from error
    if remote and remote.failure:
        # A new error: the one that went through h5py holds its file driver, which crashes the
        # interpreter at its end if it is still there. Nor does h5py pass every error on.
        kind, message = remote.failure
        raise kind(message, granule=source.name)


def _has_signature(source: ByteSource) -> bool:
    """Tell whether HDF5 would find its signature: at 0, 512, 1024, 2048..."""
    place = 0
    while place + len(SIGNATURE) <= source.size:
        if source.read(place, place + len(SIGNATURE)) == SIGNATURE:
            return True
        place = place * 2 or 512
    return False


def _status(status: os.stat_result) -> tuple[int, int, int]:
    return status.st_size, status.st_mtime_ns, status.st_ino


def whole(data: Any, start: int, stop: int, name: str) -> memoryview:
    """Return the data if they are as long as the range that was asked for."""
    if len(data) != stop - start:
        raise GranuleError(
            f"{name}: ends early: {len(data)} bytes came of the {stop - start} from {start} on; "
            f"{DAMAGED}",
            granule=name,
        )
    return memoryview(data)


def changed(name: str) -> GranuleError:
    """Return the error about a granule that was replaced or written to meanwhile."""
    return GranuleError(f"{name}: changed while it was being read; run again", granule=name)
