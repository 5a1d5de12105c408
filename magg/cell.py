"""One parent cell: read its rows, make the statistics, write its chunks.

`process_cell` is the function that is mapped over cells on any executor. It takes and returns
plain data, and it never raises: what goes wrong with a cell is part of its result.
"""

from __future__ import annotations

import functools
import time
import traceback
from dataclasses import dataclass
from typing import Literal

import numpy as np

from magg.config import PipelineConfig, compile_statistics
from magg.granules import GranuleRead, read_rows
from magg.grid import Grid, from_decimal
from magg.statistics import aggregate
from magg.store.chunks import write_chunks

TRACEBACK_CHARACTERS = 8_000


@dataclass(frozen=True)
class CellTask:
    """What a worker needs to process one parent cell.

    Parameters
    ----------
    cell : str
        Decimal Morton id.
    granules : tuple of str
        Paths or URLs of the granules that may have rows in the cell.
    config : PipelineConfig
    grid : Grid
    store : str
        Where the store is; its template exists.
    chunk : int
        Which chunk of the store is the cell's.
    parents : int
        How many parent cells the store has.
    region : str, optional
        AWS region of the store's bucket.
    """

    cell: str
    granules: tuple[str, ...]
    config: PipelineConfig
    grid: Grid
    store: str
    chunk: int
    parents: int
    region: str | None = None


@dataclass(frozen=True)
class CellFailure:
    """Why a cell failed: plain data, whatever was raised."""

    type: str
    message: str
    traceback: str


@dataclass(frozen=True)
class CellResult:
    """What became of one parent cell.

    Parameters
    ----------
    cell : str
        Decimal Morton id.
    status : {"data", "empty", "error"}
        "empty" means that everything was read and no observation was in the cell.
    observations : int
        Rows that passed the filters.
    children : int
        Child cells with an observation.
    granules : tuple of GranuleRead
        What was read of each granule.
    duration_s : float
    error : CellFailure, optional
    """

    cell: str
    status: Literal["data", "empty", "error"]
    observations: int = 0
    children: int = 0
    granules: tuple[GranuleRead, ...] = ()
    duration_s: float = 0.0
    error: CellFailure | None = None


def process_cell(task: CellTask) -> CellResult:
    """Read, aggregate and write one parent cell.

    Parameters
    ----------
    task : CellTask

    Returns
    -------
    CellResult
        With status "error" where anything failed; then no chunk of the cell counts as done.
    """
    began = time.perf_counter()
    try:
        result = _process(task)
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # noqa: BLE001 - native libraries panic with BaseException
        return failed(task.cell, error, time.perf_counter() - began)
    return result(time.perf_counter() - began)


def failed(cell: str, error: BaseException, duration_s: float = 0.0) -> CellResult:
    """Return the result of a cell that failed."""
    text = "".join(traceback.format_exception(error))
    failure = CellFailure(
        type=type(error).__name__,
        message=str(error) or type(error).__name__,
        traceback=text[-TRACEBACK_CHARACTERS:],
    )
    return CellResult(cell, "error", duration_s=duration_s, error=failure)


def _process(task: CellTask) -> functools.partial[CellResult]:
    """Do the work, and return the result but for its duration."""
    statistics = compile_statistics(task.config)
    columns = {column for statistic in statistics.values() for column in statistic.columns}
    word = from_decimal(task.cell, task.grid.parent_order)
    rows, granules = read_rows(task.granules, word, task.grid, task.config.data_source, columns)
    values = aggregate(statistics, rows.child, rows.columns, task.grid.children)
    write_chunks(
        task.store,
        task.grid.child_order,
        task.chunk,
        values,
        version=f"{task.config.digest}:{task.parents}",
        region=task.region,
    )
    return functools.partial(
        CellResult,
        task.cell,
        "data" if len(rows.child) else "empty",
        len(rows.child),
        int(np.count_nonzero(np.bincount(rows.child))) if len(rows.child) else 0,
        tuple(granules),
    )
