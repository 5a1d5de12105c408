"""The whole job on S3: granules, catalog and store in a bucket of a real server."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import zarr
from services.faults import Fault
from services.s3 import REGION

from magg import Catalog, run
from magg.cli import main
from magg.errors import GranuleError, StoreError, StoreMismatchError, StoreNotFoundError
from magg.store import lock, open_store
from magg.store.inspect import describe


@pytest.fixture
def place(s3_bucket, aws_environment):
    """Return the URL of a store that does not exist yet, in an empty bucket."""
    aws_environment()
    return s3_bucket.url("some/folder/s.zarr")


@pytest.fixture(scope="module")
def uploaded(s3_server, region):
    bucket = s3_server.bucket("granules")
    for granule in region:
        bucket.put(f"ATL06/007/{granule.name}", granule)
    return bucket


@pytest.fixture
def remote_catalog(uploaded, catalog):
    """Return the local catalog with the URLs of the same granules in the bucket."""
    return Catalog(
        catalog.parent_order,
        {
            cell: tuple(uploaded.url(f"ATL06/007/{Path(name).name}") for name in granules)
            for cell, granules in catalog.cells.items()
        },
        catalog.metadata,
    )


@pytest.fixture(scope="module")
def expected(config, catalog, tmp_path_factory):
    """Return the arrays and the summary of a run from disk to disk."""
    store = tmp_path_factory.mktemp("local") / "s.zarr"
    summary = run(config, catalog=catalog, store=store, progress=False)
    return arrays(store), summary


def arrays(store):
    group = zarr.open_group(open_store(store, read_only=True), mode="r")["12"]
    return {name: array[:] for name, array in group.arrays()}


def assert_identical(ours, theirs):
    assert set(ours) == set(theirs)
    for name, values in theirs.items():
        assert ours[name].dtype == values.dtype
        assert ours[name].tobytes() == values.tobytes(), name


@pytest.mark.parametrize("workers", [{}, {"backend": "processes", "max_workers": 1}], ids=str)
def test_a_run_from_s3_to_s3_gives_what_a_local_run_gives(
    config, remote_catalog, place, s3_bucket, expected, workers
):
    summary = run(config, catalog=remote_catalog, store=f"{place}/", progress=False, **workers)
    values, local = expected
    assert summary["errors"] == []
    assert summary["store_path"] == place
    same = ("total_cells", "cells_with_data", "total_obs", "rows_read", "rows_dropped")
    assert {key: summary[key] for key in same} == {key: local[key] for key in same}
    assert_identical(arrays(place), values)
    assert all(key.startswith("some/folder/s.zarr/") for key in s3_bucket.keys())  # noqa: SIM118


def test_a_catalog_made_from_urls_equals_the_local_one(uploaded, region, catalog, aws_environment):
    aws_environment()
    urls = [uploaded.url(f"ATL06/007/{granule.name}") for granule in region]
    made = Catalog.from_files(urls)
    assert {cell: [Path(g).name for g in granules] for cell, granules in made.cells.items()} == {
        cell: [Path(g).name for g in granules] for cell, granules in catalog.cells.items()
    }


def test_a_catalog_may_itself_lie_in_a_bucket(config, catalog, place, s3_bucket, tmp_path):
    s3_bucket.put("catalog.json", catalog.save(tmp_path / "catalog.json"))
    there = s3_bucket.url("catalog.json")
    assert Catalog.load(there).digest == catalog.digest
    summary = run(config, catalog=there, store=place, dry_run=True)
    assert summary["total_cells"] == len(catalog)
    assert s3_bucket.keys() == ["catalog.json"]


def test_the_command_line_runs_on_s3_and_describes_what_it_made(
    config, remote_catalog, place, tmp_path, expected, capsys
):
    path = remote_catalog.save(tmp_path / "catalog.json")
    assert main(["run", "atl06", "--catalog", str(path), "--store", place, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["total_obs"] == expected[1]["total_obs"]
    assert main(["info", place, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told == describe(place)
    assert told["store"] == place
    assert told["parent_cells"] == len(remote_catalog)
    assert told["variables"]["h_mean"]["chunks_written"] == len(remote_catalog)
    assert main(["info", place]) == 0
    assert "h_mean" in capsys.readouterr().out


@pytest.mark.parametrize("key", ["nothing/here.zarr", "a.zarr"])
def test_a_store_that_is_not_there_is_told(place, s3_bucket, capsys, key):
    with pytest.raises(StoreNotFoundError, match="no store"):
        describe(s3_bucket.url(key))
    assert main(["info", s3_bucket.url(key)]) == 2
    assert "no store" in capsys.readouterr().err


def test_a_bucket_that_is_not_there_is_told(config, catalog, aws_environment, capsys):
    aws_environment()
    with pytest.raises(StoreError, match="never-created"):
        run(config, catalog=catalog, store="s3://never-created/s.zarr", progress=False)
    assert main(["info", "s3://never-created/s.zarr"]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_the_region_may_be_left_to_the_environment(config, catalog, place):
    summary = run(config, catalog=catalog, store=place, region=None, dry_run=True)
    assert summary["total_cells"] == len(catalog)


def test_a_second_run_continues_the_store_and_a_third_finds_all_done(
    config, remote_catalog, place, aws_environment, fault_proxy, expected
):
    cells = dict(list(remote_catalog.cells.items())[::2])
    part = Catalog(6, cells, remote_catalog.metadata)
    run(config, catalog=part, store=place, progress=False)
    assert describe(place)["parent_cells"] == len(part)
    second = run(config, catalog=remote_catalog, store=place, progress=False)
    assert second["cells_error"] == 0
    assert second["cells_skipped"] == len(part)
    ours = arrays(place)
    by_id = np.argsort(ours["cell_ids"])
    assert_identical({name: values[by_id] for name, values in ours.items()}, expected[0])
    proxy = fault_proxy()
    aws_environment(proxy.endpoint)
    third = run(config, catalog=remote_catalog, store=place, progress=False)
    assert third["cells_skipped"] == third["total_cells"] == len(remote_catalog)
    assert proxy.attempts("*", "ATL06/*") == 0
    assert proxy.attempts("PUT", "*/c/*") == 0


def test_a_store_of_another_config_is_refused_and_overwritten_on_demand(
    config, catalog, place, s3_bucket
):
    variables = {name: v for name, v in config.statistics.items() if name != "h_max"}
    other = replace(config, aggregation=replace(config.aggregation, variables=variables))
    run(config, catalog=catalog, store=place, max_cells=1, progress=False)
    s3_bucket.put("some/folder/s.zarr.txt", b"a neighbour")
    before = s3_bucket.keys()
    with pytest.raises(StoreMismatchError, match="h_max"):
        run(other, catalog=catalog, store=place, progress=False)
    assert s3_bucket.keys() == before
    run(other, catalog=catalog, store=place, max_cells=1, overwrite=True, progress=False)
    kept = [key for key in before if ".magg" not in key and "h_max" not in key]
    assert len(kept) < len(before)
    assert [key for key in s3_bucket.keys() if ".magg" not in key] == kept  # noqa: SIM118
    assert s3_bucket.get("some/folder/s.zarr.txt") == b"a neighbour"


def test_what_is_no_store_is_never_written_over(config, catalog, place, s3_bucket):
    s3_bucket.put("some/folder/s.zarr/letters/mum.txt", b"dear")
    for overwrite in (False, True):
        with pytest.raises(StoreError, match="no store of magg"):
            run(config, catalog=catalog, store=place, overwrite=overwrite, progress=False)
    assert s3_bucket.keys() == ["some/folder/s.zarr/letters/mum.txt"]


def test_passing_faults_change_nothing(
    config, remote_catalog, place, aws_environment, fault_proxy, expected
):
    faults = (
        Fault("503", "GET", "ATL06/*", times=1),
        Fault("drop", "GET", "ATL06/*", times=1),
        Fault("truncate", "GET", "ATL06/*", times=1),
        Fault("500", "PUT", "*/h_mean/c/0", times=1),
        Fault("drop-answer", "PUT", "*/h_mean/c/1", times=1),
        Fault("drop-answer", "PUT", "*/.magg/cells/*", times=1),
    )
    proxy = fault_proxy(*faults)
    aws_environment(proxy.endpoint)
    summary = run(config, catalog=remote_catalog, store=place, progress=False)
    assert summary["errors"] == []
    struck = sorted(kind for request in proxy.requests for kind in request.faults)
    assert struck == sorted(fault.kind for fault in faults)
    aws_environment()
    assert_identical(arrays(place), expected[0])


def test_a_granule_that_cannot_be_read_fails_its_cells_and_no_other(
    config, remote_catalog, uploaded, place, aws_environment, fault_proxy
):
    fault = Fault("403", key="*/secret.h5")
    aws_environment(fault_proxy(fault).endpoint)
    doomed, *others = remote_catalog.cells
    cells = {cell: remote_catalog.cells[cell][:1] for cell in others}
    cells[doomed] = (uploaded.url("ATL06/007/secret.h5"),)
    summary = run(config, catalog=Catalog(6, cells), store=place, progress=False)
    (error,) = summary["errors"]
    assert error["cell"] == doomed
    assert error["type"] == GranuleError.__name__
    assert "access denied; check the credentials" in error["message"]
    assert summary["cells_with_data"] == len(others)


@pytest.mark.parametrize("kind", ["drop", "drop-answer"])
def test_a_lock_is_known_as_ones_own_though_the_answer_got_lost(
    place, aws_environment, fault_proxy, monkeypatch, kind
):
    monkeypatch.setattr(lock, "STALE_AFTER_S", 1.0)  # what is not ends
    proxy = fault_proxy(Fault(kind, "PUT", "*/.magg/lock", times=1))
    aws_environment(proxy.endpoint)
    with lock.exclusive(place, REGION):
        pass
    assert proxy.attempts("PUT", "*/.magg/lock") == 2
