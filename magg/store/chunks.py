"""The chunks of one parent cell: written by the worker that made them."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from magg.buckets import forget_credentials
from magg.errors import StoreError
from magg.grid import to_decimal
from magg.store.open import open_store, told_of
from magg.store.schema import PARENTS

if TYPE_CHECKING:
    import zarr

# Opening the arrays of a store costs a read each; a worker meets the same store cell after cell.
GROUPS_KEPT_OPEN = 32
WRITES_AT_ONCE = 8


def write_chunks(
    path: str,
    child_order: int,
    chunk: int,
    values: Mapping[str, NDArray[Any]],
    *,
    version: str,
    region: str | None = None,
) -> None:
    """Write one chunk of every variable of the child order, each as one whole object.

    Parameters
    ----------
    path : str
        Where the store is.
    child_order : int
    chunk : int
        Which chunk along the cells axis.
    values : mapping of str to ndarray
        Variable name to the values of one chunk, shape (children,).
    version : str
        Stands for what the arrays look like; arrays opened under another version are opened anew.
    region : str, optional
        AWS region of the bucket.

    Raises
    ------
    StoreError
        If a variable cannot be written; names it.
    """
    arrays = _open_arrays(path, f"{child_order}", tuple(sorted(values)), version, region)
    for name, chunk_values in values.items():
        _write(path, arrays[name], chunk, chunk_values)


def write_coarse_chunks(
    path: str,
    chunk: int,
    values: Mapping[str, Mapping[str, NDArray[Any]]],
    *,
    version: str,
    region: str | None = None,
) -> None:
    """Write one chunk of every variable of other groups, several at a time.

    Parameters
    ----------
    path, chunk, version, region
        As `write_chunks`.
    values : mapping of str to mapping of str to ndarray
        Group to its variables. Those that the group does not have are left out.

    Raises
    ------
    StoreError
        As `write_chunks`.
    """
    writes = [
        (array, values[group][name])
        for group in values
        for name, array in _open_arrays(path, group, None, version, region).items()
        if name in values[group]
    ]
    with ThreadPoolExecutor(WRITES_AT_ONCE) as pool:
        for _ in pool.map(lambda write: _write(path, write[0], chunk, write[1]), writes):
            pass


def _write(path: str, array: zarr.Array[Any], chunk: int, values: NDArray[Any]) -> None:
    start = chunk * len(values)
    failure = f"{path}: variable {array.name.rpartition('/')[2]} cannot be written"
    try:
        with told_of(failure):
            array[start : start + len(values)] = np.asarray(values)
    except StoreError:
        raise
    except Exception as error:
        raise StoreError(f"{failure}: {error}") from error


@functools.lru_cache(maxsize=GROUPS_KEPT_OPEN)
def _open_arrays(
    path: str, place: str, names: tuple[str, ...] | None, version: str, region: str | None
) -> dict[str, zarr.Array[Any]]:
    """Return arrays of a group, all of them where no names are given."""
    import zarr

    del version  # only a part of the cache's key
    store = open_store(path, region=region)
    try:
        group = zarr.open_group(store, path=place, mode="r+")
        return dict(group.arrays()) if names is None else {name: group[name] for name in names}
    except (KeyError, FileNotFoundError) as error:
        raise StoreError(f"{path}: the store is not complete ({error}); run again") from error


def parent_of(path: str, chunk: int, region: str | None = None) -> str | None:
    """Return the decimal Morton id of the parent cell of a chunk, or None where it is nobody's."""
    import zarr

    try:
        root = zarr.open_group(open_store(path, region=region), mode="r")
        parents = np.asarray(root[PARENTS][:], dtype=np.uint64)
    except (KeyError, FileNotFoundError):
        return None
    return to_decimal(parents[chunk]) if chunk < len(parents) and parents[chunk] > 0 else None


def forget_stores() -> None:
    """Close all stores kept open, so that the next write opens them with fresh credentials."""
    _open_arrays.cache_clear()
    forget_credentials()
