"""Where the bytes of a granule come from: a local file, or an object behind S3 or HTTP(S).

Everything above reads byte ranges of a `ByteSource` and does not know where the granule is.
"""

from __future__ import annotations

from pathlib import Path
from urllib.parse import urlsplit

from magg.errors import GranuleError
from magg.granules.bytesource import ByteSource, LocalSource, changed
from magg.granules.remote import ObjectSource

REMOTE_SCHEMES = ("s3", "http", "https")


def is_remote(granule: str) -> bool:
    """Tell whether a granule is a URL that needs the network."""
    return urlsplit(granule).scheme in REMOTE_SCHEMES


def open_source(granule: str, expected: tuple[int, str] | None = None) -> ByteSource:
    """Open a granule for reading ranges of bytes.

    Parameters
    ----------
    granule : str
        A local path, or a URL that begins with ``s3://``, ``https://`` or ``http://``.
    expected : (int, str), optional
        Size and ETag that it has if it is what it was. A remote granule is then not asked for
        before its first range, and every answer is compared with them.

    Raises
    ------
    GranuleChangedError
        If it is local and not as expected.
    GranuleNotFoundError
        If there is nothing at that place.
    GranuleError
        If it is no regular file, may not be read, or the URL is of another kind.
    """
    if is_remote(granule):
        return ObjectSource(granule, expected)
    if "://" in granule and not Path(granule).exists():
        raise GranuleError(
            f"{granule}: granules are local paths or URLs that begin with s3://, https:// or "
            "http://; correct the catalog",
            granule=granule,
        )
    source = LocalSource(granule)
    if expected is not None and expected != (source.size, source.etag):
        source.close()
        raise changed(granule)
    return source
