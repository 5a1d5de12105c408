"""The whole job by way of Step Functions, over real runtime clients and a real S3 server."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
from remote_runs import arrays, assert_same
from services.lambda_faults import Fault

from magg import Catalog, run
from magg.aws.state_machine import state_machine
from magg.cli import main
from magg.errors import BackendError, MaggError, StateMachineNotFoundError, StoreError
from magg.executors import StepFunctionsExecutor
from magg.executors.retry import Policy
from magg.worker import FUNCTIONS

pytest.importorskip("boto3")
pytest.importorskip("awslambdaric")

HANDLER = "from magg.aws.handler import lambda_handler as handler"
ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def deploy(lambda_service, s3_server, sfn_service, tmp_path_factory):
    """Return a function that deploys a handler and its state machine, and gives both."""
    names = set()

    def make(name, body=HANDLER, **options):
        folder = tmp_path_factory.mktemp(name)
        (folder / "h.py").write_text(textwrap.dedent(body))
        environment = s3_server.environment() | {"PYTHONPATH": str(ROOT)}
        options = {"timeout": 60.0, "memory_mb": 2_000, "concurrency": 2} | options
        function = lambda_service.deploy(name, folder=folder, environment=environment, **options)
        names.add(name)
        return function, sfn_service.deploy(name, state_machine(function.arn))

    yield make
    for name in names:
        lambda_service.remove(name)


@pytest.fixture(scope="module")
def deployed(deploy):
    return deploy("cells-of-sfn")


@pytest.fixture
def service(deployed, sfn_service, lambda_service, aws_environment, monkeypatch):
    """Lead clients of AWS to the services on loopback."""
    aws_environment()
    monkeypatch.setenv("AWS_ENDPOINT_URL_LAMBDA", lambda_service.endpoint)
    monkeypatch.setenv("AWS_ENDPOINT_URL_SFN", sfn_service.endpoint)
    monkeypatch.setenv("MAGG_STATE_MACHINE_ARN", deployed[1])
    monkeypatch.setattr("magg.runner.POLICY", Policy(base_s=0.01))
    deployed[0].clear_faults()
    yield sfn_service
    sfn_service.clear()


def on_sfn(config, catalog, bucket, **options):
    store = bucket.url("s.zarr")
    options = {"backend": "sfn", "max_workers": 2, "progress": False} | options
    return store, run(config, catalog=catalog, store=store, **options)


def leftovers(bucket):
    """Return what hangs about though all executions have been read."""
    return bucket.keys("s.zarr/.magg/executions") + bucket.keys("s.zarr/.magg/payloads")


def test_a_run_by_way_of_step_functions_gives_the_same_store_as_a_local_one(
    config, remote_catalog, s3_bucket, service, expected
):
    store, summary = on_sfn(config, remote_catalog, s3_bucket, max_workers=1)
    assert_same(arrays(store, summary), expected)
    assert summary["backend"] == "sfn"
    # One execution asks a worker who it is, the other is all cells, each in a call of its own,
    # though one worker alone would be sent no more than two.
    assert summary["executions"] == len(service.executions) == 2
    assert summary["lambda_calls"] == summary["total_cells"] + 1
    assert summary["estimated_cost_usd"] > 0
    assert leftovers(s3_bucket) == []
    json.dumps(summary)


def test_an_index_is_made_and_used_by_executions(
    config, remote_catalog, s3_bucket, service, expected, tmp_path
):
    path = Catalog(6, remote_catalog.cells, remote_catalog.metadata).save(tmp_path / "catalog.json")
    s3_bucket.put("catalog.json", path)
    catalog = s3_bucket.url("catalog.json")
    store, summary = on_sfn(config, catalog, s3_bucket, index="build")
    assert_same(arrays(store, summary), expected)
    granules = len(remote_catalog.granules)
    assert summary["lambda_calls"] == summary["total_cells"] + 1 + granules
    assert Catalog.load(catalog).summary()["index"]["granules"] == granules
    assert leftovers(s3_bucket) == []


@pytest.mark.slow
def test_a_second_run_sends_no_cell_again(config, remote_catalog, s3_bucket, service):
    _, first = on_sfn(config, remote_catalog, s3_bucket)
    _, second = on_sfn(config, remote_catalog, s3_bucket)
    assert second["cells_skipped"] == first["total_cells"]
    assert (second["executions"], second["lambda_calls"]) == (1, 1)


def test_cells_in_batches_and_throttles_change_nothing(
    config, remote_catalog, s3_bucket, service, deployed, expected
):
    function, arn = deployed
    store = s3_bucket.url("s.zarr")
    options = {"max_workers": 2, "calls_per_worker": 3, "poll_s": 0.1, "functions": FUNCTIONS}
    with StepFunctionsExecutor(arn, store, **options) as executor:
        function.inject(Fault("ConcurrentInvocationLimitExceeded", 3), Fault("drop", 1))
        summary = run(config, catalog=remote_catalog, store=store, executor=executor)
        assert_same(arrays(store, summary), expected)
    assert summary["lambda_calls"] < summary["total_cells"]
    assert summary["retries"] == 0  # the state machine has dealt with them


def test_a_dry_run_shows_what_it_costs_at_most_and_starts_nothing(
    config, remote_catalog, s3_bucket, service
):
    _, summary = on_sfn(config, remote_catalog, s3_bucket, dry_run=True)
    cells = summary["total_cells"]
    assert summary["gb_seconds_ceiling"] == pytest.approx(cells * 60 * 2_000 / 1024)
    assert summary["cost_usd_ceiling"] > summary["gb_seconds_ceiling"] * 0.0000166667
    assert service.executions == {}
    assert s3_bucket.keys() == []


@pytest.mark.slow
def test_the_command_line_runs_it_and_shows_the_cost(
    remote_catalog, s3_bucket, service, tmp_path, capsys, monkeypatch
):
    monkeypatch.setenv("COLUMNS", "200")
    # Of the other backend; the command line hands it on all the same.
    monkeypatch.setenv("MAGG_LAMBDA_FUNCTION_NAME", "process-morton-cell")
    path = str(remote_catalog.save(tmp_path / "catalog.json"))
    command = ["run", "atl06", "--catalog", path, "--store", s3_bucket.url("s.zarr")]
    command += ["--backend", "sfn", "--quiet", "--max-workers", "2"]
    assert main([*command, "--dry-run"]) == 0
    assert "at most $" in capsys.readouterr().out
    assert main(command) == 0
    assert "about $0.00" in capsys.readouterr().out


# Bad input: refused before any cell is sent.


@pytest.fixture
def soon():
    """Fail a test that takes longer than any error may."""
    began = time.monotonic()
    yield
    assert time.monotonic() - began < 120.0


@pytest.mark.usefixtures("soon", "service")
class TestBadInput:
    def test_a_missing_state_machine(self, config, remote_catalog, s3_bucket, deployed):
        arn = deployed[1].replace("cells-of-sfn", "nowhere")
        with pytest.raises(
            StateMachineNotFoundError, match="'nowhere' in us-west-2: it does not exist"
        ):
            on_sfn(config, remote_catalog, s3_bucket, function_name=arn)
        assert s3_bucket.keys() == []

    def test_no_state_machine_at_all(self, config, remote_catalog, s3_bucket, monkeypatch):
        monkeypatch.delenv("MAGG_STATE_MACHINE_ARN")
        with pytest.raises(BackendError, match="set MAGG_STATE_MACHINE_ARN"):
            on_sfn(config, remote_catalog, s3_bucket)

    def test_a_store_on_this_machine(self, config, remote_catalog, tmp_path):
        with pytest.raises(BackendError, match="is not in S3"):
            run(config, catalog=remote_catalog, store=tmp_path / "s.zarr", backend="sfn")

    def test_granules_on_this_machine(self, config, catalog, s3_bucket):
        with pytest.raises(BackendError, match="granules are on this machine"):
            on_sfn(config, catalog, s3_bucket)

    def test_a_bucket_that_is_not_there(self, config, remote_catalog):
        with pytest.raises(MaggError, match="no-such-bucket"):
            run(config, catalog=remote_catalog, store="s3://no-such-bucket/s.zarr", backend="sfn")

    def test_credentials_that_expired(self, config, remote_catalog, s3_bucket, service):
        service.inject("ExpiredTokenException", times=2)
        with pytest.raises(MaggError, match="expired"):
            on_sfn(config, remote_catalog, s3_bucket)

    @pytest.mark.slow
    def test_a_worker_that_may_not_write(self, config, remote_catalog, s3_bucket, deploy):
        body = f"import os; os.environ['AWS_SECRET_ACCESS_KEY'] = 'wrong'\n{HANDLER}"
        _, arn = deploy("readonly-of-sfn", body)
        with pytest.raises(StoreError, match=r"workers cannot write.*s3:PutObject"):
            on_sfn(config, remote_catalog, s3_bucket, function_name=arn)


# What happens in the middle of a run.

DYING = """
import os, time
from magg.aws.handler import lambda_handler

def handler(event, context):
    if event["Items"][0]["call"].get("function") == "process_cell":
        {what}
    return lambda_handler(event, context)
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("what", "options", "kind", "advice", "calls_per_cell"),
    [
        ("time.sleep(60)", {"timeout": 4.0}, "WorkerTimeoutError", "raise its timeout", 1),
        (
            "hog = bytearray(700_000_000); hog[::4096] = b'x' * len(hog[::4096]); time.sleep(5)",
            {"memory_mb": 600},
            "WorkerOutOfMemoryError",
            "its memory of 600 MB did not suffice",
            1,
        ),
        ("os._exit(7)", {}, "WorkerLostError", "exit status 7", 3),
        ("raise ValueError('of the handler')", {}, "RemoteError", "of the handler", 1),
    ],
    ids=["timeout", "memory", "exit", "raise"],
)
def test_a_worker_that_does_not_come_to_its_end_is_an_error_with_advice(
    config, remote_catalog, s3_bucket, deploy, service, what, options, kind, advice, calls_per_cell
):
    dying, arn = deploy("dying-of-sfn", DYING.format(what=what), **options)
    _, summary = on_sfn(config, remote_catalog, s3_bucket, function_name=arn, max_cells=2)
    assert [error["type"] for error in summary["errors"]] == [kind, kind]
    assert advice in summary["errors"][0]["message"]
    assert len(dying.calls) == 1 + 2 * calls_per_cell


@pytest.mark.slow
def test_a_run_whose_execution_is_stopped_ends_and_is_continued(
    config, remote_catalog, s3_bucket, deploy, service, expected
):
    _, arn = deploy("stopped-of-sfn", DYING.format(what="time.sleep(2)"))

    def stop_when_a_cell_is_done(event):
        if "calls done" in getattr(event, "message", ""):
            cells_of(service).stop(cause="by the operator")

    options = {"function_name": arn, "max_workers": 1}
    _, stopped = on_sfn(
        config, remote_catalog, s3_bucket, progress=stop_when_a_cell_is_done, **options
    )
    assert stopped["cells_error"] == stopped["total_cells"]
    assert {error["type"] for error in stopped["errors"]} == {"ExecutionStoppedError"}
    assert "the same call continues" in stopped["errors"][0]["message"]
    store, summary = on_sfn(config, remote_catalog, s3_bucket, **options)
    assert 0 < summary["cells_skipped"] < summary["total_cells"]
    assert_arrays(store, summary, expected)


def assert_arrays(store, summary, expected):
    """Compare the store alone: a continued run has not done all of it."""
    found, _ = arrays(store, summary)
    keys = ("cells_with_data", "cells_empty", "total_obs", "rows_read")
    assert_same((found, {key: expected[1][key] for key in keys}), expected)


JOB = """
import sys
from magg import Catalog, load_config, run

class Listener:
    def __call__(self, event):
        print(type(event).__name__, getattr(event, "message", ""), flush=True)

if __name__ == "__main__":
    run(load_config("atl06"), catalog=sys.argv[1], store=sys.argv[2], backend="sfn",
        function_name=sys.argv[3], max_workers=2, progress=Listener())
"""


@pytest.fixture
def job(tmp_path, remote_catalog, s3_bucket, service):
    """Return a function that starts a run in a process of its own, up to its first cells."""
    started = []

    def start(arn):
        script = tmp_path / "job.py"
        script.write_text(JOB)
        path = str(remote_catalog.save(tmp_path / "catalog.json"))
        process = subprocess.Popen(
            [sys.executable, str(script), path, s3_bucket.url("s.zarr"), arn],
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        started.append(process)
        until(lambda: len(service.executions) == 2 and cells_of(service).map_run is not None)
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()


def cells_of(service):
    """Return the execution of cells: the second, after that which asks a worker who it is."""
    return list(service.executions.values())[1]


def until(condition, seconds=60.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


@pytest.mark.slow
def test_ctrl_c_stops_the_execution_and_gives_control_back(job, deploy, service, s3_bucket):
    slow, arn = deploy("slow-of-sfn", DYING.format(what="time.sleep(12)"), timeout=28.0)
    process = job(arn)
    until(lambda: slow.busy == 2)
    process.send_signal(signal.SIGINT)
    began = time.monotonic()
    said, _ = process.communicate(timeout=20)
    assert time.monotonic() - began < 8.0
    assert "may still run for at most 28 s" in said
    assert "KeyboardInterrupt" in said
    assert cells_of(service).status == "ABORTED"
    until(lambda: slow.busy == 0)
    assert len(slow.calls) == 3  # nothing was started after that
    assert leftovers(s3_bucket) == []


@pytest.mark.slow
def test_a_run_survives_the_death_of_the_program_that_started_it(
    config, remote_catalog, s3_bucket, job, deploy, service, expected
):
    slow, arn = deploy("lasting-of-sfn", DYING.format(what="time.sleep(1.5)"))
    process = job(arn)
    process.kill()
    until(lambda: cells_of(service).status == "SUCCEEDED")
    calls = len(slow.calls)
    store, summary = on_sfn(config, remote_catalog, s3_bucket, function_name=arn)
    assert summary["cells_skipped"] == summary["total_cells"]
    assert len(slow.calls) == calls + 1  # the worker that is asked who it is
    assert_arrays(store, summary, expected)


@pytest.mark.slow
def test_a_run_whose_execution_still_goes_on_is_attached_to_it(
    config, remote_catalog, s3_bucket, job, deploy, service, expected, monkeypatch
):
    # Room for the worker that is asked who it is, while the cells take theirs.
    body = DYING.format(what="time.sleep(7)")
    slow, arn = deploy("resumed-of-sfn", body, concurrency=4)
    process = job(arn)
    process.kill()
    execution = cells_of(service)
    monkeypatch.setenv("MAGG_RESUME_EXECUTION", execution.arn)
    store, summary = on_sfn(config, remote_catalog, s3_bucket, function_name=arn)
    assert summary["cells_skipped"] == 0
    assert execution.status == "SUCCEEDED"
    assert summary["executions"] == 1  # that which asks a worker who it is
    assert len(slow.calls) == 2 + summary["total_cells"]
    assert_arrays(store, summary, expected)
    assert not any(execution.name in key for key in leftovers(s3_bucket))
