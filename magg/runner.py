"""The run: plan, submit the cells, drain the futures, reduce to a summary."""

from __future__ import annotations

import queue
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import Executor, Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from magg import wire
from magg.catalog import Catalog
from magg.cell import CellResult, CellTask, failed, process_cell
from magg.config import PipelineConfig
from magg.errors import BackendError
from magg.events import CellFinished, Listener, RunFinished, RunStarted
from magg.executors.base import check_workers, make_executor
from magg.granules import GranuleRead
from magg.plan import Plan, make_plan
from magg.progress import make_listener
from magg.store.open import DEFAULT_REGION

# Submissions waiting beside those that run: enough to keep every worker busy, few enough that
# tasks are made late.
IN_FLIGHT_PER_WORKER = 2
IN_FLIGHT_UNKNOWN = 256


def run(
    config: PipelineConfig,
    *,
    catalog: str | Path | Catalog | None = None,
    store: str | Path | None = None,
    backend: str = "local",
    executor: Executor | None = None,
    max_cells: int | None = None,
    morton_cell: str | int | None = None,
    max_workers: int | None = None,
    overwrite: bool = False,
    dry_run: bool = False,
    function_name: str | None = None,
    region: str = DEFAULT_REGION,
    progress: bool | Listener | None = None,
) -> dict[str, Any]:
    """Aggregate the granules of a catalog into a store.

    Parameters
    ----------
    config : PipelineConfig
        From `magg.load_config`.
    catalog : str, Path or Catalog, optional
        Overrides ``config.catalog``.
    store : str or Path, optional
        A local path or ``s3://bucket/prefix``; overrides ``config.output.store``.
    backend : str, default "local"
        ``"local"`` (threads), ``"processes"``, or an installed backend.
    executor : concurrent.futures.Executor, optional
        Used instead of a backend, through ``submit`` alone; never shut down here.
    max_cells : int, optional
        Work on the first so many cells of the catalog only.
    morton_cell : str, optional
        Work on this cell only: a decimal Morton id of the catalog.
    max_workers : int, optional
        Cells at once; 4 threads, or a process per core, where left out.
    overwrite : bool, default False
        Start an existing store again; what it held is lost.
    dry_run : bool, default False
        Report what would be done; reads no granule and writes nothing.
    function_name : str, optional
        For backends that call a deployed function.
    region : str, default "us-west-2"
        AWS region of the store's bucket and of such a function.
    progress : bool or callable, optional
        None shows a bar in a terminal or notebook and logs elsewhere, True and False force the
        bar or silence, a callable receives every event of `magg.events`.

    Returns
    -------
    dict
        The summary: ``total_cells``, ``cells_with_data``, ``cells_empty``, ``cells_error``,
        ``cells_skipped``, ``total_obs``, ``wall_time_s``, ``store_path``, ``backend``,
        ``dry_run``, ``errors`` (one entry per failed cell: cell, type, message) and ``results``
        (one entry per cell). Returned also when cells failed.

    Raises
    ------
    ConfigError, CatalogError, StoreError, BackendError
        If the arguments are wrong, before any work starts.

    Examples
    --------
    >>> from magg import load_config, run
    >>> summary = run(load_config("atl06"), catalog="catalog.json", store="out.zarr")
    ... # doctest: +SKIP
    """
    began = time.perf_counter()
    check_workers(max_workers)
    if executor is not None and not callable(getattr(executor, "submit", None)):
        raise BackendError(
            f"executor must be a concurrent.futures.Executor, not {type(executor).__name__}"
        )
    plan = make_plan(
        config,
        catalog,
        store,
        max_cells=max_cells,
        morton_cell=morton_cell,
        region=region,
        overwrite=overwrite,
    )
    tally = Tally(plan, type(executor).__name__ if executor is not None else backend)
    options = {"function_name": function_name, "region": region}
    chosen = executor or make_executor(backend, max_workers, **options)
    try:
        if dry_run:
            return tally.dry_summary(_workers(chosen, max_workers))
        tasks = plan.tasks(plan.prepare_store(overwrite=overwrite))
        _run_cells(chosen, tasks, _in_flight(chosen, max_workers), tally, make_listener(progress))
    finally:
        if executor is None:
            # Not waiting gives control back at once on Ctrl-C; else nothing is left to wait for.
            chosen.shutdown(wait=False, cancel_futures=True)
    return tally.summary(time.perf_counter() - began)


@dataclass
class Tally:
    """What came of a run so far, and the summary of it."""

    plan: Plan
    backend: str
    results: list[CellResult] = field(default_factory=list)

    def count(self, *statuses: str) -> int:
        """Return how many cells ended in one of the states."""
        return sum(result.status in statuses for result in self.results)

    def granules(self) -> Iterator[GranuleRead]:
        """Yield what was read of each granule for each cell."""
        return (granule for result in self.results for granule in result.granules)

    def summary(self, wall_time_s: float) -> dict[str, Any]:
        """Return the summary of a run."""
        failures = [(result.cell, result.error) for result in self.results if result.error]
        return {
            "total_cells": len(self.plan.cells),
            "cells_with_data": self.count("data"),
            "cells_empty": self.count("empty"),
            "cells_error": self.count("error"),
            "cells_skipped": 0,
            "total_obs": sum(result.observations for result in self.results),
            "rows_read": sum(granule.rows_read for granule in self.granules()),
            "rows_dropped": _dropped(self.granules()),
            # Rows without a position are in no cell, so each granule's count once.
            "rows_unlocated": sum({g.granule: g.rows_unlocated for g in self.granules()}.values()),
            "wall_time_s": wall_time_s,
            "store_path": self.plan.store,
            "backend": self.backend,
            "dry_run": False,
            "errors": [
                {"cell": cell, "type": error.type, "message": error.message}
                for cell, error in failures
            ],
            "results": [_entry(result) for result in self.results],
        }

    def dry_summary(self, workers: int | None) -> dict[str, Any]:
        """Return what a dry run reports: an empty summary, the plan, and how it would run."""
        summary = self.summary(0.0) | {"dry_run": True, "max_workers": workers}
        return summary | self.plan.describe()


def _entry(result: CellResult) -> dict[str, Any]:
    return {
        "cell": result.cell,
        "status": result.status,
        "observations": result.observations,
        "children": result.children,
        "granules": len(result.granules),
        "rows_read": sum(granule.rows_read for granule in result.granules),
        "rows_dropped": _dropped(result.granules),
        "duration_s": result.duration_s,
        "error": wire.unstructure(result.error) if result.error else None,
    }


def _dropped(granules: Iterable[GranuleRead]) -> dict[str, int]:
    """Return how many rows were dropped, by reason."""
    dropped: Counter[str] = Counter()
    for granule in granules:
        dropped.update(granule.rows_dropped)
    return dict(dropped)


def _run_cells(
    executor: Executor, tasks: Iterator[CellTask], in_flight: int, tally: Tally, listen: Listener
) -> None:
    """Run all cells and tell the listener, which hears the end whatever happens."""
    began = time.perf_counter()
    listen(RunStarted(len(tally.plan.cells), 0, tally.backend, tally.plan.store))
    try:
        for result in _drain(executor, tasks, in_flight):
            tally.results.append(result)
            error = f"{result.error.type}: {result.error.message}" if result.error else None
            listen(CellFinished(result.cell, result.status, result.observations, error))
    finally:
        listen(RunFinished(tally.summary(time.perf_counter() - began)))


def _drain(executor: Executor, tasks: Iterator[CellTask], in_flight: int) -> Iterator[CellResult]:
    """Keep a bounded number of cells submitted, and yield the results as they come."""
    # A queue filled by callbacks costs the same per cell however many are waiting.
    finished: queue.SimpleQueue[Future[CellResult]] = queue.SimpleQueue()
    waiting: dict[Future[CellResult], CellTask] = {}

    def submit(task: CellTask) -> Iterator[CellResult]:
        try:
            future = executor.submit(process_cell, task)
        except Exception as error:  # noqa: BLE001 - a broken executor must not lose the summary
            yield failed(task.cell, error)
            return
        waiting[future] = task
        future.add_done_callback(finished.put)

    try:
        while True:
            while len(waiting) < in_flight and (task := next(tasks, None)) is not None:
                yield from submit(task)
            if not waiting:
                return
            future = finished.get()
            yield _result(future, waiting.pop(future))
    finally:
        for future in waiting:
            future.cancel()


def _result(future: Future[CellResult], task: CellTask) -> CellResult:
    try:
        return future.result()
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # noqa: BLE001 - executors hand on whatever was raised
        return failed(task.cell, error)


def _workers(executor: Executor, max_workers: int | None) -> int | None:
    known = getattr(executor, "_max_workers", None)
    return max_workers or (known if isinstance(known, int) else None)


def _in_flight(executor: Executor, max_workers: int | None) -> int:
    workers = _workers(executor, max_workers)
    return IN_FLIGHT_UNKNOWN if workers is None else IN_FLIGHT_PER_WORKER * workers
