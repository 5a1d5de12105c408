"""The API of the loopback Lambda answers as that of AWS does, as far as it answers at all."""

from __future__ import annotations

import json
import multiprocessing
import os
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from services.lambda_api import LambdaService, client_of
from services.lambda_calls import gone, invoke, refusal, result, threads_since, wait_until
from services.lambda_faults import Fault

boto3 = pytest.importorskip("boto3")
pytest.importorskip("awslambdaric")
from botocore import UNSIGNED  # noqa: E402
from botocore.config import Config  # noqa: E402
from botocore.exceptions import (  # noqa: E402
    EndpointConnectionError,
    HTTPClientError,
    ReadTimeoutError,
)

HANDLERS = Path(__file__).with_name("lambda_handlers")


# Requests that are refused


def test_a_function_that_was_not_deployed_is_not_found(client):
    status, code, answer = refusal(client.invoke, FunctionName="nope")
    assert (status, code) == (404, "ResourceNotFoundException")
    arn = "arn:aws:lambda:us-west-2:123456789012:function:nope"
    assert answer["Error"]["Message"] == f"Function not found: {arn}"
    assert refusal(client.get_function, FunctionName="nope")[:2] == (status, code)


@pytest.mark.parametrize("payload", [b"{", b"NaN", b"\xff"])
def test_an_event_that_is_no_json_is_refused(client, deploy, payload):
    function = deploy()
    status, code, answer = refusal(client.invoke, FunctionName=function.name, Payload=payload)
    assert (status, code) == (400, "InvalidRequestContentException")
    assert answer["Error"]["Message"].startswith("Could not parse request body into json: ")
    assert function.calls == []


@pytest.mark.parametrize(("kind", "limit"), [("RequestResponse", 6_291_456), ("Event", 1_048_576)])
def test_an_event_that_is_too_large_is_refused(client, deploy, kind, limit):
    function = deploy("handlers.size")
    options = {"FunctionName": function.name, "InvocationType": kind}
    fits = b'"' + b"x" * (limit - 2) + b'"'
    status, code, answer = refusal(client.invoke, Payload=fits + b" ", **options)
    assert (status, code) == (413, "RequestTooLargeException")
    assert answer["Error"]["Message"] == (
        f"Request must be smaller than {limit} bytes for the InvokeFunction operation"
    )
    assert client.invoke(Payload=fits, **options)["StatusCode"] < 300


def test_calls_beyond_the_reserved_concurrency_are_throttled(client, deploy, tmp_path):
    function = deploy(concurrency=2, timeout=60.0)
    waits = {"until": str(tmp_path / "go")}
    with ThreadPoolExecutor(6) as pool:
        futures = [pool.submit(invoke, client, function, waits) for _ in range(6)]
        wait_until(lambda: function.throttled == 4)
        (tmp_path / "go").touch()
    errors = [future.exception() for future in futures if future.exception()]
    assert (len(errors), function.peak, function.requests) == (4, 2, 6)
    assert isinstance(errors[0], client.exceptions.TooManyRequestsException)
    answer = errors[0].response
    assert answer["Error"]["Message"] == "Rate Exceeded."
    assert answer["Reason"] == "ReservedFunctionConcurrentInvocationLimitExceeded"
    assert answer["ResponseMetadata"]["HTTPHeaders"]["retry-after"] == "1"
    result(client, function)


def test_functions_without_reserved_concurrency_share_the_rest(client, deploy, service, tmp_path):
    deploy(concurrency=3)
    function, other = deploy(concurrency=None, timeout=60.0), deploy(concurrency=None)
    reserved = sum(one.concurrency or 0 for one in service.account.functions.values())
    service.concurrent_executions = reserved + 1
    try:
        limit = client.get_account_settings()["AccountLimit"]
        assert limit["ConcurrentExecutions"] == reserved + 1
        assert limit["UnreservedConcurrentExecutions"] == 1
        with ThreadPoolExecutor(1) as pool:
            pool.submit(invoke, client, function, {"until": str(tmp_path / "go")})
            wait_until(lambda: function.busy)
            status, _, answer = refusal(invoke, client, other)
            (tmp_path / "go").touch()
        assert (status, answer["Reason"]) == (429, "ConcurrentInvocationLimitExceeded")
    finally:
        service.concurrent_executions = 1000
    result(client, other)


def test_new_environments_come_in_a_burst_and_then_at_a_rate(client, deploy, tmp_path):
    function = deploy(concurrency=50, burst=3, rate=0.0, timeout=60.0)
    waits = {"until": str(tmp_path / "go")}
    with ThreadPoolExecutor(8) as pool:
        futures = [pool.submit(invoke, client, function, waits) for _ in range(8)]
        wait_until(lambda: function.throttled == 5)
        function.rate = 1000.0
        time.sleep(0.01)
        further = pool.submit(invoke, client, function, waits)
        wait_until(lambda: function.cold_starts == 4)
        (tmp_path / "go").touch()
    assert sum(future.exception() is None for future in futures) == 3
    assert further.exception() is None
    function.rate = 0.0
    result(client, function)  # what is warm does not count
    assert function.throttled == 5


def test_who_is_not_known_is_refused(service, deploy):
    function = deploy()
    stranger = client_of(service, access_key="AKIASTRANGER")
    status, code, answer = refusal(stranger.invoke, FunctionName=function.name)
    assert (status, code) == (403, "UnrecognizedClientException")
    message = "The security token included in the request is invalid."
    assert answer["Error"]["Message"] == message
    elsewhere = client_of(service, region="eu-west-1")
    assert refusal(elsewhere.invoke, FunctionName=function.name)[1] == "InvalidSignatureException"
    unsigned = client_of(service, signature_version=UNSIGNED)
    status, code, _ = refusal(unsigned.invoke, FunctionName=function.name)
    assert (status, code) == (403, "MissingAuthenticationTokenException")
    assert function.requests == 0


def test_what_is_not_emulated_is_refused_and_remembered(service, client, deploy):
    function = deploy()
    before = len(service.refused)
    calls = [
        (client.list_functions, {}),
        (client.put_function_concurrency, {"ReservedConcurrentExecutions": 1}),
        (client.delete_function, {}),
        (client.invoke, {"DurableExecutionName": "run"}),
        (client.invoke, {"InvocationType": "Sometimes"}),
    ]
    for call, options in calls:
        named = {} if call == client.list_functions else {"FunctionName": function.name}
        status, code, _ = refusal(call, **named, **options)
        assert (status, code) == (501, "NotEmulatedException")
    assert len(service.refused) == before + len(calls)
    assert "DELETE" in service.refused[before + 2]
    del service.refused[before:]  # else the session fails because of them
    assert function.calls == []


def test_a_function_tells_how_it_was_deployed(client, deploy):
    function = deploy(
        timeout=900.0, memory_mb=2048, architecture="arm64", concurrency=7, log_format="JSON"
    )
    configuration = client.get_function_configuration(FunctionName=function.arn)
    assert configuration["FunctionName"] == function.name
    assert configuration["FunctionArn"] == function.arn
    assert (configuration["Timeout"], configuration["MemorySize"]) == (900, 2048)
    assert configuration["Architectures"] == ["arm64"]
    assert configuration["LoggingConfig"]["LogFormat"] == "JSON"
    whole = client.get_function(FunctionName=function.name)
    assert whole["Configuration"]["FunctionArn"] == function.arn
    assert whole["Concurrency"] == {"ReservedConcurrentExecutions": 7}
    reserved = client.get_function_concurrency(FunctionName=function.name)
    assert reserved["ReservedConcurrentExecutions"] == 7


def test_a_function_without_a_folder_is_refused(service, tmp_path):
    with pytest.raises(ValueError, match="no folder"):
        service.deploy("f", folder=tmp_path / "absent")


# Faults


@pytest.mark.parametrize(
    ("kind", "status", "code"),
    [
        ("ConcurrentInvocationLimitExceeded", 429, "TooManyRequestsException"),
        ("FunctionInvocationRateLimitExceeded", 429, "TooManyRequestsException"),
        ("AccessDeniedException", 403, "AccessDeniedException"),
        ("ExpiredTokenException", 403, "ExpiredTokenException"),
        ("UnrecognizedClientException", 403, "UnrecognizedClientException"),
        ("ServiceException", 500, "ServiceException"),
    ],
)
def test_an_injected_answer_comes_in_place_of_the_function(client, deploy, kind, status, code):
    function = deploy()
    function.inject(Fault(kind, times=2, retry_after=3))
    for _ in range(2):
        got = refusal(invoke, client, function)
        assert got[:2] == (status, code)
        assert got[2]["ResponseMetadata"]["HTTPHeaders"]["retry-after"] == "3"
        assert got[2].get("Reason") == (kind if status == 429 else None)
    assert function.calls == []
    result(client, function)
    assert (function.struck[kind], function.requests, function.throttled) == (2, 3, 0)


def test_any_answer_can_be_injected(client, deploy):
    function = deploy()
    function.inject(Fault("answer", status=418, error="TeapotException", message="short and stout"))
    status, code, answer = refusal(invoke, client, function)
    assert (status, code, answer["Error"]["Message"]) == (418, "TeapotException", "short and stout")


@pytest.mark.parametrize(("kind", "runs"), [("drop", 0), ("drop-answer", 1)])
def test_a_connection_drops_before_or_after_the_function_runs(client, deploy, kind, runs):
    function = deploy()
    function.inject(Fault(kind))
    with pytest.raises(HTTPClientError):
        invoke(client, function)
    assert len(function.calls) == runs
    result(client, function)
    assert function.struck[kind] == 1


def test_an_answer_comes_late(service, client, deploy):
    function = deploy()
    function.inject(Fault("latency", seconds=2.0, times=2), Fault("ServiceException"))
    began = time.perf_counter()
    assert refusal(invoke, client, function)[0] == 500
    assert time.perf_counter() - began >= 2.0
    with pytest.raises(ReadTimeoutError):
        invoke(client_of(service, read_timeout=0.15), function)
    assert function.struck == {"latency": 2, "ServiceException": 1}
    wait_until(lambda: len(function.calls) == 1)  # it runs, though nobody waits for its answer


def test_faults_can_be_taken_back(client, deploy):
    function = deploy()
    function.inject(Fault("drop", times=None))
    function.clear_faults()
    result(client, function)
    assert not function.struck


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"kind": "teapot"}, "unknown kind"),
        ({"kind": "latency"}, "seconds"),
        ({"kind": "drop", "seconds": 1.0}, "seconds"),
        ({"kind": "answer", "status": 400}, "an error"),
        ({"kind": "drop", "status": 400, "error": "E"}, "nothing else"),
    ],
)
def test_a_fault_that_makes_no_sense_is_refused(arguments, words):
    with pytest.raises(ValueError, match=words):
        Fault(**arguments)


# The service as a whole


def test_many_connections_at_once_are_served_without_a_stall(service, deploy):
    function = deploy(concurrency=64, burst=4, rate=0.0)
    client = client_of(service)  # closed below: as many threads serve its connections
    function.inject(Fault("latency", seconds=3.0, times=64))

    def call(_):
        try:
            return result(client, function)["pid"]
        except client.exceptions.TooManyRequestsException:
            return None

    began = time.perf_counter()
    with ThreadPoolExecutor(64) as pool:
        got = list(pool.map(call, range(64)))
    assert time.perf_counter() - began < 64 * 3.0 / 4
    client.close()
    assert len(got) - got.count(None) == len(function.calls) == 64 - function.throttled
    assert function.struck["latency"] == 64


def test_a_connection_serves_many_calls_quickly(client, deploy):
    function = deploy()
    result(client, function)

    def is_quick():
        took = []
        for _ in range(25):
            began = time.perf_counter()
            result(client, function)
            took.append(time.perf_counter() - began)
        return sorted(took)[5] < 0.040

    # Nagle's algorithm with delayed acknowledgements would cost 40 ms a call at either API, every
    # time; a busy machine does not always.
    wait_until(is_quick)


def test_an_event_is_given_up_when_its_function_is_removed(service, client, deploy):
    function = deploy(concurrency=0)
    before = threading.enumerate()
    client.invoke(FunctionName=function.name, InvocationType="Event")
    waiting = [thread for thread in threads_since(before) if thread.name == "lambda-event"]
    assert len(waiting) == 1
    service.remove(function.name)
    wait_until(lambda: not waiting[0].is_alive())
    assert function.calls == []


def test_the_environment_leads_plain_clients_to_the_service(service, deploy, monkeypatch):
    function = deploy()
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    for name, value in service.environment().items():
        monkeypatch.setenv(name, value)
    session = boto3.session.Session()
    assert session.client("lambda").invoke(FunctionName=function.name)["StatusCode"] == 200
    with pytest.raises(EndpointConnectionError):
        session.client("s3", config=Config(retries={"total_max_attempts": 1})).list_buckets()


def test_a_removed_function_ends_and_is_not_found(service, client, deploy):
    function = deploy(timeout=60.0)
    pid = result(client, function)["pid"]
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(invoke, client, function, {"sleep": 50})
        wait_until(lambda: function.busy)
        service.remove(function.name)
        assert json.loads(running.result(120)["Payload"])["errorType"] == "Runtime.ExitError"
    assert gone(pid)
    assert refusal(invoke, client, function)[0] == 404


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_workers_end_though_a_forked_child_holds_their_pipes(service, client, deploy):
    function = deploy()
    pid = result(client, function)["pid"]
    child = multiprocessing.get_context("fork").Process(target=time.sleep, args=(600,))
    child.start()
    try:
        began = time.monotonic()
        service.remove(function.name)
        assert time.monotonic() - began < 300
        assert gone(pid)
    finally:
        child.kill()
        child.join()


def test_nothing_is_left_when_the_service_stops(tmp_path):
    before = threading.enumerate()
    with LambdaService() as service:
        function = service.deploy("f", "handlers.echo", folder=HANDLERS, timeout=60.0)
        client = client_of(service)
        with ThreadPoolExecutor(2) as pool:
            waits = {"until": str(tmp_path / "go")}
            futures = [pool.submit(invoke, client, function, waits) for _ in range(2)]
            wait_until(lambda: function.peak == 2)
            (tmp_path / "go").touch()
            assert not [future.exception() for future in futures if future.exception()]
        folders = service.folders()
        assert len(folders) == 2
        assert all(path.is_dir() for path in folders)
        begun = threads_since(before)
        assert begun
    service.stop()
    assert not [path for path in folders if path.exists()]
    assert all(gone(call.pid) for call in function.calls)
    # Only its own: other tests of the process may have left some that come and go.
    wait_until(lambda: not any(thread.is_alive() for thread in begun))


def test_workers_end_when_the_test_process_is_killed(tmp_path):
    (tmp_path / "owner.py").write_text(
        "import os, signal, sys, threading\n"
        "from services.lambda_api import LambdaService\n"
        "from services.lambda_runtime import Invocation\n"
        "service = LambdaService()\n"
        "function = service.deploy('f', 'handlers.echo', folder=sys.argv[1], timeout=300.0)\n"
        "function.invoke(Invocation('1', b'{}', 'arn'))\n"
        "event = b'{\"sleep\": 200}'\n"
        "run = lambda: function.invoke(Invocation('2', event, 'arn'))\n"
        "threading.Thread(target=run, daemon=True).start()\n"
        "print(function.calls[0].pid, *service.folders(), flush=True)\n"
        "sys.stdin.read()\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    with subprocess.Popen(
        [sys.executable, tmp_path / "owner.py", HANDLERS],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])},
    ) as owner:
        pid, worker_folder = owner.stdout.readline().split()
        assert not gone(pid)
        assert Path(worker_folder).is_dir()
        owner.stdin.close()
    wait_until(lambda: gone(pid) and not Path(worker_folder).exists())
