"""Entries of a granule index as plain data, and back with every number checked.

What is read here may have been written by anybody. Nothing in it can do more than name wrong
places in the granule; docs/granule-index.md describes it.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from magg.errors import MaggError
from magg.granules.datasets import DIRECT_FILTERS, UNALLOCATED, DatasetLayout
from magg.granules.entries import BeamEntry, GranuleEntry, Kind
from magg.grid import nested_ids, words_of

# One number of a fixed size a value.
_DTYPE = re.compile(r"[<>](f[248]|[iu][248])|\|[iub]1")
_LARGEST = 1 << 62
_MOST_CHUNKS = 1 << 20
_NONE = np.zeros(0, dtype=np.int64)

Plain = dict[str, Any]


class EntryError(MaggError, ValueError):
    """What should be an entry of a granule index makes no sense."""


def to_text(entry: GranuleEntry, parent_order: int) -> str:
    """Return an entry as one line of JSON.

    Parameters
    ----------
    entry : GranuleEntry
    parent_order : int
        Order of its cells.
    """
    numbers: dict[str, int] = {}
    beams = [_beam_to_plain(beam, parent_order, numbers) for beam in entry.beams]
    plain = {
        "granule": entry.granule,
        "size": entry.size,
        "etag": entry.etag,
        "kinds": [json.loads(text) for text in numbers],
        "beams": beams,
    }
    return json.dumps(plain, separators=(",", ":"))


def from_plain(
    plain: Mapping[str, Any], parent_order: int, known: dict[str, Kind] | None = None
) -> GranuleEntry:
    """Return the entry that a line of JSON stands for.

    Parameters
    ----------
    plain : mapping
        The parsed line.
    parent_order : int
        Order of its cells.
    known : dict, optional
        Keeps kinds of datasets, so that entries share them.

    Raises
    ------
    EntryError
        If it makes no sense.
    """
    known = {} if known is None else known
    try:
        kinds = [_kind(each, known) for each in plain["kinds"]]
        size = natural(plain["size"])
        beams = tuple(_beam(each, kinds, parent_order, size) for each in plain["beams"])
        return GranuleEntry(text_of(plain["granule"]), size, text_of(plain["etag"]), beams)
    except EntryError:
        raise
    except (KeyError, IndexError, TypeError, ValueError, OverflowError, AttributeError) as error:
        raise EntryError(f"an entry makes no sense ({type(error).__name__}: {error})") from None


def kind_to_plain(kind: Kind) -> Plain:
    """Return what datasets have in common as plain data."""
    model = kind.model
    if model is None:
        return {"path": kind.path, "dtype": None}
    plain = {"path": kind.path, "dtype": model.dtype.str, **model_to_plain(model)}
    return {name: value for name, value in plain.items() if value not in ([], [None, None])}


def model_to_plain(model: DatasetLayout) -> Plain:
    """Return a layout without rows and chunks as plain data."""
    return {
        "storage": "h5py" if not model.direct else "chunked" if model.chunked else "contiguous",
        "dtype": model.dtype.str,
        "chunk_rows": model.chunk_rows,
        "shape": list(model.shape[1:]),
        "filters": list(model.filters),
        "fill": None if model.fill is None else _number_to_plain(np.asarray(model.fill).item()),
        "missing": [_number_to_plain(value) for value in model.missing.tolist()],
        "valid": [_number_to_plain(value) for value in model.valid],
    }


def model_of(plain: Mapping[str, Any], path: str) -> DatasetLayout:
    """Return a layout without rows and chunks; raises whatever malformed data lead to."""
    if not isinstance(plain["dtype"], str) or not _DTYPE.fullmatch(plain["dtype"]):
        raise EntryError("a dataset is of a type that an index cannot hold")
    dtype, storage = np.dtype(plain["dtype"]), plain["storage"]
    filters = tuple(natural(each) for each in plain.get("filters", ()))
    direct, tail = storage != "h5py", tuple(natural(n) for n in plain.get("shape", ()))
    if storage not in ("h5py", "chunked", "contiguous"):
        raise EntryError(f"a dataset is stored as {storage!r}")
    if direct and (tail or dtype.kind == "b" or not DIRECT_FILTERS.issuperset(filters)):
        raise EntryError("a dataset cannot be read by the ranges of its chunks")
    chunk_rows = natural(plain["chunk_rows"])
    if not chunk_rows or math.prod(tail) > _MOST_CHUNKS or len(filters) > 32:
        raise EntryError("the shape of a dataset is impossible")
    fill, missing = plain.get("fill"), [_number(each) for each in plain.get("missing", ())]
    low, high = (
        each if each is None else _number(each) for each in plain.get("valid", (None,) * 2)
    )
    return DatasetLayout(
        path=path,
        dtype=dtype,
        shape=(0, *tail),
        direct=direct,
        chunked=storage == "chunked",
        chunk_rows=chunk_rows,
        filters=filters,
        offsets=_NONE,
        sizes=_NONE,
        masks=_NONE.astype(np.uint32),
        fill=None if fill is None else np.asarray(_number(fill), dtype=dtype)[()],
        missing=np.asarray(missing, dtype=dtype),
        valid=(low, high),
        attributes={},
    )


def gaps_of(offsets: NDArray[np.int64], sizes: NDArray[np.int64]) -> tuple[Any, Any]:
    """Return how far after the end of the one before each chunk begins, and the sizes.

    Chunks that were never written have size 0 and do not move the end.
    """
    stored = offsets != UNALLOCATED
    ends = np.concatenate([_NONE, [0], (offsets + sizes)[stored][:-1]])[: np.count_nonzero(stored)]
    gaps = np.zeros(len(offsets), dtype=np.int64)
    gaps[stored] = offsets[stored] - ends
    return gaps.tolist(), np.where(stored, sizes, 0).tolist()


def chunks_of(
    gaps: Sequence[int], sizes: Sequence[int], limit: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the offsets and sizes that gaps stand for, all within a granule of ``limit`` bytes."""
    lengths = integers(sizes)
    ends = np.cumsum(integers(gaps, least=-_LARGEST) + lengths)
    offsets = np.where(lengths > 0, ends - lengths, UNALLOCATED)
    wrong = (lengths < 0) | ((lengths > 0) & ((ends > limit) | (ends < lengths)))
    if wrong.any():
        raise EntryError("a chunk lies outside its granule")
    return offsets, lengths


def integers(values: Any, least: int = 0) -> NDArray[np.int64]:
    """Return a list of whole numbers of at least ``least`` as an array."""
    if not isinstance(values, list) or not all(type(value) is int for value in values):
        raise EntryError("whole numbers are wanted")
    array = np.asarray(values, dtype=np.int64)
    if array.size and (array.min() < least or array.max() > _LARGEST):
        raise EntryError("a number is out of range")
    return array


def natural(value: Any) -> int:
    """Return a whole number that is not negative."""
    if type(value) is not int or not 0 <= value <= _LARGEST:
        raise EntryError(f"{value!r} is no whole number from 0 on")
    return value


def text_of(value: Any) -> str:
    """Return text."""
    if not isinstance(value, str):
        raise EntryError(f"{value!r} is no text")
    return value


def check_runs(starts: NDArray[np.int64], stops: NDArray[np.int64], rows: int) -> None:
    """Raise `EntryError` unless runs lie within so many rows."""
    if len(starts) != len(stops) or (starts >= stops).any() or (stops > rows).any():
        raise EntryError("a run of rows is impossible")


def check_table(chunks: int) -> None:
    """Raise `EntryError` if a table has more chunks than any granule can have."""
    if chunks > _MOST_CHUNKS:
        raise EntryError("a dataset has too many chunks")


def _beam_to_plain(beam: BeamEntry, order: int, numbers: dict[str, int]) -> Plain:
    texts = [json.dumps(kind_to_plain(kind), separators=(",", ":")) for kind in beam.kinds]
    gaps, sizes = gaps_of(beam.offsets, beam.sizes)
    plain: Plain = {
        "name": beam.name,
        "rows": beam.rows,
        "unlocated": beam.unlocated,
        "cells": nested_ids(beam.cells, order).tolist(),
        "starts": beam.starts.tolist(),
        "lengths": (beam.stops - beam.starts).tolist(),
        "kinds": [numbers.setdefault(text, len(numbers)) for text in texts],
        "gaps": gaps,
        "sizes": sizes,
    }
    if beam.masks.any():
        plain["masks"] = beam.masks.tolist()
    if beam.problems:
        plain["problems"] = dict(beam.problems)
    return plain


def _beam(plain: Mapping[str, Any], kinds: list[Kind], order: int, size: int) -> BeamEntry:
    rows, nested = natural(plain["rows"]), integers(plain["cells"])
    starts = integers(plain["starts"])
    stops = starts + integers(plain["lengths"])
    check_runs(starts, stops, rows)
    if (
        len(nested) != len(starts)
        or (nested >= 12 << 2 * order).any()
        or (np.diff(nested) < 0).any()
    ):
        raise EntryError("the cells of a beam are impossible")
    offsets, sizes = chunks_of(plain["gaps"], plain["sizes"], size)
    masks = integers(plain["masks"]) if "masks" in plain else np.zeros(len(sizes), dtype=np.int64)
    used = tuple(kinds[natural(number)] for number in plain["kinds"])
    expected = sum(kind.chunks(rows) for kind in used)
    check_table(expected)
    if not expected == len(offsets) == len(masks):
        raise EntryError(f"a beam has {len(offsets)} chunks where its datasets have {expected}")
    problems = plain.get("problems", {})
    return BeamEntry(
        name=text_of(plain["name"]),
        rows=rows,
        unlocated=natural(plain["unlocated"]),
        kinds=used,
        problems={text_of(path): text_of(problem) for path, problem in problems.items()},
        cells=words_of(nested, order),
        starts=starts,
        stops=stops,
        offsets=offsets,
        sizes=sizes,
        masks=masks,
    )


def _kind(plain: Mapping[str, Any], known: dict[str, Kind]) -> Kind:
    text = json.dumps(plain, sort_keys=True)
    if text not in known:
        path = text_of(plain["path"])
        known[text] = Kind(path, None if plain["dtype"] is None else model_of(plain, path))
    return known[text]


def _number_to_plain(value: Any) -> int | float | str | None:
    """Return a number, or the name of one that JSON does not have."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return int(value) if isinstance(value, bool) else value


def _number(value: Any) -> int | float:
    if isinstance(value, str) and value in ("nan", "inf", "-inf"):
        return float(value)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise EntryError(f"{value!r} is no number")
    return value
