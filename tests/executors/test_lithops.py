"""LithopsExecutor by itself, on lithops' localhost backend."""

from __future__ import annotations

import functools
import json
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from services.lambda_calls import wait_until
from services.lithops_home import PATIENCE_S, ends_within

from magg.errors import (
    BackendError,
    MissingExtraError,
    PayloadError,
    VersionMismatchError,
    WorkerLostError,
    WorkerTimeoutError,
)
from magg.executors import LithopsExecutor, lithops_jobs, make_executor
from magg.testing.contract import calls

ROOT = Path(__file__).parents[2]
LOCALHOST = {"lithops": {"backend": "localhost"}}
HERE = ".".join(map(str, sys.version_info[:2]))


@pytest.fixture(autouse=True)
def at_home(lithops_home, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    return lithops_home


@pytest.fixture(autouse=True)
def time_limit():
    with ends_within(600):
        yield


@pytest.fixture
def runtime(tmp_path):
    """Return what makes an interpreter of a test's own, a shell script."""

    def make(script):
        path = tmp_path / "runtime"
        path.write_text(f"#!/bin/sh\npython={sys.executable}\n{script}\n")
        path.chmod(0o755)
        return str(path)

    return make


def test_calls_submitted_together_are_one_job_and_nothing_is_left_behind(at_home):
    # Whoever waits for a result sends what there is.
    with LithopsExecutor(LOCALHOST, max_workers=3, window_s=PATIENCE_S) as executor:
        futures = [executor.submit(functools.partial(pow, 2), n) for n in range(3)]
        assert [future.result(PATIENCE_S) for future in futures] == [1, 2, 4]
        assert executor.used() == {"lithops_calls": 3, "lithops_jobs": 1}
        # Larger than what lithops takes by default, in both directions, and not of its own making.
        error = executor.submit(calls.identity, (KeyError, bytes(5 * 2**20)))
        assert error.result(PATIENCE_S) == (KeyError, bytes(5 * 2**20))
    assert at_home.left() == set()


@pytest.mark.slow
def test_somebody_who_waits_waits_for_no_other_call():
    with LithopsExecutor(LOCALHOST, max_workers=2, window_s=2 * PATIENCE_S) as executor:
        assert executor.submit(pow, 2, 5).result(PATIENCE_S) == 32


@pytest.mark.slow
def test_calls_that_fill_a_job_travel_in_several():
    config = {"lithops": {"backend": "localhost", "data_limit": 1}}
    with LithopsExecutor(config, max_workers=4) as executor:
        futures = [executor.submit(len, bytes(500_000)) for _ in range(2)]
        assert [future.result(PATIENCE_S) for future in futures] == [500_000, 500_000]
        assert executor.used() == {"lithops_calls": 2, "lithops_jobs": 2}
        with pytest.raises(PayloadError, match=r"1\.3 MB and lithops takes 1 MB; raise `data_lim"):
            executor.submit(len, bytes(1_000_000)).result(PATIENCE_S)


@pytest.mark.slow
def test_what_waits_for_a_worker_can_be_cancelled():
    with LithopsExecutor(LOCALHOST, max_workers=1) as executor:
        first, second = executor.submit(pow, 2, 5), executor.submit(pow, 2, 6)
        assert (first.result(PATIENCE_S), second.result(PATIENCE_S)) == (32, 64)
        third, fourth = executor.submit(time.sleep, 1), executor.submit(pow, 2, 7)
        assert fourth.cancel()
        assert third.result(PATIENCE_S) is None


def test_a_worker_that_dies_is_an_error():
    with LithopsExecutor(LOCALHOST, max_workers=2) as executor:
        dead, alive = executor.submit(calls.die), executor.submit(pow, 2, 5)
        with pytest.raises(WorkerLostError, match=r"localhost died.*exited with code 13"):
            dead.result(PATIENCE_S)
        assert alive.result(PATIENCE_S) == 32


@pytest.mark.slow
def test_a_call_that_takes_too_long_is_ended():
    config = {"lithops": {"backend": "localhost", "execution_timeout": 2}}
    with LithopsExecutor(config, max_workers=1) as executor:
        assert executor.longest_call_s == 2.0
        with pytest.raises(WorkerTimeoutError, match="time limit"):
            executor.submit(time.sleep, 600).result(PATIENCE_S)


def test_a_worker_that_never_begins_is_an_error_and_not_a_wait_for_ever(runtime, at_home):
    dead = runtime('[ "$2" = get_metadata ] && exec $python "$@"; exit 1')
    with LithopsExecutor(LOCALHOST, start_timeout_s=2.0, runtime=dead) as executor:
        assert executor.preflight() == []
        with pytest.raises(WorkerLostError, match="no worker on localhost began the call"):
            executor.submit(pow, 2, 5).result(PATIENCE_S)
    assert at_home.left() == set()


def test_a_call_that_is_given_up_while_lithops_sends_it_leaves_nothing(at_home, monkeypatch):
    send, futures = lithops_jobs.LithopsJobs.send, []

    def late(*arguments):
        wait_until(lambda: futures and futures[0].done())
        return send(*arguments)

    monkeypatch.setattr(lithops_jobs.LithopsJobs, "send", late)
    with LithopsExecutor(LOCALHOST, start_timeout_s=0.5) as executor:
        futures.append(executor.submit(pow, 2, 5))
        with pytest.raises(WorkerLostError, match="no worker on localhost began the call"):
            futures[0].result(PATIENCE_S)
    assert at_home.left() == set()


@pytest.mark.slow
def test_a_runtime_without_magg_is_an_error_that_says_what_to_build(runtime, tmp_path):
    (tmp_path / "magg").mkdir()
    (tmp_path / "magg" / "__init__.py").write_text("raise ImportError('there is no magg here')")
    without = runtime(f'PYTHONPATH={tmp_path} exec $python "$@"')
    with (
        LithopsExecutor(LOCALHOST, runtime=without) as executor,
        pytest.raises(BackendError, match=r"cannot run magg.*no magg here.*with magg installed"),
    ):
        executor.submit(pow, 2, 5).result(PATIENCE_S)


@pytest.mark.parametrize(
    ("facts", "said"),
    [
        ({"python_version": "3.9", "lithops_version": "%s"}, "Python 3.9"),
        (
            {"python_version": ".".join(map(str, sys.version_info[:2])), "lithops_version": "2"},
            "lithops 2,",
        ),
    ],
)
def test_a_runtime_of_other_versions_is_refused(runtime, facts, said):
    import lithops

    facts["lithops_version"] = facts["lithops_version"].replace("%s", lithops.__version__)
    other = runtime(f"echo '{json.dumps(facts | {'preinstalls': []})}'")
    with (
        LithopsExecutor(LOCALHOST, runtime=other) as executor,
        pytest.raises(VersionMismatchError, match=said),
    ):
        executor.preflight()


@pytest.mark.slow
def test_a_runtime_that_cannot_be_asked_is_refused(runtime):
    broken = runtime("exit 3")
    with LithopsExecutor(LOCALHOST, runtime=broken) as executor:
        with pytest.raises(BackendError, match="cannot tell of its runtime"):
            executor.preflight()
        with pytest.raises(BackendError, match="cannot start a job on localhost"):
            executor.submit(pow, 2, 5).result(PATIENCE_S)


AWS = {
    "lithops": {"backend": "aws_lambda", "storage": "aws_s3"},
    "aws": {"region": "us-west-2"},
    "aws_lambda": {"execution_role": "arn:aws:iam::123456789012:role/r"},
    "aws_s3": {"storage_bucket": "lithops"},
}


@pytest.fixture
def aws(monkeypatch):
    pytest.importorskip("boto3")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIATEST")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "a-secret")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")


@pytest.mark.slow  # botocore tries it five times
def test_an_endpoint_that_refuses_is_one_error(aws, monkeypatch):
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))  # and does not listen
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{nobody.getsockname()[1]}")
        with pytest.raises(BackendError, match="lithops cannot be set up: EndpointConnection"):
            LithopsExecutor(AWS)


def test_an_endpoint_that_is_silent_is_one_error(aws, monkeypatch):
    monkeypatch.setattr(lithops_jobs, "SETUP_S", 1.0)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{silent.getsockname()[1]}")
        with pytest.raises(BackendError, match="could not be set up within 1 s; check the network"):
            LithopsExecutor(AWS)


def test_a_configuration_that_lithops_refuses_says_why():
    with pytest.raises(BackendError, match=r"cannot be set up: .*aws_lambda.*mandatory"):
        LithopsExecutor({"lithops": {"backend": "aws_lambda"}})


@pytest.mark.parametrize("number", [0, -1, 1.5, True])
def test_impossible_numbers_of_workers_are_refused(number):
    with pytest.raises(ValueError, match="max_workers"):
        LithopsExecutor(LOCALHOST, max_workers=number)


def test_without_lithops_the_extra_is_named(monkeypatch):
    for name in [name for name in sys.modules if name.split(".")[0] == "lithops"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "lithops", None)
    with pytest.raises(MissingExtraError, match=r"magg-healpix\[lithops\]"):
        make_executor("lithops")


def test_without_a_configuration_nothing_runs():
    with pytest.raises(BackendError, match="no lithops configuration; name a file in MAGG_LITHOPS"):
        make_executor("lithops")


INTERRUPTED = """
import os, sys, time
from magg.executors import LithopsExecutor

executor = LithopsExecutor({"lithops": {"backend": "localhost"}}, max_workers=2)
futures = [executor.submit(time.sleep, 600) for _ in range(6)]
while not any(call.has_started for call in executor._batches._under_way):
    time.sleep(0.05)
try:
    print("running", flush=True)
    futures[0].result()
except KeyboardInterrupt:
    executor.shutdown(wait=False, cancel_futures=True)
    print(sum(future.cancelled() for future in futures), "cancelled", flush=True)
"""


def processes():
    return subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout


def test_an_interrupt_gives_control_back_and_leaves_no_process(at_home):
    program = subprocess.Popen(
        [sys.executable, "-c", INTERRUPTED], stdout=subprocess.PIPE, text=True
    )
    try:
        assert program.stdout.readline() == "running\n"
        program.send_signal(signal.SIGINT)
        told, _ = program.communicate(timeout=PATIENCE_S / 2)
    finally:
        program.kill()
    assert (told, program.returncode) == ("4 cancelled\n", 0)
    wait_until(lambda: str(at_home.temporary) not in processes())
    assert at_home.left() == set()
