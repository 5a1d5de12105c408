"""Granules behind S3 or HTTP(S): ranges through obstore, and what they are opened with."""

from __future__ import annotations

import os
import random
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any, TypeVar, cast
from urllib.parse import unquote, urlsplit

from magg.buckets import forget_credentials, open_bucket
from magg.credentials import (
    Access,
    BearerToken,
    S3Credentials,
    is_earthdata,
    own_token,
    redact,
)
from magg.errors import GranuleAccessError, GranuleError, GranuleNotFoundError
from magg.executors.retry import Kind, classify
from magg.granules.bytesource import Closing, ShortAnswerError, changed, whole

# All metadata of a full-size ATL06 granule that is laid out in pages (1.4 MB) in one answer.
HEAD_BYTES = 3 << 19
# Beyond what obstore tries by itself: attempts, seconds within which a further one begins, and
# half of the longest pause before the first.
ATTEMPTS, BUDGET_S, PAUSE_S = 4, 60.0, 0.1

T = TypeVar("T")

# What a server says at length, and obstore quotes.
_PAGE = re.compile(r"[:\s]*<(\?xml|error|!doctype|html)\b.*", re.DOTALL | re.IGNORECASE)


class ObjectSource(Closing):
    """An object behind S3 or HTTP(S), read with obstore.

    obstore itself tries again, with growing and jittered pauses, what servers refuse (5xx),
    connections that break, answers that do not come in time and, where the server sends ETags,
    bodies that end early: up to ten times within three minutes. What is left is tried again here.

    Parameters
    ----------
    url : str
    expected : (int, str), optional
        Size and ETag that the object had when it was laid out. Then nothing is asked for here, and
        every answer is compared with them; else the head of the object is fetched, which also
        tells both.

    Attributes
    ----------
    name : str
        The URL without a signature, for messages.
    head : memoryview
        The first bytes, empty if ``expected`` was given; see `drop_head`.
    """

    def __init__(self, url: str, expected: tuple[int, str] | None = None) -> None:
        self.granule, self.name = url, redact(url)
        self._parts = urlsplit(url)
        self._key = unquote(self._parts.path).lstrip("/")
        self._reopened, self._lock = False, threading.Lock()
        self._grant = _granted(self._parts.scheme, self._parts.netloc)
        with self._translated():
            self._store = self._opened()
        self.head = memoryview(b"")
        if expected is None:
            self.size, self.etag, self.head = self._trying(self._first)
        else:
            self.size, self.etag = expected

    def read(self, start: int, stop: int) -> memoryview:
        """Return exactly the bytes ``[start, stop)``, or raise `GranuleError`.

        Raises
        ------
        GranuleChangedError
            If the object is of another size or ETag than it was.
        """
        head = self.head
        if stop <= len(head):
            return head[start:stop]
        return self._trying(lambda: self._checked(start, stop))

    def check_unchanged(self) -> None:
        """Do nothing: every answer is checked as it arrives."""

    def ask_unchanged(self) -> None:
        """Ask for one byte, for the sake of the check: where nothing else is asked."""
        if self.size:
            self.read(self.size - 1, self.size)

    def drop_head(self) -> None:
        """Let go of the first bytes."""
        self.head = memoryview(b"")

    def _first(self) -> tuple[int, str, memoryview]:
        """Fetch the head; return size, ETag and the bytes."""
        import obstore

        try:
            meta, data = self._got(0, HEAD_BYTES)
        except obstore.exceptions.GenericError as error:
            if not _is_beyond_end(error):
                raise
            return int(obstore.head(self._store, self._key)["size"]), "", memoryview(b"")
        size = int(meta["size"])
        return size, _version(meta), whole(data, 0, min(size, HEAD_BYTES), self.name, self.granule)

    def _checked(self, start: int, stop: int) -> memoryview:
        import obstore

        try:
            meta, data = self._got(start, stop)
        except obstore.exceptions.GenericError as error:
            if _is_beyond_end(error):  # it is shorter than it was
                raise changed(self.name, self.granule) from None
            raise
        # Servers may ignore If-Match, so every answer is compared with what was opened.
        same = _version(meta) == self.etag or (meta.get("e_tag") is None and '"' in self.etag)
        if meta["size"] != self.size or not same:
            raise changed(self.name, self.granule)
        return whole(data, start, stop, self.name, self.granule)

    def _got(self, start: int, stop: int) -> tuple[Any, Any]:
        import obstore

        response = obstore.get(self._store, self._key, options={"range": (start, stop)})
        return response.meta, response.bytes()

    def _trying(self, ask: Callable[[], T]) -> T:
        """Ask, and ask again what may pass; renew credentials that are refused, once."""
        began = time.monotonic()
        for attempt in range(1, ATTEMPTS + 1):
            try:
                with self._translated():
                    return ask()
            except GranuleError as error:
                refused = error.__cause__ is not None and _is_refusal(error.__cause__)
                if refused and self._reopen():
                    continue
                late = time.monotonic() - began > BUDGET_S
                passing = isinstance(error, ShortAnswerError) or classify(error) is Kind.TRANSIENT
                if not passing or late or attempt == ATTEMPTS:
                    raise
            time.sleep(random.uniform(0, PAUSE_S * 2**attempt))  # noqa: S311 - jitter, no secret
        raise AssertionError("unreachable")

    def _opened(self) -> Any:
        parts = self._parts
        return _object_store(parts.scheme, parts.netloc, parts.query, self._grant)

    def _reopen(self) -> bool:
        """Open with new credentials of the user; tell whether that is worth another attempt.

        Connections keep the credentials that they were opened with. Those of Earthdata come with
        the task, so that others come with another attempt of the whole cell.
        """
        if self._grant is not None:
            return False
        with self._lock:
            if not self._reopened:
                self._reopened = True
                with self._translated():
                    if self._opened() is self._store:  # nobody else has opened it anew
                        forget_sources()
                        forget_credentials()
                    self._store = self._opened()
                return True
        return False

    @contextmanager
    def _translated(self) -> Iterator[None]:
        """Turn obstore's errors into this package's.

        Where credentials of Earthdata or a signature are in use, the error of obstore is not kept
        as the cause: it may quote a signed URL.
        """
        from obstore import exceptions

        denied = (exceptions.UnauthenticatedError, exceptions.PermissionDeniedError)
        grant, name = self._grant, self.name
        try:
            yield
        except GranuleError:
            raise
        except (exceptions.NotFoundError, FileNotFoundError):
            raise GranuleNotFoundError(
                f"{name}: there is no such object; correct the catalog", granule=self.granule
            ) from None
        except (exceptions.BaseError, OSError, ValueError) as error:
            cause = error if grant is None and not self._parts.query else None
            text = f"{name}: cannot be read ({reason(error)})"
            if isinstance(error, denied):
                text = f"{name}: access denied; check the credentials ({reason(error)})"
                if grant is not None and not grant.renewed:
                    raise GranuleAccessError(text, granule=self.granule) from cause
                if isinstance(grant, S3Credentials):
                    text += (
                        f"; direct S3 works in {grant.region} alone: elsewhere set "
                        "data_source.access to external"
                    )
            raise GranuleError(text, granule=self.granule) from cause


def _version(meta: Any) -> str:
    """Return what changes with the content: the ETag, or the time of modification."""
    return meta.get("e_tag") or str(meta["last_modified"])


def _is_beyond_end(error: Exception) -> bool:
    return "status code: 416" in str(error)


def _is_refusal(error: BaseException) -> bool:
    from obstore import exceptions

    denied = (exceptions.UnauthenticatedError, exceptions.PermissionDeniedError)
    return isinstance(error, denied) or "<Code>ExpiredToken" in str(error)


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
def _object_store(scheme: str, host: str, query: str = "", grant: Grant = None) -> Any:
    """Return the obstore store of a bucket or host; it keeps connections open, so it is shared.

    A query is that of a signed URL, and part of the store: obstore appends keys before it.
    """
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
    place = f"{scheme}://{host}?{query}" if query else f"{scheme}://{host}"
    return HTTPStore.from_url(place, client_options=cast(Any, options))


def reason(error: Exception) -> str:
    """Return what an error of obstore says, without the server's page and the dump in it."""
    text = str(error).partition("\n\nDebug source")[0]
    code = re.search("<Code>(.*?)</Code>", text)
    return redact(_PAGE.sub("", text) + (f": {code[1]}" if code else ""))


def forget_sources() -> None:
    """Close the connections kept open, so that the next read opens them with fresh credentials."""
    _object_store.cache_clear()
