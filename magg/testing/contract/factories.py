"""Factories of executors that others wrote, for comparison."""

from __future__ import annotations

import functools
import importlib
import logging
import sys
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from typing import Any
from unittest import SkipTest


def threads(max_workers: int | None = None) -> Executor:
    """Return threads of the standard library: ``backend="local"``."""
    return ThreadPoolExecutor(max_workers)


def processes(max_workers: int | None = None) -> Executor:
    """Return spawned processes of the standard library: ``backend="processes"``."""
    import multiprocessing

    return ProcessPoolExecutor(max_workers, mp_context=multiprocessing.get_context("spawn"))


def loky(max_workers: int | None = None) -> Executor:
    """Return a pool of loky."""
    import loky

    executor: Executor = loky.ProcessPoolExecutor(max_workers)
    return executor


def loky_reusable(max_workers: int | None = None) -> Executor:
    """Return the pool of loky that the whole process shares."""
    import loky

    executor: Executor = loky.get_reusable_executor(max_workers)
    return executor


def dask(max_workers: int | None = None) -> Executor:
    """Return an executor of a Dask cluster in other processes."""
    if max_workers is not None and max_workers < 1:
        raise SkipTest("workers belong to the cluster, not to the executor")
    executor: Executor = _dask_client(max_workers or 2).get_executor(pure=False)
    return executor


def lithops(max_workers: int | None = None) -> Executor:
    """Return Lithops' own executor over processes of this machine."""
    library: Any = importlib.import_module("lithops.concurrent.futures")
    config = {
        "lithops": {
            "backend": "localhost",
            "storage": "localhost",
            "log_level": None,
            "telemetry": False,
        },
        "localhost": {"runtime": sys.executable},
    }
    executor: Executor = library.FunctionExecutor(max_workers, config=config)
    return executor


@functools.cache
def _dask_client(threads: int) -> Any:
    import distributed

    library: Any = distributed
    cluster = library.LocalCluster(
        n_workers=1,
        threads_per_worker=threads,
        host="127.0.0.1",
        dashboard_address=":0",
        silence_logs=logging.CRITICAL,
    )
    return library.Client(cluster)
