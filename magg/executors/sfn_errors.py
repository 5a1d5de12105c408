"""What AWS Step Functions says when an execution fails, in types and words that tell what to do."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from magg.errors import (
    AccessDeniedError,
    BackendError,
    CredentialsExpiredError,
    ExecutionStoppedError,
    FunctionNotFoundError,
    PayloadError,
    ServiceUnreachableError,
    StateMachineNotFoundError,
    ThrottledError,
    WorkerLostError,
    WorkerTimeoutError,
)
from magg.executors import lambda_errors

_UNREACHABLE = ("ConnectionError", "HTTPClientError", "EndpointConnectionError")
_DOCS = "docs/stepfunctions.md"

# Of a request, by the code of the answer.
_REQUESTS: Mapping[str, tuple[type[Exception], str]] = {
    "NoSuchBucket": (BackendError, "there is no such bucket; create it"),
    "NoSuchKey": (
        BackendError,
        "what an execution had there is gone, its results have been read or deleted; unset "
        "MAGG_RESUME_EXECUTION if it is set, and run again",
    ),
} | dict.fromkeys(
    ("StateMachineDoesNotExist", "StateMachineDeleting", "InvalidArn"),
    (
        StateMachineNotFoundError,
        f"it does not exist; deploy it ({_DOCS}), or name another with function_name= or "
        "MAGG_STATE_MACHINE_ARN",
    ),
)
_THROTTLED = {"ThrottlingException", "TooManyRequestsException", "SlowDown"} | {
    "RequestLimitExceeded",
    "ExecutionLimitExceeded",
}
# Of a batch, by the error of its child execution.
_LOST = (WorkerLostError, "the service failed, again and again")
_BATCHES: Mapping[str, tuple[type[Exception], str]] = {
    "Lambda.TooManyRequestsException": (
        ThrottledError,
        "Lambda refused the call for so long that the state machine gave up; use fewer workers, "
        "or ask AWS for more concurrent executions",
    ),
    "Lambda.ResourceNotFoundException": (FunctionNotFoundError, "it is not there"),
    "Lambda.ServiceException": _LOST,
    "Lambda.AWSLambdaException": _LOST,
    "Lambda.SdkClientException": _LOST,
    "States.DataLimitExceeded": (PayloadError, "more than 256 KiB at once"),
    "States.Timeout": (
        WorkerTimeoutError,
        "it gave no answer in time; raise its timeout (at most 900 s) or its memory, make fewer "
        "calls per worker, or use a finer parent order",
    ),
}


def translate(error: BaseException, place: str) -> Exception:
    """Return what a request's failure means for the user.

    Parameters
    ----------
    error : Exception
        From botocore.
    place : str
        What was asked: a state machine, a bucket.
    """
    code, message = lambda_errors.code_of(error), lambda_errors.message_of(error)
    if code in _REQUESTS:
        kind, text = _REQUESTS[code]
        return kind(f"{place}: {text}")
    if lambda_errors.is_expired(error):
        return CredentialsExpiredError(f"{place}: the AWS credentials have expired; renew them")
    if code in lambda_errors.INVALID | {"InvalidAccessKeyId", "NoCredentialsError"}:
        return lambda_errors.no_credentials(place)
    if code in lambda_errors.DENIED:
        return AccessDeniedError(
            f"{place}: access denied ({message}); {_DOCS} lists what credentials must allow"
        )
    if code in _THROTTLED:
        return ThrottledError(f"{place}: {code}: {message}")
    status = getattr(error, "response", {}).get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    if lambda_errors.is_a(error, _UNREACHABLE) or status >= 500:
        return ServiceUnreachableError(f"{place}: cannot be reached ({code}: {message})")
    return BackendError(f"{place}: {code}: {message}")


def of_execution(told: Mapping[str, Any], place: str) -> Exception | None:
    """Return why an execution as a whole has failed, or None if it has not.

    Parameters
    ----------
    told : mapping
        What DescribeExecution says.
    place : str
    """
    status, cause = told["status"], f"{told.get('error')}: {told.get('cause')}"
    where = f"{place}: execution {told['name']}"
    if status == "SUCCEEDED":
        return None
    if status == "ABORTED":
        return ExecutionStoppedError(
            f"{where} was stopped before its end ({cause}); what was finished is kept, the same "
            "call continues"
        )
    if status == "TIMED_OUT":
        return WorkerTimeoutError(f"{where} ran into its time limit; raise or remove it")
    if "AccessDenied" in cause or "States.Permissions" in cause:
        return AccessDeniedError(
            f"{where}: the role of the state machine may not do what it must ({cause}); {_DOCS} "
            "lists what it needs"
        )
    return BackendError(f"{where} failed with {cause}")


def of_batch(record: Mapping[str, Any], function: str, memory_mb: int | None) -> Exception:
    """Return why one batch of calls has failed.

    Parameters
    ----------
    record : mapping
        Of a child execution, as ResultWriter writes it.
    function : str
    memory_mb : int, optional
        What the function may use.
    """
    error, cause = str(record.get("Error", "")), str(record.get("Cause", ""))
    where = f"function {function!r}, called by its state machine"
    if record.get("Status") == "ABORTED":
        return ExecutionStoppedError(f"{where} was stopped; the same call continues")
    # Step Functions hands a denial on under a general name.
    if "not authorized to perform" in cause:
        return AccessDeniedError(
            f"{where}: the role of the state machine needs lambda:InvokeFunction on it ({cause})"
        )
    if error in _BATCHES:
        kind, text = _BATCHES[error]
        return kind(f"{where}: {text} ({error}: {cause})")
    # Else the function itself failed, and Step Functions hands its answer on as the cause.
    try:
        body = json.loads(cause.rpartition("Returned payload: ")[2])
    except ValueError:
        body = {}
    known = body if isinstance(body, dict) else {}
    told = {"errorType": error, "errorMessage": cause} | known
    return lambda_errors.of_function(told, function, memory_mb)
