"""LambdaExecutor by itself, with functions of one's own, before the real runtime client."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import threading
import time
from concurrent.futures import wait
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from services.lambda_faults import Fault

from magg.errors import (
    AccessDeniedError,
    BackendError,
    CredentialsExpiredError,
    PayloadError,
    RemoteError,
    ThrottledError,
    WorkerLostError,
)
from magg.executors import LambdaExecutor, lambda_preflight
from magg.executors.lambda_client import READ_TIMEOUT_S
from magg.executors.lambda_usage import Price

boto3 = pytest.importorskip("boto3")
pytest.importorskip("awslambdaric")

ROOT = Path(__file__).parents[2]
NAME = "own-functions"
HANDLER = """
import time
from magg.executors.serve import make_handler

def double(number: int) -> int:
    return 2 * number

def sleep(seconds: float) -> float:
    time.sleep(seconds)
    return seconds

def text(characters: int) -> str:
    return "x" * characters

def length(characters: str) -> int:
    return len(characters)

def fail(message: str) -> None:
    raise LookupError(message)

FUNCTIONS = {f.__name__: f for f in (double, sleep, text, length, fail)}
handler = make_handler(FUNCTIONS)
"""
# The client has the same functions, as a project has that deploys its own package.
client_side: dict[str, object] = {}
exec(HANDLER, client_side)  # noqa: S102
FUNCTIONS = client_side["FUNCTIONS"]


@pytest.fixture(scope="module")
def deploy(lambda_service, s3_server, tmp_path_factory):
    """Return a function that deploys the handler under a name."""
    folder = tmp_path_factory.mktemp("own")
    (folder / "h.py").write_text(HANDLER)

    def make(name, timeout):
        return lambda_service.deploy(
            name,
            folder=folder,
            timeout=timeout,
            memory_mb=1_000,
            concurrency=3,
            environment=s3_server.environment() | {"PYTHONPATH": str(ROOT)},
        )

    return make


@pytest.fixture(scope="module")
def deployed(deploy, lambda_service):
    yield deploy(NAME, 120.0)
    lambda_service.remove(NAME)


@pytest.fixture
def function(deployed, lambda_service, aws_environment, monkeypatch):
    aws_environment()
    monkeypatch.setenv("AWS_ENDPOINT_URL_LAMBDA", lambda_service.endpoint)
    deployed.clear_faults()
    return deployed


@pytest.fixture
def make(function):
    made = []

    def executor(**options):
        made.append(LambdaExecutor(NAME, **{"max_workers": 3, "functions": FUNCTIONS} | options))
        return made[-1]

    yield executor
    for one in made:
        one.shutdown(wait=False, cancel_futures=True)


def test_results_come_back_with_their_types(make):
    assert list(make().map(FUNCTIONS["double"], range(5))) == [0, 2, 4, 6, 8]


def test_an_error_of_the_function_tells_type_message_and_stack(make):
    error = make().submit(FUNCTIONS["fail"], "no such thing").exception()
    assert isinstance(error, RemoteError)
    assert error.type == "LookupError"
    assert "no such thing" in str(error)
    assert "in fail" in error.traceback


def test_a_function_that_the_handler_does_not_know_is_refused_before_anything_is_sent(
    make, function
):
    before = function.requests
    with pytest.raises(BackendError, match="may call double, fail, length"):
        make().submit(os.getcwd)
    assert function.requests == before


def test_arguments_that_do_not_fit_are_malformed(make):
    error = make().submit(FUNCTIONS["double"], "secret").exception()
    assert isinstance(error, PayloadError)
    assert "number" in str(error)
    assert "secret" not in str(error)


@pytest.mark.parametrize("config", [{}, {"retries": {"total_max_attempts": 1}}])
def test_a_client_that_may_call_twice_is_refused(function, config):
    from botocore.config import Config

    client = boto3.client("lambda", region_name="us-west-2", config=Config(**config))
    with pytest.raises(BackendError, match=r"total_max_attempts.: 1.*read_timeout=905"):
        LambdaExecutor(NAME, client=client)


def test_a_client_of_the_callers_own_is_used(function):
    from botocore.config import Config

    config = Config(retries={"total_max_attempts": 1}, read_timeout=READ_TIMEOUT_S)
    client = boto3.client("lambda", region_name="us-west-2", config=config)
    with LambdaExecutor(NAME, client=client, max_workers=2, functions=FUNCTIONS) as executor:
        assert executor.submit(FUNCTIONS["double"], 4).result() == 8


# What may be sent again, and what may not.


@pytest.mark.parametrize("kind", ["drop", "drop-answer", "ServiceException"])
def test_a_call_that_may_have_run_is_not_sent_again(make, function, kind):
    before = function.requests
    function.inject(Fault(kind))
    error = make().submit(FUNCTIONS["double"], 1).exception()
    assert isinstance(error, WorkerLostError)
    assert function.requests == before + 1


def test_a_call_that_was_refused_is_sent_again(make, function):
    executor = make()
    function.inject(Fault("ConcurrentInvocationLimitExceeded", 2))
    assert executor.submit(FUNCTIONS["double"], 1).result() == 2
    assert (executor.usage.throttled, executor.usage.calls) == (2, 1)


def test_patience_with_refusals_ends(make, function):
    function.inject(Fault("FunctionInvocationRateLimitExceeded", None))
    error = make(patience_s=0.0).submit(FUNCTIONS["double"], 1).exception()
    assert isinstance(error, ThrottledError)
    assert "FunctionInvocationRateLimitExceeded" in str(error)


def test_a_call_that_cannot_connect_is_sent_again_and_then_lost(function, monkeypatch):
    from services.processes import free_ports

    monkeypatch.setenv("AWS_ENDPOINT_URL_LAMBDA", f"http://127.0.0.1:{free_ports(1)[0]}")
    monkeypatch.setattr("magg.executors.lambda_invoke.random.uniform", lambda *_: 0.01)
    with LambdaExecutor(NAME, max_workers=1, functions=FUNCTIONS) as executor:
        error = executor.submit(FUNCTIONS["double"], 1).exception()
    assert isinstance(error, WorkerLostError)
    assert executor.usage.resent == 4


def test_expired_credentials_are_renewed_once(make, function):
    executor = make()
    function.inject(Fault("ExpiredTokenException", 1))
    assert executor.submit(FUNCTIONS["double"], 1).result() == 2
    function.inject(Fault("ExpiredTokenException", 2))
    error = executor.submit(FUNCTIONS["double"], 1).exception()
    assert isinstance(error, CredentialsExpiredError)


@pytest.mark.parametrize("kind", ["AccessDeniedException", "UnrecognizedClientException"])
def test_denied_access_says_what_is_needed(make, function, kind):
    function.inject(Fault(kind))
    error = make().submit(FUNCTIONS["double"], 1).exception()
    assert isinstance(error, AccessDeniedError)
    assert "lambda:InvokeFunction" in str(error) or "AWS_PROFILE" in str(error)


# Sizes.

LARGE = 6_400_000


def test_a_call_of_more_than_six_megabytes_goes_through_the_bucket(make, s3_bucket):
    executor = make(offload_to=s3_bucket.url("prefix"))
    assert executor.submit(FUNCTIONS["length"], "x" * LARGE).result() == LARGE
    assert s3_bucket.keys() == []


def test_an_answer_of_more_than_six_megabytes_goes_through_the_bucket(make, s3_bucket):
    executor = make(offload_to=s3_bucket.url("prefix"))
    assert len(executor.submit(FUNCTIONS["text"], LARGE).result()) == LARGE
    assert s3_bucket.keys() == []


def test_without_a_bucket_such_sizes_are_errors_that_name_it(make, function):
    before = function.requests
    error = make().submit(FUNCTIONS["length"], "x" * LARGE).exception()
    assert isinstance(error, PayloadError)
    assert "offload_to" in str(error)
    assert function.requests == before
    error = make().submit(FUNCTIONS["text"], LARGE).exception()
    assert "offload_to" in str(error)


# Time and money.


def test_the_usage_is_what_the_platform_reports(make, function):
    executor = make(price=Price(per_gb_second=1.0, per_million_calls=1e6))
    before = len(function.calls)
    wait([executor.submit(FUNCTIONS["sleep"], 0.2) for _ in range(4)])
    used = executor.used()
    assert used["lambda_calls"] == 4
    billed_s = sum(call.billed_ms for call in function.calls[before:]) / 1e3
    assert used["lambda_time_s"] == pytest.approx(billed_s)
    assert billed_s >= 0.8
    assert used["gb_seconds"] == pytest.approx(used["lambda_time_s"] * 1_000 / 1024)
    assert used["estimated_cost_usd"] == pytest.approx(used["gb_seconds"] + 4)


def test_a_silent_connection_is_probed_every_minute(make, lambda_service):
    if not Path("/proc/net/tcp").exists():
        pytest.skip("reads the timers of connections where Linux shows them")
    port = f"{urlsplit(lambda_service.endpoint).port:04X}"
    executor = make(max_workers=1)
    executor.submit(FUNCTIONS["sleep"], 1.0)
    timers, end = [], time.monotonic() + 120.0
    while not timers and time.monotonic() < end:
        for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
            _, _, remote, state, _, timer, *_ = line.split()
            kind, _, when = timer.partition(":")
            if remote.endswith(f":{port}") and (state, kind) == ("01", "02"):
                timers.append(int(when, 16) / os.sysconf("SC_CLK_TCK"))
        time.sleep(0.05)
    assert timers
    assert 0 < max(timers) <= 61.0


def test_the_interpreter_ends_while_calls_that_nobody_wants_go_on(
    function, deploy, lambda_service, tmp_path
):
    deploy("lasting", timeout=900.0)
    script = tmp_path / "job.py"
    script.write_text(
        HANDLER
        + textwrap.dedent(
            """
            from magg.executors import LambdaExecutor
            executor = LambdaExecutor("lasting", functions=FUNCTIONS, max_workers=2)
            futures = [executor.submit(sleep, 600.0) for _ in range(4)]
            while not (futures[0].running() and futures[1].running()):
                time.sleep(0.01)
            time.sleep(0.5)
            executor.shutdown(wait=False, cancel_futures=True)
            print(*(future.cancelled() for future in futures))
            """
        )
    )
    told = subprocess.run(
        [sys.executable, str(script)],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=300,  # half of what the calls take
        check=True,
    )
    lambda_service.remove("lasting")
    assert told.stdout.split() == ["False", "False", "True", "True"], told.stderr


# The bucket.


class Elsewhere(BaseHTTPRequestHandler):
    """Answers as S3 does for a bucket of another region."""

    def do_HEAD(self):
        self.send_response(301)
        self.send_header("x-amz-bucket-region", "eu-west-1")
        self.end_headers()

    def log_message(self, *_):
        pass


def test_a_bucket_in_another_region_is_refused(function, monkeypatch):
    with ThreadingHTTPServer(("127.0.0.1", 0), Elsewhere) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", f"http://127.0.0.1:{server.server_port}")
        with pytest.raises(BackendError, match="is in eu-west-1 and the function in us-west-2"):
            lambda_preflight.check_bucket("s3://somewhere/s.zarr", "us-west-2")
        server.shutdown()


def test_questions_that_fail_in_passing_are_asked_again(make, monkeypatch):
    from botocore.exceptions import ConnectionClosedError

    dropped = ConnectionClosedError(endpoint_url="https://dropped")
    executor, failures = make(), [dropped] * 2
    client = executor._invoker.client
    ask = client.get_function_configuration

    def drop(**arguments):
        if failures:
            raise failures.pop()
        return ask(**arguments)

    monkeypatch.setattr(lambda_preflight, "PAUSES_S", (0.01, 0.01))
    monkeypatch.setattr(client, "get_function_configuration", drop)
    executor.preflight()
    assert executor.longest_call_s == 120.0
    failures.extend([dropped] * 3)
    with pytest.raises(WorkerLostError, match="dropped"):
        executor.preflight()


def test_a_bucket_that_is_not_there_or_not_ones_own_is_refused(function, s3_bucket, monkeypatch):
    lambda_preflight.check_bucket(s3_bucket.url("s.zarr"), "us-west-2")
    with pytest.raises(BackendError, match="there is no bucket 'missing'"):
        lambda_preflight.check_bucket("s3://missing/s.zarr", "us-west-2")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    with pytest.raises(AccessDeniedError, match="s3:PutObject"):
        lambda_preflight.check_bucket(s3_bucket.url("s.zarr"), "us-west-2")
