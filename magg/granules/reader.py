"""The rows of one parent cell, out of several granules, without those that do not count."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from magg.config import Column, DataSource
from magg.errors import ConfigError, GridError
from magg.granules.beams import BeamLayout
from magg.granules.layout import GranuleLayout
from magg.granules.visits import Request, Visit, visits
from magg.grid import Grid, Words, child_indices, nested_ids, prefixes, words_of


@dataclass(frozen=True)
class GranuleRead:
    """What was read of one granule for one parent cell: plain data.

    Parameters
    ----------
    granule : str
        Path or URL, without a signature.
    rows_read : int
        Rows of the granule in the cell.
    rows_used : int
        Those that are observations.
    rows_dropped : dict of str to int
        The others, each counted once: ``"quality"`` failed the quality filter, ``"missing"``
        passed it and lacks the value of a used column.
    rows_unlocated : int
        Rows of the whole granule without a valid position, which are in no cell. Of a remote
        granule without a layout, rows whose longitude alone is missing count only where their
        latitude is one of the cell's, because no other longitudes are read.
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
    granules are read one after the other in the calling thread (cells run beside each other).
    Remote ones are read together, by the threads that all cells of this process share (see
    `magg.granules.pool`): with a layout in one round trip, else in three (eight where metadata lie
    scattered), and then all latitudes are read to find the rows that the cell may hold.

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
    Memory: the result and one more copy of its largest column, and what is on its way: of local
    granules one at a time (40 bytes a row in the cell, and a span of 8 MiB), of remote ones what
    ``MAGG_READ_MEMORY`` allows (256 MiB in this process by default), however many there are.
    """
    request = Request(cell, grid, source, _used_columns(columns, source), layouts or {})
    _check_cell(cell, grid)
    child: list[NDArray[Any]] = [child_indices(np.zeros(0, dtype=np.uint64), grid)]
    values: dict[str, list[NDArray[Any]]] = {name: [] for name in request.columns}
    reads = []
    for visit in visits(granules, request):
        parts = [_part(*beam, request) for beam in visit.beams()]
        reads.append(_summary(visit, parts))
        child += [part.child for part in parts]
        for name, pieces in values.items():
            pieces += [part.columns[name] for part in parts]
    # One column after the other, so that no second copy of all of them exists.
    whole = {name: _joined(values.pop(name)) for name in request.columns}
    return Rows(np.concatenate(child), whole), reads


def _joined(pieces: list[NDArray[Any]]) -> NDArray[Any]:
    """Join the pieces that have rows: the others have no say about the dtype."""
    return np.concatenate([piece for piece in pieces if len(piece)] or pieces[:1] or [np.zeros(0)])


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


def _part(
    beam: BeamLayout, values: Mapping[str, NDArray[Any]], words: Words, request: Request
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


def _summary(visit: Visit, parts: list[_Part]) -> GranuleRead:
    return GranuleRead(
        granule=visit.opened.name,
        rows_read=sum(part.rows_read for part in parts),
        rows_used=sum(len(part.child) for part in parts),
        rows_dropped={
            reason: sum(part.dropped[reason] for part in parts) for reason in ("quality", "missing")
        },
        rows_unlocated=visit.unlocated,
        beams=tuple(part.beam for part in parts if part.rows_read),
        stale=visit.stale,
    )
