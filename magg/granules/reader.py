"""The rows of one parent cell, out of several granules, without those that do not count."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from magg.config import Column, DataSource
from magg.errors import ConfigError, GridError
from magg.granules.beams import BeamLayout, dataset_error, located
from magg.granules.bytesource import ByteSource
from magg.granules.datasets import DatasetLayout
from magg.granules.layout import GranuleLayout, layout_of
from magg.granules.ranges import RangeRead, Want
from magg.granules.sources import is_remote, open_source
from magg.granules.words import kept_words
from magg.grid import Grid, Words, child_indices, nested_ids, prefixes, words_of

# Requests in flight for one cell: enough to hide the latency of a store.
REMOTE_THREADS = 32


@dataclass(frozen=True)
class GranuleRead:
    """What was read of one granule for one parent cell: plain data.

    Parameters
    ----------
    granule : str
        Path or URL.
    rows_read : int
        Rows of the granule in the cell.
    rows_used : int
        Those that are observations.
    rows_dropped : dict of str to int
        The others, each counted once: ``"quality"`` failed the quality filter, ``"missing"``
        passed it and lacks the value of a used column.
    rows_unlocated : int
        Rows of the whole granule without a valid position, which are in no cell.
    beams : tuple of str
        Beams that had rows in the cell.
    stale : bool
        The layout that was given for the granule was of another version of it, and not used.
    """

    granule: str
    rows_read: int
    rows_used: int
    rows_dropped: dict[str, int]
    rows_unlocated: int
    beams: tuple[str, ...]
    stale: bool = False


@dataclass(frozen=True, eq=False)
class Rows:
    """The observations of one parent cell.

    Parameters
    ----------
    child : ndarray of uint16 or uint32, shape (rows,)
        Place of the child cell within the parent cell (see `magg.grid.child_indices`).
    columns : dict of str to ndarray, shape (rows,) each
        In the stored dtype and native byte order. A column with ``missing="keep"`` holds NaN
        where a value is missing, and is float64 if integers are stored.
    """

    child: NDArray[np.uint16] | NDArray[np.uint32]
    columns: dict[str, NDArray[Any]]


def read_rows(
    granules: Sequence[str],
    cell: int,
    grid: Grid,
    source: DataSource,
    columns: Collection[str],
    *,
    layouts: Mapping[str, GranuleLayout] | None = None,
) -> tuple[Rows, list[GranuleRead]]:
    """Read the observations of one parent cell.

    Rows come in the order of the granules, then of the config's beams, then of the file. Local
    granules are read one after the other in the calling thread (cells run beside each other);
    ranges of remote ones all together in a pool of 32 threads.

    Parameters
    ----------
    granules : sequence of str
        Paths or URLs.
    cell : int
        Morton word of the parent cell.
    grid : Grid
    source : DataSource
    columns : collection of str
        The columns that are used. Others are not read, and do not decide about rows.
    layouts : mapping of str to GranuleLayout, optional
        What is known of granules, made with the same ``source`` and the parent order of ``grid``.
        A layout may be narrowed to the cell: chunk tables that hold what the cell's runs need.
        Where the granule turns out to be another than the layout's, by its size or ETag, the
        layout is derived from the granule anew, and ``GranuleRead.stale`` says so.

    Returns
    -------
    rows : Rows
    reads : list of GranuleRead
        One for each granule.

    Raises
    ------
    GranuleNotFoundError
        If a granule is not there.
    GranuleError
        If one cannot be read, or a beam lacks a dataset that is needed.
    ConfigError
        If a column is not in the config.
    GridError
        If ``cell`` is no Morton word of the parent order.

    Notes
    -----
    Memory: twice the result, and the rows of two granules in the cell (40 bytes each with two
    float32 columns; of all granules if they are remote) and a span of 8 MiB for each that is read.
    """
    request = _Request(cell, grid, source, _used_columns(columns, source), layouts or {})
    _check_cell(cell, grid)
    parts, reads = [], []
    for visit in _visits(granules, request):
        of_granule = [_part(*beam, request) for beam in visit.beams()]
        parts += of_granule
        reads.append(_summary(visit, of_granule))
    none = child_indices(np.zeros(0, dtype=np.uint64), grid)
    rows = Rows(
        child=np.concatenate([none, *(part.child for part in parts)]),
        columns={
            name: np.concatenate([part.columns[name] for part in parts] or [np.zeros(0)])
            for name in request.columns
        },
    )
    return rows, reads


@dataclass(frozen=True, eq=False)
class _Request:
    """What is wanted of every granule."""

    cell: int
    grid: Grid
    source: DataSource
    columns: dict[str, Column]
    layouts: Mapping[str, GranuleLayout]


@dataclass(frozen=True, eq=False)
class _Visit:
    """One open granule and the ranges that the cell needs of it."""

    opened: ByteSource
    layout: GranuleLayout
    stale: bool
    paths: list[tuple[BeamLayout, list[str], Words | None]]
    ranges: RangeRead

    def beams(self) -> Iterator[tuple[BeamLayout, dict[str, NDArray[Any]], Words]]:
        """Yield each beam with the values of its datasets by path."""
        arrays = iter(self.ranges.arrays)
        for beam, paths, words in self.paths:
            values = {path: next(arrays) for path in paths}
            if words is None:
                words = located(beam, values[beam.latitude.path], values[beam.longitude.path])
            yield beam, values, words


@dataclass(frozen=True, eq=False)
class _Part:
    """The observations of one beam, and how many rows were none."""

    beam: str
    child: NDArray[Any]
    columns: dict[str, NDArray[Any]]
    rows_read: int
    dropped: dict[str, int]


def _used_columns(columns: Collection[str], source: DataSource) -> dict[str, Column]:
    known = source.columns
    if unknown := sorted(set(columns) - set(known)):
        raise ConfigError(
            f"no such column in data_source.variables: {', '.join(unknown)}; "
            f"there are {', '.join(known)}"
        )
    return {name: column for name, column in known.items() if name in columns}


def _check_cell(cell: int, grid: Grid) -> None:
    """Refuse a word of another order, of which no granule would ever have rows."""
    order = grid.parent_order
    nested = nested_ids(np.asarray([cell], dtype=np.uint64), order)
    if not (nested < 12 * 4**order).all() or int(words_of(nested, order)[0]) != cell:
        raise GridError(f"{cell} is not the Morton word of a cell of order {order}")


def _visits(granules: Sequence[str], request: _Request) -> Iterator[_Visit]:
    """Yield the granules in order, each with its ranges read."""
    if any(is_remote(granule) for granule in granules):
        yield from _read_together(granules, request)
        return
    for granule in granules:
        visit = _visit(granule, request)
        with visit.opened:
            visit.ranges.finish()
            visit.opened.check_unchanged()
            yield visit


def _read_together(granules: Sequence[str], request: _Request) -> Iterator[_Visit]:
    """Read the ranges of all granules at once, so that their latencies overlap."""
    visits: list[Future[_Visit]] = []
    with ThreadPoolExecutor(REMOTE_THREADS, thread_name_prefix="magg-read") as pool:
        try:
            visits = [pool.submit(_visit, granule, request) for granule in granules]
            pending = [[pool.submit(job) for job in visit.result().ranges.jobs] for visit in visits]
            for visit, jobs in zip(visits, pending, strict=True):
                for job in jobs:
                    job.result()
                visit.result().opened.check_unchanged()
                yield visit.result()
        finally:
            pool.shutdown(cancel_futures=True)
            for visit in visits:
                if not visit.cancelled() and visit.exception() is None:
                    visit.result().opened.close()


def _visit(granule: str, request: _Request) -> _Visit:
    """Open a granule and plan what to read of it."""
    opened = open_source(granule)
    try:
        given = request.layouts.get(granule)
        layout, stale = given, False
        if layout is None or (layout.size, layout.etag) != (opened.size, opened.etag):
            stale = given is not None
            layout = layout_of(opened, request.source, request.grid.parent_order)
        paths, wants = [], []
        for beam in layout.beams:
            starts, stops = beam.runs(request.cell)
            words = kept_words(opened, beam)
            if words is not None:
                runs = [words[start:stop] for start, stop in zip(starts, stops, strict=True)]
                words = np.concatenate([words[:0], *runs])
            datasets = _needed(granule, beam, request, coordinates=words is None)
            paths.append((beam, list(datasets), words))
            wants += [Want(beam.name, dataset, starts, stops) for dataset in datasets.values()]
        return _Visit(opened, layout, stale, paths, RangeRead(opened, wants))
    except BaseException:
        opened.close()
        raise


def _needed(
    granule: str, beam: BeamLayout, request: _Request, *, coordinates: bool
) -> dict[str, DatasetLayout]:
    """Return the datasets to read, by path: columns may share one."""
    wanted = [column.path for column in request.columns.values()]
    if request.source.quality_filter:
        wanted.append(request.source.quality_filter.dataset)
    for path in (template.replace("{group}", beam.name) for template in wanted):
        if path in beam.problems:
            raise dataset_error(granule, beam.name, path, beam.problems[path])
    datasets = [beam.datasets[name] for name in request.columns]
    if coordinates:
        datasets += [beam.latitude, beam.longitude]
    if beam.quality is not None:
        datasets.append(beam.quality)
    return {dataset.path: dataset for dataset in datasets}


def _part(
    beam: BeamLayout, values: Mapping[str, NDArray[Any]], words: Words, request: _Request
) -> _Part:
    """Select the observations: rows in the cell, of good quality, without missing values."""
    order = request.grid.parent_order
    rows = np.flatnonzero(prefixes(words, order) == prefixes(np.uint64(request.cell), order))
    rows_read = len(rows)
    if beam.quality is not None and request.source.quality_filter is not None:
        rows = rows[_passes(values[beam.quality.path][rows], request.source.quality_filter.value)]
    good = len(rows)
    absent = np.zeros(good, dtype=bool)
    columns = {}
    for name, column in request.columns.items():
        dataset = beam.datasets[name]
        columns[name] = values[dataset.path][rows]
        missing = dataset.is_missing(columns[name])
        if column.missing == "keep":
            columns[name] = _with_nan(columns[name], missing)
        else:
            absent |= missing
    if absent.any():
        rows, columns = rows[~absent], {name: kept[~absent] for name, kept in columns.items()}
    return _Part(
        beam=beam.name,
        child=child_indices(words[rows], request.grid),
        columns=columns,
        rows_read=rows_read,
        dropped={"quality": rows_read - good, "missing": good - len(rows)},
    )


def _passes(quality: NDArray[Any], accepted: float | tuple[float, ...]) -> NDArray[np.bool_]:
    values = accepted if isinstance(accepted, tuple) else (accepted,)
    good = np.zeros(len(quality), dtype=bool)
    for value in values:
        good |= quality == value
    return good


def _with_nan(values: NDArray[Any], missing: NDArray[np.bool_]) -> NDArray[Any]:
    """Return the values, as floats, with NaN where they are missing."""
    if values.dtype.kind in "iu":
        values = values.astype(np.float64)
    if missing.any():
        values[missing] = np.nan
    return values


def _summary(visit: _Visit, parts: list[_Part]) -> GranuleRead:
    return GranuleRead(
        granule=visit.layout.granule,
        rows_read=sum(part.rows_read for part in parts),
        rows_used=sum(len(part.child) for part in parts),
        rows_dropped={
            reason: sum(part.dropped[reason] for part in parts) for reason in ("quality", "missing")
        },
        rows_unlocated=visit.layout.unlocated,
        beams=tuple(part.beam for part in parts if part.rows_read),
        stale=visit.stale,
    )
