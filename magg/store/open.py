"""Stores by path or URL."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from magg.buckets import open_bucket
from magg.errors import StoreError, StoreNotFoundError
from magg.granules.remote import reason

if TYPE_CHECKING:
    from obstore.store import ObjectStore, S3Store
    from zarr.abc.store import Store

DEFAULT_REGION = "us-west-2"
# Where obstore looks for credentials when the environment has none: the role of a cloud machine.
_ASKED_THE_MACHINE = re.compile(r"/latest/(api/token|meta-data)")


def open_store(
    path: str | Path, read_only: bool = False, region: str | None = DEFAULT_REGION
) -> Store:
    """Open the place of a store for Zarr.

    Parameters
    ----------
    path : str or Path
        A local path, or ``s3://bucket/prefix``.
    read_only : bool, default False
        Refuse every write. A local store must then exist.
    region : str, optional
        AWS region of the bucket; without meaning for a local path.

    Returns
    -------
    zarr.abc.store.Store

    Raises
    ------
    StoreNotFoundError
        If ``read_only`` and the local path is not there.
    StoreError
        If the URL is of a kind that magg does not write to, or the path is a file.
    """
    from zarr.storage import LocalStore, ObjectStore

    local = local_path(path)
    if local is None:
        return ObjectStore(_bucket(str(path), region), read_only=read_only)
    _check_folder(local, must_exist=read_only)
    return LocalStore(local, read_only=read_only)


def open_objects(path: str | Path, region: str | None = DEFAULT_REGION) -> ObjectStore:
    """Open the place of a store for single objects, which are written whole or not at all.

    Takes and raises what `open_store` does.
    """
    from obstore.store import LocalStore

    local = local_path(path)
    if local is None:
        return _bucket(str(path), region)
    _check_folder(local, must_exist=False)
    return LocalStore(local, mkdir=True)


def normalise(path: str | Path) -> str:
    """Return a local path made absolute (so that worker processes agree on it), or the URL."""
    local = local_path(path)
    return str(path).rstrip("/") if local is None else str(local.resolve())


def local_path(path: str | Path) -> Path | None:
    """Return the local path that a path or ``file://`` URL stands for, or None for other URLs."""
    if "://" not in str(path):
        return Path(path).expanduser()
    parts = urlsplit(str(path))
    return Path(parts.path) if parts.scheme == "file" else None


def object_names(objects: ObjectStore, folder: str | None = None) -> list[str]:
    """Return the names of all objects in a folder of a store, or in all of it."""
    return [meta["path"] for batch in objects.list(prefix=folder) for meta in batch]


def remove_objects(objects: ObjectStore, *names: str) -> None:
    """Delete objects, of which some may be gone already."""
    for name in names:
        with suppress(FileNotFoundError):
            objects.delete(name)


def remove_together(objects: ObjectStore, names: list[str]) -> None:
    """Delete objects in few requests, though some may be gone already."""
    try:
        if names:
            objects.delete(names)
    except FileNotFoundError:  # a bucket does not tell, a folder does and stops there
        remove_objects(objects, *names)


@contextmanager
def told_of(path: str | Path) -> Iterator[None]:
    """Turn what obstore raises about a bucket into an error that names the store."""
    from obstore import exceptions

    try:
        yield
    except exceptions.BaseError as error:
        text = reason(error)
        denied = (exceptions.UnauthenticatedError, exceptions.PermissionDeniedError)
        expired = text.endswith("ExpiredToken")  # which S3 answers with 400
        what = "access denied; check the credentials"
        if not isinstance(error, denied) and not expired:
            what = "the bucket cannot be used; check its name and the network"
            if _ASKED_THE_MACHINE.search(text):
                what = "no AWS credentials; set AWS_PROFILE or AWS_ACCESS_KEY_ID"
        raise StoreError(f"{path}: {what} ({text})") from error


def _bucket(url: str, region: str | None) -> S3Store:
    scheme, bucket, prefix, *_ = urlsplit(url)
    if scheme != "s3":
        raise StoreError(f"{url}: a store is a local path or s3://bucket/prefix")
    if not bucket or not prefix.strip("/"):
        raise StoreError(f"{url}: name a bucket and a prefix, as in s3://bucket/prefix")
    return open_bucket(bucket, prefix.strip("/"), region)


def _check_folder(path: Path, *, must_exist: bool) -> None:
    if path.exists() and not path.is_dir():
        raise StoreError(f"{path} is a file; a store is a folder")
    if must_exist and not path.exists():
        raise StoreNotFoundError(f"there is no store at {path}")
