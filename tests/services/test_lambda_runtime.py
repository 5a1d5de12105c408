"""What a function of the loopback Lambda meets, and what its logs and errors say."""

from __future__ import annotations

import base64
import json
import os
import re
import signal
import sys
import tempfile
import time
from pathlib import Path

import pytest

from services.lambda_calls import failure, gone, invoke, log_of, result, wait_until

pytest.importorskip("boto3")
pytest.importorskip("awslambdaric")


# Invocations that succeed


def test_a_handler_runs_in_a_real_runtime(client, deploy):
    function = deploy(timeout=300.0, memory_mb=256)
    answer = invoke(client, function, {"granules": ["ä", 1]})
    assert (answer["StatusCode"], answer["ExecutedVersion"]) == (200, "$LATEST")
    got = json.loads(answer["Payload"])
    assert got["event"] == {"granules": ["ä", 1]}
    assert got["request"] == answer["ResponseMetadata"]["RequestId"]
    assert 200_000 < got["left_ms"] <= 300_000
    assert (got["memory"], got["arn"]) == ("256", function.arn)
    assert got["folder"] == str(Path(__file__).with_name("lambda_handlers"))
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
    wait_until(lambda: not any(worker.alive for worker in function.idle()))
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
    function = deploy("handlers.surroundings", environment=given)
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
    answer = invoke(client, deploy("handlers.context_of_client"), ClientContext=context)
    assert json.loads(answer["Payload"]) == {"run": "7"}


def test_a_dry_run_runs_nothing(client, deploy):
    function = deploy()
    assert client.invoke(FunctionName=function.name, InvocationType="DryRun")["StatusCode"] == 204
    assert (function.calls, function.cold_starts, function.requests) == ([], 0, 1)


def test_an_event_is_answered_at_once_and_tried_three_times(client, deploy):
    function = deploy("handlers.fail")
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
    function = deploy("handlers.fail")
    error, log = failure(client, function)
    assert (error["errorType"], error["errorMessage"]) == ("LookupError", "no such granule")
    assert "in fail" in error["stackTrace"][-1]
    assert "[ERROR] LookupError: no such granule" in log
    failure(client, function)
    assert function.cold_starts == 1  # the environment stays of use


def test_a_result_that_is_no_json_is_an_error_of_the_function(client, deploy):
    error, _ = failure(client, deploy("handlers.unserialisable"))
    assert error["errorType"] == "Runtime.MarshalError"


def test_a_call_that_takes_too_long_is_cut(client, deploy):
    function = deploy(timeout=5.0)
    error, log = failure(client, function, {"sleep": 300})
    request = function.calls[0].request_id
    assert error == {
        "errorType": "Sandbox.Timedout",
        "errorMessage": f"RequestId: {request} Error: Task timed out after 5.00 seconds",
    }
    assert "\tDuration: 5000.00 ms\t" in log
    assert log.endswith("\tStatus: timeout\n")
    assert gone(function.calls[0].pid)
    result(client, function)
    assert function.cold_starts == 2


@pytest.mark.parametrize(
    ("handler", "event", "words"),
    [
        ("handlers.leave", 7, "Runtime exited with error: exit status 7"),
        ("handlers.leave", 0, "Runtime exited without providing a reason"),
        ("handlers.struck", 11, "Runtime exited with error: signal: segmentation fault"),
        ("handlers.struck", 9, "Runtime exited with error: signal: killed"),
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
    function = deploy("handlers.hoard", memory_mb=128)
    error, log = failure(client, function, {"mb": 400, "sleep": 5})
    assert error["errorType"] == "Runtime.OutOfMemory"
    assert error["errorMessage"].endswith("Error: Runtime exited with error: signal: killed")
    assert "\tMemory Size: 128 MB\tMax Memory Used: 128 MB\t" in log
    assert log.endswith("\tStatus: error\tError Type: Runtime.OutOfMemory\n")
    assert gone(function.calls[0].pid)


def test_memory_that_was_held_only_for_a_moment_counts(client, deploy):
    function = deploy("handlers.hoard", memory_mb=128)
    for _ in range(2):
        error, _ = failure(client, function, {"mb": 120, "sleep": 0})
        assert error["errorType"] == "Runtime.OutOfMemory"
    assert function.cold_starts == 2
    assert all(gone(call.pid) for call in function.calls)


def test_what_a_handler_started_ends_with_its_worker(service, client, deploy):
    function = deploy("handlers.start_another")
    other = result(client, function)
    assert not gone(other)
    service.remove(function.name)
    wait_until(lambda: gone(other))


@pytest.mark.parametrize(
    ("handler", "kind", "words"),
    [
        ("broken.handler", "Runtime.ImportModuleError", "No module named 'no_such_module'"),
        (
            "handlers.absent",
            "Runtime.HandlerNotFound",
            "Handler 'absent' missing on module",
        ),
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
        init_timeout=6.0,  # within which the first attempt must get as far as to sleep
        timeout=60.0,
        environment={"DONE": str(tmp_path / "done")},
    )
    answer = invoke(client, function, LogType="Tail")
    assert answer["Payload"] == b'"second attempt"'
    log = base64.b64decode(answer["LogResult"]).decode()
    assert "INIT_REPORT Init Duration: 6000.00 ms\tPhase: init\tStatus: timeout\n" in log
    assert float(re.search(REPORT, log)[1]) > 20  # the second initialisation is part of the call


def test_an_answer_that_is_too_large_is_an_error(client, deploy):
    function = deploy("handlers.long")
    assert len(result(client, function, 6_291_554)) == 6_291_554  # with two quotes
    error, _ = failure(client, function, 6_291_555)
    assert error == {
        "errorType": "Function.ResponseSizeTooLarge",
        "errorMessage": "Response payload size exceeded maximum allowed payload size "
        "(6291556 bytes).",
    }
    result(client, function, 1)
