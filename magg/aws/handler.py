"""The entry point of the deployed Lambda function.

Set ``magg.aws.handler.lambda_handler`` as the function's handler. It takes the calls that
`magg.executors.LambdaExecutor` sends and the batches of calls that the state machine of
`magg.executors.StepFunctionsExecutor` hands on, and runs `magg.worker.FUNCTIONS` and nothing else.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from magg.executors.serve import make_handler
from magg.worker import FUNCTIONS


def _facts(answer: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the log says of a cell."""
    result = answer.get("result")
    if not isinstance(result, Mapping) or "cell" not in result:
        return {}
    failure = result.get("error") or {}
    return {
        "cell": result["cell"],
        "cell_status": result.get("status"),
        "observations": result.get("observations"),
        "cell_error": failure.get("type"),
    }


_handler = make_handler(FUNCTIONS, facts=_facts)


def lambda_handler(event: Any, context: Any) -> dict[str, Any]:
    """Answer one call, or a batch of them.

    Parameters
    ----------
    event : dict
        A call as `magg.executors.payload.Calls.request` writes it, or several as
        `magg.executors.batch` describes.
    context : object
        Of the Lambda runtime; its request id goes to the log.

    Returns
    -------
    dict
        ``status`` 200 with the ``result``; 400 with an ``error`` for an event that is malformed,
        or of magg's first version (which is served no more); 409 where the caller runs another
        version of magg; 500 with the ``error`` that a function raised. For a batch ``answers``,
        one such dict for each call, and what they ``used``.
    """
    return _handler(event, context)
