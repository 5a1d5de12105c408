"""`magg deploy` against moto's server, which stands in for AWS as far as it goes.

moto tags nothing that a stack makes, gives layers no name and functions no architecture, deletes
neither layers nor managed policies, updates no stack with a layer, keeps statements that a
condition leaves out, and rolls nothing back. What depends on that is for `test_deploy_template.py`,
or for `test_stack.py` by a client that follows a script.
"""

from __future__ import annotations

import ast
import json
import os

import pytest
from intrinsics import as_list

from magg.cli import main
from magg.deploy import package
from magg.errors import DeployError

boto3 = pytest.importorskip("boto3")

CODE = "magg-code-123456789012-us-west-2"
YES = ("--yes", "--write", "s3://mine/h")
IMAGE = "123456789012.dkr.ecr.us-west-2.amazonaws.com/magg:0.2"


@pytest.fixture
def deploy(aws, tiny_package, capsys):
    """Return a function that runs the command, and returns its status and what it printed."""

    def run(*arguments, package=True):
        extra = ["--package", str(tiny_package)] if package else []
        status = main(["deploy", *extra, *arguments])
        told = capsys.readouterr()
        return status, told.out + told.err

    return run


def bucket_names():
    return [one["Name"] for one in boto3.client("s3").list_buckets()["Buckets"]]


def keys(bucket):
    found = boto3.client("s3").list_objects_v2(Bucket=bucket)
    return [one["Key"] for one in found.get("Contents", ())]


def all_that_is_there():
    """Return the names of everything that a deployment is made of."""
    logs = boto3.client("logs").describe_log_groups()["logGroups"]
    return {
        "functions": [
            f["FunctionName"] for f in boto3.client("lambda").list_functions()["Functions"]
        ],
        "layers": [y["LayerName"] for y in boto3.client("lambda").list_layers()["Layers"]],
        "roles": [r["RoleName"] for r in boto3.client("iam").list_roles()["Roles"]],
        "policies": boto3.client("iam").list_policies(Scope="Local")["Policies"],
        "logs": [g["logGroupName"] for g in logs],
        "machines": boto3.client("stepfunctions").list_state_machines()["stateMachines"],
        "buckets": bucket_names(),
        "stacks": boto3.client("cloudformation").describe_stacks()["Stacks"],
    }


def nothing():
    return {name: [] for name in all_that_is_there()}


def test_it_makes_the_function_the_log_the_roles_and_the_state_machine(deploy):
    status, told = deploy("--yes", "--memory", "3008", "--log-days", "7", "--write", "s3://mine/h")
    assert status == 0, told
    functions = boto3.client("lambda")
    function = functions.get_function_configuration(FunctionName="process-morton-cell")
    assert (function["MemorySize"], function["Timeout"]) == (3008, 900)
    assert function["Runtime"] == "python3.13"
    assert function["Handler"] == "magg.aws.handler.lambda_handler"
    assert function["Environment"]["Variables"]["MALLOC_MMAP_THRESHOLD_"]
    (log,) = boto3.client("logs").describe_log_groups()["logGroups"]
    assert log["logGroupName"] == "/aws/lambda/process-morton-cell"
    assert log["retentionInDays"] == 7
    (machine,) = boto3.client("stepfunctions").list_state_machines()["stateMachines"]
    assert f"MAGG_STATE_MACHINE_ARN={machine['stateMachineArn']}" in told
    described = boto3.client("stepfunctions").describe_state_machine(
        stateMachineArn=machine["stateMachineArn"]
    )
    assert function["FunctionArn"] in described["definition"]
    assert all(str(part) in told for part in ("3008 MB", "kept 7 days", "mine/h/*"))


def test_the_roles_that_come_of_it_may_do_what_the_template_says_and_no_more(deploy):
    deploy(*YES)
    iam = boto3.client("iam")
    allowed = {}
    for role in iam.list_roles()["Roles"]:
        for policy in iam.list_role_policies(RoleName=role["RoleName"])["PolicyNames"]:
            document = iam.get_role_policy(RoleName=role["RoleName"], PolicyName=policy)
            found = document["PolicyDocument"]
            # moto returns what Python makes of a role's own policies, not JSON.
            found = ast.literal_eval(found) if isinstance(found, str) else found
            for one in found["Statement"]:
                assert one["Effect"] == "Allow"
                allowed[one["Sid"]] = as_list(one["Resource"])
    account = "us-west-2:123456789012"
    assert allowed == {
        "WriteLog": [f"arn:aws:logs:{account}:log-group:/aws/lambda/process-morton-cell:*"],
        "ListStores": ["arn:aws:s3:::mine"],
        "ReadAndWriteStores": ["arn:aws:s3:::mine/h/*"],
        "CallTheFunction": [f"arn:aws:lambda:{account}:function:process-morton-cell"],
        "StartItsOwnMaps": [f"arn:aws:states:{account}:stateMachine:magg"],
        "FollowAndStopThem": [
            f"arn:aws:states:{account}:execution:magg:*",
            f"arn:aws:states:{account}:execution:magg/*",
        ],
        "ReadCallsAndWriteResults": ["arn:aws:s3:::mine/h/*.magg/executions/*"],
    }


def test_a_second_time_nothing_is_to_be_done(deploy):
    deploy("--yes", "--bucket", "mine-of-the-tests")
    before = all_that_is_there()
    status, told = deploy()  # and nothing is asked
    assert status == 0
    assert "nothing to do" in told
    assert all_that_is_there() == before


def test_all_is_tagged(deploy):
    deploy(*YES, "--tag", "project=ice")
    (stack,) = boto3.client("cloudformation").describe_stacks()["Stacks"]
    tags = {one["Key"]: one["Value"] for one in stack["Tags"]}
    # CloudFormation puts them on all that it makes.
    assert tags.items() >= {"application": "magg", "magg:stack": "magg", "project": "ice"}.items()
    (one, other) = boto3.client("s3").get_bucket_tagging(Bucket=CODE)["TagSet"]
    assert {one["Value"], other["Value"]} == {"magg", "ice"}


@pytest.mark.parametrize("arguments", [("--dry-run",), ("--dry-run", "--yes")])
def test_a_dry_run_says_what_would_be_made_and_makes_nothing(deploy, arguments):
    status, told = deploy(*arguments, "--bucket", "mine-of-the-tests")
    assert status == 0
    for words in ("Lambda function", "S3 bucket mine-of-the-tests", "cost at rest", "$0.023 a GB"):
        assert words in told
    assert all_that_is_there() == nothing()


@pytest.mark.parametrize(("answer", "made"), [("y\n", True), ("n\n", False), ("", False)])
def test_it_asks_before_it_makes_anything(deploy, monkeypatch, answer, made):
    class Terminal:
        def isatty(self):
            return True

        def readline(self):
            assert all_that_is_there() == nothing()
            return answer

    monkeypatch.setattr("sys.stdin", Terminal())
    status, told = deploy("--write", "s3://mine/h")
    assert status == 0
    assert "Create this? [y/N]" in told
    assert bool(all_that_is_there()["functions"]) is made
    assert ("nothing was changed" in told) is not made


def test_without_a_terminal_it_does_nothing_unless_told_to(deploy, monkeypatch):
    with open(os.devnull) as nowhere:  # noqa: PTH123
        monkeypatch.setattr("sys.stdin", nowhere)
        status, told = deploy()
    assert status == 2
    assert "--yes" in told
    assert all_that_is_there() == nothing()


def test_what_is_not_named_stays_as_it_is(deploy):
    deploy(*YES, "--image", IMAGE, "--memory", "512", "--tag", "a=b")
    status, told = deploy("--yes", "--timeout", "60")
    assert status == 0, told
    assert "TimeoutSeconds: 900 -> 60" in told
    assert "MemoryMB" not in told.partition("cost at rest")[0].replace("512 MB", "")
    known = json.loads(deploy("--status", "--json")[1])["settings"]
    assert (known["TimeoutSeconds"], known["MemoryMB"]) == ("60", "512")
    assert known["WritableObjects"] == "arn:aws:s3:::mine/h/*"
    (stack,) = boto3.client("cloudformation").describe_stacks()["Stacks"]
    assert {"Key": "a", "Value": "b"} in stack["Tags"]


def test_destroying_leaves_nothing(deploy):
    deploy("--yes", "--bucket", "mine-of-the-tests")
    # moto never learns the names of these two, and so does not delete them.
    kept = {name: all_that_is_there()[name] for name in ("layers", "policies")}
    status, told = deploy("--destroy", "--yes", package=False)
    assert status == 0, told
    assert all_that_is_there() == nothing() | kept


def test_destroying_twice_is_as_good_as_once(deploy):
    deploy(*YES)
    deploy("--destroy", "--yes", package=False)
    status, told = deploy("--destroy", "--yes", package=False)
    assert status == 0
    assert "there is no stack 'magg'" in told


def test_a_bucket_with_data_is_never_destroyed(deploy):
    deploy("--yes", "--bucket", "mine-of-the-tests")
    boto3.client("s3").put_object(Bucket="mine-of-the-tests", Key="s.zarr/zarr.json", Body=b"{}")
    status, told = deploy("--destroy", "--yes", package=False)
    assert status == 0
    assert "kept: bucket mine-of-the-tests, which is not empty" in told
    assert keys("mine-of-the-tests") == ["s.zarr/zarr.json"]
    assert bucket_names() == ["mine-of-the-tests"]


def test_an_attempt_that_failed_leaves_no_bucket(deploy, monkeypatch):
    def fail(*_, **__):
        place = {"LocationConstraint": "us-west-2"}
        boto3.client("s3").create_bucket(Bucket="half-made", CreateBucketConfiguration=place)
        raise DeployError("of no avail")

    monkeypatch.setattr("magg.deploy.stack.Stack.create", fail)
    status, told = deploy("--yes", "--bucket", "half-made")
    assert (status, "of no avail" in told) == (2, True)
    assert bucket_names() == [CODE]


def test_a_bucket_that_was_there_before_is_used_and_never_destroyed(deploy):
    place = {"LocationConstraint": "us-west-2"}
    boto3.client("s3").create_bucket(Bucket="older", CreateBucketConfiguration=place)
    status, told = deploy("--yes", "--bucket", "older")
    assert status == 0, told
    assert "S3 bucket older" not in told
    assert "reads and writes older/*" in told
    assert "nothing to do" in deploy("--bucket", "older")[1]
    deploy("--destroy", "--yes", package=False)
    assert bucket_names() == ["older"]


def test_a_bucket_in_another_region_is_refused(deploy):
    place = {"LocationConstraint": "eu-central-1"}
    s3 = boto3.client("s3", region_name="eu-central-1")
    s3.create_bucket(Bucket="far-away", CreateBucketConfiguration=place)
    status, told = deploy("--yes", "--bucket", "far-away")
    assert (status, "deploy there (--region eu-central-1)" in told) == (2, True), told


def test_code_of_others_in_the_bucket_of_code_stays(deploy):
    deploy(*YES)
    deploy(*YES, "--stack", "other", "--function-name", "other", "--state-machine", "other")
    boto3.client("s3").put_object(Bucket=CODE, Key="notes.txt", Body=b"mine")
    deploy("--destroy", "--yes", package=False)
    names = [key.partition("-")[0] for key in keys(CODE)]
    assert sorted(names) == ["notes.txt", "other/magg", "other/magg"]
    assert all_that_is_there()["functions"] == ["other"]


def test_destroying_asks_and_a_dry_run_only_tells(deploy, monkeypatch):
    deploy(*YES)
    before = all_that_is_there()
    status, told = deploy("--destroy", "--dry-run", package=False)
    assert status == 0
    assert "Lambda::Function process-morton-cell" in told
    with open(os.devnull) as nowhere:  # noqa: PTH123
        monkeypatch.setattr("sys.stdin", nowhere)
        assert deploy("--destroy", package=False)[0] == 2
    assert all_that_is_there() == before


def test_the_status_says_what_is_deployed_and_what_is_not(deploy):
    status, told = deploy("--status", package=False)
    assert (status, "not deployed" in told) == (1, True)
    deploy("--yes", "--bucket", "mine-of-the-tests")
    status, told = deploy("--status", package=False)
    assert status == 0
    for words in ("create_complete", "2048 MB, 900 s", "a month"):
        assert words in told
    found = json.loads(deploy("--status", "--json", package=False)[1])
    assert found["function"]["memory_mb"] == 2048
    assert found["code_bytes"] > 0
    assert found["outputs"]["DataBucketName"] == "mine-of-the-tests"


def test_no_credential_is_printed_and_a_token_goes_nowhere_but_to_the_function(
    deploy, monkeypatch, caplog
):
    monkeypatch.setenv("EARTHDATA_TOKEN", "token-of-the-tests")
    told = deploy(*YES, "--earthdata-token")[1]
    function = boto3.client("lambda").get_function_configuration(FunctionName="process-morton-cell")
    assert function["Environment"]["Variables"]["EARTHDATA_TOKEN"] == "token-of-the-tests"  # noqa: S105
    for arguments in ((), ("--status",), ("--status", "--json"), ("--destroy", "--yes")):
        told += deploy(*arguments)[1]
    told += caplog.text
    assert "token-of-the-tests" not in told
    assert "a-secret-of-the-tests" not in told


def test_a_token_that_is_not_there_is_told(deploy):
    status, told = deploy("--yes", "--earthdata-token")
    assert (status, "EARTHDATA_TOKEN is not set" in told) == (2, True)


def test_without_credentials_it_says_where_to_put_them(deploy, monkeypatch):
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    status, told = deploy(*YES)
    assert (status, "AWS_PROFILE" in told) == (2, True)


def test_a_profile_that_is_not_there_is_told(deploy):
    status, told = deploy("--status", "--profile", "nobody", package=False)
    assert status == 2
    assert "nobody" in told


def test_without_a_package_one_is_built_and_described(deploy, monkeypatch, tiny_package):
    asked = []

    def build(architecture, folder):
        asked.append(architecture)
        return package.find(architecture, tiny_package)

    monkeypatch.setattr("magg.deploy.package.build", build)
    status, told = deploy("--dry-run", "--architecture", "arm64", package=False)
    assert (status, asked) == (0, ["arm64"])
    assert "MB zipped" in told
    assert deploy("--dry-run", "--image", IMAGE, package=False)[0] == 0
    assert len(asked) == 1


def test_a_package_that_was_not_built_is_told_with_the_command_that_builds_it(deploy, tmp_path):
    status, told = deploy("--yes", "--package", str(tmp_path), package=False)
    assert status == 2
    assert "scripts/build_lambda.py --architecture x86_64" in told
    assert all_that_is_there() == nothing()
