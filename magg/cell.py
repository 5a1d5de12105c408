"""One parent cell: read its rows, make the statistics, write its chunks.

`process_cell` is the function that is mapped over cells on any executor. It takes and returns
plain data, and it never raises: what goes wrong with a cell is part of its result.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np

from magg.config import PipelineConfig, compile_statistics
from magg.credentials import Access, redact
from magg.errors import GranuleError
from magg.executors.retry import Kind, classify
from magg.failure import CellFailure, failure_of
from magg.granules import GranuleRead, Rows, forget_sources, read_rows, use_access
from magg.granules.packing import unpack
from magg.grid import Grid, from_decimal
from magg.statistics import Compiled, Level, aggregate, aggregate_levels, used_columns
from magg.store import coarse, records
from magg.store.chunks import forget_stores, write_chunks
from magg.store.levels import NOTHING, Holdings
from magg.store.pieces import PieceName
from magg.store.records import SkippedGranule

# One cell at a time is aggregated. That is thousands of short NumPy calls, each of which gives the
# interpreter's lock away, and threads that trade it so often take twice the CPU. And what
# aggregating needs beside rows and outputs is in memory once, whatever the number of threads.
_aggregating = threading.Lock()


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
    digest : str
        Of the inputs of the cell; see `magg.store.records.inputs_digest`.
    making : str
        Stands for the store as it is now; see `magg.store.makings`.
    on_granule_error : {"fail", "skip"}
        Whether a granule that cannot be read makes the cell an error, or is left out and named.
    region : str, optional
        AWS region of the store's bucket.
    access : Access
        What granules of Earthdata are opened with.
    coarser : Holdings
        What the store holds beside the statistics of its child cells.
    in_full : Holdings
        What of that it holds with all statistics.
    layouts : str
        What is known of the granules; see `magg.granules.packing`.
    """

    cell: str
    granules: tuple[str, ...]
    config: PipelineConfig
    grid: Grid
    store: str
    chunk: int
    parents: int
    digest: str
    making: str
    on_granule_error: Literal["fail", "skip"] = "fail"
    region: str | None = None
    access: Access = field(default_factory=Access, repr=False)
    coarser: Holdings = NOTHING
    in_full: Holdings = NOTHING
    layouts: str = field(default="", repr=False)


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
    skipped : tuple of SkippedGranule
        What could not be read and was left out, as was asked for.
    duration_s : float
    error : CellFailure, optional
    """

    cell: str
    status: Literal["data", "empty", "error"]
    observations: int = 0
    children: int = 0
    granules: tuple[GranuleRead, ...] = ()
    skipped: tuple[SkippedGranule, ...] = ()
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
        use_access(task.access)
        result = _process(task)
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # noqa: BLE001 - native libraries panic with BaseException
        result = failed(task.cell, error)
        if result.error is not None and result.error.kind is Kind.CREDENTIALS:
            # Connections keep the credentials they were opened with.
            forget_sources()
            forget_stores()
        _note_failure(task, result)
    return replace(result, duration_s=time.perf_counter() - began)


def failed(cell: str, error: BaseException, default: Kind = Kind.PERMANENT) -> CellResult:
    """Return the result of a cell that failed.

    Parameters
    ----------
    cell : str
    error : BaseException
    default : Kind
        What the failure is where the error's type does not tell.
    """
    return CellResult(cell, "error", error=failure_of(error, default))


def _process(task: CellTask) -> CellResult:
    statistics = compile_statistics(task.config)
    columns = used_columns(statistics)
    rows, granules, skipped = _read(task, columns)
    levels = _aggregate(task, statistics, rows)
    observations = len(rows.child)
    record = records.Record(
        cell=task.cell,
        digest=task.digest,
        status="partial" if skipped else "data" if observations else "empty",
        chunk=task.chunk,
        observations=observations,
        children=int(np.count_nonzero(np.bincount(rows.child))) if observations else 0,
        # That a layout was stale says nothing about the cell.
        granules=tuple(replace(granule, stale=False) for granule in granules),
        skipped=skipped,
    )
    records.write_cell(
        task.store,
        task.making,
        record,
        lambda: _write_chunks(task, levels),
        task.region,
        lambda orders, was_done: coarse.take_back(
            task.store,
            task.cell,
            task.chunk,
            task.grid,
            orders,
            statistics,
            was_done=was_done,
            region=task.region,
        ),
    )
    return CellResult(
        task.cell,
        "data" if observations else "empty",
        observations,
        record.children,
        granules,
        skipped,
    )


def _read(
    task: CellTask, columns: Collection[str]
) -> tuple[Rows, tuple[GranuleRead, ...], tuple[SkippedGranule, ...]]:
    """Read the rows of a cell; leave out unreadable granules where that was asked for."""
    word = from_decimal(task.cell, task.grid.parent_order)
    source = task.config.data_source
    known = unpack(task.layouts, task.granules, word, task.grid.parent_order, source, columns)
    granules = [granule for granule in task.granules if granule not in known.empty]
    skipped: list[SkippedGranule] = []
    while True:
        try:
            rows, read = read_rows(
                granules, word, task.grid, source, columns, layouts=known.layouts
            )
        except GranuleError as error:
            # What may pass by itself is tried again, not given up.
            passing = classify(error) is not Kind.PERMANENT
            if task.on_granule_error == "fail" or passing or error.granule not in granules:
                raise
            granules.remove(error.granule)
            skipped.append(SkippedGranule(redact(error.granule), str(error)))
        else:
            reads = dict(zip(granules, read, strict=True)) | known.reads_without_rows()
            return rows, tuple(reads[g] for g in task.granules if g in reads), tuple(skipped)


def _aggregate(task: CellTask, statistics: Mapping[str, Compiled], rows: Rows) -> list[Level]:
    """Compute the statistics of a cell at the child order, and where wanted at coarser ones."""
    grid = task.grid
    child, columns = rows.child, rows.columns
    depth = grid.child_order - grid.parent_order
    with _aggregating:
        if task.coarser == NOTHING:
            return [Level(aggregate(statistics, child, columns, grid.children))]
        return aggregate_levels(statistics, child, columns, grid.children, depth, state=True)


def _write_chunks(task: CellTask, levels: list[Level]) -> None:
    grid = task.grid
    version = f"{task.making}:{task.parents}:{sorted(task.in_full.extent)}"
    write_chunks(
        task.store,
        grid.child_order,
        task.chunk,
        levels[0].values,
        version=version,
        region=task.region,
    )
    if task.coarser != NOTHING:
        orders = [order for order in task.coarser.orders if order >= grid.parent_order]
        coarse.write_coarser(
            task.store,
            task.chunk,
            grid,
            {order: levels[grid.child_order - order].values for order in orders},
            levels[0].state if task.coarser.state else {},
            levels[-1].state,
            PieceName(task.cell, task.making, task.digest, task.in_full),
            version=version,
            region=task.region,
        )


def _note_failure(task: CellTask, result: CellResult) -> None:
    """Leave a note in the store; where even that fails, the result still tells."""
    # Threads outlive Ctrl-C until the interpreter ends under them: no fault of the cell.
    if result.error is not None and not _python_ends():
        with contextlib.suppress(Exception):
            records.write_failure(
                task.store,
                task.making,
                task.cell,
                task.digest,
                result.error.type,
                result.error.message,
                task.region,
            )


def _python_ends() -> bool:
    """Tell whether the interpreter is at its end, when threads still run but may start nothing."""
    try:
        with ThreadPoolExecutor(1) as pool:
            pool.submit(int)
    except RuntimeError:
        return True
    return False


def _forget() -> None:
    """Begin anew in a process that was forked while another thread held the lock."""
    global _aggregating
    _aggregating = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
