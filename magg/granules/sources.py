"""Where the bytes of a granule come from: a local file, or an object behind S3 or HTTP(S).

Everything above reads byte ranges of a `ByteSource` and does not know where the granule is. h5py,
which reads the metadata, gets the path of a local file and a block-cached file object otherwise.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from magg.errors import GranuleError
from magg.granules.bytesource import DAMAGED, ByteSource, LocalSource
from magg.granules.remote import BlockFile, ObjectSource

# What h5py raises on damaged files, beside OSError: its messages come out of the C library.
HDF5_ERRORS = (OSError, RuntimeError, KeyError, ValueError, TypeError, OverflowError)
NOT_HDF5 = "is not an HDF5 file (a saved login or error page, perhaps); download it again"
SIGNATURE = b"\x89HDF\r\n\x1a\n"
REMOTE_SCHEMES = ("s3", "http", "https")


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
        return ObjectSource(granule)
    if "://" in granule and not Path(granule).exists():
        raise GranuleError(
            f"{granule}: granules are local paths or URLs that begin with s3://, https:// or "
            "http://; correct the catalog",
            granule=granule,
        )
    return LocalSource(granule)


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
