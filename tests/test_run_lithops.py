"""The whole job on lithops: on its localhost backend, and on that for AWS Lambda on loopback."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import zarr
from services.lithops_home import ends_within

from magg import Catalog, run
from magg.cli import main
from magg.errors import AccessDeniedError, BackendError, StoreError, WorkerLostError
from magg.executors import LithopsExecutor
from magg.store import open_store
from magg.testing.contract import calls

ROOT = Path(__file__).parents[1]


@pytest.fixture(autouse=True)
def at_home(lithops_home, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    return lithops_home


@pytest.fixture(autouse=True)
def time_limit():
    with ends_within(900):
        yield


@pytest.fixture(scope="module")
def expected(config, catalog, tmp_path_factory):
    store = tmp_path_factory.mktemp("local") / "s.zarr"
    return store, run(config, catalog=catalog, store=store, progress=False)


@pytest.fixture
def on_localhost(monkeypatch):
    monkeypatch.setenv("MAGG_LITHOPS_CONFIG", str(ROOT / "lithops_config" / "localhost.yaml"))


def arrays(store):
    group = zarr.open_group(open_store(store, read_only=True), mode="r")["12"]
    return {name: array[:] for name, array in group.arrays()}


def assert_same(store, summary, expected):
    assert summary["errors"] == []
    for key in ("cells_with_data", "cells_empty", "total_obs", "rows_read"):
        assert summary[key] == expected[1][key]
    found, wanted = arrays(store), arrays(expected[0])
    assert found.keys() == wanted.keys()
    for name, values in found.items():
        assert values.tobytes() == wanted[name].tobytes(), name


def test_a_run_on_lithops_gives_the_same_store_as_a_local_one(
    config, catalog, tmp_path, on_localhost, expected, at_home
):
    store, events = tmp_path / "s.zarr", []
    options = {"backend": "lithops", "max_workers": 2, "progress": events.append}
    summary = run(config, catalog=catalog, store=store, **options)
    assert_same(store, summary, expected)
    assert summary["backend"] == "lithops"
    # One call asks the worker who it is, the others are cells.
    assert summary["lithops_calls"] == summary["total_cells"] + 1
    assert summary["lithops_jobs"] <= summary["lithops_calls"]
    json.dumps(summary)
    again = run(config, catalog=catalog, store=store, **options)
    assert again["cells_skipped"] == summary["total_cells"]
    assert again["lithops_calls"] == 1


def test_the_command_line_plans_without_a_call(catalog, tmp_path, on_localhost, capsys):
    path = str(catalog.save(tmp_path / "catalog.json"))
    command = ["run", "atl06", "--catalog", path, "--store", str(tmp_path / "s.zarr")]
    assert main([*command, "--backend", "lithops", "--dry-run"]) == 0
    assert "lithops" in capsys.readouterr().out
    assert not (tmp_path / "s.zarr").exists()


def test_a_store_that_workers_cannot_write_is_refused(config, catalog, tmp_path, on_localhost):
    (tmp_path / "s.zarr").write_text("a file")
    with pytest.raises(StoreError, match="is a file"):
        run(config, catalog=catalog, store=tmp_path / "s.zarr", backend="lithops")


INTERRUPTED = """
import os, signal, sys
from magg import load_config, run
from magg.events import CellFinished, Notice

def listen(event):
    if isinstance(event, CellFinished):
        os.kill(os.getpid(), signal.SIGINT)
    elif isinstance(event, Notice):
        print(event.message, flush=True)

catalog, store = sys.argv[1:]
options = {"backend": "lithops", "max_workers": 1, "progress": listen}
try:
    run(load_config("atl06"), catalog=catalog, store=store, **options)
except KeyboardInterrupt:
    print("interrupted")
"""


@pytest.mark.slow
def test_an_interrupted_run_says_what_runs_and_is_continued(
    config, catalog, tmp_path, on_localhost, expected, at_home
):
    store, path = tmp_path / "s.zarr", str(catalog.save(tmp_path / "catalog.json"))
    program = subprocess.run(
        [sys.executable, "-c", INTERRUPTED, path, str(store)],
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert program.returncode == 0, program.stderr
    *_, notice, end = program.stdout.splitlines()
    assert re.search(r"for at most 1800 s", notice), program.stdout
    assert end == "interrupted"
    assert at_home.left() == set()
    summary = run(config, catalog=catalog, store=store, progress=False)
    assert summary["cells_skipped"] >= 1
    assert summary["cells_error"] == 0
    found, wanted = arrays(store), arrays(expected[0])
    assert all(found[name].tobytes() == wanted[name].tobytes() for name in wanted)


# AWS Lambda: lithops' own client and worker, real awslambdaric processes, a real S3 server.

MEMORY_MB = 2_000


@pytest.fixture
def remote_catalog(s3_bucket, region, catalog):
    for granule in region:
        s3_bucket.put(granule.name, granule)
    cells = {
        cell: tuple(s3_bucket.url(Path(name).name) for name in granules)
        for cell, granules in catalog.cells.items()
    }
    return Catalog(catalog.parent_order, cells, catalog.metadata)


@pytest.fixture
def aws_config(lambda_service, s3_server, s3_bucket, aws_environment, monkeypatch):
    """Lead lithops' clients to the services on loopback."""
    compute = pytest.importorskip("lithops.serverless.backends.aws_lambda.aws_lambda")
    aws_environment()
    monkeypatch.setenv("AWS_ENDPOINT_URL_LAMBDA", lambda_service.endpoint)
    host = f"https://lambda.{lambda_service.region}.amazonaws.com"

    class Session(compute.URLLib3Session):  # lithops writes the host of Lambda into its requests
        def send(self, request):
            request.url = request.url.replace(host, lambda_service.endpoint)
            return super().send(request)

    monkeypatch.setattr(compute, "URLLib3Session", Session)
    section = {
        "execution_role": "arn:aws:iam::123456789012:role/lithops",
        "account_id": "123456789012",
        "user_id": "AIDATEST",
        "runtime": "default-runtime-v000",
        "runtime_memory": MEMORY_MB,
        "runtime_timeout": 60,
        "max_workers": 3,
    }
    return {
        "lithops": {
            "backend": "aws_lambda",
            "storage": "aws_s3",
            "monitoring_interval": 0.2,
            "execution_timeout": 40,
        },
        "aws": {"region": lambda_service.region},
        "aws_lambda": section,
        "aws_s3": {"storage_bucket": s3_bucket.name},
    }


@pytest.fixture
def deploy(aws_config, lambda_service, s3_server, tmp_path):
    """Return what deploys lithops' own worker, as `lithops runtime deploy` would leave it."""
    import boto3
    import lithops
    import lithops.serverless.backends.aws_lambda.aws_lambda as compute
    from lithops.storage import InternalStorage

    runtime = aws_config["aws_lambda"]["runtime"]
    names = []

    def make():
        executor = lithops.FunctionExecutor(config=aws_config, log_level=None)
        backend = executor.compute_handler.backend
        name = backend._format_function_name(runtime, MEMORY_MB)
        shutil.copy(Path(compute.__file__).with_name("entry_point.py"), tmp_path)
        names.append(name)
        function = lambda_service.deploy(
            name,
            "entry_point.lambda_handler",
            folder=tmp_path,
            timeout=60.0,
            memory_mb=MEMORY_MB,
            concurrency=3,
            environment=s3_server.environment()
            | {"PYTHONPATH": str(ROOT), "TMPDIR": str(tmp_path)},
        )
        answer = boto3.client("lambda").invoke(FunctionName=name, Payload=b'{"get_metadata": {}}')
        facts = json.loads(answer["Payload"].read()) | {"runtime_timeout": 60}
        storage: InternalStorage = executor.internal_storage
        storage.put_runtime_meta(backend.get_runtime_key(runtime, MEMORY_MB), facts)
        return function

    yield make
    for name in names:
        if name in lambda_service.account.functions:
            lambda_service.remove(name)


@pytest.mark.slow
def test_a_run_on_lithops_on_lambda_gives_the_same_store_as_a_local_one(
    config, remote_catalog, s3_bucket, aws_config, deploy, expected
):
    deploy()
    before, store = set(s3_bucket.keys()), s3_bucket.url("s.zarr")
    with LithopsExecutor(aws_config, max_workers=3) as executor:
        assert (executor.longest_call_s, executor.sees_local_files) == (40.0, False)
        assert executor.region == "us-west-2"
        summary = run(config, catalog=remote_catalog, store=store, executor=executor)
        assert_same(store, summary, expected)
        assert summary["lithops_calls"] == summary["total_cells"] + 1
        with pytest.raises(BackendError, match="is on this machine"):
            run(config, catalog=remote_catalog, store="here.zarr", executor=executor)
    left = set(s3_bucket.keys()) - before
    assert not [key for key in left if not key.startswith("s.zarr/")]


@pytest.mark.slow
def test_calls_that_lambda_refuses_are_one_error(aws_config, deploy, lambda_service):
    name = deploy().settings.name
    lambda_service.remove(name)
    with (
        LithopsExecutor(aws_config) as executor,
        pytest.raises(BackendError, match=r"aws_lambda refuses calls: .*not deployed"),
    ):
        executor.submit(pow, 2, 5).result(300)


@pytest.mark.slow
def test_access_that_is_denied_is_one_error(aws_config, deploy, monkeypatch):
    deploy()
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hush")
    with pytest.raises(AccessDeniedError, match=r"lithops cannot be set up.*403") as denied:
        LithopsExecutor(aws_config)
    assert "hush" not in str(denied.value)


@pytest.mark.slow
def test_a_worker_on_lambda_that_dies_is_one_error(aws_config, deploy):
    deploy()
    with LithopsExecutor(aws_config) as executor:
        with pytest.raises(WorkerLostError, match="exited with code 13"):
            executor.submit(calls.die).result(300)
        assert executor.submit(pow, 2, 5).result(300) == 32
