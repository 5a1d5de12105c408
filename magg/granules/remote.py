"""Granules behind S3 or HTTP(S): ranges through obstore, and a file object for h5py."""

from __future__ import annotations

import io
import os
import re
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any, cast
from urllib.parse import unquote, urlsplit

from magg.buckets import open_bucket
from magg.credentials import (
    Access,
    BearerToken,
    S3Credentials,
    is_earthdata,
    own_token,
    redact,
)
from magg.errors import GranuleAccessError, GranuleError, GranuleNotFoundError
from magg.granules.bytesource import ByteSource, Closing, changed, whole

# What a server says at length, and obstore quotes.
_PAGE = re.compile(r"[:\s]*<(\?xml|error|!doctype|html)\b.*", re.DOTALL | re.IGNORECASE)


class ObjectSource(Closing):
    """An object behind S3 or HTTP(S), read with obstore, which retries by itself.

    Parameters
    ----------
    url : str
    """

    def __init__(self, url: str) -> None:
        import obstore

        self.name = url
        parts = urlsplit(url)
        self._key = unquote(parts.path).lstrip("/")
        self._grant = _granted(parts.scheme, parts.netloc)
        with _translated(url, self._grant):
            self._store = _object_store(parts.scheme, parts.netloc, self._grant)
            try:
                meta = obstore.head(self._store, self._key)
            except (obstore.exceptions.BaseError, FileNotFoundError):
                # The answer to a HEAD has no body; that to a GET says what is wrong.
                meta = obstore.get(self._store, self._key, options={"range": (0, 1)}).meta
        self.size = int(meta["size"])
        self._object_etag = meta.get("e_tag")
        self.etag = self._object_etag or str(meta["last_modified"])

    def read(self, start: int, stop: int) -> memoryview:
        """Return exactly the bytes ``[start, stop)``, or raise `GranuleError`."""
        import obstore

        with _translated(self.name, self._grant):
            response = obstore.get(self._store, self._key, options={"range": (start, stop)})
            meta, data = response.meta, response.bytes()
        # Servers may ignore If-Match, so every answer is compared with what was opened.
        etag = meta.get("e_tag") or self._object_etag
        if meta["size"] != self.size or etag != self._object_etag:
            raise changed(self.name)
        return whole(data, start, stop, self.name)

    def check_unchanged(self) -> None:
        """Do nothing: every answer is checked as it arrives."""


class BlockFile(io.RawIOBase):
    """A seekable file over a source that fetches and keeps whole blocks (for h5py's metadata pass).

    Parameters
    ----------
    source : ByteSource
    block : int
        Bytes fetched at once. Metadata lies scattered in small pieces, so a block holds many.
    keep : int
        Blocks kept, the least recently used leaving first: 32 MiB by default.

    Attributes
    ----------
    failure : (type, str) or None
        The error for which a block could not be fetched.
    """

    def __init__(self, source: ByteSource, block: int = 1 << 19, keep: int = 64) -> None:
        self._source, self._block, self._keep = source, block, keep
        self._blocks: OrderedDict[int, memoryview] = OrderedDict()
        self._position = 0
        self.failure: tuple[type[GranuleError], str] | None = None

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
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._source.size}
        self._position = max(0, base[whence] + offset)
        return self._position

    def readinto(self, buffer: Any) -> int:
        """Fill the buffer as far as the source goes and return the number of bytes."""
        view = memoryview(buffer).cast("B")
        wanted = max(0, min(len(view), self._source.size - self._position))
        done = 0
        while done < wanted:
            number, within = divmod(self._position, self._block)
            part = self._fetched(number)[within : within + wanted - done]
            view[done : done + len(part)] = part
            done += len(part)
            self._position += len(part)
        return done

    def _fetched(self, number: int) -> memoryview:
        if number not in self._blocks:
            start = number * self._block
            stop = min(start + self._block, self._source.size)
            try:
                self._blocks[number] = self._source.read(start, stop)
            except GranuleError as error:
                self.failure = type(error), str(error)
                raise
            if len(self._blocks) > self._keep:
                self._blocks.popitem(last=False)
        self._blocks.move_to_end(number)
        return self._blocks[number]


Grant = S3Credentials | BearerToken | None
_access = Access()


def use_access(access: Access) -> None:
    """Open granules with these credentials from now on, in all threads of this process."""
    global _access
    _access = Access(_access.buckets | access.buckets, access.token or _access.token)


def _granted(scheme: str, host: str) -> Grant:
    """Return what a bucket or host is opened with, if that is Earthdata's to say."""
    if scheme == "s3":
        return _access.buckets.get(host)
    return _access.token or own_token() if scheme == "https" and is_earthdata(host) else None


@lru_cache(maxsize=64)
def _object_store(scheme: str, host: str, grant: Grant = None) -> Any:
    """Return the obstore store of a bucket or host; it keeps connections open, so it is shared."""
    from obstore.store import HTTPStore, S3Store

    if isinstance(grant, S3Credentials):
        # An endpoint in the environment is that of the user's own buckets.
        endpoint = f"https://s3.{grant.region}.amazonaws.com"
        names = ["aws_endpoint", *(["aws_endpoint_url_s3"] * ("AWS_ENDPOINT_URL_S3" in os.environ))]
        return S3Store(
            host,
            config=cast(Any, dict.fromkeys(names, endpoint)),
            region=grant.region,
            access_key_id=grant.key.reveal(),
            secret_access_key=grant.secret.reveal(),
            token=grant.session.reveal(),
        )
    if scheme == "s3":
        return open_bucket(host)
    options: dict[str, Any] = {"allow_http": scheme == "http"}
    if isinstance(grant, BearerToken):
        # The client drops this header when it is redirected to another host.
        options["default_headers"] = {"Authorization": f"Bearer {grant.secret.reveal()}"}
    return HTTPStore.from_url(f"{scheme}://{host}", client_options=cast(Any, options))


@contextmanager
def _translated(url: str, grant: Grant) -> Iterator[None]:
    """Turn obstore's errors into this package's.

    Where credentials of Earthdata are in use, the error of obstore is not kept as the cause: it
    may quote a signed URL.
    """
    from obstore import exceptions

    denied = (exceptions.UnauthenticatedError, exceptions.PermissionDeniedError)
    try:
        yield
    except (exceptions.NotFoundError, FileNotFoundError):
        raise GranuleNotFoundError(
            f"{url}: there is no such object; correct the catalog", granule=url
        ) from None
    except (exceptions.BaseError, OSError, ValueError) as error:
        cause = error if grant is None else None
        text = f"{url}: cannot be read ({reason(error)})"
        if isinstance(error, denied):
            text = f"{url}: access denied; check the credentials ({reason(error)})"
            if grant is not None and not grant.renewed:
                raise GranuleAccessError(text, granule=url) from cause
            if isinstance(grant, S3Credentials):
                text += (
                    f"; direct S3 works in {grant.region} alone: elsewhere set data_source.access "
                    "to external"
                )
        raise GranuleError(text, granule=url) from cause


def reason(error: Exception) -> str:
    """Return what an error of obstore says, without the server's page and the dump in it."""
    text = str(error).partition("\n\nDebug source")[0]
    code = re.search("<Code>(.*?)</Code>", text)
    return redact(_PAGE.sub("", text) + (f": {code[1]}" if code else ""))


def forget_sources() -> None:
    """Close the connections kept open, so that the next read opens them with fresh credentials."""
    _object_store.cache_clear()
