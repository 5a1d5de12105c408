"""The run: plan, skip what is done, drain the cells, reduce to a summary."""

from __future__ import annotations

import contextlib
import functools
import logging
import multiprocessing
import time
from collections.abc import Collection, Iterable, Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any

from magg.catalog import Catalog
from magg.cell import CellResult
from magg.config import PipelineConfig
from magg.drain import Drain, Pool
from magg.errors import BackendError
from magg.events import CellFinished, Listener, Notice, RunFinished, RunStarted
from magg.executors.base import check_workers, make_executor, stop_workers
from magg.executors.cloud import as_cloud
from magg.executors.retry import Policy
from magg.indexing import Mode, index_at_hand, index_for_run, index_mode
from magg.notebook import show_summaries
from magg.plan import OnGranuleError, Plan, make_plan
from magg.preflight import preflight
from magg.progress import make_listener
from magg.store.consolidate import consolidate, leave_out
from magg.store.levels import NOTHING
from magg.store.open import DEFAULT_REGION, told_of
from magg.store.template import Chunks
from magg.summary import Tally
from magg.worker import FUNCTIONS

log = logging.getLogger(__name__)

# Submissions waiting beside those that run: enough to keep every worker busy, few enough that
# tasks are made late.
IN_FLIGHT_PER_WORKER = 2
IN_FLIGHT_UNKNOWN = 256
# Cells without rows at once, which this process records itself.
NEAR_WORKERS = 8
POLICY = Policy()
# Whose cells run in the region that is given; lithops may run them on any cloud, or here.
AWS_BACKENDS = ("lambda", "sfn")
# How long an interrupted run may go on to fill its coarser orders.
AFTER_INTERRUPT_S = 5.0


def run(
    config: PipelineConfig,
    *,
    catalog: str | Path | Catalog | None = None,
    store: str | Path | None = None,
    backend: str = "local",
    executor: Executor | None = None,
    max_cells: int | None = None,
    morton_cell: str | int | None = None,
    part: str | None = None,
    max_workers: int | None = None,
    overwrite: bool = False,
    dry_run: bool = False,
    on_granule_error: OnGranuleError = "fail",
    backups: bool = False,
    index: Mode | bool = "auto",
    function_name: str | None = None,
    region: str = DEFAULT_REGION,
    progress: bool | Listener | None = None,
) -> dict[str, Any]:
    """Aggregate the granules of a catalog into a store.

    An existing store of the same config and grid is continued: cells that are done from the same
    granules are skipped, the others are done, and new cells of the catalog are added.

    Parameters
    ----------
    config : PipelineConfig
        From `magg.load_config`.
    catalog : str, Path or Catalog, optional
        Overrides ``config.catalog``.
    store : str or Path, optional
        A local path or ``s3://bucket/prefix``; overrides ``config.output.store``.
    backend : str, default "local"
        ``"local"`` (threads), ``"processes"``, ``"lambda"`` (a deployed AWS Lambda function),
        ``"sfn"`` (the same by way of AWS Step Functions), ``"lithops"`` (what its configuration
        names), or an installed backend.
    executor : concurrent.futures.Executor, optional
        Used instead of a backend, through ``submit`` alone; never shut down here.
    max_cells : int, optional
        Work on the first so many cells of the catalog only.
    morton_cell : str, optional
        Work on this cell only: a decimal Morton id of the catalog.
    part : str, optional
        Work on a part of the cells only: ``"3/12"`` is the third of twelve parts of about equal
        work. Together the parts are the whole, and may run at once, on different machines.
    max_workers : int, optional
        Cells at once; 4 threads, a process per core, 1,700 calls of AWS Lambda, or 1,000 by way
        of Step Functions where left out.
    overwrite : bool, default False
        Start an existing store again; what it held is lost.
    dry_run : bool, default False
        Report what would be done; reads no granule and writes nothing.
    on_granule_error : {"fail", "skip"}
        What a granule that cannot be read does: make each of its cells an error, or be left out
        and named in the summary and the records. A later run that does not skip does such cells
        again.
    backups : bool, default False
        Submit a cell that runs far longer than the others a second time; the first result wins.
    index : {"auto", "build", "off"}, default "auto"
        Whether a granule index is used, with which workers open no granule to find out what is
        where in it: the one that lies beside the catalog, if there is one; one that is made, or
        completed, before the first cell (True does the same); or none (False). The store is the
        same, bit by bit. See `magg.build_index`.
    function_name : str, optional
        The deployed function of ``backend="lambda"``; ``MAGG_LAMBDA_FUNCTION_NAME``, or else
        ``"process-morton-cell"``, where left out. Of ``backend="sfn"`` the ARN of the state
        machine; ``MAGG_STATE_MACHINE_ARN`` where left out.
    region : str, default "us-west-2"
        AWS region of the store's bucket and of such a function.
    progress : bool or callable, optional
        None shows a bar in a terminal or notebook and logs elsewhere, True and False force the
        bar or silence, a callable receives every event of `magg.events`.

    Returns
    -------
    dict
        The summary: ``total_cells``, ``cells_with_data``, ``cells_empty``, ``cells_error``,
        ``cells_skipped`` (done before), ``total_obs`` (in the cells that this run wrote),
        ``rows_read``, ``rows_dropped`` (by reason), ``rows_unlocated``, ``granules_skipped``,
        ``granules_stale`` (changed after the run began, and read without the index),
        ``retries``, ``wall_time_s``, ``store_path``, ``backend``, ``dry_run``, ``errors`` (one
        entry per failed cell: cell, type, message) and ``results`` (one entry per cell).
        ``backend="lambda"`` adds ``lambda_time_s``, ``gb_seconds``, ``estimated_cost_usd``,
        ``peak_memory_mb``, ``cold_starts`` and more; ``backend="sfn"`` the same without
        ``cold_starts``, and ``executions`` and ``state_transitions``. Returned also when cells
        failed.

    Raises
    ------
    ConfigError, CatalogError, StoreError, BackendError
        If the arguments are wrong, before any work starts.
    CredentialsError, EarthdataError
        If granules are Earthdata's and there is no login for them, before any work starts.
    KeyboardInterrupt
        After Ctrl-C, at once; what is finished is kept, and the next call continues.

    Examples
    --------
    >>> from magg import load_config, run
    >>> summary = run(load_config("atl06"), catalog="catalog.json", store="out.zarr")
    ... # doctest: +SKIP
    """
    began = time.perf_counter()
    _check_main_module()
    show_summaries()
    check_workers(max_workers)
    if executor is not None and not callable(getattr(executor, "submit", None)):
        raise BackendError(
            f"executor must be a concurrent.futures.Executor, not {type(executor).__name__}"
        )
    mode = index_mode(index)
    plan = make_plan(
        config,
        catalog,
        store,
        max_cells=max_cells,
        morton_cell=morton_cell,
        part=part,
        on_granule_error=on_granule_error,
        region=region,
        overwrite=overwrite,
        cells_run_in=_region_of_cells(executor, backend, region),
    )
    name = type(executor).__name__ if executor is not None else backend
    make = functools.partial(
        make_executor,
        backend,
        max_workers,
        function_name=function_name,
        region=region,
        functions=FUNCTIONS,
        store=plan.store,
    )
    pool = Pool(executor) if executor is not None else Pool(make(), make)
    near_executor = ThreadPoolExecutor(NEAR_WORKERS, thread_name_prefix="magg-near")
    try:
        workers = _workers(pool.executor, max_workers)
        notices = preflight(pool.executor, plan, ask_worker=not dry_run)
        if dry_run:
            return _dry_summary(pool.executor, plan, name, workers, mode)
        chunks = plan.prepare_store()
        todo = plan.unfinished()
        if plan.reach is not None:
            if as_cloud(pool.executor).keeps_calls:
                plan.reach.keep_credentials()
            plan.reach.ready(todo)
        in_flight, listen = _in_flight(pool.executor, workers), make_listener(progress)
        found = index_for_run(
            plan, todo, mode, pool, in_flight, listen=listen, backend=name, policy=POLICY
        )
        plan = replace(plan, index=found)
        near = plan.without_rows(todo)
        drain: Drain[CellResult] = Drain(
            pool,
            sorted(todo, key=near.__contains__),
            functools.partial(plan.task, chunks=chunks),
            in_flight,
            POLICY,
            backups,
            near=near,
            near_executor=near_executor,
        )
        if plan.reach is not None:
            drain.on_refused = plan.reach.refuse
        used = as_cloud(pool.executor).used
        tally = Tally(plan, name, skipped=len(plan.cells) - len(todo), used=used)
        coarser = _coarser_orders(plan, chunks, todo)
        _run_cells(drain, tally, listen, began, notices, coarser)
        if drain.running and pool.is_own:
            stop_workers(pool.executor)  # stragglers that a second submission outran
        return tally.summary(time.perf_counter() - began, drain.retries)
    except BaseException:
        if pool.is_own:
            stop_workers(pool.executor)
        raise
    finally:
        near_executor.shutdown(wait=False, cancel_futures=True)
        if pool.is_own:
            # Not waiting gives control back at once on Ctrl-C; else nothing is left to wait for.
            pool.executor.shutdown(wait=False, cancel_futures=True)


def _check_main_module() -> None:
    """Refuse to run in a worker process that is only importing the script that started it.

    It would prepare the store a second time, or, with ``overwrite``, delete what is being written.
    """
    if getattr(multiprocessing.current_process(), "_inheriting", False):
        raise BackendError(
            "a worker process imports this script and calls run() again; "
            "put the call under `if __name__ == '__main__':`"
        )


def _region_of_cells(executor: Executor | None, backend: str, region: str) -> str | None:
    """Return the AWS region of the workers, where they are not on this machine."""
    if executor is not None:
        return as_cloud(executor).region
    return region if backend in AWS_BACKENDS else None


def _dry_summary(
    executor: Executor, plan: Plan, backend: str, workers: int | None, mode: Mode
) -> dict[str, Any]:
    todo = plan.unfinished()
    plan = replace(plan, index=index_at_hand(plan, mode, log.warning))
    dry = Tally(plan, backend, len(plan.cells) - len(todo)).dry_summary(workers)
    return dry | as_cloud(executor).ceiling(len(todo) - len(plan.without_rows(todo)))


def _run_cells(
    drain: Drain[CellResult],
    tally: Tally,
    listen: Listener,
    began: float,
    notices: Iterable[str],
    coarser: AbstractContextManager[None],
) -> None:
    """Run all cells and tell the listener, which hears the end whatever happens."""
    cells = len(tally.plan.cells) - tally.skipped
    drain.notify = lambda message: listen(Notice(message))
    as_cloud(drain.pool.executor).notify = drain.tell
    try:
        listen(RunStarted(cells, tally.skipped, tally.backend, tally.plan.store))
        for notice in notices:
            listen(Notice(notice))
        # Closed here, lest a listener's error leave submissions waiting in the caller's executor.
        with coarser, contextlib.closing(drain.results()) as results:
            for result in results:
                cost = tally.used().get("estimated_cost_usd")
                ended_s = time.perf_counter() - began
                tally.add(result, ended_s, drain.attempts(result), cost)
                error = f"{result.error.type}: {result.error.message}" if result.error else None
                listen(CellFinished(result.cell, result.status, result.observations, error, cost))
    except KeyboardInterrupt:
        listen(Notice(_farewell(drain, tally)))
        raise
    finally:
        listen(RunFinished(tally.summary(time.perf_counter() - began, drain.retries)))


@contextlib.contextmanager
def _coarser_orders(plan: Plan, chunks: Chunks, todo: Collection[str]) -> Iterator[None]:
    """Keep the chunks that parent cells share in step with the cells that are done."""
    if chunks.has == NOTHING:
        yield
        return
    leave_out(plan.store, todo, plan.region)
    try:
        yield
    except BaseException:
        with contextlib.suppress(Exception):  # what stopped the run matters more
            consolidate(plan.store, plan.region, within_s=AFTER_INTERRUPT_S)
        raise
    with told_of(plan.store):
        consolidate(plan.store, plan.region)


def _farewell(drain: Drain[CellResult], tally: Tally) -> str:
    """Say what an interrupt leaves behind."""
    done = tally.skipped + sum(result.error is None for result in tally.results)
    running = sum(future.running() for future in drain.running)
    limit = getattr(drain.pool.executor, "longest_call_s", None)
    bound = (
        f"for at most {limit:.0f} s"
        if limit
        else "until their cells or this process are at their end"
    )
    tail = f"{running} calls may still run {bound}" if running else "no call is still running"
    if drain.pool.is_own and getattr(drain.pool.executor, "_processes", None):
        tail = "the worker processes are ended"
    return (
        f"interrupted: {done} of {len(tally.plan.cells)} cells are done and kept, {tail}; "
        "the same call continues where this one stopped"
    )


def _in_flight(executor: Executor, workers: int | None) -> int:
    """Return how many cells are submitted at once."""
    wanted = as_cloud(executor).in_flight
    return wanted or (IN_FLIGHT_UNKNOWN if workers is None else IN_FLIGHT_PER_WORKER * workers)


def _workers(executor: Executor, max_workers: int | None) -> int | None:
    known = getattr(executor, "_max_workers", None)
    return max_workers or (known if isinstance(known, int) else None)
