from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import subprocess
import sys
import threading
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from importlib.metadata import EntryPoint
from pathlib import Path

import numpy as np
import pytest
import zarr

from magg import run
from magg.errors import BackendError
from magg.executors import base, make_executor

ROOT = Path(__file__).parents[1]


class Inline(Executor):
    """The smallest executor there can be: runs at once, takes no keywords, is never shut down."""

    def submit(self, fn, argument):
        future = Future()
        future.set_result(fn(argument))
        return future

    def shutdown(self, wait=True, *, cancel_futures=False):
        raise AssertionError("magg must not shut down an executor that was handed in")


class ThreadPerCall(Executor):
    """A toy of a backend: a thread for every call, two calls at once."""

    def __init__(self):
        self.room = threading.Semaphore(2)

    def submit(self, fn, /, *args, **kwargs):
        future = Future()
        threading.Thread(target=self.run, args=(future, fn, args, kwargs)).start()
        return future

    def run(self, future, fn, args, kwargs):
        with self.room:
            if not future.set_running_or_notify_cancel():
                return
            try:
                future.set_result(fn(*args, **kwargs))
            except BaseException as error:  # noqa: BLE001 - the future tells
                future.set_exception(error)


def threads():
    return ThreadPoolExecutor(3)


def spawned():
    return ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn"))


def forkserved():
    return ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("forkserver"))


def loky():
    return pytest.importorskip("loky").ProcessPoolExecutor(2)


def reusable_loky():
    return pytest.importorskip("loky").get_reusable_executor(2)


@pytest.fixture
def lithops_own(lithops_home, monkeypatch):
    """Return what makes the executor that lithops has itself, on this machine."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))

    def make():
        from lithops.concurrent.futures import FunctionExecutor

        return FunctionExecutor(
            config={"lithops": {"backend": "localhost", "monitoring_interval": 0.2}},
            runtime=sys.executable,
            worker_processes=2,
            log_level=None,
        )

    return make


@pytest.fixture(scope="module")
def expected(config, catalog, tmp_path_factory):
    store = tmp_path_factory.mktemp("expected") / "s.zarr"
    return run(config, catalog=catalog, store=store, max_workers=1), arrays(store)


def arrays(store):
    group = zarr.open_group(str(store), mode="r")["12"]
    return {name: array[:] for name, array in group.arrays()}


def assert_same(summary, store, expected):
    for key in ("cells_with_data", "cells_empty", "cells_error", "total_obs"):
        assert summary[key] == expected[0][key]
    for name, values in arrays(store).items():
        np.testing.assert_array_equal(values, expected[1][name], err_msg=name)


@pytest.mark.parametrize("backend", ["local", "processes"])
def test_every_backend_gives_the_same_store(config, catalog, tmp_path, expected, backend):
    store = tmp_path / "s.zarr"
    summary = run(config, catalog=catalog, store=store, backend=backend, max_workers=2)
    assert summary["backend"] == backend
    assert_same(summary, store, expected)


MAKERS = [threads, spawned, forkserved, loky, reusable_loky, ThreadPerCall, Inline]


@pytest.mark.parametrize("make", MAKERS, ids=lambda make: make.__name__)
def test_any_executor_gives_the_same_store_and_stays_open(
    config, catalog, tmp_path, expected, make
):
    executor, store = make(), tmp_path / "s.zarr"
    summary = run(config, catalog=catalog, store=store, executor=executor)
    assert_same(summary, store, expected)
    assert executor.submit(abs, -3).result() == 3
    if not isinstance(executor, Inline):
        executor.shutdown()


@pytest.mark.slow
def test_lithops_own_executor_gives_the_same_store_and_stays_open(
    config, catalog, tmp_path, expected, lithops_own
):
    executor, store = lithops_own(), tmp_path / "s.zarr"
    summary = run(config, catalog=catalog, store=store, executor=executor)
    assert_same(summary, store, expected)
    assert executor.submit(abs, -3).result() == 3
    executor.shutdown()


@pytest.mark.parametrize(
    "processes", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["threads", "processes"]
)
def test_a_dask_cluster_gives_the_same_store_and_stays_open(
    config, catalog, tmp_path, expected, processes
):
    distributed = pytest.importorskip("distributed")
    with (
        distributed.LocalCluster(
            n_workers=2, threads_per_worker=1, processes=processes, dashboard_address=None
        ) as cluster,
        distributed.Client(cluster) as client,
    ):
        executor, store = client.get_executor(pure=False), tmp_path / "s.zarr"
        summary = run(config, catalog=catalog, store=store, executor=executor)
        assert_same(summary, store, expected)
        assert executor.submit(abs, -3).result() == 3


ON_MPI = """
import json, sys
from magg import Catalog, load_config, run
from mpi4py.futures import MPIPoolExecutor

if __name__ == "__main__":
    catalog, store = sys.argv[1:]
    with MPIPoolExecutor() as executor:
        summary = run(load_config("atl06"), catalog=catalog, store=store, executor=executor)
        assert executor.submit(abs, -3).result() == 3
    print(json.dumps(summary))
"""


@pytest.mark.slow
def test_mpi_gives_the_same_store(config, catalog, tmp_path, expected):
    pytest.importorskip("mpi4py", reason="needs mpi4py: pip install mpi4py mpich")
    places = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    mpiexec = shutil.which("mpiexec", path=places)
    if mpiexec is None:
        pytest.skip("needs an MPI: pip install mpich, or apt-get install mpich")
    program, store = tmp_path / "on_mpi.py", tmp_path / "s.zarr"
    program.write_text(ON_MPI)
    path = str(catalog.save(tmp_path / "catalog.json"))
    # The first of the three runs the program, the others its calls.
    command = [mpiexec, "-n", "3", sys.executable, "-m", "mpi4py.futures", str(program)]
    process = subprocess.run(
        [*command, path, str(store)],
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, sys.path)])},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert process.returncode == 0, process.stderr
    assert_same(json.loads(process.stdout.splitlines()[-1]), store, expected)


def test_an_installed_backend_is_found_by_its_name(monkeypatch):
    point = EntryPoint("inline", "test_executors:make_inline", base.GROUP)
    monkeypatch.setattr(base, "entry_points", lambda group: [point])
    assert isinstance(make_executor("inline", 3), Inline)
    with pytest.raises(BackendError, match="did you mean 'inline'"):
        make_executor("inlin")


def make_inline(max_workers, **options):
    assert max_workers == 3
    return Inline()


def test_an_unknown_backend_names_those_that_are_known():
    with pytest.raises(BackendError, match="known: lambda, lithops, local, processes"):
        make_executor("quantum")
