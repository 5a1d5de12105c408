"""The loopback Step Functions: what it does, and what it refuses."""

from __future__ import annotations

import json
import time

import pytest

from magg.aws.state_machine import state_machine
from services.sfn_language import LIMIT, Failure, filled, look_up

boto3 = pytest.importorskip("boto3")
pytest.importorskip("awslambdaric")
from botocore.exceptions import ClientError  # noqa: E402

HANDLER = """
import os
import time

def handler(event, context):
    for item in event["Items"]:
        time.sleep(item.get("sleep", 0))
        while "until" in item and not os.path.exists(item["until"]):
            time.sleep(0.02)
        if item.get("fail"):
            raise ValueError("failed")
    return {"text": "x" * event["BatchInput"]["offload"]["bytes"], "items": len(event["Items"])}
"""
PATIENCE_S = 120.0


@pytest.fixture(scope="module")
def function(lambda_service, tmp_path_factory):
    folder = tmp_path_factory.mktemp("of-sfn")
    (folder / "h.py").write_text(HANDLER)
    yield lambda_service.deploy("batches-of-sfn", folder=folder, timeout=300.0, concurrency=3)
    lambda_service.remove("batches-of-sfn")


@pytest.fixture
def service(sfn_service, monkeypatch):
    """Return the service; what it refuses in these tests is meant to be refused."""
    refused = list(sfn_service.refused)
    yield sfn_service
    sfn_service.clear()
    sfn_service.refused[:] = refused


@pytest.fixture
def client(service, s3_server):
    session = boto3.session.Session(
        s3_server.access_key, s3_server.secret_key, region_name=s3_server.region
    )
    return session.client("stepfunctions", endpoint_url=service.endpoint)


@pytest.fixture
def start(client, function, s3_bucket):
    """Return a function that starts an execution over items."""
    arn = client.create_state_machine(
        name="m", definition=state_machine(function.arn), roleArn="arn:aws:iam::123456789012:role/m"
    )["stateMachineArn"]

    def start(items, *, workers=3, calls_per_worker=1, size=0, **changes):
        s3_bucket.put("calls.json", json.dumps(items).encode())
        told = {
            "bucket": s3_bucket.name,
            "calls": "calls.json",
            "results": "out",
            "workers": workers,
            "calls_per_worker": calls_per_worker,
            "offload": {"bytes": size},
        }
        return client.start_execution(stateMachineArn=arn, input=json.dumps(told | changes))[
            "executionArn"
        ]

    return start


def ended(client, arn):
    end = time.monotonic() + PATIENCE_S
    while (told := client.describe_execution(executionArn=arn))["status"] == "RUNNING":
        assert time.monotonic() < end
        time.sleep(0.05)
    return told


def files_of(told, bucket):
    details = json.loads(told["output"])["ResultWriterDetails"]
    assert details["Bucket"] == bucket.name
    manifest = json.loads(bucket.get(details["Key"]))
    return {
        kind: [json.loads(bucket.get(entry["Key"])) for entry in entries]
        for kind, entries in manifest["ResultFiles"].items()
    }


def test_items_are_batched_called_and_written(client, start, s3_bucket, function):
    before = len(function.calls)
    told = ended(client, start([{"n": n} for n in range(7)], calls_per_worker=2))
    assert told["status"] == "SUCCEEDED"
    assert len(function.calls) == before + 4
    files = files_of(told, s3_bucket)
    assert [len(file) for file in files["SUCCEEDED"]] == [3, 1]
    records = [record for file in files["SUCCEEDED"] for record in file]
    assert sorted(json.loads(record["Output"])["items"] for record in records) == [1, 2, 2, 2]
    given = [item["n"] for record in records for item in json.loads(record["Input"])["Items"]]
    assert sorted(given) == list(range(7))
    assert files["FAILED"] == files["PENDING"] == []


def test_failures_are_tolerated_and_written_apart(client, start, s3_bucket):
    told = ended(client, start([{"fail": n == 1} for n in range(4)]))
    assert told["status"] == "SUCCEEDED"
    ((failed,),) = files_of(told, s3_bucket)["FAILED"]
    assert (failed["Status"], failed["Error"]) == ("FAILED", "ValueError")
    assert json.loads(failed["Cause"])["errorMessage"] == "failed"
    assert "Output" not in failed


def test_progress_is_counted_by_items_and_by_batches(client, start, tmp_path):
    gates = [tmp_path / str(batch) for batch in range(3)]
    items = [{"until": str(gates[n // 2]), "fail": n == 5} for n in range(6)]
    arn = start(items, workers=1, calls_per_worker=2)
    gates[2].touch()
    seen = set()
    end = time.monotonic() + PATIENCE_S
    while client.describe_execution(executionArn=arn)["status"] == "RUNNING":
        assert time.monotonic() < end
        for run in client.list_map_runs(executionArn=arn)["mapRuns"]:
            told = client.describe_map_run(mapRunArn=run["mapRunArn"])
            counts = told["itemCounts"]
            parts = ("pending", "running", "succeeded", "failed", "aborted", "timedOut")
            if counts["total"] == 6:
                assert sum(counts[part] for part in parts) == 6
            seen.add((counts["succeeded"], counts["running"]))
            for gate, counted in zip(gates, [(0, 2), (2, 2)], strict=False):
                if counted in seen:
                    gate.touch()
        time.sleep(0.05)
    assert {(0, 2), (2, 2)} <= seen
    told = client.describe_map_run(mapRunArn=run["mapRunArn"])
    assert (told["status"], told["maxConcurrency"]) == ("SUCCEEDED", 1)
    assert told["itemCounts"]["failed"] == 2
    assert told["executionCounts"]["failed"] == 1
    assert told["itemCounts"]["resultsWritten"] == 6


def test_no_more_batches_run_at_once_than_asked_for(client, start, function):
    function_peak = function.peak
    ended(client, start([{"sleep": 0.1}] * 6, workers=1))
    assert function.peak == max(1, function_peak)


def test_batches_are_cut_by_their_bytes(client, start, s3_bucket):
    told = ended(client, start([{"text": "x" * 100_000}] * 5, calls_per_worker=5))
    files = files_of(told, s3_bucket)["SUCCEEDED"]
    sizes = [len(record["Input"]) for file in files for record in file]
    assert len(sizes) == 3
    assert max(sizes) <= 240_000 + 100


@pytest.mark.parametrize("size", [LIMIT - 100, LIMIT])
def test_what_a_batch_returns_is_limited(client, start, s3_bucket, size):
    files = files_of(ended(client, start([{}], size=size)), s3_bucket)
    if size < LIMIT:
        assert len(files["SUCCEEDED"]) == 1
    else:
        assert files["FAILED"][0][0]["Error"] == "States.DataLimitExceeded"


def test_an_execution_can_be_stopped_and_starts_nothing_more(client, start, function, tmp_path):
    arn = start([{"until": str(tmp_path / "go")}] * 9, workers=2)
    while function.busy < 2:
        time.sleep(0.02)
    before = function.requests
    client.stop_execution(executionArn=arn, error="E", cause="C")
    told = client.describe_execution(executionArn=arn)
    assert (told["status"], told["error"], told["cause"]) == ("ABORTED", "E", "C")
    (tmp_path / "go").touch()
    while function.busy:
        time.sleep(0.05)
    assert function.requests == before


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"calls": "nowhere.json"}, "States.ItemReaderFailed"),
        ({"bucket": "no-such-bucket"}, "States.ItemReaderFailed"),
        ({"workers": 10_001}, "States.Runtime"),
        ({"calls_per_worker": 0}, "States.Runtime"),
    ],
)
def test_an_execution_that_cannot_begin_fails_by_name(client, start, changes, error):
    told = ended(client, start([{}], **changes))
    assert (told["status"], told["error"]) == ("FAILED", error)


def test_a_name_is_taken_once_and_starting_again_is_the_same_execution(
    client, start, service, tmp_path
):
    arn = start([{"until": str(tmp_path / "go")}])
    execution = next(iter(service.executions.values()))
    given = {"stateMachineArn": execution.describe()["stateMachineArn"], "name": execution.name}
    again = client.start_execution(input=json.dumps(execution.input), **given)
    assert again["executionArn"] == arn
    with pytest.raises(ClientError, match="ExecutionAlreadyExists"):
        client.start_execution(input="{}", **given)
    (tmp_path / "go").touch()
    assert ended(client, arn)["status"] == "SUCCEEDED"


@pytest.mark.parametrize(
    ("operation", "parameters", "error"),
    [
        ("describe_execution", {"executionArn": "arn:x"}, "ExecutionDoesNotExist"),
        ("describe_map_run", {"mapRunArn": "arn:x"}, "ResourceNotFound"),
        ("describe_state_machine", {"stateMachineArn": "arn:x"}, "InvalidArn"),
        (
            "describe_state_machine",
            {"stateMachineArn": "arn:aws:states:us-west-2:123456789012:stateMachine:x"},
            "StateMachineDoesNotExist",
        ),
        ("list_state_machines", {}, "NotEmulated"),
        ("list_map_runs", {"executionArn": "arn:x", "maxResults": 3}, "NotEmulated"),
        (
            "create_state_machine",
            {"name": "m", "definition": '{"StartAt": "A"}', "roleArn": "arn:x"},
            "InvalidDefinition",
        ),
    ],
)
def test_what_is_wrong_or_not_emulated_is_refused(client, operation, parameters, error):
    with pytest.raises(ClientError, match=error):
        getattr(client, operation)(**parameters)


def test_an_input_is_limited(client, service, function):
    arn = service.deploy("m", state_machine(function.arn))
    with pytest.raises(ClientError, match="ValidationException"):
        client.start_execution(stateMachineArn=arn, input=json.dumps("x" * LIMIT))


def test_unknown_keys_are_refused(service, s3_server):
    session = boto3.session.Session("AKIAOTHER", "x", region_name=s3_server.region)
    other = session.client("stepfunctions", endpoint_url=service.endpoint)
    with pytest.raises(ClientError, match="UnrecognizedClientException"):
        other.describe_execution(executionArn="arn:x")


def test_paths_are_looked_up():
    data = {"a": {"b": 1}}
    assert look_up("$", data) == data
    assert look_up("$.a.b", data) == look_up("$$.Execution.Input.a.b", data) == 1
    assert filled({"x.$": "$.a", "y": {"z": 2}}, data) == {"x": {"b": 1}, "y": {"z": 2}}
    with pytest.raises(Failure, match="could not be found"):
        look_up("$.a.c", data)
