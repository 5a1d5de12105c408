"""What the template makes, and what it lets whom do."""

from __future__ import annotations

import importlib
import itertools
import json
import re
from importlib.resources import files

import pytest
from intrinsics import Template, as_list, document

from magg.deploy import plan, wheels
from magg.deploy.settings import Settings, load_template
from magg.errors import DeployError

LOG = "arn:aws:logs:us-west-2:123456789012:log-group:/aws/lambda/process-morton-cell:*"
MACHINE = "arn:aws:states:us-west-2:123456789012:stateMachine:magg"
EXECUTIONS = "arn:aws:states:us-west-2:123456789012:execution:magg"
MAPS = "arn:aws:states:us-west-2:123456789012:mapRun:magg/*"
SETTINGS = Settings(
    write=("s3://stores/heights", "s3://other"), read=("s3://granules/atl06/",), bucket="mine"
)
STORES = ["arn:aws:s3:::stores/heights/*", "arn:aws:s3:::other/*", "arn:aws:s3:::mine/*"]
STORE_BUCKETS = ["arn:aws:s3:::stores", "arn:aws:s3:::other", "arn:aws:s3:::mine"]
OBJECTS = ["s3:GetObject", "s3:PutObject", "s3:DeleteObject", "s3:AbortMultipartUpload"]


def statements(resources, *names):
    """Return all statements of roles and policies, by their Sid."""
    found = {}
    for name in names:
        properties = resources[name]["Properties"]
        documents = [one["PolicyDocument"] for one in properties.get("Policies", ())]
        documents += [properties["PolicyDocument"]] if "PolicyDocument" in properties else []
        for policy in documents:
            assert policy["Version"] == "2012-10-17"
            for one in policy["Statement"]:
                assert one["Effect"] == "Allow"
                assert one.keys() == {"Sid", "Effect", "Action", "Resource"}
                assert one["Sid"] not in found
                found[one["Sid"]] = (as_list(one["Action"]), as_list(one["Resource"]))
    return found


@pytest.fixture
def resources():
    return Template(**SETTINGS.parameters(make_bucket=True)).resources()


def test_workers_may_log_use_stores_and_read_granules_and_nothing_else(resources):
    assert statements(resources, "WorkerRole", "WorkerStores", "WorkerGranules") == {
        "WriteLog": (["logs:CreateLogStream", "logs:PutLogEvents"], [LOG]),
        "ListStores": (["s3:ListBucket"], STORE_BUCKETS),
        "ReadAndWriteStores": (OBJECTS, STORES),
        "ListGranules": (["s3:ListBucket"], ["arn:aws:s3:::granules"]),
        "ReadGranules": (["s3:GetObject"], ["arn:aws:s3:::granules/atl06/*"]),
    }
    for policy in ("WorkerStores", "WorkerGranules"):
        assert resources[policy]["Properties"]["Roles"] == ["WorkerRole"]


def test_the_state_machine_may_call_the_function_and_use_its_own_folder(resources):
    assert statements(resources, "StateMachineRole", "StateMachineLists") == {
        "CallTheFunction": (["lambda:InvokeFunction"], ["Worker.Arn"]),
        "StartItsOwnMaps": (["states:StartExecution"], [MACHINE]),
        "FollowAndStopThem": (
            ["states:DescribeExecution", "states:StopExecution"],
            [f"{EXECUTIONS}:*", f"{EXECUTIONS}/*"],
        ),
        "ReadCallsAndWriteResults": (
            [
                "s3:GetObject",
                "s3:PutObject",
                "s3:ListMultipartUploadParts",
                "s3:AbortMultipartUpload",
            ],
            [
                "arn:aws:s3:::stores/heights/*.magg/executions/*",
                "arn:aws:s3:::other/*.magg/executions/*",
                "arn:aws:s3:::mine/*.magg/executions/*",
            ],
        ),
    }
    assert resources["StateMachineLists"]["Properties"]["Roles"] == ["StateMachineRole"]


def test_callers_may_do_what_runs_do(resources):
    assert statements(resources, "CallerPolicy") == {
        "CallTheFunction": (
            [
                "lambda:InvokeFunction",
                "lambda:GetFunctionConfiguration",
                "lambda:GetFunctionConcurrency",
            ],
            ["Worker.Arn"],
        ),
        "ListStores": (["s3:ListBucket"], STORE_BUCKETS),
        "ReadAndWriteStores": (OBJECTS, STORES),
        "StartExecutions": (
            ["states:StartExecution", "states:DescribeStateMachine", "states:ListExecutions"],
            [MACHINE],
        ),
        "FollowExecutions": (
            [
                "states:DescribeExecution",
                "states:StopExecution",
                "states:ListMapRuns",
                "states:DescribeMapRun",
            ],
            [f"{EXECUTIONS}:*", MAPS],
        ),
    }


def test_nobody_may_do_everything_or_anything_everywhere(resources):
    named = [name for name, one in resources.items() if one["Type"].startswith("AWS::IAM::")]
    assert len(named) == 6
    for name in named:
        for actions, places in statements(resources, name).values():
            assert not [action for action in actions if "*" in action]
            assert not [action for action in actions if action.startswith(("iam:", "sts:"))]
            # An account, or a bucket, is named in each.
            assert all(
                re.match(r"Worker\.Arn|arn:aws:(s3:::\w|[a-z]+:us-west-2:\d)", p) for p in places
            )


def test_without_places_nobody_may_use_any_bucket():
    resources = Template().resources()
    text = json.dumps(resources)
    assert "s3:" not in text.replace("arn:aws:states:::s3:", "")
    assert not {"WorkerStores", "WorkerGranules", "StateMachineLists"} & resources.keys()


@pytest.mark.parametrize(
    ("role", "service"),
    [("WorkerRole", "lambda.amazonaws.com"), ("StateMachineRole", "states.amazonaws.com")],
)
def test_one_service_may_take_each_role(resources, role, service):
    (one,) = resources[role]["Properties"]["AssumeRolePolicyDocument"]["Statement"]
    assert (one["Principal"], one["Action"]) == ({"Service": service}, "sts:AssumeRole")
    if role == "StateMachineRole":  # whose service does so for any account's state machines
        assert one["Condition"] == {
            "StringEquals": {"aws:SourceAccount": "123456789012"},
            "ArnLike": {"aws:SourceArn": MACHINE},
        }


def test_roles_are_bounded_where_the_account_demands_it():
    boundary = "arn:aws:iam::123456789012:policy/hub"
    settings = Settings(permissions_boundary=boundary)
    bounded = Template(**settings.parameters(False)).resources()
    free = Template(**Settings().parameters(False)).resources()
    for role in ("WorkerRole", "StateMachineRole"):
        assert bounded[role]["Properties"]["PermissionsBoundary"] == boundary
        assert "PermissionsBoundary" not in free[role]["Properties"]


def test_buckets_of_stores_outlive_the_stack_and_are_closed(resources):
    bucket = resources["DataBucket"]
    assert bucket["DeletionPolicy"] == bucket["UpdateReplacePolicy"] == "Retain"
    assert set(bucket["Properties"]["PublicAccessBlockConfiguration"].values()) == {True}


def test_the_function_is_what_was_asked_for():
    settings = Settings(
        function_name="cells", memory_mb=4096, timeout_s=300, concurrency=50, architecture="arm64",
        log_days=7,
    )  # fmt: skip
    resources = Template(**settings.parameters(False)).resources()
    function = resources["Worker"]["Properties"]
    assert function["FunctionName"] == "cells"
    assert (function["MemorySize"], function["Timeout"]) == ("4096", "300")
    assert function["ReservedConcurrentExecutions"] == "50"
    assert function["Architectures"] == ["arm64"]
    assert function["Runtime"] == f"python{wheels.version_text()}"
    assert resources["Dependencies"]["Properties"]["CompatibleRuntimes"] == [function["Runtime"]]
    log = resources["Log"]["Properties"]
    assert log == {"LogGroupName": "/aws/lambda/cells", "RetentionInDays": "7"}
    assert function["LoggingConfig"]["LogGroup"] == "Log"
    module, _, name = function["Handler"].rpartition(".")
    assert callable(getattr(importlib.import_module(module), name))


def test_a_function_shares_the_concurrency_of_the_account_unless_told_otherwise(resources):
    assert "ReservedConcurrentExecutions" not in resources["Worker"]["Properties"]


def test_an_image_stands_in_for_the_zip_files():
    image = "123456789012.dkr.ecr.us-west-2.amazonaws.com/magg:0.2"
    resources = Template(**Settings(image=image).parameters(False)).resources()
    function = resources["Worker"]["Properties"]
    assert (function["PackageType"], function["Code"]) == ("Image", {"ImageUri": image})
    assert not {"Runtime", "Handler", "Layers"} & function.keys()
    assert "Dependencies" not in resources


def test_a_token_of_earthdata_is_in_the_environment_only_where_it_was_given():
    def variables(**parameters):
        function = Template(**parameters).resources()["Worker"]["Properties"]
        return function["Environment"]["Variables"]

    assert "EARTHDATA_TOKEN" not in variables()
    assert variables(EarthdataToken="t").get("EARTHDATA_TOKEN") == "t"
    assert Template().document["Parameters"]["EarthdataToken"]["NoEcho"] is True


def test_the_state_machine_is_that_of_the_package(resources):
    text = resources["StateMachine"]["Properties"]["DefinitionString"]
    ours = files("magg.aws").joinpath("state_machine.asl.json").read_text("utf-8")
    assert json.loads(text) == json.loads(ours.replace("${FunctionArn}", "Worker.Arn"))


def test_what_is_announced_is_what_the_template_makes():
    choices = itertools.product(
        ("", "magg"), ((), ("s3://stores",)), ((), ("s3://granules",)), ("", "mine"),
        ("", "123456789012.dkr.ecr.us-west-2.amazonaws.com/magg:0.2"),
    )  # fmt: skip
    for machine, write, read, bucket, image in choices:
        settings = Settings(
            state_machine=machine, write=write, read=read, bucket=bucket, image=image
        )
        parameters = settings.parameters(make_bucket=bool(bucket))
        made = Template(**parameters).resources().keys()
        assert plan.resources(parameters).keys() == made, parameters


def test_the_template_takes_all_settings_and_fits_into_a_request():
    assert SETTINGS.parameters(True).keys() <= document()["Parameters"].keys()
    assert len(load_template().encode()) < 51_200


@pytest.mark.parametrize("region", ["us-west-2", "us-gov-west-1", "cn-north-1"])
def test_settings_are_found_again_in_the_stack(region):
    settings = Settings(
        stack="s", function_name="f", state_machine="", architecture="arm64", memory_mb=512,
        timeout_s=30, concurrency=7, log_days=3, bucket="mine", write=("s3://one", "s3://two/c/d"),
        read=("s3://three/f",), permissions_boundary="arn:aws:iam::123456789012:policy/p",
        tags={"owner": "me"}, region=region,
    )  # fmt: skip
    parameters = settings.parameters(make_bucket=True)
    found = Settings.of_stack(parameters, settings.all_tags, {"stack": "s", "region": region})
    assert found == settings
    assert Settings.of_stack(parameters, {}, {"memory_mb": 1024}).memory_mb == 1024


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"memory_mb": 64}, "memory_mb must be between 128 and 10,240"),
        ({"timeout_s": 901}, "timeout_s must be between 1 and 900"),
        ({"log_days": 2}, "log_days must be one of 1, 3"),
        ({"concurrency": -1}, "concurrency cannot be -1"),
        ({"architecture": "sparc"}, "architecture must be one of"),
        ({"function_name": "a b"}, "function_name 'a b'"),
        ({"write": ("s3://*",)}, "no place in S3"),
        ({"write": ("/data",)}, "no place in S3"),
        ({"read": ("s3://bucket/a,b",)}, "no place in S3"),
        ({"image": "docker.io/x"}, "image 'docker.io/x'"),
        ({"tags": {"magg:stack": "x"}}, "is not free"),
    ],
)
def test_impossible_settings_are_refused(wrong, words):
    with pytest.raises(DeployError, match=re.escape(words)):
        Settings(**wrong)
