"""The state machine that `magg.executors.StepFunctionsExecutor` starts, as data."""

from __future__ import annotations

import json
import re
from importlib.resources import files

from magg.errors import BackendError

_PLACEHOLDER = "${FunctionArn}"
_FUNCTION = re.compile(
    r"arn:aws[a-z-]*:lambda:[a-z0-9-]+:\d{12}:function:[A-Za-z0-9_-]+(:[$A-Za-z0-9_-]+)?"
)


def state_machine(function_arn: str) -> str:
    """Return the definition of the state machine, in the Amazon States Language.

    ``state_machine.asl.json`` beside this module is the same with the placeholder
    ``${FunctionArn}``, which tools that deploy state machines substitute as well.

    Parameters
    ----------
    function_arn : str
        ARN of the Lambda function that runs `magg.aws.handler.lambda_handler`.

    Raises
    ------
    BackendError
        If this is no ARN of a Lambda function.
    """
    if not _FUNCTION.fullmatch(function_arn):
        raise BackendError(
            f"{function_arn!r} is no ARN of a Lambda function, such as "
            "arn:aws:lambda:us-west-2:123456789012:function:process-morton-cell"
        )
    text = files("magg.aws").joinpath("state_machine.asl.json").read_text(encoding="utf-8")
    return json.dumps(json.loads(text.replace(_PLACEHOLDER, function_arn)), indent=2)
