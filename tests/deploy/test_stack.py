"""Stacks in every state that CloudFormation knows, and what users are told of them."""

from __future__ import annotations

from datetime import UTC, datetime
from types import SimpleNamespace

import pytest

from magg.deploy import operations, plan
from magg.deploy.errors_of_aws import told, translate
from magg.deploy.settings import Settings, load_template
from magg.deploy.stack import EMPTY, Stack, StackState
from magg.errors import AccessDeniedError, DeployError

botocore = pytest.importorskip("botocore.exceptions")

SETTINGS = Settings()
PARAMETERS = SETTINGS.parameters(make_bucket=False)


def client_error(code, message="", status=400):
    answer = {"Error": {"Code": code, "Message": message}}
    answer["ResponseMetadata"] = {"HTTPStatusCode": status}
    return botocore.ClientError(answer, "CreateStack")


def event(number, name, status, reason=""):
    return {
        "EventId": str(number),
        "LogicalResourceId": name,
        "ResourceStatus": status,
        "ResourceStatusReason": reason,
        "Timestamp": datetime.now(UTC),
    }


class Scripted:
    """A CloudFormation whose stack goes through states, one for each look."""

    def __init__(self, *states, events=()):
        self.states, self.events, self.asked = list(states), list(events), []

    def describe_stacks(self, **_):
        state = self.states.pop(0) if len(self.states) > 1 else self.states[0]
        if isinstance(state, Exception):
            raise state
        if not state:
            raise client_error("ValidationError", "Stack with id magg does not exist")
        return {"Stacks": [{"StackStatus": state, "StackId": "id"}]}

    def describe_stack_events(self, **_):
        return {"StackEvents": self.events[::-1]}

    def _do(self, **request):
        self.asked.append(request)

    create_stack = update_stack = delete_stack = _do


@pytest.fixture(autouse=True)
def _at_once(monkeypatch):
    monkeypatch.setattr("magg.deploy.stack.POLL_S", 0.0)


def state_of(status, **more):
    known = {"parameters": PARAMETERS, "tags": SETTINGS.all_tags, "template": load_template()}
    return StackState(status, **known | more)


def planned(state, **parameters):
    wanted = {**PARAMETERS, **parameters}
    return plan.make_plan(state, load_template(), wanted, SETTINGS.all_tags, "magg")


def test_a_stack_is_followed_until_it_is_there():
    heard = []
    client = Scripted(
        "CREATE_IN_PROGRESS",
        "CREATE_COMPLETE",
        events=[event(1, "Worker", "CREATE_IN_PROGRESS"), event(2, "Worker", "CREATE_COMPLETE")],
    )
    Stack(client, "magg").create(heard.append, TemplateBody="...")
    assert heard == ["Worker: create_in_progress", "Worker: create_complete"]


@pytest.mark.parametrize(
    ("reason", "words"),
    [
        (
            "User: arn:aws:iam::1:user/x is not authorized to perform: iam:CreateRole on resource",
            "the permission iam:CreateRole is missing",
        ),
        (
            "Specified ReservedConcurrentExecutions for function decreases account's "
            "UnreservedConcurrentExecution below its minimum value of [10].",
            "Reserve less",
        ),
        ("magg already exists in stack arn:...", "use other names"),
        (
            "'MemorySize' value failed: Member must have value less than or equal to 3008",
            "3,008 MB",
        ),
        ("Cannot exceed quota for PoliciesPerRole: 10", "Service Quotas"),
    ],
)
def test_what_kept_a_stack_from_being_made_is_told_with_what_to_do(reason, words):
    client = Scripted(
        "ROLLBACK_IN_PROGRESS",
        "ROLLBACK_COMPLETE",
        events=[
            event(1, "WorkerRole", "CREATE_FAILED", reason),
            event(2, "Log", "CREATE_FAILED", "Resource creation cancelled"),
        ],
    )
    with pytest.raises(DeployError) as caught:
        Stack(client, "magg").create(lambda _: None)
    message = str(caught.value)
    assert f"WorkerRole: {reason}" in message
    assert words in message
    assert "cancelled" not in message
    assert "the same command tries again" in message


def test_an_update_that_failed_says_that_all_is_as_before():
    client = Scripted("UPDATE_ROLLBACK_IN_PROGRESS", "UPDATE_ROLLBACK_COMPLETE")
    with pytest.raises(DeployError, match="it is as it was before"):
        Stack(client, "magg").update(lambda _: None)


def test_an_update_of_nothing_is_none():
    client = Scripted("UPDATE_COMPLETE")

    def refuse(**_):
        raise client_error("ValidationError", "No updates are to be performed.")

    client.update_stack = refuse
    assert Stack(client, "magg").update(lambda _: None) is False


def test_a_stack_that_is_gone_is_deleted_and_one_that_is_not_is_told():
    gone = Scripted("CREATE_COMPLETE", "DELETE_IN_PROGRESS", "")
    Stack(gone, "magg").delete(lambda _: None)
    assert len(gone.asked) == 1
    absent = Scripted("")
    Stack(absent, "magg").delete(lambda _: None)
    assert absent.asked == []
    stuck = Scripted(
        "CREATE_COMPLETE", "DELETE_FAILED", events=[event(1, "Log", "DELETE_FAILED", "busy")]
    )
    with pytest.raises(DeployError, match="Log: busy"):
        Stack(stuck, "magg").delete(lambda _: None)


def test_events_that_may_not_be_read_hinder_nothing():
    client = Scripted("CREATE_COMPLETE")

    def denied(**_):
        raise client_error("AccessDenied")

    client.describe_stack_events = denied
    Stack(client, "magg").create(lambda _: None)


@pytest.mark.parametrize("status", EMPTY)
def test_what_a_failed_attempt_left_goes_first(status):
    made = planned(state_of(status))
    assert (made.kind, made.remove_first) == ("create", True)
    assert "empty since an attempt failed" in made.steps[0]


@pytest.mark.parametrize(
    ("status", "words"),
    [
        ("CREATE_IN_PROGRESS", "wait until that is done"),
        ("DELETE_IN_PROGRESS", "wait until that is done"),
        ("UPDATE_ROLLBACK_FAILED", "continue-update-rollback --stack-name magg"),
        ("DELETE_FAILED", "magg deploy --destroy"),
        ("IMPORT_ROLLBACK_FAILED", "which magg cannot mend"),
    ],
)
def test_a_stack_that_cannot_be_changed_now_is_refused_with_the_way_out(status, words):
    with pytest.raises(DeployError) as caught:
        planned(state_of(status, reason="of its own"))
    assert words in str(caught.value)
    assert "PROGRESS" in status or "(of its own)" in str(caught.value)


@pytest.mark.parametrize(
    "status", ["CREATE_COMPLETE", "UPDATE_COMPLETE", "UPDATE_ROLLBACK_COMPLETE"]
)
def test_a_stack_that_is_as_it_should_be_is_left_alone(status):
    assert planned(state_of(status)).kind == "nothing"


def test_only_what_differs_is_changed():
    steps = planned(state_of("CREATE_COMPLETE"), MemoryMB="4096", StateMachineName="").steps
    assert "~ MemoryMB: 2048 -> 4096" in steps
    assert "- Step Functions state machine magg" in steps
    assert not [step for step in steps if "log group" in step]
    other = state_of("CREATE_COMPLETE", template="other", tags={})
    assert planned(other).steps == ("~ the template is of another version of magg", "~ tags")


def test_a_secret_is_never_among_the_steps():
    state = state_of("CREATE_COMPLETE", parameters={**PARAMETERS, "EarthdataToken": "****"})
    (step,) = planned(state, EarthdataToken="secret").steps
    assert "secret" not in step


def test_costs_at_rest_are_those_of_the_code_in_s3():
    lines = plan.costs({**PARAMETERS, "DataBucketName": ""}, 40_000_000)
    assert "free at rest" in lines[0]
    assert lines[1] == "code in S3 (40 MB): $0.0009 a month"
    assert "30 days" in lines[2]
    assert len(lines) == 3


@pytest.mark.parametrize(
    ("error", "kind", "words"),
    [
        (
            client_error(
                "AccessDenied",
                "User: arn:aws:iam::1:user/x is not authorized to perform: "
                "cloudformation:CreateStack on resource: arn:aws:cloudformation:...",
            ),
            AccessDeniedError,
            "not allowed cloudformation:CreateStack",
        ),
        (client_error("AccessDenied", "Access Denied"), AccessDeniedError, "docs/deploy.md"),
        (client_error("ExpiredToken"), AccessDeniedError, "aws sso login"),
        (client_error("InvalidClientTokenId"), AccessDeniedError, "AWS_PROFILE"),
        (client_error("LimitExceededException", "too many"), DeployError, "Service Quotas"),
        (client_error("BucketAlreadyExists"), DeployError, "choose another"),
        (client_error("ValidationError", "Template error"), DeployError, "Template error"),
        (
            botocore.EndpointConnectionError(endpoint_url="https://x"),
            DeployError,
            "look at the network",
        ),
        (botocore.NoCredentialsError(), AccessDeniedError, "AWS_PROFILE"),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_errors_of_aws_say_what_to_do(error, kind, words):
    found = translate(error, "doing it")
    assert type(found) is kind
    assert str(found).startswith("doing it: ")
    assert words in str(found)
    with pytest.raises(kind), told("doing it"):
        raise error


def test_other_errors_are_not_taken_for_those_of_aws():
    with pytest.raises(ZeroDivisionError), told("doing it"):
        raise ZeroDivisionError


class _Denying:
    """An account in which whoever asks may see stacks alone."""

    region, account, code_bucket = "us-west-2", "123456789012", "magg-code"

    def __init__(self, stacks):
        self.stacks = stacks
        self.s3 = self.functions = self.logs = self
        self.exceptions = SimpleNamespace(
            ClientError=botocore.ClientError, ResourceNotFoundException=ZeroDivisionError
        )

    def __getattr__(self, name):
        def denied(*_, **__):
            raise client_error("AccessDeniedException", "not authorized to perform: x:Y")

        return denied


def test_the_status_tells_what_may_be_seen_and_leaves_out_the_rest():
    stacks = Scripted("CREATE_COMPLETE")
    stacks.get_template = lambda **_: {"TemplateBody": "..."}
    page = {"StackResourceSummaries": []}
    stacks.get_paginator = lambda _: SimpleNamespace(paginate=lambda **_: [page])
    stacks.describe_stacks = lambda **_: {
        "Stacks": [
            {
                "StackStatus": "CREATE_COMPLETE",
                "Parameters": [{"ParameterKey": "FunctionName", "ParameterValue": "f"}],
            }
        ]
    }
    found = operations.status(_Denying(stacks), "magg")
    assert found["status"] == "create_complete"
    assert found["settings"] == {"FunctionName": "f"}
    assert (found["function"], found["log_bytes"], found["code_bytes"]) == (None, None, None)
