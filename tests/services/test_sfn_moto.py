"""The loopback Step Functions beside moto's interpreter, where the two overlap.

moto 5.2 reads no ItemBatcher, writes no files of results and calls no function but its own, so the
state machine is cut to what it reads, and shapes and counts of answers are compared.
"""

from __future__ import annotations

import io
import json
import time
import zipfile

import pytest

from magg.aws.state_machine import state_machine

pytest.importorskip("awslambdaric")
pytest.importorskip("antlr4", reason="pip install 'moto[stepfunctions]'")
moto = pytest.importorskip("moto", reason="pip install 'moto[stepfunctions]'")
pytestmark = pytest.mark.slow

import boto3  # noqa: E402

ITEMS = [{"n": n} for n in range(7)]
HANDLER = "def handler(event, context): return 'done'"
CONFIG = {"lambda": {"use_docker": False}, "stepfunctions": {"execute_state_machine": True}}


def clients(**options):
    session = boto3.session.Session("AKIAMAGGTESTS", "secret", region_name="us-west-2")
    return session.client("stepfunctions", **options), session


def observe(sfn, arn, bucket, read):
    """Run the items, and return the shapes of all answers, and the counts."""
    told = {"bucket": bucket, "calls": "calls.json", "results": "out", "workers": 3}
    told |= {"calls_per_worker": 1, "offload": {}}
    execution = sfn.start_execution(stateMachineArn=arn, name="x", input=json.dumps(told))
    end = time.monotonic() + 120
    while (state := sfn.describe_execution(executionArn=execution["executionArn"]))[
        "status"
    ] == "RUNNING":
        assert time.monotonic() < end
        time.sleep(0.1)
    assert state["status"] == "SUCCEEDED", state
    output = json.loads(state["output"])
    (run,) = sfn.list_map_runs(executionArn=execution["executionArn"])["mapRuns"]
    map_run = sfn.describe_map_run(mapRunArn=run["mapRunArn"])
    manifest = json.loads(read(output["ResultWriterDetails"]["Key"]))
    key = output["ResultWriterDetails"]["Key"]
    shapes = {
        # moto has no details of inputs and no redrives; nothing here reads them.
        "execution": set(state) - {"ResponseMetadata", "inputDetails"},
        "output": set(output),
        "details": set(output["ResultWriterDetails"]),
        "listed": set(run),
        "map_run": set(map_run) - {"ResponseMetadata", "redriveCount"},
        "counts": set(map_run["itemCounts"]),
        "manifest": set(manifest),
        "files": set(manifest["ResultFiles"]),
    }  # fmt: skip
    values = {
        "items": map_run["itemCounts"],
        "batches": map_run["executionCounts"],
        "concurrency": map_run["maxConcurrency"],
        "status": map_run["status"],
        "key": (key.startswith("out/"), key.endswith("/manifest.json"), key.count("/")),
        "number": key.split("/")[1] == output["MapRunArn"].rpartition(":")[2],
        "arns": output["MapRunArn"] == run["mapRunArn"] == manifest["MapRunArn"],
    }
    return shapes, values


def on_moto():
    with moto.mock_aws(config=CONFIG):
        sfn, session = clients()
        role = session.client("iam").create_role(RoleName="r", AssumeRolePolicyDocument="{}")
        role = role["Role"]["Arn"]
        package = io.BytesIO()
        with zipfile.ZipFile(package, "w") as archive:
            archive.writestr("h.py", HANDLER)
        function = session.client("lambda").create_function(
            FunctionName="f",
            Runtime="python3.11",
            Role=role,
            Handler="h.handler",
            Code={"ZipFile": package.getvalue()},
        )["FunctionArn"]
        s3 = session.client("s3")
        place = {"LocationConstraint": "us-west-2"}
        s3.create_bucket(Bucket="items", CreateBucketConfiguration=place)
        s3.put_object(Bucket="items", Key="calls.json", Body=json.dumps(ITEMS))
        definition = json.loads(state_machine(function))
        del definition["States"]["Calls"]["ItemBatcher"]
        # Its grammar has no whole number here.
        definition["States"]["Calls"]["ToleratedFailurePercentage"] = 100.0
        arn = sfn.create_state_machine(
            name="m", definition=json.dumps(definition), roleArn=role
        )["stateMachineArn"]  # fmt: skip
        return observe(
            sfn, arn, "items", lambda key: s3.get_object(Bucket="items", Key=key)["Body"].read()
        )


def test_both_answer_alike(lambda_service, sfn_service, s3_bucket, tmp_path):
    (tmp_path / "h.py").write_text(HANDLER)
    function = lambda_service.deploy("alike", folder=tmp_path)
    try:
        sfn, _ = clients(endpoint_url=sfn_service.endpoint)
        s3_bucket.put("calls.json", json.dumps(ITEMS).encode())
        arn = sfn_service.deploy("alike", state_machine(function.arn))
        here = observe(sfn, arn, s3_bucket.name, s3_bucket.get)
    finally:
        lambda_service.remove("alike")
        sfn_service.clear()
    there = on_moto()
    assert here[1] == there[1]
    assert here[0] == there[0]
