"""A CloudFormation stack: what it is, how it is changed, and how that goes."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from magg.credentials import redact
from magg.deploy.errors_of_aws import advice_on, told
from magg.errors import DeployError
from magg.executors import lambda_errors

if TYPE_CHECKING:
    from botocore.client import BaseClient

# A state machine or a function takes a minute; what takes longer than this has come to a stand.
PATIENCE_S = 1800.0
POLL_S = 3.0
# Nothing is left of such a stack but its name, which must go before it can be made again.
EMPTY = ("ROLLBACK_COMPLETE", "ROLLBACK_FAILED", "REVIEW_IN_PROGRESS", "CREATE_FAILED")
USABLE = (
    "CREATE_COMPLETE",
    "UPDATE_COMPLETE",
    "UPDATE_ROLLBACK_COMPLETE",
    "IMPORT_COMPLETE",
)
_UNCHANGED = "No updates are to be performed"

Listen = Callable[[str], None]


@dataclass(frozen=True)
class StackState:
    """A stack as it is.

    Parameters
    ----------
    status : str
        In CloudFormation's words; empty where there is no stack.
    reason : str
    parameters, outputs, tags : dict
    template : str
    resources : tuple of (str, str, str)
        Name in the template, type, and physical name.
    """

    status: str = ""
    reason: str = ""
    parameters: Mapping[str, str] = field(default_factory=dict)
    outputs: Mapping[str, str] = field(default_factory=dict)
    tags: Mapping[str, str] = field(default_factory=dict)
    template: str = ""
    resources: tuple[tuple[str, str, str], ...] = ()

    @property
    def exists(self) -> bool:
        """Whether there is a stack that can be looked at."""
        return bool(self.status)


class Stack:
    """A CloudFormation stack of a name.

    Parameters
    ----------
    client : botocore client
        Of CloudFormation.
    name : str
    """

    def __init__(self, client: BaseClient, name: str) -> None:
        self.client, self.name = client, name

    def look(self) -> StackState:
        """Return what the stack is now."""
        found = self._described()
        if found is None:
            return StackState()
        with told(f"the template of stack {self.name!r}"):
            template = self.client.get_template(StackName=self.name, TemplateStage="Original")
        with told(f"the resources of stack {self.name!r}"):
            pages = self.client.get_paginator("list_stack_resources").paginate(StackName=self.name)
            resources = [one for page in pages for one in page["StackResourceSummaries"]]
        body = template.get("TemplateBody", "")
        return StackState(
            found["StackStatus"],
            redact(found.get("StackStatusReason", "")),
            {p["ParameterKey"]: p.get("ParameterValue", "") for p in found.get("Parameters", [])},
            {o["OutputKey"]: o["OutputValue"] for o in found.get("Outputs", [])},
            {t["Key"]: t["Value"] for t in found.get("Tags", [])},
            body if isinstance(body, str) else "",
            tuple(
                (r["LogicalResourceId"], r["ResourceType"], r.get("PhysicalResourceId", ""))
                for r in resources
                if r["ResourceType"] and r["ResourceStatus"] != "DELETE_COMPLETE"
            ),
        )

    def create(self, listen: Listen, **request: Any) -> None:
        """Create the stack, and wait until all of it is there."""
        with told(f"creating stack {self.name!r}"):
            self.client.create_stack(StackName=self.name, OnFailure="ROLLBACK", **request)
        self._follow("creating", ("CREATE_COMPLETE",), listen)

    def update(self, listen: Listen, **request: Any) -> bool:
        """Update the stack, and wait until it is done; return whether anything was to be done."""
        try:
            self.client.update_stack(StackName=self.name, **request)
        except Exception as error:
            if _UNCHANGED in lambda_errors.message_of(error):
                return False
            with told(f"updating stack {self.name!r}"):
                raise
        self._follow("updating", ("UPDATE_COMPLETE",), listen)
        return True

    def delete(self, listen: Listen) -> None:
        """Delete the stack, and wait until it is gone; there may be none."""
        if self._described() is None:
            return
        with told(f"deleting stack {self.name!r}"):
            self.client.delete_stack(StackName=self.name)
        self._follow("deleting", ("", "DELETE_COMPLETE"), listen)

    def _described(self) -> Mapping[str, Any] | None:
        try:
            found: Mapping[str, Any] = self.client.describe_stacks(StackName=self.name)["Stacks"][0]
        except Exception as error:
            if "does not exist" in lambda_errors.message_of(error):
                return None
            with told(f"stack {self.name!r}"):
                raise
        return None if found["StackStatus"] == "DELETE_COMPLETE" else found

    def _follow(self, doing: str, wanted: tuple[str, ...], listen: Listen) -> None:
        """Wait for the end of an operation, and tell what fails on the way."""
        # Clocks differ by seconds, and old failures of the same resources must not be told.
        since = datetime.now(UTC) - timedelta(seconds=5)
        deadline = time.monotonic() + PATIENCE_S
        known: set[str] = set()
        failures: list[str] = []
        identity = self.name
        while True:
            found = self._described()
            status = found["StackStatus"] if found else ""
            identity = found["StackId"] if found else identity
            for event in self._events(identity, since, known):
                listen(f"{event['LogicalResourceId']}: {event['ResourceStatus'].lower()}")
                # What was cancelled failed on account of another.
                reason = redact(event.get("ResourceStatusReason", ""))
                if event["ResourceStatus"].endswith("_FAILED") and "cancelled" not in reason:
                    failures.append(f"{event['LogicalResourceId']}: {reason}")
            if not status.endswith("_IN_PROGRESS"):
                break
            if time.monotonic() > deadline:
                raise DeployError(
                    f"{doing} stack {self.name!r} goes on in AWS and is not done after "
                    f"{PATIENCE_S / 60:.0f} minutes; look with `magg deploy --status`"
                )
            time.sleep(POLL_S)
        if status not in wanted:
            raise DeployError(_failed(doing, self.name, status, failures))

    def _events(self, stack: str, since: datetime, known: set[str]) -> list[Mapping[str, Any]]:
        """Return the events since, oldest first, that were not returned before."""
        try:
            answer = self.client.describe_stack_events(StackName=stack)
        except Exception:  # noqa: BLE001 - they only tell how it goes; not all may read them
            return []
        fresh = [
            event
            for event in reversed(answer["StackEvents"])
            if event["EventId"] not in known and event["Timestamp"].replace(tzinfo=UTC) >= since
        ]
        known.update(event["EventId"] for event in fresh)
        return fresh


def _failed(doing: str, name: str, status: str, failures: list[str]) -> str:
    advice = next((do for failure in failures if (do := advice_on(failure))), "")
    told_of = "; ".join(failures[:3]) or "CloudFormation gives no reason"
    kept = ""
    if doing == "creating":
        kept = "; nothing of it was kept, and the same command tries again"
    elif doing == "updating":
        kept = "; it is as it was before"
    return (
        f"{doing} stack {name!r} failed ({status.lower()}): {told_of}"
        + (f"; {advice}" if advice else "")
        + kept
    )
