"""The part of the Amazon States Language that magg's state machine uses; all else is refused."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection, Mapping
from typing import Any

LIMIT = 256 * 1024  # bytes of JSON that travel between states
PATH = r"\$(\.[A-Za-z_][A-Za-z0-9_]*)*"
INPUT = "$$.Execution.Input"
READ, WRITE = "arn:aws:states:::s3:getObject", "arn:aws:states:::s3:putObject"
INVOKE = "arn:aws:states:::lambda:invoke"

Check = Callable[[str, Any], None]


class Invalid(Exception):  # noqa: N818
    """A definition is wrong, or uses what is not emulated."""


class Failure(Exception):  # noqa: N818
    """An error of an execution, by its name and cause."""

    def __init__(self, error: str, cause: str) -> None:
        super().__init__(error, cause)
        self.error, self.cause = error, cause


def size(value: Any) -> int:
    """Return the bytes of a value as JSON."""
    return len(json.dumps(value, separators=(",", ":")).encode())


def look_up(path: str, data: Any) -> Any:
    """Return what a path of dots refers to; the input of the state is that of the execution."""
    path = path.replace(INPUT, "$")
    for name in path.split(".")[1:]:
        if not isinstance(data, dict) or name not in data:
            raise Failure(
                "States.Runtime", f"The JSONPath '{path}' could not be found in the input"
            )
        data = data[name]
    return data


def filled(template: Any, data: Any) -> Any:
    """Return a payload template with its paths looked up."""
    if isinstance(template, dict):
        return {
            name.removesuffix(".$"): look_up(value, data)
            if name.endswith(".$")
            else filled(value, data)
            for name, value in template.items()
        }
    return template


def check_machine(definition: Any, where: str = "") -> None:
    """Refuse a definition that is not of a Map over items in S3, and nothing else."""
    _fields(where, definition, {"StartAt", "States"}, {"Comment": _is(str)})
    _one_state(where, definition, "Map", _check_map)


def _check_map(where: str, state: Any) -> None:
    required = {
        "Type": _is(str),
        "End": _true,
        "ItemReader": _check_reader,
        "ItemBatcher": _check_batcher,
        "MaxConcurrencyPath": _check_path,
        "ToleratedFailurePercentage": _between(0, 100),
        "ItemProcessor": _check_processor,
        "ResultWriter": _check_writer,
    }
    _fields(where, state, required)


def _check_reader(where: str, reader: Any) -> None:
    parameters = {"Bucket.$": _check_path, "Key.$": _check_path}
    required = {
        "Resource": _equals(READ),
        "ReaderConfig": lambda w, v: _fields(w, v, {"InputType": _equals("JSON")}),
        "Parameters": lambda w, v: _fields(w, v, parameters),
    }
    _fields(where, reader, required)


def _check_batcher(where: str, batcher: Any) -> None:
    required = {
        "MaxItemsPerBatchPath": _check_path,
        "MaxInputBytesPerBatch": _between(1, LIMIT),
        "BatchInput": _check_template,
    }
    _fields(where, batcher, required)


def _check_processor(where: str, processor: Any) -> None:
    config = {"Mode": _equals("DISTRIBUTED"), "ExecutionType": _equals("STANDARD")}
    required = {
        "ProcessorConfig": lambda w, v: _fields(w, v, config),
        "StartAt": _is(str),
        "States": _is(dict),
    }
    _fields(where, processor, required)
    _one_state(where, processor, "Task", _check_task)


def _check_task(where: str, task: Any) -> None:
    parameters = {"FunctionName": _is(str), "Payload.$": _equals("$")}
    required = {
        "Type": _is(str),
        "End": _true,
        "Resource": _equals(INVOKE),
        "Parameters": lambda w, v: _fields(w, v, parameters),
        "OutputPath": _equals("$.Payload"),
        "TimeoutSeconds": _between(1, 99_999_999),
        "Retry": _check_retry,
    }
    _fields(where, task, required)


def _check_retry(where: str, retriers: Any) -> None:
    required = {
        "ErrorEquals": _check_errors,
        "IntervalSeconds": _between(1, 99_999_999),
        "BackoffRate": _between(1.0, 1e6),
        "MaxDelaySeconds": _between(1, 31_622_399),
        "MaxAttempts": _between(0, 99_999_999),
        "JitterStrategy": _equals("FULL"),
    }
    _is(list)(where, retriers)
    for number, retrier in enumerate(retriers):
        _fields(f"{where}[{number}]", retrier, required)
        if retrier["MaxDelaySeconds"] <= retrier["IntervalSeconds"]:
            raise Invalid(f"{where}[{number}]: MaxDelaySeconds must exceed IntervalSeconds")


def _check_errors(where: str, names: Any) -> None:
    _is(list)(where, names)
    for name in names:
        _is(str)(where, name)
        if not name.startswith("Lambda.") or not names:
            raise Invalid(f"{where}: {name!r} is not emulated")


def _check_writer(where: str, writer: Any) -> None:
    parameters = {"Bucket.$": _check_path_of_input, "Prefix.$": _check_path_of_input}
    required = {
        "Resource": _equals(WRITE),
        "Parameters": lambda w, v: _fields(w, v, parameters),
    }
    _fields(where, writer, required)


def _check_path(where: str, path: Any) -> None:
    _is(str)(where, path)
    if not re.fullmatch(PATH, path):
        raise Invalid(f"{where}: the path {path!r} is not emulated")


def _check_path_of_input(where: str, path: Any) -> None:
    _is(str)(where, path)
    if not path.startswith(INPUT + "."):
        raise Invalid(f"{where}: only paths below {INPUT} are emulated here, not {path!r}")
    _check_path(where, path.replace(INPUT, "$"))


def _check_template(where: str, template: Any) -> None:
    _is(dict)(where, template)
    for name, value in template.items():
        if name.endswith(".$"):
            _check_path(f"{where}.{name}", value)
        elif not isinstance(value, int | str):
            raise Invalid(f"{where}.{name}: {value!r} is not emulated")


def _one_state(where: str, machine: Mapping[str, Any], kind: str, check: Check) -> None:
    states = machine["States"]
    _is(dict)(f"{where}.States", states)
    if list(states) != [machine["StartAt"]]:
        raise Invalid(f"{where}.States: only a single state, named by StartAt, is emulated")
    (state,) = states.values()
    here = f"{where}.{machine['StartAt']}".lstrip(".")
    _is(dict)(here, state)
    if state.get("Type") != kind:
        raise Invalid(f"{here}: Type {state.get('Type')!r} is not emulated here, but {kind!r}")
    check(here, state)


def _fields(
    where: str,
    given: Any,
    required: Mapping[str, Check] | Collection[str],
    optional: Mapping[str, Check] | None = None,
) -> None:
    """Refuse missing and unknown fields, then check each of those that are there."""
    _is(dict)(where, given)
    checks = dict(optional or {})
    checks |= (
        required if isinstance(required, Mapping) else dict.fromkeys(required, lambda *_: None)
    )
    if unknown := given.keys() - checks.keys():
        raise Invalid(f"{where}: {sorted(unknown)} not allowed, or not emulated")
    if missing := set(required) - given.keys():
        raise Invalid(f"{where}: {sorted(missing)} missing")
    for name, value in given.items():
        checks[name](f"{where}.{name}".lstrip("."), value)


def _is(kind: type) -> Check:
    def check(where: str, value: Any) -> None:
        if not isinstance(value, kind):
            raise Invalid(f"{where}: {value!r} is no {kind.__name__}")

    return check


def _equals(expected: str) -> Check:
    def check(where: str, value: Any) -> None:
        if value != expected:
            raise Invalid(f"{where}: {value!r} is not emulated, but {expected!r}")

    return check


def _true(where: str, value: Any) -> None:
    if value is not True:
        raise Invalid(f"{where} must be true")


def _between(least: float, most: float) -> Check:
    def check(where: str, value: Any) -> None:
        number = type(least) if isinstance(least, int) else (int, float)
        if isinstance(value, bool) or not isinstance(value, number) or not least <= value <= most:
            raise Invalid(f"{where}: {value!r} must be between {least} and {most}")

    return check
