"""Coarser orders come out the same wherever the cells and the store are."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from pyramids import assert_equals_observations, atl06, cells_at

from magg import build_pyramid, run
from magg.cli import main
from magg.store.inspect import describe

ROOT = Path(__file__).parents[1]
ALL = range(13)


@pytest.fixture(scope="module")
def expected(catalog, tmp_path_factory):
    store = tmp_path_factory.mktemp("local") / "s.zarr"
    run(atl06(coarsest_order=0, state=True), catalog=catalog, store=store, progress=False)
    return store


def assert_same(store, expected):
    for order in ALL:
        for found, wanted in zip(cells_at(store, order), cells_at(expected, order), strict=True):
            np.testing.assert_equal(found, wanted)


def test_processes_make_the_same_store(catalog, tmp_path, expected):
    store = tmp_path / "s.zarr"
    config = atl06(coarsest_order=0)
    options = {"catalog": catalog, "store": store, "backend": "processes", "max_workers": 2}
    assert run(config, progress=False, **options)["errors"] == []
    assert_same(store, expected)


def test_a_bucket_holds_the_same_store(catalog, s3_bucket, aws_environment, expected):
    aws_environment()
    store = s3_bucket.url("s.zarr")
    config = atl06(coarsest_order=0, state=True)
    assert run(config, catalog=catalog, store=store, progress=False)["errors"] == []
    assert_same(store, expected)
    again = run(config, catalog=catalog, store=store, progress=False)
    assert again["cells_skipped"] == again["total_cells"]


def test_a_store_in_a_bucket_gets_orders_without_its_granules(
    catalog, region, s3_bucket, aws_environment, capsys
):
    aws_environment()
    store = s3_bucket.url("s.zarr")
    run(atl06(state=True), catalog=catalog, store=store, progress=False)
    assert main(["pyramid", store, "--coarsest-order", "2"]) == 0
    assert "h_q50 is not in orders 11 to 6" in " ".join(capsys.readouterr().out.split())
    assert_equals_observations(store, region, range(2, 13))
    assert describe(store)["orders"] == list(range(2, 13))


@pytest.mark.skipif(sys.platform != "linux", reason="the Lambda runtime is for Linux")
def test_lambda_makes_the_same_store(
    remote_catalog,
    s3_server,
    s3_bucket,
    lambda_service,
    aws_environment,
    monkeypatch,
    tmp_path,
    expected,
):
    pytest.importorskip("awslambdaric")
    aws_environment()
    monkeypatch.setenv("AWS_ENDPOINT_URL_LAMBDA", lambda_service.endpoint)
    name = "process-morton-cell-pyramid"
    lambda_service.deploy(
        name,
        "magg.aws.handler.lambda_handler",
        folder=tmp_path,
        timeout=60.0,
        memory_mb=2_000,
        concurrency=2,
        environment=s3_server.environment() | {"PYTHONPATH": str(ROOT)},
    )
    store = s3_bucket.url("s.zarr")
    try:
        summary = run(
            atl06(coarsest_order=0, state=True),
            catalog=remote_catalog,
            store=store,
            backend="lambda",
            function_name=name,
            max_workers=2,
            progress=False,
        )
    finally:
        lambda_service.remove(name)
    assert summary["errors"] == []
    assert_same(store, expected)
    assert build_pyramid(store)["cells_derived"] == 0
