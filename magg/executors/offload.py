"""Calls and answers that are too large to be sent: put into a bucket, and named instead.

Only objects that this module named are ever read, whatever a call says.
"""

from __future__ import annotations

import contextlib
import json
import re
import uuid
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from magg import __version__
from magg.buckets import open_bucket
from magg.credentials import holds_secret
from magg.errors import PayloadError

if TYPE_CHECKING:
    from obstore.store import S3Store

FOLDER = ".magg/payloads"
REFERENCE = "reference"
_NAMED_HERE = re.compile(r"s3://([^/]+)/((?:.+/)?\.magg/payloads/[0-9a-f]{32}\.json)")


def put(prefix: str, data: bytes, region: str | None) -> str:
    """Write JSON below a prefix, and return its URL.

    Parameters
    ----------
    prefix : str
        ``s3://bucket/prefix``, usually that of the store.
    data : bytes
    region : str, optional
        AWS region of the bucket.

    Raises
    ------
    PayloadError
        If it holds a credential.
    """
    import obstore

    url = f"{prefix.rstrip('/')}/{FOLDER}/{uuid.uuid4().hex}.json"
    if holds_secret(data.decode()):
        raise PayloadError(
            f"a call or answer of {len(data) / 2**20:.1f} MB holds credentials, which are never "
            "written to a bucket; use a finer parent order, so that it is small enough to be sent"
        )
    bucket, key = _place(url, region)
    obstore.put(bucket, key, data)
    return url


def naming(url: str, place: Mapping[str, Any]) -> dict[str, Any]:
    """Return a call that only names another one, which `put` has written.

    Parameters
    ----------
    url : str
    place : mapping
        ``prefix`` and ``region`` for an answer that is too large in turn.
    """
    reference = {"url": url, "region": place.get("region")}
    return {"magg_call": 1, "version": __version__, "offload": dict(place), REFERENCE: reference}


def fetched(document: Any) -> Any:
    """Return what a call or answer names, or itself where it names nothing.

    Raises
    ------
    PayloadError
        If what it names is no payload of magg's.
    """
    reference = document.get(REFERENCE) if isinstance(document, Mapping) else None
    if not isinstance(reference, Mapping):
        return document
    import obstore

    url, region = str(reference.get("url")), reference.get("region")
    bucket, key = _place(url, region)
    whole = json.loads(bytes(obstore.get(bucket, key).bytes()))
    if reference.get("once"):
        delete(url, region)
    return whole


def delete(url: str, region: str | None) -> None:
    """Delete what was put there; it may be gone already."""
    import obstore

    bucket, key = _place(url, region)
    # A leftover is small, below the store's own prefix, and goes with the store.
    with contextlib.suppress(obstore.exceptions.BaseError, FileNotFoundError):
        obstore.delete(bucket, key)


def _place(url: str, region: str | None) -> tuple[S3Store, str]:
    # Not urlsplit: what it takes for a query would hide the end of the key from it.
    named = _NAMED_HERE.fullmatch(url)
    if named is None or ".." in url.split("/"):
        raise PayloadError(
            "a payload must be named s3://bucket/prefix/.magg/payloads/{32 hex digits}.json, as "
            "magg names those that it puts there; nothing else is read or written"
        )
    name, key = named.groups()
    return open_bucket(name, region=region), key
