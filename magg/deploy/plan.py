"""What deploying would do, and what it costs at rest: functions of what is and what shall be."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from magg.deploy.stack import EMPTY, USABLE, StackState
from magg.errors import DeployError

Kind = Literal["create", "update", "nothing"]

# A dollar a GB and month: S3 standard storage, and logs once they are written.
S3_USD, LOG_USD, LOG_INGESTED_USD = 0.023, 0.03, 0.50
SECRET = "EarthdataToken"  # noqa: S105 - the name of a parameter


@dataclass(frozen=True)
class Plan:
    """What deploying would do.

    Parameters
    ----------
    kind : {"create", "update", "nothing"}
    steps : tuple of str
        One for each thing that is made, changed or removed.
    remove_first : bool
        Whether the empty stack of a failed attempt goes first.
    """

    kind: Kind
    steps: tuple[str, ...] = ()
    remove_first: bool = False


def make_plan(
    state: StackState,
    template: str,
    parameters: Mapping[str, str],
    tags: Mapping[str, str],
    name: str,
) -> Plan:
    """Compare a stack with what it shall be.

    Parameters
    ----------
    state : StackState
    template : str
    parameters, tags : dict
        All that the stack shall have.
    name : str
        Of the stack.

    Raises
    ------
    DeployError
        If the stack is in a state in which nothing can be done.
    """
    refuse(state, name)
    if not state.exists or state.status in EMPTY:
        leftover = (f"- stack {name}, empty since an attempt failed",) if state.exists else ()
        made = tuple(f"+ {line}" for line in resources(parameters).values())
        return Plan("create", leftover + made, state.exists)
    steps = [*_changes(state, parameters)]
    if state.template.strip() != template.strip():
        steps.append("~ the template is of another version of magg")
    if dict(state.tags) != dict(tags):
        steps.append("~ tags")
    return Plan("update" if steps else "nothing", tuple(steps))


def refuse(state: StackState, name: str) -> None:
    """Refuse a stack in a state in which it can be neither made nor changed.

    Raises
    ------
    DeployError
    """
    status, why = state.status, f" ({state.reason})" if state.reason else ""
    if status.endswith("_IN_PROGRESS") and status not in EMPTY:
        raise DeployError(
            f"stack {name!r} is being worked on ({status.lower()}); wait until that is done "
            "(`magg deploy --status`), then try again"
        )
    if status == "UPDATE_ROLLBACK_FAILED":
        raise DeployError(
            f"stack {name!r} could not be changed, nor changed back{why}; mend the cause, then "
            f"`aws cloudformation continue-update-rollback --stack-name {name}`, or "
            "`magg deploy --destroy` and deploy anew"
        )
    if status == "DELETE_FAILED":
        raise DeployError(
            f"stack {name!r} was to be deleted and could not be{why}; mend the cause, and run "
            "`magg deploy --destroy` again"
        )
    if status and status not in (*USABLE, *EMPTY):
        raise DeployError(f"stack {name!r} is {status.lower()}{why}, which magg cannot mend")


def resources(parameters: Mapping[str, str]) -> dict[str, str]:
    """Return what the template makes with such parameters: names in it, and words for them."""
    what = parameters.get
    name, image, machine = what("FunctionName"), what("ImageUri"), what("StateMachineName")
    bucket, reserved = what("DataBucketName"), what("Concurrency")
    writable, readable = what("WritableObjects", ""), what("ReadableObjects", "")
    found = {
        "Worker": f"Lambda function {name}: {'container image' if image else 'python3.13'}, "
        f"{what('Architecture')}, {what('MemoryMB')} MB, {what('TimeoutSeconds')} s, "
        + (f"{reserved} calls at once" if reserved else "shared concurrency"),
        "Dependencies": f"Lambda layer {name}-dependencies: what magg imports",
        "Log": f"log group /aws/lambda/{name}, kept {what('LogRetentionDays')} days",
        "WorkerRole": "IAM role of the function: its log",
        "WorkerStores": f"IAM policy of the function: reads and writes {_places(writable)}",
        "WorkerGranules": f"IAM policy of the function: reads {_places(readable)}",
        "StateMachine": f"Step Functions state machine {machine}",
        "StateMachineRole": "IAM role of the state machine: calls the function",
        "StateMachineLists": "IAM policy of the state machine: lists of calls in "
        f"{_places(writable)}",
        "DataBucket": f"S3 bucket {bucket} for stores; never deleted with anything in it",
        "CallerPolicy": "IAM policy for whoever calls run(); attach it to a user or a hub's role",
    }
    absent = {"Dependencies"} if image else set()
    absent |= set() if machine else {"StateMachine", "StateMachineRole"}
    absent |= set() if machine and writable else {"StateMachineLists"}
    absent |= set() if writable else {"WorkerStores"}
    absent |= set() if readable else {"WorkerGranules"}
    absent |= set() if bucket else {"DataBucket"}
    return {name: line for name, line in found.items() if name not in absent}


def costs(parameters: Mapping[str, str], code_bytes: int) -> list[str]:
    """Return what a deployed backend costs while nobody uses it, and what its use leaves behind."""
    month = code_bytes / 1e9 * S3_USD
    lines = ["nothing by the hour: function, layer, roles and state machine are free at rest"]
    if code_bytes:
        lines.append(f"code in S3 ({code_bytes / 1e6:.0f} MB): ${month:.4f} a month")
    else:
        lines.append("the image in ECR: $0.10 a GB and month")
    lines.append(
        f"the log of runs: ${LOG_INGESTED_USD:.2f} a GB when written, ${LOG_USD:.2f} a GB and "
        f"month for the {parameters['LogRetentionDays']} days that it is kept; a call writes "
        "about 1 KB"
    )
    if parameters.get("DataBucketName"):
        lines.append(f"stores in the bucket: ${S3_USD:.3f} a GB and month")
    return lines


def _places(objects: str) -> str:
    return ", ".join(arn.rpartition(":::")[2] for arn in objects.split(","))


def _changes(state: StackState, parameters: Mapping[str, str]) -> list[str]:
    before, after = resources(state.parameters), resources(parameters)
    steps = [f"+ {after[name]}" for name in after.keys() - before.keys()]
    steps += [f"- {before[name]}" for name in before.keys() - after.keys()]
    for key, value in parameters.items():
        known = state.parameters.get(key)
        if key == SECRET:
            steps.append("~ the token of Earthdata is set anew")
        elif known is not None and known != value:
            steps.append(f"~ {key}: {known or 'none'} -> {value or 'none'}")
        elif known is None:
            steps.append(f"+ {key}: {value or 'none'}")
    return sorted(steps)
