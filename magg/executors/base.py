"""Names of backends to executors.

A backend is a function ``make(max_workers, **options) -> concurrent.futures.Executor``. Those of
magg are in `BACKENDS`; others are found under the entry-point group ``magg.executors``.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from importlib.metadata import entry_points
from typing import Any

from magg.errors import BackendError
from magg.wire import suggestion

GROUP = "magg.executors"
LOCAL_WORKERS = 4

MakeExecutor = Callable[..., Executor]


def make_executor(backend: str, max_workers: int | None = None, **options: Any) -> Executor:
    """Return a new executor of a backend; the caller shuts it down.

    Parameters
    ----------
    backend : str
        ``"local"`` (threads), ``"processes"``, ``"lambda"``, ``"sfn"`` (AWS Step Functions),
        ``"lithops"``, or the name of an installed backend.
    max_workers : int, optional
        Cells at once; the backend's own default where left out.
    **options
        Passed to the backend: ``function_name`` and ``region`` of a deployed function, the
        ``functions`` that workers will be asked to run, by name, and the URL of the ``store``.

    Raises
    ------
    BackendError
        If there is no such backend, or the number of workers is impossible.
    """
    check_workers(max_workers)
    make = BACKENDS.get(backend)
    if make is None:
        installed = {point.name: point for point in entry_points(group=GROUP)}
        if backend not in installed:
            known = [*BACKENDS, *installed]
            raise BackendError(f"unknown backend {backend!r}{suggestion(backend, known)}")
        make = installed[backend].load()
    return make(max_workers, **options)


def check_workers(max_workers: int | None) -> None:
    """Refuse a number of workers that is no positive whole number."""
    if max_workers is None:
        return
    if not isinstance(max_workers, int) or isinstance(max_workers, bool) or max_workers < 1:
        raise BackendError(f"max_workers must be a whole number of at least 1, not {max_workers!r}")


def stop_workers(executor: Executor) -> None:
    """End the worker processes of a process pool at once; other executors are left alone.

    A cell that is ended half-way has no record, so the next run does it again.
    """
    processes: dict[int, Any] = getattr(executor, "_processes", None) or {}
    for process in list(processes.values()):
        process.terminate()


def _local(max_workers: int | None = None, **_: Any) -> Executor:
    return ThreadPoolExecutor(max_workers or LOCAL_WORKERS, thread_name_prefix="magg-cell")


def _processes(max_workers: int | None = None, **_: Any) -> Executor:
    import multiprocessing

    # Forking a process that has threads (zarr, obstore, a notebook) can deadlock.
    context = multiprocessing.get_context("spawn")
    return ProcessPoolExecutor(
        max_workers or os.cpu_count() or 1, mp_context=context, initializer=begin_worker
    )


def begin_worker() -> None:
    """Prepare a worker process: Ctrl-C is left to its parent, and it ends when its parent does.

    A terminal sends Ctrl-C to every process. A pool's workers would wait for work forever if the
    parent was killed; one that ends half-way through a cell leaves no record of it.
    """
    import signal
    import threading

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True, name="magg-parent").start()


def _end_with_parent() -> None:
    import multiprocessing

    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _lambda(max_workers: int | None = None, **options: Any) -> Executor:
    from magg.executors.aws_lambda import make

    return make(max_workers, **options)


def _lithops(max_workers: int | None = None, **options: Any) -> Executor:
    from magg.executors.lithops import make

    return make(max_workers, **options)


def _sfn(max_workers: int | None = None, **options: Any) -> Executor:
    from magg.executors.stepfunctions import make

    return make(max_workers, **options)


BACKENDS: dict[str, MakeExecutor] = {
    "local": _local,
    "processes": _processes,
    "lambda": _lambda,
    "lithops": _lithops,
    "sfn": _sfn,
}
