"""What must be known of an HDF5 dataset to read its rows as byte ranges, and which values count.

h5py reads this once; after that no HDF5 library is needed for the common storage (one dimension,
chunked or contiguous, integers or floats, gzip, shuffle and fletcher32). Anything else is marked
as not direct, and h5py reads its rows.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from magg.config import Column

GZIP, SHUFFLE, FLETCHER32 = 1, 2, 3
DIRECT_FILTERS = frozenset({GZIP, SHUFFLE, FLETCHER32})
# A contiguous dataset is read like a chunked one without filters, in pieces of this many rows.
CONTIGUOUS_ROWS = 8192
TEXT_ATTRIBUTES = ("units", "long_name", "standard_name")
UNALLOCATED = -1


@dataclass(frozen=True, slots=True, eq=False)
class DatasetLayout:
    """Where the values of a dataset are in the file, and which of them are no values.

    Parameters
    ----------
    path : str
        Inside the granule.
    dtype : numpy.dtype
        As stored, with the byte order of the file.
    shape : tuple of int
        The first length is the number of rows.
    direct : bool
        Whether the chunk table below suffices; if not, the table is empty and h5py reads the rows.
    chunked : bool
        Chunks are stored whole; the last piece of a contiguous dataset is as short as its rows.
    chunk_rows : int
    filters : tuple of int
        HDF5 filter ids in the order in which they were applied.
    offsets, sizes : ndarray of int64, shape (chunks,)
        Place and length in the file in bytes; offset -1 where a chunk was never written.
    masks : ndarray of uint32, shape (chunks,)
        Bit i is set where filter i was skipped.
    fill : numpy scalar
        Value of the rows of a chunk that was never written.
    missing : ndarray, shape (k,)
        Values, in the stored dtype, that mean "no value".
    valid : tuple
        Least and greatest valid value, None where unlimited.
    attributes : dict of str to str
        Texts about the dataset: ``units``, ``long_name``, ``standard_name``, where present.
    """

    path: str
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    direct: bool
    chunked: bool
    chunk_rows: int
    filters: tuple[int, ...]
    offsets: NDArray[np.int64]
    sizes: NDArray[np.int64]
    masks: NDArray[np.uint32]
    fill: Any
    missing: NDArray[Any]
    valid: tuple[float | None, float | None]
    attributes: dict[str, str]

    @property
    def rows(self) -> int:
        """Number of rows."""
        return self.shape[0]

    @property
    def row_bytes(self) -> int:
        """Bytes of a row in memory."""
        return self.dtype.itemsize * math.prod(self.shape[1:])

    @property
    def numeric(self) -> bool:
        """Whether a row is one number."""
        return len(self.shape) == 1 and self.dtype.kind in "iufb"

    def stored_rows(self, chunk: int) -> int:
        """Return how many rows the bytes of a chunk hold."""
        if self.chunked:
            return self.chunk_rows
        return min(self.chunk_rows, self.rows - chunk * self.chunk_rows)

    def is_missing(self, values: NDArray[Any]) -> NDArray[np.bool_]:
        """Tell which values are a fill value, not finite, or outside the valid range.

        Parameters
        ----------
        values : ndarray, shape (n, ...)
            Rows of this dataset.

        Returns
        -------
        ndarray of bool, shape (n,)
            Of a row of several values: whether any is missing.
        """
        if values.dtype.kind not in "iuf":
            return np.zeros(len(values), dtype=bool)
        absent = ~np.isfinite(values) if values.dtype.kind == "f" else np.zeros(values.shape, bool)
        low, high = self.valid
        for fill in self.missing:
            absent |= values == fill
        with np.errstate(over="ignore"):  # a limit beyond the range of the dtype limits nothing
            if low is not None:
                absent |= values < low
            if high is not None:
                absent |= values > high
        return np.asarray(absent.any(axis=tuple(range(1, absent.ndim))))


def describe(dataset: Any, file: Any, column: Column) -> DatasetLayout:
    """Read the layout and the attributes of a dataset.

    Parameters
    ----------
    dataset : h5py.Dataset
        Of at least one dimension.
    file : h5py.File
        The file through which it was reached.
    column : Column
        What the config says about it, before the attributes.
    """
    plist = dataset.id.get_create_plist()
    filters = tuple(plist.get_filter(i)[0] for i in range(plist.get_nfilters()))
    plain = _is_plain(dataset, file, plist, filters)
    chunked = dataset.chunks is not None
    table = _chunk_table(dataset, filters, chunked) if plain else None
    offsets, sizes, masks = table or _empty_table()
    low, high = _valid_range(dataset, column)
    fill = dataset.fillvalue if plain or dataset.dtype.kind in "iuf" else None
    return DatasetLayout(
        path=column.path,
        dtype=dataset.dtype,
        shape=tuple(dataset.shape),
        direct=table is not None,
        chunked=chunked,
        chunk_rows=dataset.chunks[0] if chunked else CONTIGUOUS_ROWS,
        filters=filters,
        offsets=offsets,
        sizes=sizes,
        masks=masks,
        fill=fill if plain else None,
        missing=_missing_values(dataset, plist, fill, column),
        valid=(low, high),
        attributes=_texts(dataset),
    )


def overridden(dataset: DatasetLayout, column: Column) -> DatasetLayout:
    """Return a layout that holds the file's own word, with what the config says in its place."""
    low, high = dataset.valid
    changes: dict[str, Any] = {
        "valid": (
            low if column.valid_min is None else column.valid_min,
            high if column.valid_max is None else column.valid_max,
        )
    }
    if column.fill_value is not None and dataset.dtype.kind in "iuf":
        changes["missing"] = _as_stored([column.fill_value], dataset.dtype)
    return replace(dataset, **changes)


def _is_plain(dataset: Any, file: Any, plist: Any, filters: tuple[int, ...]) -> bool:
    """Tell whether the bytes in the file are the numbers, behind known filters at most."""
    import h5py

    return (
        dataset.ndim == 1
        and dataset.dtype.kind in "iuf"
        # 24-bit floats or padded integers have a numpy dtype too, but other bytes.
        and bool(dataset.id.get_type() == h5py.h5t.py_create(dataset.dtype))
        and plist.get_layout() in (h5py.h5d.CHUNKED, h5py.h5d.CONTIGUOUS)
        and plist.get_external_count() == 0
        and DIRECT_FILTERS.issuperset(filters)
        and dataset.file.filename == file.filename  # not behind an external link
        and file.userblock_size == 0  # some versions of HDF5 leave it out of the offsets
    )


Table = tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.uint32]]


def _empty_table() -> Table:
    none = np.zeros(0, dtype=np.int64)
    return none, none, np.zeros(0, dtype=np.uint32)


def _chunk_table(dataset: Any, filters: tuple[int, ...], chunked: bool) -> Table | None:
    """Return offsets, sizes and filter masks, or None where they cannot be trusted."""
    if not chunked:
        return _contiguous_table(dataset)
    rows, chunk_rows = dataset.shape[0], dataset.chunks[0]
    count = -(-rows // chunk_rows)
    offsets = np.full(count, UNALLOCATED, dtype=np.int64)
    sizes, masks = np.zeros(count, dtype=np.int64), np.zeros(count, dtype=np.uint32)
    for info in _stored_chunks(dataset):
        index, rest = divmod(info.chunk_offset[0], chunk_rows)
        if rest or index >= count:  # HDF5 1.14.0 counts in chunks here, not in rows
            return None
        offsets[index], sizes[index] = info.byte_offset, info.size
        masks[index] = info.filter_mask
    # HDF5 can leave the partial chunk at the end unfiltered without saying so in the mask.
    whole = chunk_rows * dataset.dtype.itemsize
    if filters and rows % chunk_rows and sizes[-1] == whole and not masks[-1]:
        return None
    return offsets, sizes, masks


def _stored_chunks(dataset: Any) -> list[Any]:
    if not dataset.id.get_num_chunks():
        return []
    if not hasattr(dataset.id, "chunk_iter"):  # HDF5 older than 1.12.3
        return [dataset.id.get_chunk_info(i) for i in range(dataset.id.get_num_chunks())]
    chunks: list[Any] = []
    dataset.id.chunk_iter(chunks.append)
    return chunks


def _contiguous_table(dataset: Any) -> Table:
    rows, itemsize = dataset.shape[0], dataset.dtype.itemsize
    firsts = np.arange(0, rows, CONTIGUOUS_ROWS, dtype=np.int64)
    sizes = np.minimum(CONTIGUOUS_ROWS, rows - firsts) * itemsize
    start = dataset.id.get_offset()
    offsets = np.full(len(firsts), UNALLOCATED) if start is None else start + firsts * itemsize
    return offsets, sizes, np.zeros(len(firsts), dtype=np.uint32)


def _missing_values(dataset: Any, plist: Any, fill: Any, column: Column) -> NDArray[Any]:
    """Return what marks a missing value: the config's word, else the attributes', else HDF5's.

    The fill property of HDF5 counts only where it was set to something other than 0: ATL06 has a
    fill of 0 on latitude and quality, where 0 is a value like any other.
    """
    import h5py

    dtype = dataset.dtype
    if dtype.kind not in "iuf":
        return np.zeros(0)
    if column.fill_value is not None:
        return _as_stored([column.fill_value], dtype)
    names = [name for name in ("_FillValue", "missing_value") if name in dataset.attrs]
    if names:
        values = [value for name in names for value in np.ravel(dataset.attrs[name])]
        return np.unique(_as_stored(values, dtype))
    if plist.fill_value_defined() == h5py.h5d.FILL_VALUE_USER_DEFINED and fill != 0:
        return np.asarray([fill], dtype=dtype)
    return np.zeros(0, dtype=dtype)


def _as_stored(values: list[Any], dtype: np.dtype[Any]) -> NDArray[Any]:
    """Return those values that the dtype can hold, in the dtype (without NaN)."""
    numbers = [value for value in values if isinstance(value, int | float | np.number)]
    numbers = [value for value in numbers if not np.isnan(value)]
    if dtype.kind == "f":
        with np.errstate(over="ignore"):
            return np.asarray(numbers, dtype=dtype)
    limits = np.iinfo(dtype)
    fitting = []
    for value in numbers:
        if isinstance(value, float | np.floating) and value == float(limits.max):
            # 2**63 - 1 is no float, so a config that names it arrives here as 2**63.
            fitting.append(int(limits.max))
        elif limits.min <= value <= limits.max and int(value) == value:
            fitting.append(int(value))
    return np.asarray(fitting, dtype=dtype)


def _valid_range(dataset: Any, column: Column) -> tuple[float | None, float | None]:
    """Return the valid range, each end from the config or else from the attributes."""
    both = _numbers(dataset, "valid_range")
    low, high = both if len(both) == 2 else (None, None)
    low = next(iter(_numbers(dataset, "valid_min")), low)
    high = next(iter(_numbers(dataset, "valid_max")), high)
    return (
        low if column.valid_min is None else column.valid_min,
        high if column.valid_max is None else column.valid_max,
    )


def _numbers(dataset: Any, name: str) -> list[Any]:
    if name not in dataset.attrs:
        return []
    values = np.ravel(dataset.attrs[name])
    return list(values.tolist()) if values.dtype.kind in "iuf" else []


def _texts(dataset: Any) -> dict[str, str]:
    found = {}
    for name in TEXT_ATTRIBUTES:
        if name not in dataset.attrs:
            continue
        values = np.ravel(dataset.attrs[name]).tolist()
        text = values[0] if values else ""
        found[name] = text.decode("utf-8", "replace") if isinstance(text, bytes) else str(text)
    return found
