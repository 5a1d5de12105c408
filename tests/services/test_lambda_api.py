"""The loopback Lambda answers as AWS does, as far as it answers at all."""

from __future__ import annotations

import base64
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest

from services.lambda_api import LambdaService
from services.lambda_faults import Fault

boto3 = pytest.importorskip("boto3")
pytest.importorskip("awslambdaric")
from botocore import UNSIGNED  # noqa: E402
from botocore.config import Config  # noqa: E402
from botocore.exceptions import (  # noqa: E402
    ClientError,
    EndpointConnectionError,
    HTTPClientError,
    ReadTimeoutError,
)

HANDLERS = """
import logging, os, sys, time

logging.getLogger().setLevel("INFO")

def echo(event, context):
    print("from the handler")
    if "log" in event:
        logging.info(event["log"])
    time.sleep(event.get("sleep", 0))
    if "append" in event:
        with open(event["append"], "a") as file:
            print(os.getpid(), file=file)
    return {"pid": os.getpid(), "event": event, "request": context.aws_request_id,
            "left_ms": context.get_remaining_time_in_millis(), "memory": context.memory_limit_in_mb,
            "arn": context.invoked_function_arn, "folder": os.getcwd()}

def surroundings(event, context):
    import extra
    return {"variables": dict(os.environ), "extra": extra.WORD}

def context_of_client(event, context):
    return context.client_context.custom

def fail(event, context):
    raise LookupError("no such granule")

def leave(event, context):
    os._exit(event)

def struck(event, context):
    os.kill(os.getpid(), event)

def hoard(event, context):
    held = bytearray(b"x" * (event << 20))
    time.sleep(5)

def long(event, context):
    return "x" * event

def unserialisable(event, context):
    return object()
"""
BROKEN = "import no_such_module\n"
SLOW = """
import os, time
if not os.path.exists(os.environ["ONCE"]):
    open(os.environ["ONCE"], "w").close()
    time.sleep(20)
def handler(event, context):
    return "second attempt"
"""


@pytest.fixture(scope="module")
def service():
    with LambdaService() as running:
        yield running


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("task")
    (folder / "h.py").write_text(HANDLERS)
    (folder / "broken.py").write_text(BROKEN)
    (folder / "slow.py").write_text(SLOW)
    return folder


@pytest.fixture
def deploy(service, folder, request):
    """Return a function that deploys a handler under a name of this test's own."""
    names = []

    def deployed(handler="h.echo", **options):
        name = re.sub("[^a-z0-9]+", "-", request.node.name.lower())[:50] + f"-{len(names)}"
        names.append(name)
        return service.deploy(name, handler, folder=folder, **options)

    yield deployed
    for name in names:
        with suppress(KeyError):
            service.remove(name)


def client_of(service, *, key=None, region=None, **options):
    return boto3.client(
        "lambda",
        endpoint_url=service.endpoint,
        region_name=region or service.region,
        aws_access_key_id=key or service.access_key,
        aws_secret_access_key=service.secret_key,
        config=Config(retries={"total_max_attempts": 1}, max_pool_connections=100, **options),
    )


@pytest.fixture(scope="module")
def client(service):
    return client_of(service)


def invoke(client, function, event=None, **options):
    """Return the answer with its payload read."""
    payload = json.dumps({} if event is None else event)
    answer = client.invoke(FunctionName=function.name, Payload=payload, **options)
    answer["Payload"] = answer["Payload"].read()
    return answer


def result(client, function, event=None):
    answer = invoke(client, function, event)
    assert "FunctionError" not in answer, answer["Payload"]
    return json.loads(answer["Payload"])


def failure(client, function, event=None):
    """Return the error of a function and its log."""
    answer = invoke(client, function, event, LogType="Tail")
    assert (answer["StatusCode"], answer["FunctionError"]) == (200, "Unhandled")
    return json.loads(answer["Payload"]), base64.b64decode(answer["LogResult"]).decode()


def wait_until(condition):
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def gone(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


# Invocations that succeed


def test_a_handler_runs_in_a_real_runtime(client, deploy, folder):
    function = deploy(timeout=5.0, memory_mb=256)
    answer = invoke(client, function, {"granules": ["ä", 1]})
    assert (answer["StatusCode"], answer["ExecutedVersion"]) == (200, "$LATEST")
    got = json.loads(answer["Payload"])
    assert got["event"] == {"granules": ["ä", 1]}
    assert got["request"] == answer["ResponseMetadata"]["RequestId"]
    assert 4_000 < got["left_ms"] <= 5_000
    assert (got["memory"], got["arn"]) == ("256", function.arn)
    assert got["folder"] == str(folder)
    (call,) = function.calls
    assert (call.request_id, call.error, call.pid) == (got["request"], None, got["pid"])


def test_a_warm_environment_is_used_again(client, deploy):
    function = deploy()
    assert len({result(client, function)["pid"] for _ in range(3)}) == 1
    assert (function.cold_starts, function.peak, function.requests) == (1, 1, 3)
    assert [call.cold for call in function.calls] == [True, False, False]


def test_an_environment_that_died_while_idle_is_replaced(client, deploy):
    function = deploy()
    first = result(client, function)["pid"]
    os.kill(first, signal.SIGKILL)
    wait_until(lambda: gone(first))
    time.sleep(0.1)
    assert result(client, function)["pid"] != first
    assert function.cold_starts == 2


def test_a_function_is_found_by_name_arn_and_qualifier(client, deploy):
    function = deploy()
    partial = f"123456789012:function:{function.name}"
    for name in (function.name, function.arn, partial, f"{function.arn}:$LATEST"):
        assert client.invoke(FunctionName=name)["StatusCode"] == 200
    client.invoke(FunctionName=function.name, Qualifier="$LATEST")
    other = re.escape(f"Function not found: {function.arn}:live")
    with pytest.raises(client.exceptions.ResourceNotFoundException, match=other):
        client.invoke(FunctionName=function.name, Qualifier="live")


def test_workers_have_the_variables_of_lambda_and_those_given_and_no_others(
    client, deploy, tmp_path, monkeypatch
):
    monkeypatch.setenv("OF_THE_TEST_PROCESS", "1")
    (tmp_path / "extra.py").write_text("WORD = 'importable'")
    given = {"ANSWER": "42", "PYTHONPATH": str(tmp_path), "AWS_ACCESS_KEY_ID": "AKIAROLE"}
    function = deploy("h.surroundings", environment=given)
    got = result(client, function)
    variables = got["variables"]
    assert got["extra"] == "importable"
    assert variables["AWS_LAMBDA_FUNCTION_NAME"] == function.name
    assert variables["AWS_REGION"] == "us-west-2"
    assert variables["AWS_EXECUTION_ENV"] == "AWS_Lambda_python{}.{}".format(*sys.version_info)
    assert (variables["ANSWER"], variables["AWS_ACCESS_KEY_ID"]) == ("42", "AKIAROLE")
    assert variables["PYTHONPATH"].endswith(f"{os.pathsep}{tmp_path}")
    assert variables["HOME"] == variables["TMPDIR"] != tempfile.gettempdir()
    assert not {"OF_THE_TEST_PROCESS", "AWS_SESSION_TOKEN", "PYTEST_CURRENT_TEST"} & set(variables)


def test_the_context_of_the_client_arrives(client, deploy):
    context = base64.b64encode(b'{"custom": {"run": "7"}}').decode()
    answer = invoke(client, deploy("h.context_of_client"), ClientContext=context)
    assert json.loads(answer["Payload"]) == {"run": "7"}


def test_a_dry_run_runs_nothing(client, deploy):
    function = deploy()
    assert client.invoke(FunctionName=function.name, InvocationType="DryRun")["StatusCode"] == 204
    assert (function.calls, function.cold_starts, function.requests) == ([], 0, 1)


def test_an_event_is_answered_at_once_and_tried_three_times(client, deploy):
    function = deploy("h.fail")
    answer = invoke(client, function, InvocationType="Event")
    assert (answer["StatusCode"], answer["Payload"]) == (202, b"")
    wait_until(lambda: len(function.calls) == 3)
    assert {call.error for call in function.calls} == {"LookupError"}
    request = answer["ResponseMetadata"]["RequestId"]
    assert {call.request_id for call in function.calls} == {request}
    time.sleep(0.2)
    assert len(function.calls) == 3


def test_an_event_waits_where_calls_are_throttled(client, deploy):
    function = deploy(concurrency=1)
    for _ in range(3):
        invoke(client, function, {"sleep": 0.05}, InvocationType="Event")
    wait_until(lambda: len(function.calls) == 3)
    assert function.peak == 1


# Logs

NUMBER = r"\d+\.\d\d"
REPORT = (
    rf"Duration: ({NUMBER}) ms\tBilled Duration: (\d+) ms\t"
    r"Memory Size: (\d+) MB\tMax Memory Used: (\d+) MB\t"
)


def log_of(client, function, event=None):
    answer = invoke(client, function, event, LogType="Tail")
    return base64.b64decode(answer["LogResult"]).decode()


def test_the_log_says_what_a_call_took(client, deploy):
    function = deploy(memory_mb=300)
    cold, warm = (log_of(client, function, {"sleep": 0.05}) for _ in range(2))
    request = function.calls[0].request_id
    begin = rf"START RequestId: {request} Version: \$LATEST\nfrom the handler\n"
    end = rf"END RequestId: {request}\nREPORT RequestId: {request}\t{REPORT}"
    found = re.fullmatch(rf"{begin}{end}Init Duration: ({NUMBER}) ms\t\n", cold)
    assert found, cold
    duration, billed, size, used, initialisation = map(float, found.groups())
    assert duration >= 50
    assert 0 <= billed - (duration + initialisation) < 1.01
    assert size == 300
    assert 5 < used < 200
    assert (function.calls[0].billed_ms, function.calls[0].peak_mb) == (billed, used)
    assert "Init Duration" not in warm
    found = re.search(REPORT, warm)
    assert 0 <= float(found[2]) - float(found[1]) < 1.01


def test_the_tail_is_at_most_4_kb_long_and_asked_for(client, deploy):
    function = deploy()
    assert "LogResult" not in invoke(client, function)
    log = log_of(client, function, {"log": "x" * 10_000})
    assert len(log) == 4096
    assert log.startswith("x")
    assert re.search(REPORT, log)


def test_the_log_may_be_json(client, deploy):
    function = deploy(log_format="JSON")
    lines = log_of(client, function, {"log": "written"}).splitlines()
    lines.remove("from the handler")
    start, message, report = map(json.loads, lines)
    assert (start["type"], message["message"]) == ("platform.start", "written")
    assert report["type"] == "platform.report"
    record = report["record"]
    assert (record["requestId"], record["status"]) == (function.calls[0].request_id, "success")
    metrics = record["metrics"]
    assert metrics["billedDurationMs"] == function.calls[0].billed_ms
    assert metrics["initDurationMs"] > 0
    assert metrics["memorySizeMB"] == 512
    assert 5 < metrics["maxMemoryUsedMB"] < 200


# Functions that fail


def test_an_exception_is_told_as_the_runtime_tells_it(client, deploy):
    function = deploy("h.fail")
    error, log = failure(client, function)
    assert (error["errorType"], error["errorMessage"]) == ("LookupError", "no such granule")
    assert "in fail" in error["stackTrace"][-1]
    assert "[ERROR] LookupError: no such granule" in log
    failure(client, function)
    assert function.cold_starts == 1  # the environment stays of use


def test_a_result_that_is_no_json_is_an_error_of_the_function(client, deploy):
    error, _ = failure(client, deploy("h.unserialisable"))
    assert error["errorType"] == "Runtime.MarshalError"


def test_a_call_that_takes_too_long_is_cut(client, deploy):
    function = deploy(timeout=0.5)
    error, log = failure(client, function, {"sleep": 20})
    request = function.calls[0].request_id
    assert error == {
        "errorType": "Sandbox.Timedout",
        "errorMessage": f"RequestId: {request} Error: Task timed out after 0.50 seconds",
    }
    assert "\tDuration: 500.00 ms\t" in log
    assert log.endswith("\tStatus: timeout\n")
    assert gone(function.calls[0].pid)
    result(client, function)
    assert function.cold_starts == 2


@pytest.mark.parametrize(
    ("handler", "event", "words"),
    [
        ("h.leave", 7, "Runtime exited with error: exit status 7"),
        ("h.leave", 0, "Runtime exited without providing a reason"),
        ("h.struck", 11, "Runtime exited with error: signal: segmentation fault"),
        ("h.struck", 9, "Runtime exited with error: signal: killed"),
    ],
)
def test_a_runtime_that_exits_is_told(client, deploy, handler, event, words):
    function = deploy(handler)
    error, log = failure(client, function, event)
    message = f"RequestId: {function.calls[0].request_id} Error: {words}"
    assert error == {"errorType": "Runtime.ExitError", "errorMessage": message}
    assert f"{message}\nRuntime.ExitError\nEND RequestId" in log
    assert log.endswith("\tStatus: error\tError Type: Runtime.ExitError\n")


def test_a_worker_that_holds_too_much_memory_is_killed(client, deploy):
    function = deploy("h.hoard", memory_mb=128, timeout=10.0)
    error, log = failure(client, function, 400)
    assert error["errorType"] == "Runtime.OutOfMemory"
    assert error["errorMessage"].endswith("Error: Runtime exited with error: signal: killed")
    assert "\tMemory Size: 128 MB\tMax Memory Used: 128 MB\t" in log
    assert log.endswith("\tStatus: error\tError Type: Runtime.OutOfMemory\n")
    assert gone(function.calls[0].pid)


@pytest.mark.parametrize(
    ("handler", "kind", "words"),
    [
        ("broken.handler", "Runtime.ImportModuleError", "No module named 'no_such_module'"),
        ("h.absent", "Runtime.HandlerNotFound", "Handler 'absent' missing on module 'h'"),
    ],
)
def test_a_handler_that_cannot_be_loaded_is_told(client, deploy, handler, kind, words):
    function = deploy(handler)
    error, log = failure(client, function)
    assert error["errorType"] == kind
    assert words in error["errorMessage"]
    assert f"Phase: invoke\tStatus: error\tError Type: {kind}\n" in log
    assert "\tInit Duration" not in log
    failure(client, function)
    assert function.cold_starts == 2


def test_a_slow_initialisation_is_tried_again_within_the_call(client, deploy, tmp_path):
    function = deploy(
        "slow.handler",
        init_timeout=0.5,
        timeout=5.0,
        environment={"ONCE": str(tmp_path / "once")},
    )
    answer = invoke(client, function, LogType="Tail")
    assert answer["Payload"] == b'"second attempt"'
    log = base64.b64decode(answer["LogResult"]).decode()
    assert "INIT_REPORT Init Duration: 500.00 ms\tPhase: init\tStatus: timeout\n" in log
    assert float(re.search(REPORT, log)[1]) > 20  # the second initialisation is part of the call


def test_an_answer_that_is_too_large_is_an_error(client, deploy):
    function = deploy("h.long", timeout=20.0)
    assert len(result(client, function, 6_291_554)) == 6_291_554  # with two quotes
    error, _ = failure(client, function, 6_291_555)
    assert error == {
        "errorType": "Function.ResponseSizeTooLarge",
        "errorMessage": "Response payload size exceeded maximum allowed payload size "
        "(6291556 bytes).",
    }
    result(client, function, 1)


# Requests that are refused


def refusal(call, *arguments, **options):
    with pytest.raises(ClientError) as caught:
        call(*arguments, **options)
    answer = caught.value.response
    return answer["ResponseMetadata"]["HTTPStatusCode"], answer["Error"]["Code"], answer


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
    function = deploy("h.fail" if kind == "Event" else "h.surroundings")
    options = {"FunctionName": function.name, "InvocationType": kind}
    fits = b'"' + b"x" * (limit - 2) + b'"'
    status, code, answer = refusal(client.invoke, Payload=fits + b" ", **options)
    assert (status, code) == (413, "RequestTooLargeException")
    assert answer["Error"]["Message"] == (
        f"Request must be smaller than {limit} bytes for the InvokeFunction operation"
    )
    assert client.invoke(Payload=fits, **options)["StatusCode"] < 300


def test_calls_beyond_the_reserved_concurrency_are_throttled(client, deploy):
    function = deploy(concurrency=2)
    with ThreadPoolExecutor(6) as pool:
        futures = [pool.submit(invoke, client, function, {"sleep": 0.7}) for _ in range(6)]
    errors = [future.exception() for future in futures if future.exception()]
    assert (len(errors), function.throttled, function.peak) == (4, 4, 2)
    assert isinstance(errors[0], client.exceptions.TooManyRequestsException)
    answer = errors[0].response
    assert answer["Error"]["Message"] == "Rate Exceeded."
    assert answer["Reason"] == "ReservedFunctionConcurrentInvocationLimitExceeded"
    assert answer["ResponseMetadata"]["HTTPHeaders"]["retry-after"] == "1"
    result(client, function)


def test_functions_without_reserved_concurrency_share_the_rest(client, deploy, service):
    deploy(concurrency=3)
    function, other = deploy(concurrency=None), deploy(concurrency=None)
    reserved = sum(one.concurrency or 0 for one in service.account.functions.values())
    service.concurrent_executions = reserved + 1
    try:
        limit = client.get_account_settings()["AccountLimit"]
        assert limit["ConcurrentExecutions"] == reserved + 1
        assert limit["UnreservedConcurrentExecutions"] == 1
        with ThreadPoolExecutor(1) as pool:
            pool.submit(invoke, client, function, {"sleep": 0.7})
            wait_until(lambda: function.busy)
            status, _, answer = refusal(invoke, client, other)
        assert (status, answer["Reason"]) == (429, "ConcurrentInvocationLimitExceeded")
    finally:
        service.concurrent_executions = 1000
    result(client, other)


def test_new_environments_come_in_a_burst_and_then_at_a_rate(client, deploy):
    function = deploy(concurrency=50, burst=3, rate=4.0)
    with ThreadPoolExecutor(8) as pool:
        futures = [pool.submit(invoke, client, function, {"sleep": 0.5}) for _ in range(8)]
    served = sum(future.exception() is None for future in futures)
    assert 3 <= served <= 5
    assert function.cold_starts == served == 8 - function.throttled
    wait_until(lambda: len({call.pid for call in function.calls}) == served)
    time.sleep(0.5)
    with ThreadPoolExecutor(served + 1) as pool:
        again = [pool.submit(invoke, client, function, {"sleep": 0.3}) for _ in range(served + 1)]
    assert not [future.exception() for future in again if future.exception()]


def test_who_is_not_known_is_refused(service, deploy):
    function = deploy()
    stranger = client_of(service, key="AKIASTRANGER")
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
    function.inject(Fault("latency", seconds=0.3, times=2), Fault("ServiceException"))
    began = time.perf_counter()
    assert refusal(invoke, client, function)[0] == 500
    assert time.perf_counter() - began >= 0.3
    with pytest.raises(ReadTimeoutError):
        invoke(client_of(service, read_timeout=0.15), function)
    assert function.struck == {"latency": 2, "ServiceException": 1}
    assert len(function.calls) == 1  # it ran, though its answer was not waited for


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


def test_many_connections_at_once_are_served_without_a_stall(client, deploy):
    function = deploy(concurrency=4)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: invoke(client, function, {"sleep": 0.3}), range(4)))
    function.inject(Fault("latency", seconds=0.5, times=64))

    def call(_):
        try:
            return result(client, function)["pid"]
        except client.exceptions.TooManyRequestsException:
            return None

    began = time.perf_counter()
    with ThreadPoolExecutor(64) as pool:
        got = list(pool.map(call, range(64)))
    assert time.perf_counter() - began < 64 * 0.5 / 4
    assert len(got) - got.count(None) == len(function.calls) - 4
    assert function.struck["latency"] == 64


def test_a_connection_serves_many_calls_quickly(client, deploy):
    function = deploy()
    result(client, function)
    began = time.perf_counter()
    for _ in range(50):
        result(client, function)
    # Nagle's algorithm with delayed acknowledgements would cost 40 ms a call at either API.
    assert time.perf_counter() - began < 50 * 0.040


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
        assert json.loads(running.result(10)["Payload"])["errorType"] == "Runtime.ExitError"
    assert gone(pid)
    assert refusal(invoke, client, function)[0] == 404


def test_nothing_is_left_when_the_service_stops(folder):
    threads = threading.active_count()
    with LambdaService() as service:
        function = service.deploy("f", "h.echo", folder=folder, timeout=60.0)
        client = client_of(service)
        with ThreadPoolExecutor(2) as pool:
            list(pool.map(lambda _: invoke(client, function, {"sleep": 0.3}), range(2)))
        folders = service.folders()
        assert len(folders) == 2
        assert all(path.is_dir() for path in folders)
    service.stop()
    assert not [path for path in folders if path.exists()]
    assert all(gone(call.pid) for call in function.calls)
    assert threading.active_count() <= threads


def test_workers_end_when_the_test_process_is_killed(folder, tmp_path):
    (tmp_path / "owner.py").write_text(
        "import os, signal, sys, threading\n"
        "from services.lambda_api import LambdaService\n"
        "from services.lambda_runtime import Invocation\n"
        "service = LambdaService()\n"
        "function = service.deploy('f', 'h.echo', folder=sys.argv[1], timeout=300.0)\n"
        "function.invoke(Invocation('1', b'{}', 'arn'))\n"
        "event = b'{\"sleep\": 200}'\n"
        "run = lambda: function.invoke(Invocation('2', event, 'arn'))\n"
        "threading.Thread(target=run, daemon=True).start()\n"
        "print(function.calls[0].pid, *service.folders(), flush=True)\n"
        "sys.stdin.read()\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    with subprocess.Popen(
        [sys.executable, tmp_path / "owner.py", folder],
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
