"""The whole job on Lambda: real runtime clients on loopback, granules and store on S3."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from remote_runs import arrays, assert_same
from services.lambda_calls import wait_until
from services.lambda_faults import Fault

from magg import Catalog, __version__, build_index, run
from magg.cli import main
from magg.errors import (
    AccessDeniedError,
    BackendError,
    FunctionNotFoundError,
    StoreError,
    VersionMismatchError,
)
from magg.executors import LambdaExecutor
from magg.executors.retry import Policy
from magg.worker import FUNCTIONS

pytest.importorskip("boto3")
pytest.importorskip("awslambdaric")

HANDLER = "magg.aws.handler.lambda_handler"
ROOT = Path(__file__).parents[1]
NAME = "process-morton-cell"


@pytest.fixture(scope="module")
def warm(lambda_service, s3_server, tmp_path_factory):
    """Deploy the function once for all tests: its workers take a second to start."""
    function = lambda_service.deploy(
        NAME,
        HANDLER,
        folder=tmp_path_factory.mktemp("task"),
        timeout=60.0,
        memory_mb=2_000,
        concurrency=2,
        environment=s3_server.environment() | {"PYTHONPATH": str(ROOT)},
    )
    yield function
    lambda_service.remove(NAME)


@pytest.fixture
def at_aws(lambda_service, aws_environment, monkeypatch):
    """Lead clients of AWS to the services on loopback."""
    aws_environment()
    monkeypatch.setenv("AWS_ENDPOINT_URL_LAMBDA", lambda_service.endpoint)
    monkeypatch.setattr("magg.runner.POLICY", Policy(base_s=0.01))


@pytest.fixture
def function(warm, at_aws):
    warm.clear_faults()
    return warm


@pytest.fixture
def deploy(lambda_service, s3_server, tmp_path, at_aws):
    """Return a function that deploys a handler of a test's own as ``name``, for this test alone."""
    names = []

    def make(name, body, **options):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "h.py").write_text(textwrap.dedent(body))
        environment = s3_server.environment() | {"PYTHONPATH": str(ROOT)}
        names.append(name)
        return lambda_service.deploy(
            name, "h.handler", folder=folder, environment=environment | options.pop("env", {}),
            **{"timeout": 300.0, "memory_mb": 2_000, "concurrency": 2} | options,
        )  # fmt: skip

    yield make
    for name in names:
        lambda_service.remove(name)


def on_lambda(config, catalog, bucket, **options):
    store = bucket.url("s.zarr")
    options = {"backend": "lambda", "max_workers": 4, "progress": False} | options
    return store, run(config, catalog=catalog, store=store, **options)


def test_a_run_on_lambda_gives_the_same_store_as_a_local_one(
    config, remote_catalog, s3_bucket, function, expected
):
    store, summary = on_lambda(config, remote_catalog, s3_bucket)
    assert_same(arrays(store, summary), expected)
    assert summary["backend"] == "lambda"
    # One call asks the worker who it is, the others are cells.
    assert summary["lambda_calls"] == summary["total_cells"] + 1
    assert summary["calls_without_report"] == 0
    assert summary["lambda_time_s"] > 0
    assert summary["gb_seconds"] == pytest.approx(summary["lambda_time_s"] * 2_000 / 1024)
    assert summary["estimated_cost_usd"] == pytest.approx(
        summary["gb_seconds"] * 0.0000166667 + summary["lambda_calls"] * 2e-7
    )
    assert 30 < summary["peak_memory_mb"] < 2_000
    json.dumps(summary)


def test_an_index_is_made_and_used_by_calls(
    config, remote_catalog, s3_bucket, function, expected, tmp_path
):
    path = Catalog(6, remote_catalog.cells, remote_catalog.metadata).save(tmp_path / "catalog.json")
    s3_bucket.put("catalog.json", path)
    catalog, granules = s3_bucket.url("catalog.json"), len(remote_catalog.granules)
    store, summary = on_lambda(config, catalog, s3_bucket, index="build")
    assert_same(arrays(store, summary), expected)
    assert "catalog.index.gz" in s3_bucket.keys("")
    # One call asks the worker who it is, then come the granules, then the cells.
    assert summary["lambda_calls"] == summary["total_cells"] + 1 + granules
    store, summary = on_lambda(config, catalog, s3_bucket, overwrite=True)
    assert_same(arrays(store, summary), expected)
    assert summary["lambda_calls"] == summary["total_cells"] + 1 + 1  # all granules are looked at
    built = build_index(catalog, config, backend="lambda", overwrite=True, progress=False)
    assert built["granules_surveyed"] == granules


def test_an_index_of_local_granules_is_not_asked_of_lambda(config, catalog, tmp_path, function):
    path = Catalog(6, catalog.cells).save(tmp_path / "catalog.json")
    with pytest.raises(BackendError, match="on this machine"):
        build_index(path, config, backend="lambda", progress=False)


def test_a_second_run_invokes_no_cell_again(config, remote_catalog, s3_bucket, function):
    _, first = on_lambda(config, remote_catalog, s3_bucket)
    _, second = on_lambda(config, remote_catalog, s3_bucket)
    assert second["cells_skipped"] == first["total_cells"]
    assert second["lambda_calls"] == 1


def test_a_dry_run_shows_what_it_costs_at_most_and_invokes_nothing(
    config, remote_catalog, s3_bucket, function
):
    before = len(function.calls)
    _, summary = on_lambda(config, remote_catalog, s3_bucket, dry_run=True)
    cells = summary["total_cells"]
    assert summary["gb_seconds_ceiling"] == pytest.approx(cells * 60 * 2_000 / 1024)
    assert summary["cost_usd_ceiling"] == pytest.approx(
        summary["gb_seconds_ceiling"] * 0.0000166667 + cells * 2e-7
    )
    assert len(function.calls) == before
    assert s3_bucket.keys() == []


def test_the_command_line_shows_the_cost(
    remote_catalog, s3_bucket, function, tmp_path, capsys, monkeypatch
):
    monkeypatch.setenv("COLUMNS", "200")
    path = str(remote_catalog.save(tmp_path / "catalog.json"))
    command = ["run", "atl06", "--catalog", path, "--store", s3_bucket.url("s.zarr")]
    command += ["--backend", "lambda", "--quiet", "--max-workers", "4"]
    assert main([*command, "--dry-run"]) == 0
    assert "at most $" in capsys.readouterr().out
    assert main(command) == 0
    assert "about $0.00 for" in capsys.readouterr().out


def test_events_tell_the_cost_so_far(config, remote_catalog, s3_bucket, function):
    events = []
    _, summary = on_lambda(config, remote_catalog, s3_bucket, progress=events.append)
    costs = [event.cost_usd for event in events if hasattr(event, "cost_usd")]
    assert costs == sorted(costs)
    assert costs[-1] > 0
    assert [entry["cost_usd_so_far"] for entry in summary["results"]] == costs


def test_an_executor_of_the_callers_own_is_checked_as_well_and_stays_open(
    config, remote_catalog, s3_bucket, function, expected
):
    store = s3_bucket.url("s.zarr")
    with LambdaExecutor(NAME, max_workers=4, functions=FUNCTIONS) as executor:
        summary = run(config, catalog=remote_catalog, store=store, executor=executor)
        assert_same(arrays(store, summary), expected)
        assert executor.longest_call_s == 60.0
        again = run(config, catalog=remote_catalog, store=store, executor=executor)
        assert again["lambda_calls"] == 1  # of this run alone
        with pytest.raises(BackendError, match="is on this machine"):
            run(config, catalog=remote_catalog, store="here.zarr", executor=executor)


# Bad input: refused before any cell is sent.


def test_a_store_on_this_machine_is_refused(config, remote_catalog, function, tmp_path):
    with pytest.raises(BackendError, match=r"is on this machine.*s3://bucket/prefix"):
        run(config, catalog=remote_catalog, store=tmp_path / "s.zarr", backend="lambda")
    assert not (tmp_path / "s.zarr").exists()


def test_granules_on_this_machine_are_refused(config, catalog, s3_bucket, function):
    with pytest.raises(BackendError, match="granules are on this machine"):
        on_lambda(config, catalog, s3_bucket)
    assert s3_bucket.keys() == []


def test_an_unknown_function_is_refused_by_name_and_region(
    config, remote_catalog, s3_bucket, function
):
    with pytest.raises(FunctionNotFoundError, match="no function 'nowhere' in us-west-2"):
        on_lambda(config, remote_catalog, s3_bucket, function_name="nowhere")
    assert s3_bucket.keys() == []


def test_the_environment_names_the_function(
    config, remote_catalog, s3_bucket, function, monkeypatch
):
    monkeypatch.setenv("MAGG_LAMBDA_FUNCTION_NAME", "elsewhere")
    with pytest.raises(FunctionNotFoundError, match="elsewhere"):
        on_lambda(config, remote_catalog, s3_bucket)


def test_missing_credentials_are_refused_with_where_to_put_them(
    config, remote_catalog, s3_bucket, function, monkeypatch
):
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    with pytest.raises(StoreError, match=r"no AWS credentials.*AWS_PROFILE"):
        on_lambda(config, remote_catalog, s3_bucket)


def test_an_executor_without_credentials_says_where_to_put_them(function, monkeypatch):
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    with pytest.raises(AccessDeniedError, match="AWS_PROFILE"):
        LambdaExecutor(NAME, max_workers=2)


def test_wrong_credentials_are_refused(config, remote_catalog, s3_bucket, function, monkeypatch):
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIAWRONG")
    with pytest.raises((AccessDeniedError, StoreError)):
        on_lambda(config, remote_catalog, s3_bucket)


def test_a_bucket_that_is_not_there_is_refused(config, remote_catalog, function):
    with pytest.raises((BackendError, StoreError), match="no-such-bucket"):
        run(config, catalog=remote_catalog, store="s3://no-such-bucket/s.zarr", backend="lambda")


def test_too_many_workers_for_the_function_are_told_and_wait(
    config, remote_catalog, s3_bucket, function
):
    events = []
    before = function.throttled
    _, summary = on_lambda(
        config, remote_catalog, s3_bucket, max_workers=50, progress=events.append
    )
    assert summary["cells_error"] == 0
    assert any("reserves 2 calls at once" in getattr(e, "message", "") for e in events)
    assert function.throttled == before


def test_a_function_that_takes_no_calls_is_refused(config, remote_catalog, s3_bucket, deploy):
    deploy("shut", "def handler(event, context): pass", concurrency=0)
    with pytest.raises(BackendError, match="reserved concurrency is 0"):
        on_lambda(config, remote_catalog, s3_bucket, function_name="shut")


def test_a_handler_that_is_not_maggs_is_refused(config, remote_catalog, s3_bucket, deploy):
    deploy("foreign", "def handler(event, context): return {'hello': 'world'}")
    with pytest.raises(BackendError, match="not magg's"):
        on_lambda(config, remote_catalog, s3_bucket, function_name="foreign")
    assert s3_bucket.keys() == []


def test_a_broken_package_is_refused(config, remote_catalog, s3_bucket, deploy):
    deploy("broken", "import no_such_module")
    with pytest.raises(BackendError, match=r"package is broken.*no_such_module"):
        on_lambda(config, remote_catalog, s3_bucket, function_name="broken")


def test_another_version_in_the_function_is_refused(config, remote_catalog, s3_bucket, deploy):
    deploy(
        "old",
        """
        import magg
        magg.__version__ = "0.0.9"
        from magg.aws.handler import lambda_handler as handler
        """,
    )
    with pytest.raises(VersionMismatchError, match=f"0.0.9|{__version__}"):
        on_lambda(config, remote_catalog, s3_bucket, function_name="old")
    assert s3_bucket.keys() == []


def test_workers_that_may_not_write_are_refused(config, remote_catalog, s3_bucket, deploy):
    deploy(
        "readonly",
        "from magg.aws.handler import lambda_handler as handler",
        env={"AWS_SECRET_ACCESS_KEY": "wrong"},
    )
    with pytest.raises(StoreError, match=r"workers cannot write.*s3:PutObject"):
        on_lambda(config, remote_catalog, s3_bucket, function_name="readonly")
    assert s3_bucket.keys() == []


# What happens in the middle of a run.


def is_cell(event):
    return event.get("function") == "process_cell"


@pytest.mark.parametrize(
    "faults",
    [
        [Fault("drop-answer", 3)],
        [Fault("drop", 2)],
        [Fault("ServiceException", 2)],
        [Fault("ConcurrentInvocationLimitExceeded", 5)],
        [Fault("CallerRateLimitExceeded", 1), Fault("drop-answer", 1), Fault("ServiceException")],
    ],
    ids=lambda faults: "-".join(fault.kind for fault in faults),
)
def test_what_passes_is_tried_again_and_nothing_is_lost(
    config, remote_catalog, s3_bucket, function, expected, faults
):
    events = []

    def listen(event):
        events.append(event)
        if len(events) == 1:  # after the preflight
            function.inject(*faults)

    store, summary = on_lambda(config, remote_catalog, s3_bucket, progress=listen)
    assert_same(arrays(store, summary), expected)
    for fault in faults:
        assert function.struck[fault.kind] >= 1
    if faults[0].kind == "ConcurrentInvocationLimitExceeded":
        assert (summary["calls_throttled"], summary["retries"]) == (5, 0)
    else:
        assert summary["retries"] >= 1


DYING = """
import os, time
from magg.aws.handler import lambda_handler

def handler(event, context):
    if event.get("function") == "process_cell":
        {what}
    return lambda_handler(event, context)
"""


@pytest.mark.parametrize(
    ("what", "options", "kind", "advice", "calls_per_cell"),
    [
        ("time.sleep(600)", {"timeout": 10.0}, "WorkerTimeoutError", "raise its timeout", 1),
        (
            "hog = bytearray(700_000_000); hog[::4096] = b'x' * len(hog[::4096]); time.sleep(5)",
            {"memory_mb": 600},
            "WorkerOutOfMemoryError",
            "finer parent order",
            1,
        ),
        ("os._exit(7)", {}, "WorkerLostError", "exit status 7", 3),
        ("raise SystemExit(3)", {}, "WorkerLostError", "may pass", 3),
        ("raise ValueError('of the handler')", {}, "RemoteError", "of the handler", 1),
    ],
    ids=["timeout", "memory", "exit", "SystemExit", "raise"],
)
def test_a_worker_that_does_not_come_to_its_end_is_an_error_with_advice(
    config, remote_catalog, s3_bucket, deploy, what, options, kind, advice, calls_per_cell
):
    dying = deploy("dying", DYING.format(what=what), **options)
    _, summary = on_lambda(config, remote_catalog, s3_bucket, function_name="dying", max_cells=2)
    assert [error["type"] for error in summary["errors"]] == [kind, kind]
    assert advice in summary["errors"][0]["message"]
    assert len(dying.calls) == 1 + 2 * calls_per_cell
    assert summary["cells_error"] == 2


def test_expired_credentials_of_the_caller_are_fetched_anew(
    config, remote_catalog, s3_bucket, function, expected
):
    def listen(event, events=[]):  # noqa: B006
        events.append(event)
        if len(events) == 1:
            function.inject(Fault("ExpiredTokenException", 1))

    store, summary = on_lambda(config, remote_catalog, s3_bucket, progress=listen)
    assert_same(arrays(store, summary), expected)
    assert function.struck["ExpiredTokenException"] == 1


INTERRUPTED = """
import sys
from magg import Catalog, load_config, run

class Listener:
    def __call__(self, event):
        print(type(event).__name__, getattr(event, "message", ""), flush=True)

if __name__ == "__main__":
    run(load_config("atl06"), catalog=sys.argv[1], store=sys.argv[2], backend="lambda",
        function_name="slow", max_workers=4, progress=Listener())
"""


def test_ctrl_c_ends_the_process_at_once_and_says_what_still_runs(
    config, remote_catalog, s3_bucket, deploy, tmp_path
):
    slow = deploy("slow", DYING.format(what="time.sleep(600)"), timeout=700.0)
    script = tmp_path / "job.py"
    script.write_text(INTERRUPTED)
    path = str(remote_catalog.save(tmp_path / "catalog.json"))
    victim = subprocess.Popen(
        [sys.executable, str(script), path, s3_bucket.url("s.zarr")],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        lines = []
        while not lines or not lines[-1].startswith("RunStarted"):
            lines.append(victim.stdout.readline())
            assert lines[-1], "".join(lines)
        wait_until(lambda: slow.busy == 2)
        victim.send_signal(signal.SIGINT)
        rest, _ = victim.communicate(timeout=300)  # the calls take twice as long
    finally:
        victim.kill()
    assert "calls may still run for at most 700 s" in rest
    assert "KeyboardInterrupt" in rest
