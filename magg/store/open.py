"""Stores by path or URL."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from magg.errors import StoreError, StoreNotFoundError

if TYPE_CHECKING:
    from zarr.abc.store import Store

DEFAULT_REGION = "us-west-2"


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
    scheme, bucket, prefix, *_ = urlsplit(str(path))
    if "://" not in str(path) or scheme == "file":
        return _open_local(Path(prefix if scheme == "file" else path), read_only)
    if scheme != "s3":
        raise StoreError(f"{path}: a store is a local path or s3://bucket/prefix")
    if not bucket or not prefix.strip("/"):
        raise StoreError(f"{path}: name a bucket and a prefix, as in s3://bucket/prefix")
    from obstore.store import S3Store
    from zarr.storage import ObjectStore

    objects = S3Store(bucket, prefix=prefix.strip("/"), region=region)
    return ObjectStore(objects, read_only=read_only)


def normalise(path: str | Path) -> str:
    """Return a local path made absolute (so that worker processes agree on it), or the URL."""
    return str(path) if "://" in str(path) else str(Path(path).expanduser().resolve())


def _open_local(path: Path, read_only: bool) -> Store:
    from zarr.storage import LocalStore

    path = path.expanduser()
    if path.exists() and not path.is_dir():
        raise StoreError(f"{path} is a file; a store is a folder")
    if read_only and not path.exists():
        raise StoreNotFoundError(f"there is no store at {path}")
    return LocalStore(path, read_only=read_only)
