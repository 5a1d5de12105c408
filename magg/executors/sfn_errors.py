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

_THROTTLED = {"ThrottlingException", "TooManyRequestsException", "SlowDown", "RequestLimitExceeded"}
_UNREACHABLE = ("ConnectionError", "HTTPClientError", "EndpointConnectionError")
# Of a Task that calls a function: the service and not the function is at fault.
_SERVICE = {
    "Lambda.ServiceException",
    "Lambda.AWSLambdaException",
    "Lambda.SdkClientException",
    "Lambda.ClientExecutionTimeoutException",
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
    if code in ("StateMachineDoesNotExist", "StateMachineDeleting", "InvalidArn"):
        return StateMachineNotFoundError(
            f"there is no {place}; deploy it (docs/stepfunctions.md), or name another with "
            "function_name= or MAGG_STATE_MACHINE_ARN"
        )
    if code == "NoSuchBucket":
        return BackendError(f"{place}: there is no such bucket; create it")
    if code == "NoSuchKey":
        return BackendError(
            f"{place}: what an execution had there is gone, its results have been read or deleted; "
            "unset MAGG_RESUME_EXECUTION if it is set, and run again"
        )
    if lambda_errors.is_expired(error):
        return CredentialsExpiredError(f"{place}: the AWS credentials have expired; renew them")
    credentials = ("NoCredentialsError", "PartialCredentialsError")
    wrong = {"InvalidAccessKeyId"} | lambda_errors.INVALID
    if code in wrong or lambda_errors.is_a(error, credentials):
        return lambda_errors.no_credentials(place)
    if code in lambda_errors.DENIED:
        return AccessDeniedError(
            f"{place}: access denied ({message}); docs/stepfunctions.md lists what the "
            "credentials in use must allow"
        )
    if code in _THROTTLED or code == "ExecutionLimitExceeded":
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
    status, error = told["status"], str(told.get("error", ""))
    cause = str(told.get("cause", "")) or "Step Functions gives no cause"
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
    if "AccessDenied" in cause or error in ("States.Permissions", "States.AccessDeniedException"):
        return AccessDeniedError(
            f"{where}: the role of the state machine may not do what it must ({error}: {cause}); "
            "docs/stepfunctions.md lists what it needs"
        )
    return BackendError(f"{where} failed with {error}: {cause}")


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
    if error == "Lambda.TooManyRequestsException":
        return ThrottledError(
            f"{where}: Lambda refused the call for so long that the state machine gave up; use "
            "fewer workers, or ask AWS for more concurrent executions"
        )
    # Step Functions hands this on under a general name.
    if "not authorized to perform" in cause or error == "States.Permissions":
        return AccessDeniedError(
            f"{where}: the role of the state machine needs lambda:InvokeFunction on it ({cause})"
        )
    if error in _SERVICE:
        return WorkerLostError(f"{where}: {error}: {cause}")
    if error == "Lambda.ResourceNotFoundException":
        return FunctionNotFoundError(f"{where}: it is not there ({cause})")
    if error == "States.Timeout" or record.get("Status") == "TIMED_OUT":
        return WorkerTimeoutError(
            f"{where}: it gave no answer in time ({error}); raise its timeout (at most 900 s) or "
            "its memory, make fewer calls per worker, or use a finer parent order"
        )
    if error == "States.DataLimitExceeded":
        return PayloadError(f"{where}: more than 256 KiB at once ({cause})")
    if record.get("Status") == "ABORTED":
        return ExecutionStoppedError(f"{where} was stopped; the same call continues")
    return lambda_errors.of_function(_body(error, cause), function, memory_mb)


def _body(error: str, cause: str) -> dict[str, Any]:
    """Return what the function itself answered; Step Functions hands it on as the cause."""
    _, _, tail = cause.rpartition("Returned payload: ")
    try:
        body = json.loads(tail)
    except ValueError:
        body = None
    known = body if isinstance(body, dict) else {}
    return {"errorType": error, "errorMessage": cause, **known}
