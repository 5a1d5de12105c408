"""What a worker must know of the granules of one cell, packed into text that travels in its task.

Of each granule only the runs of rows in the cell, and the chunks that hold them, of the datasets
that the statistics use. Both ends take the names from the config, so that the text is but numbers:
JSON, deflated, in base 64. ``[version, kinds, granules]``, where a granule is ``null`` (nothing is
known), a number (it has no row in the cell, and so many without a position), or ``[size, etag,
unlocated, beams]`` with beams ``[number, rows, starts, lengths, kinds, gaps, sizes, masks]``.
"""

from __future__ import annotations

import base64
import binascii
import json
import zlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from magg.config import DataSource
from magg.granules.beams import BeamLayout
from magg.granules.datasets import DatasetLayout, overridden
from magg.granules.entries import BeamEntry, GranuleEntry, paths_of
from magg.granules.entrytext import (
    EntryError,
    check_runs,
    check_table,
    chunks_of,
    gaps_of,
    integers,
    model_of,
    model_to_plain,
    natural,
    text_of,
)
from magg.granules.layout import GranuleLayout
from magg.granules.reader import GranuleRead

VERSION = 1
# A chunk that the cell does not need: reading there fails, as it must.
ELSEWHERE = -2
_LARGEST_TEXT = 64 << 20
_MOST_CHUNKS = 1 << 22


@dataclass(frozen=True, eq=False)
class Known:
    """What is known of the granules of a cell before they are opened.

    Parameters
    ----------
    layouts : dict of str to GranuleLayout
        Narrowed to the cell.
    empty : dict of str to int
        Granules without a row in the cell, and their rows without a valid position.
    """

    layouts: dict[str, GranuleLayout]
    empty: dict[str, int]

    def reads_without_rows(self) -> dict[str, GranuleRead]:
        """Return what reading the granules without rows would tell."""
        nothing = {"quality": 0, "missing": 0}
        return {
            granule: GranuleRead(granule, 0, 0, dict(nothing), unlocated, ())
            for granule, unlocated in self.empty.items()
        }


def is_without_rows(
    entry: GranuleEntry | None, cell: int, source: DataSource, columns: Collection[str]
) -> bool:
    """Tell whether it is certain that a granule has nothing to be read for a parent cell."""
    paths = paths_of(source, columns)
    return entry is not None and all(
        _is_known(beam, source, paths) and not _length(beam.runs(cell))
        for beam in entry.beams
        if beam.name in source.groups
    )


def pack(
    entries: Sequence[GranuleEntry | None],
    cell: int,
    source: DataSource,
    columns: Collection[str],
) -> str:
    """Return as text what a worker must know of the granules of a cell.

    Parameters
    ----------
    entries : sequence of GranuleEntry or None
        One for each granule, in the order of the task.
    cell : int
        Morton word of the parent cell.
    source : DataSource
    columns : collection of str
        The columns that the statistics use.
    """
    paths = paths_of(source, columns)
    numbers: dict[int, tuple[int, Any]] = {}

    def number(model: DatasetLayout) -> int:
        return numbers.setdefault(id(model), (len(numbers), model))[0]

    granules = [
        None if entry is None else _packed_granule(entry, cell, source, paths, number)
        for entry in entries
    ]
    if not any(granule is not None for granule in granules):
        return ""
    kinds = [_kind_to_plain(model) for _, model in numbers.values()]
    text = json.dumps([VERSION, kinds, granules], separators=(",", ":"))
    return base64.b64encode(zlib.compress(text.encode(), 6)).decode("ascii")


def unpack(
    text: str,
    granules: Sequence[str],
    cell: int,
    parent_order: int,
    source: DataSource,
    columns: Collection[str],
) -> Known:
    """Return what `pack` has packed.

    Parameters
    ----------
    text : str
        May come from anybody: what it says is checked, and at worst is wrong about places in the
        granules.
    granules : sequence of str
        As they are read.
    cell, parent_order, source, columns
        As they were for `pack`.

    Raises
    ------
    EntryError
        If it makes no sense.
    """
    if not text:
        return Known({}, {})
    try:
        version, kinds, packed = json.loads(_inflated(text))
        if version != VERSION or len(packed) != len(granules):
            raise EntryError(f"it is of version {version!r}, or of other granules")
        unpacking = _Unpacking(
            cell, parent_order, source, sorted(columns), [model_of(kind, "") for kind in kinds]
        )
        known = Known({}, {})
        for granule, each in zip(granules, packed, strict=True):
            if isinstance(each, list):
                known.layouts[granule] = unpacking.granule(granule, *each)
            elif each is not None:
                known.empty[granule] = natural(each)
    except EntryError as error:
        raise EntryError(f"the layouts that came with the cell make no sense: {error}") from None
    except (KeyError, IndexError, TypeError, ValueError, OverflowError, RecursionError) as error:
        raise EntryError(
            f"the layouts that came with the cell make no sense ({type(error).__name__}: {error})"
        ) from None
    return known


def _packed_granule(
    entry: GranuleEntry, cell: int, source: DataSource, paths: Sequence[str], number: Any
) -> Any:
    beams, unlocated = [], 0
    for index, name in enumerate(source.groups):
        beam = next((beam for beam in entry.beams if beam.name == name), None)
        if beam is None:
            continue
        unlocated += beam.unlocated
        if not _is_known(beam, source, paths):
            return None  # what is wrong with it is the reader's to say
        runs = beam.runs(cell)
        if _length(runs):
            packed = _packed_beam(index, beam, runs, paths, number)
            if packed is None:
                return None
            beams.append(packed)
    return [entry.size, entry.etag, unlocated, beams] if beams else unlocated


def _length(runs: slice) -> int:
    return int(runs.stop - runs.start)


def _is_known(beam: BeamEntry, source: DataSource, paths: Sequence[str]) -> bool:
    """Tell whether all datasets that are needed are in the entry, and in order."""
    models = {kind.path: kind.model for kind in beam.kinds}
    if any(path in beam.problems or path not in models for path in paths):
        return False
    quality = None if source.quality_filter is None else models[source.quality_filter.dataset]
    return quality is None or quality.numeric


def _packed_beam(
    index: int, beam: BeamEntry, runs: slice, paths: Sequence[str], number: Any
) -> list[Any] | None:
    starts, stops = beam.starts[runs], beam.stops[runs]
    tables = {kind.path: (kind, chunks) for kind, chunks in beam.tables()}
    kinds, places = [], []
    for path in paths:
        kind, chunks = tables[path]
        if kind.model is None:
            return None
        kinds.append(number(kind.model))
        if kind.model.direct:
            places.append(chunks.start + _chunks_with(starts, stops, kind.model.chunk_rows))
    place = np.concatenate([np.zeros(0, dtype=np.int64), *places])
    gaps, sizes = gaps_of(beam.offsets[place], beam.sizes[place])
    masks = beam.masks[place]
    return [
        index,
        beam.rows,
        starts.tolist(),
        (stops - starts).tolist(),
        kinds,
        gaps,
        sizes,
        masks.tolist() if masks.any() else 0,
    ]


def _chunks_with(starts: Any, stops: Any, chunk_rows: int) -> Any:
    """Return the numbers of the chunks that hold runs of rows, ascending."""
    ranges = [
        np.arange(start // chunk_rows, -(-stop // chunk_rows))
        for start, stop in zip(starts.tolist(), stops.tolist(), strict=True)
    ]
    return ranges[0] if len(ranges) == 1 else np.unique(np.concatenate(ranges))


def _kind_to_plain(model: DatasetLayout) -> Mapping[str, Any]:
    plain = model_to_plain(model)
    return {name: value for name, value in plain.items() if value not in ([], [None, None], None)}


def _inflated(text: str) -> bytes:
    inflater = zlib.decompressobj()
    try:
        data = inflater.decompress(base64.b64decode(text, validate=True), _LARGEST_TEXT)
    except (zlib.error, binascii.Error) as error:
        raise EntryError(str(error)) from None
    if inflater.unconsumed_tail or not inflater.eof:
        raise EntryError("it is cut off, or too long")
    return data


class _Unpacking:
    """The way from numbers to layouts, with a bound on the chunks of all of them."""

    def __init__(
        self,
        cell: int,
        parent_order: int,
        source: DataSource,
        columns: Sequence[str],
        models: list[DatasetLayout],
    ) -> None:
        self._cell, self._order, self._source, self._columns = cell, parent_order, source, columns
        self._models, self._paths = models, paths_of(source, columns)
        self._chunks = 0

    def granule(
        self, granule: str, size: Any, etag: Any, unlocated: Any, beams: Any
    ) -> GranuleLayout:
        """Return the layout of one granule."""
        natural(size)
        return GranuleLayout(
            granule=granule,
            size=size,
            etag=text_of(etag),
            parent_order=self._order,
            beams=tuple(self._beam(size, *beam) for beam in beams),
            unlocated=natural(unlocated),
        )

    def _beam(
        self,
        limit: int,
        index: Any,
        rows: Any,
        starts: Any,
        lengths: Any,
        kinds: Any,
        gaps: Any,
        sizes: Any,
        masks: Any,
    ) -> BeamLayout:
        name, first = self._source.groups[natural(index)], integers(starts)
        last = first + integers(lengths)
        check_runs(first, last, natural(rows))
        if not len(first) or len(kinds) != len(self._paths):
            raise EntryError("a beam has no runs, or other datasets than the config")
        offsets, lengths_ = chunks_of(gaps, sizes, limit)
        skipped = integers(masks) if masks else np.zeros(len(offsets), dtype=np.int64)
        datasets, at = {}, 0
        for path, kind in zip(self._paths, kinds, strict=True):
            model = self._models[natural(kind)]
            check_table(-(-rows // model.chunk_rows))
            here = _chunks_with(first, last, model.chunk_rows) if model.direct else first[:0]
            part = slice(at, at + len(here))
            at = part.stop
            datasets[path] = self._filled(
                model,
                path.replace("{group}", name),
                rows,
                here,
                (offsets[part], lengths_[part], skipped[part]),
            )
        if not at == len(offsets) == len(skipped):
            raise EntryError("a beam has other chunks than its datasets")
        return self._layout(name, rows, datasets, first, last)

    def _filled(
        self, model: DatasetLayout, path: str, rows: int, here: Any, known: Sequence[Any]
    ) -> DatasetLayout:
        """Return a layout with its rows and its chunk table, of which only a part is known."""
        count = -(-rows // model.chunk_rows) if model.direct else 0
        self._chunks += count
        if self._chunks > _MOST_CHUNKS or len(here) != len(known[0]):
            raise EntryError("there are too many chunks, or too few")
        tables: list[NDArray[Any]] = [np.full(count, ELSEWHERE), np.zeros(count, np.int64)]
        tables.append(np.zeros(count, np.uint32))
        for table, part in zip(tables, known, strict=True):
            table[here] = part
        return replace(
            model,
            path=path,
            shape=(rows, *model.shape[1:]),
            offsets=tables[0],
            sizes=tables[1],
            masks=tables[2],
        )

    def _layout(
        self, name: str, rows: int, datasets: dict[str, DatasetLayout], first: Any, last: Any
    ) -> BeamLayout:
        source = self._source
        quality = source.quality_filter
        columns = {column: source.columns[column] for column in self._columns}
        return BeamLayout(
            name=name,
            rows=rows,
            latitude=datasets[source.coordinates.latitude],
            longitude=datasets[source.coordinates.longitude],
            quality=None if quality is None else datasets[quality.dataset],
            datasets={
                key: overridden(datasets[column.path], column) for key, column in columns.items()
            },
            problems={},
            cells=np.full(len(first), self._cell, dtype=np.uint64),
            starts=first,
            stops=last,
        )
