from __future__ import annotations

import multiprocessing
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from importlib.metadata import EntryPoint

import numpy as np
import pytest
import zarr

from magg import run
from magg.errors import BackendError
from magg.executors import base, make_executor


class Inline(Executor):
    """The smallest executor there can be: runs at once, takes no keywords, is never shut down."""

    def submit(self, fn, argument):
        future = Future()
        future.set_result(fn(argument))
        return future

    def shutdown(self, wait=True, *, cancel_futures=False):
        raise AssertionError("magg must not shut down an executor that was handed in")


def spawned():
    return ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn"))


def loky():
    return pytest.importorskip("loky").ProcessPoolExecutor(2)


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


@pytest.mark.parametrize("make", [lambda: ThreadPoolExecutor(3), spawned, loky, Inline])
def test_any_executor_gives_the_same_store_and_stays_open(
    config, catalog, tmp_path, expected, make
):
    executor, store = make(), tmp_path / "s.zarr"
    summary = run(config, catalog=catalog, store=store, executor=executor)
    assert_same(summary, store, expected)
    assert executor.submit(abs, -3).result() == 3
    if not isinstance(executor, Inline):
        executor.shutdown()


def test_a_dask_cluster_gives_the_same_store_and_stays_open(config, catalog, tmp_path, expected):
    distributed = pytest.importorskip("distributed")
    with (
        distributed.LocalCluster(
            n_workers=2, threads_per_worker=1, processes=False, dashboard_address=None
        ) as cluster,
        distributed.Client(cluster) as client,
    ):
        executor, store = client.get_executor(pure=False), tmp_path / "s.zarr"
        summary = run(config, catalog=catalog, store=store, executor=executor)
        assert_same(summary, store, expected)
        assert executor.submit(abs, -3).result() == 3


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
    with pytest.raises(BackendError, match="known: lambda, local, processes"):
        make_executor("quantum")
