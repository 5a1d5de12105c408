"""The state machine of Step Functions, as data."""

from __future__ import annotations

import copy
import json
from importlib.resources import files
from pathlib import Path

import pytest
from services.sfn_language import Invalid, check_machine

import magg
from magg.aws.state_machine import state_machine
from magg.errors import BackendError
from magg.executors import batch

FUNCTION = "arn:aws:lambda:us-west-2:123456789012:function:process-morton-cell"
# The linter knows the specification of the language, in which this field of AWS is not.
BEYOND_THE_SPECIFICATION = [
    'Field "InputType" not allowed in State Machine.States.Calls.ItemReader.ReaderConfig'
]


@pytest.fixture
def definition():
    return json.loads(state_machine(FUNCTION))


def test_the_definition_calls_the_function_that_is_given(definition):
    (task,) = definition["States"]["Calls"]["ItemProcessor"]["States"].values()
    assert task["Parameters"]["FunctionName"] == FUNCTION
    assert "${" not in state_machine(FUNCTION + ":live")


@pytest.mark.parametrize(
    "name", ["process-morton-cell", "", 'x", "y', "arn:aws:states:us-west-2:123456789012:x:y"]
)
def test_what_is_no_arn_of_a_function_is_refused(name):
    with pytest.raises(BackendError, match="is no ARN of a Lambda function, such as"):
        state_machine(name)


def test_the_file_has_nothing_but_one_placeholder_to_be_filled():
    text = files("magg.aws").joinpath("state_machine.asl.json").read_text()
    assert text.count("${") == text.count("${FunctionArn}") == 1


def test_the_wheel_holds_the_file():
    pyproject = (Path(__file__).parents[1] / "pyproject.toml").read_text()
    assert 'packages = ["magg"]' in pyproject  # with all files in it that git does not ignore
    folder = Path(magg.__file__).parent / "aws"
    assert (folder / "state_machine.asl.json").is_file()


def test_one_failure_never_ends_the_others(definition):
    assert definition["States"]["Calls"]["ToleratedFailurePercentage"] == 100


def test_batches_are_within_what_may_travel_between_states(definition):
    limit = definition["States"]["Calls"]["ItemBatcher"]["MaxInputBytesPerBatch"]
    assert batch.CALL_BYTES + 2_000 < limit < 256 * 1024
    assert batch.ANSWERS_BYTES < 256 * 1024


def test_the_linter_of_the_language_finds_nothing(definition):
    linter = pytest.importorskip("statelint.linter", reason="pip install statelint")
    assert linter.Linter.validate(definition) == BEYOND_THE_SPECIFICATION
    definition["States"]["Calls"]["MaxConcurencyPath"] = "$.workers"
    assert len(linter.Linter.validate(definition)) == 2


def test_the_emulator_takes_it(definition):
    check_machine(definition)


def paths(node, path=()):
    """Yield the path of every field of a definition."""
    if isinstance(node, dict):
        for name, inner in node.items():
            yield (*path, name)
            yield from paths(inner, (*path, name))
    elif isinstance(node, list):
        for number, inner in enumerate(node):
            yield from paths(inner, (*path, number))


def changed(definition, path, change):
    """Return a copy of which the object that holds the path's end was changed."""
    copied = copy.deepcopy(definition)
    parent = copied
    for step in path[:-1]:
        parent = parent[step]
    change(parent, path[-1])
    return copied


def test_the_emulator_refuses_it_without_any_of_its_fields(definition):
    accepted = [
        path
        for path in paths(definition)
        if not refuses(changed(definition, path, lambda parent, name: parent.pop(name)))
    ]
    batch_input = ("States", "Calls", "ItemBatcher", "BatchInput")
    assert accepted == [
        ("Comment",),
        (*batch_input, "magg_batch"),  # what is handed on is free
        (*batch_input, "offload.$"),
    ]


def test_the_emulator_refuses_any_other_field_in_any_object(definition):
    def rename(parent, name):
        parent["Zzz"] = parent[name]

    free = ("States", "Calls", "ItemBatcher", "BatchInput")
    accepted = [
        path for path in paths(definition) if not refuses(changed(definition, path, rename))
    ]
    assert {path[:-1] for path in accepted} <= {free}


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("ToleratedFailurePercentage",), 101),
        (("MaxConcurrencyPath",), "workers"),
        (("MaxConcurrencyPath",), "$.workers[0]"),
        (("End",), False),
        (("ItemProcessor", "ProcessorConfig", "ExecutionType"), "EXPRESS"),
        (("ItemReader", "ReaderConfig", "InputType"), "CSV"),
        (("ItemBatcher", "MaxInputBytesPerBatch"), 300_000),
        (("ItemBatcher", "BatchInput", "offload.$"), "offload"),
        (("ItemProcessor", "States", "Batch", "Retry", 0, "MaxDelaySeconds"), 1),
        (("ItemProcessor", "States", "Batch", "Retry", 0, "ErrorEquals"), ["States.ALL"]),
        (("ItemProcessor", "States", "Batch", "Retry", 0, "BackoffRate"), 0.5),
        (("ItemProcessor", "States", "Batch", "TimeoutSeconds"), 0),
        (("ItemProcessor", "States", "Batch", "Resource"), "arn:aws:states:::dynamodb:getItem"),
        (("ItemProcessor", "StartAt"), "Elsewhere"),
    ],
)
def test_the_emulator_refuses_values_that_aws_would_refuse_or_that_it_does_not_emulate(
    definition, path, value
):
    def put(parent, name):
        parent[name] = value

    assert refuses(changed(definition, ("States", "Calls", *path), put))


def refuses(definition):
    try:
        check_machine(definition)
    except Invalid:
        return True
    return False
