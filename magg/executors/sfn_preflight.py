"""What can be known about a state machine and its function before the first execution."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from magg.errors import AccessDeniedError, BackendError
from magg.executors.batch import MARK
from magg.executors.sfn_machine import StateMachine

SHOWN = 3


def ask(machine: StateMachine, attached: str) -> tuple[str, list[str]]:
    """Ask AWS about a state machine.

    Parameters
    ----------
    machine : StateMachine
    attached : str
        ARN of an execution that is waited for anyway.

    Returns
    -------
    function : str
        ARN of the function that it calls.
    notices : list of str

    Raises
    ------
    StateMachineNotFoundError, AccessDeniedError, CredentialsExpiredError, BackendError
        If it is not there, not to be seen, or not one of magg's.
    """
    told = machine.describe()
    if told.get("status") == "DELETING":
        raise BackendError(f"{machine.place} is being deleted; deploy it again")
    function = _function(json.loads(told["definition"]))
    if function is None or told.get("type") == "EXPRESS":
        raise BackendError(
            f"{machine.place} is not magg's; deploy the definition that "
            "magg.aws.state_machine.state_machine(function_arn) returns, as a STANDARD workflow"
        )
    try:
        running = [arn for arn in machine.running() if arn != attached]
    except AccessDeniedError:  # nothing depends on it
        running = []
    if not running:
        return function, []
    shown = ", ".join(running[:SHOWN]) + (" ..." if len(running) > SHOWN else "")
    return function, [
        f"{len(running)} executions of the {machine.place} are running already ({shown}). If they "
        "are of an earlier run with these arguments, their cells are done twice: wait for them, "
        "stop them, or set MAGG_RESUME_EXECUTION to one of them"
    ]


def _function(definition: dict[str, Any]) -> str | None:
    """Return the function that a definition of magg's calls; None if it is not magg's."""
    for state in _states(definition):
        marked = state.get("ItemBatcher", {}).get("BatchInput", {}).get(MARK)
        for inner in _states(state.get("ItemProcessor", {})) if marked else ():
            name = inner.get("Parameters", {}).get("FunctionName")
            if isinstance(name, str):
                return name
    return None


def _states(machine: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield from machine.get("States", {}).values()
