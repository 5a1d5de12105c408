"""What AWS Lambda says when a call fails, in types and words that tell what to do.

A call that certainly never reached the function may be sent again without a word; everything else
is for whoever submitted it to decide.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from magg.errors import (
    AccessDeniedError,
    BackendError,
    CredentialsExpiredError,
    FunctionNotFoundError,
    MissingExtraError,
    PayloadError,
    RemoteError,
    ThrottledError,
    WorkerLostError,
    WorkerOutOfMemoryError,
    WorkerTimeoutError,
    require_extra,
)

# The function was not run, and may be at the next attempt.
_REFUSED = {
    "TooManyRequestsException",
    "ThrottlingException",
    "Throttling",
    "RequestLimitExceeded",
    "EC2ThrottledException",
    "ENINotReadyException",
    "ENILimitReachedException",
    "SubnetIPAddressLimitReachedException",
    "SnapStartNotReadyException",
    "ResourceNotReadyException",
}
_EXPIRED = {
    "ExpiredTokenException",
    "ExpiredToken",
    "RequestExpired",
    # Of `aws sso login`, found out on this side.
    "UnauthorizedSSOTokenError",
    "SSOTokenLoadError",
    "TokenRetrievalError",
}
INVALID = {
    "UnrecognizedClientException",
    "InvalidClientTokenId",
    "InvalidSignatureException",
    "SignatureDoesNotMatch",
    "IncompleteSignatureException",
    "MissingAuthenticationTokenException",
}
DENIED = {"AccessDeniedException", "AccessDenied", "KMSAccessDeniedException"}
# Nothing was sent: there was no connection to send it over.
_UNCONNECTED = ("EndpointConnectionError", "ConnectTimeoutError", "ProxyConnectionError")
LOST = (
    "ConnectionClosedError",
    "ReadTimeoutError",
    "ResponseStreamingError",
    "IncompleteReadError",
    "HTTPClientError",
)
_BROKEN_PACKAGE = (
    "Runtime.ImportModuleError",
    "Runtime.HandlerNotFound",
    "Runtime.MalformedHandlerName",
    "Runtime.UserCodeSyntaxError",
    "Runtime.InvalidEntrypoint",
    "Runtime.InvalidWorkingDir",
)


def missing_boto3() -> MissingExtraError:
    """Return the error for an installation without boto3."""
    return require_extra("boto3", "aws")


def code_of(error: BaseException) -> str:
    """Return the code of an answer of AWS, or the type of what kept it from coming."""
    response: Mapping[str, Any] = getattr(error, "response", None) or {}
    return str(response.get("Error", {}).get("Code") or type(error).__name__)


def was_refused(error: BaseException) -> bool:
    """Tell whether Lambda refused to run the function now, and may do so later."""
    return code_of(error) in _REFUSED


def reason_of(error: BaseException) -> str:
    """Return why Lambda refused a call: its own word for it, or the code."""
    response: Mapping[str, Any] = getattr(error, "response", None) or {}
    return str(response.get("Reason") or code_of(error))


def is_expired(error: BaseException) -> bool:
    """Tell whether credentials have expired."""
    return code_of(error) in _EXPIRED


def was_not_sent(error: BaseException) -> bool:
    """Tell whether the call never left this machine."""
    return is_a(error, _UNCONNECTED)


def translate(error: BaseException, function: str, region: str) -> Exception:
    """Return what a request's failure means for the user.

    Parameters
    ----------
    error : Exception
        From botocore.
    function, region : str
        What was called, and where.
    """
    code, place = code_of(error), f"function {function!r} in {region}"
    if code == "ResourceNotFoundException":
        return FunctionNotFoundError(
            f"there is no {place}; deploy it there (`magg deploy`), or name another with "
            "function_name=, region= or MAGG_LAMBDA_FUNCTION_NAME"
        )
    if code in _EXPIRED:
        return CredentialsExpiredError(
            f"{place}: the AWS credentials have expired; renew them (with `aws sso login`, say)"
        )
    if code in INVALID or is_a(error, ("NoCredentialsError", "PartialCredentialsError")):
        return no_credentials(place)
    if code in DENIED:
        return AccessDeniedError(
            f"{place}: access denied ({message_of(error)}); the credentials in use need "
            "lambda:InvokeFunction and lambda:GetFunctionConfiguration on it"
        )
    if code in ("RequestTooLargeException", "RequestEntityTooLargeException"):
        return PayloadError(
            f"{place}: the call is larger than the 6 MB that Lambda takes; pass "
            "offload_to='s3://bucket/prefix', or pass what is large by its URL"
        )
    if was_refused(error):
        return ThrottledError(f"{place}: refused for now ({reason_of(error)}); try again later")
    if was_not_sent(error):
        return WorkerLostError(
            f"{place} cannot be reached ({message_of(error)}); look at the network, the proxy and "
            "the region"
        )
    if is_a(error, LOST) or _is_broken_tls(error):
        return WorkerLostError(
            f"{place}: the answer was lost, and the function may have run ({message_of(error)})"
        )
    status = getattr(error, "response", {}).get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    if status >= 500:
        return WorkerLostError(f"{place}: {code}: {message_of(error)}")
    return BackendError(f"{place}: {code}: {message_of(error)}")


def no_credentials(place: str) -> AccessDeniedError:
    """Return the error for AWS credentials that are missing or wrong."""
    return AccessDeniedError(
        f"{place}: there are no valid AWS credentials; set AWS_PROFILE, or AWS_ACCESS_KEY_ID and "
        "AWS_SECRET_ACCESS_KEY, run `aws sso login`, or use the role of a hub that has one"
    )


def of_function(body: object, function: str, memory_mb: int | None) -> Exception:
    """Return what an answer with a function error means: the platform, or the code, ended the call.

    Parameters
    ----------
    body : object
        The answer's payload, with ``errorType`` and ``errorMessage``.
    function : str
    memory_mb : int, optional
        What the function may use.
    """
    told = body if isinstance(body, Mapping) else {}
    kind = str(told.get("errorType", ""))
    message = _without_id(str(told.get("errorMessage", body)))
    where = f"function {function!r}"
    if kind == "Sandbox.Timedout" or "Task timed out after" in message:
        return WorkerTimeoutError(
            f"{where}: {message}; raise its timeout (at most 900 s) or its memory, "
            "which also makes it faster, or use a finer parent order"
        )
    if kind == "Runtime.OutOfMemory" or "signal: killed" in message:
        size = f" of {memory_mb} MB" if memory_mb else ""
        return WorkerOutOfMemoryError(
            f"{where}: its memory{size} did not suffice; raise it (at most 10,240 MB), or use a "
            "finer parent order"
        )
    if kind in _BROKEN_PACKAGE:
        return BackendError(f"{where}: its package is broken ({kind}: {message}); deploy it again")
    if kind == "Function.ResponseSizeTooLarge":
        return PayloadError(
            f"{where}: its answer is larger than the 6 MB that Lambda returns; deploy magg's own "
            "handler, and pass offload_to='s3://bucket/prefix'"
        )
    if kind.startswith(("Runtime.", "Extension.", "Sandbox.")):
        return WorkerLostError(f"{where}: {kind}: {message}")
    stack = told.get("stackTrace")
    return RemoteError(
        f"{where}: {kind}: {message}",
        type=kind,
        traceback="".join(map(str, stack)) if isinstance(stack, list) else "",
    )


def is_a(error: BaseException, names: tuple[str, ...]) -> bool:
    """Tell whether an error is of a type, by name: botocore is imported where it is used."""
    return any(cls.__name__ in names for cls in type(error).__mro__)


def _is_broken_tls(error: BaseException) -> bool:
    """Tell a connection that broke from a certificate that is wrong and stays so."""
    return is_a(error, ("SSLError",)) and "certificate" not in str(error).lower()


def message_of(error: BaseException) -> str:
    """Return what AWS says in words."""
    response: Mapping[str, Any] = getattr(error, "response", None) or {}
    return str(response.get("Error", {}).get("Message") or error)


def _without_id(message: str) -> str:
    """Cut the id of a request, which says nothing to a user."""
    _, found, rest = message.partition(" Error: ")
    return rest if found else message
