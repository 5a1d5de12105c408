"""What AWS says when a call fails: a table of types, kinds and words."""

from __future__ import annotations

import pytest

from magg.errors import (
    AccessDeniedError,
    BackendError,
    CredentialsExpiredError,
    FunctionNotFoundError,
    PayloadError,
    RemoteError,
    ThrottledError,
    WorkerLostError,
    WorkerOutOfMemoryError,
    WorkerTimeoutError,
)
from magg.executors import lambda_errors
from magg.executors.retry import Kind, classify

botocore = pytest.importorskip("botocore.exceptions")

PLACE = "function 'cells' in eu-west-1"
REQUEST = "8f507cfc-xmpl-4697-b07a-ac58fc914c95"


def answered(code, status, message="as AWS says", reason=None):
    """Return what botocore raises for an answer of AWS."""
    response = {
        "Error": {"Code": code, "Message": message},
        "ResponseMetadata": {"HTTPStatusCode": status},
    }
    return botocore.ClientError(response | ({"Reason": reason} if reason else {}), "Invoke")


def broken(name, **details):
    """Return what botocore raises where there was no answer."""
    defaults = {
        "endpoint_url": "https://lambda.eu-west-1.amazonaws.com/", "error": "it broke",
        "proxy_url": "http://proxy", "request": None, "actual_bytes": 3, "expected_bytes": 9,
        "provider": "env", "cred_var": "secret_key", "report": "Invalid type", "profile": "p",
        "error_msg": "it has expired", "token": None,
    }  # fmt: skip
    return getattr(botocore, name)(**defaults | details)


# Error, type, kind for the policy of retries, and what the user is told to do.
TABLE = [
    (answered("ResourceNotFoundException", 404), FunctionNotFoundError, Kind.PERMANENT,
     "MAGG_LAMBDA_FUNCTION_NAME"),
    (answered("AccessDeniedException", 403), AccessDeniedError, Kind.PERMANENT,
     "lambda:InvokeFunction"),
    (answered("AccessDenied", 403), AccessDeniedError, Kind.PERMANENT, "lambda:InvokeFunction"),
    (answered("KMSAccessDeniedException", 502), AccessDeniedError, Kind.PERMANENT, "as AWS says"),
    (answered("ExpiredTokenException", 403), CredentialsExpiredError, Kind.CREDENTIALS, "renew"),
    (answered("ExpiredToken", 400), CredentialsExpiredError, Kind.CREDENTIALS, "renew"),
    (answered("RequestExpired", 400), CredentialsExpiredError, Kind.CREDENTIALS, "renew"),
    (broken("UnauthorizedSSOTokenError"), CredentialsExpiredError, Kind.CREDENTIALS, "sso login"),
    (broken("SSOTokenLoadError"), CredentialsExpiredError, Kind.CREDENTIALS, "sso login"),
    (broken("TokenRetrievalError"), CredentialsExpiredError, Kind.CREDENTIALS, "sso login"),
    (answered("UnrecognizedClientException", 403), AccessDeniedError, Kind.PERMANENT,
     "AWS_PROFILE"),
    (answered("InvalidClientTokenId", 403), AccessDeniedError, Kind.PERMANENT, "AWS_PROFILE"),
    (answered("InvalidSignatureException", 403), AccessDeniedError, Kind.PERMANENT, "AWS_PROFILE"),
    (answered("SignatureDoesNotMatch", 403), AccessDeniedError, Kind.PERMANENT, "AWS_PROFILE"),
    (answered("IncompleteSignatureException", 400), AccessDeniedError, Kind.PERMANENT,
     "AWS_PROFILE"),
    (answered("MissingAuthenticationTokenException", 403), AccessDeniedError, Kind.PERMANENT,
     "AWS_PROFILE"),
    (broken("NoCredentialsError"), AccessDeniedError, Kind.PERMANENT, "AWS_ACCESS_KEY_ID"),
    (broken("PartialCredentialsError"), AccessDeniedError, Kind.PERMANENT, "AWS_ACCESS_KEY_ID"),
    (answered("RequestTooLargeException", 413), PayloadError, Kind.PERMANENT, "offload_to="),
    (answered("RequestEntityTooLargeException", 413), PayloadError, Kind.PERMANENT, "6 MB"),
    (answered("TooManyRequestsException", 429, reason="ConcurrentInvocationLimitExceeded"),
     ThrottledError, Kind.TRANSIENT, "ConcurrentInvocationLimitExceeded"),
    (answered("ThrottlingException", 400), ThrottledError, Kind.TRANSIENT, "try again later"),
    (answered("ServiceException", 500), WorkerLostError, Kind.TRANSIENT, "ServiceException"),
    (answered("503", 503, "Service Unavailable"), WorkerLostError, Kind.TRANSIENT, "Unavailable"),
    (answered("504", 504, "Gateway Timeout"), WorkerLostError, Kind.TRANSIENT, "Gateway Timeout"),
    (answered("EC2UnexpectedException", 502), WorkerLostError, Kind.TRANSIENT, "as AWS says"),
    (broken("ReadTimeoutError"), WorkerLostError, Kind.TRANSIENT, "may have run"),
    (broken("ConnectionClosedError"), WorkerLostError, Kind.TRANSIENT, "may have run"),
    (broken("ResponseStreamingError"), WorkerLostError, Kind.TRANSIENT, "may have run"),
    (broken("IncompleteReadError"), WorkerLostError, Kind.TRANSIENT, "may have run"),
    (broken("HTTPClientError"), WorkerLostError, Kind.TRANSIENT, "may have run"),
    (broken("SSLError", error="EOF occurred in violation of protocol"), WorkerLostError,
     Kind.TRANSIENT, "may have run"),
    (broken("SSLError", error="certificate verify failed"), BackendError, Kind.PERMANENT,
     "certificate verify failed"),
    (broken("EndpointConnectionError"), WorkerLostError, Kind.TRANSIENT, "look at the network"),
    (broken("ConnectTimeoutError"), WorkerLostError, Kind.TRANSIENT, "look at the network"),
    (broken("ProxyConnectionError"), WorkerLostError, Kind.TRANSIENT, "look at the network"),
    (answered("InvalidRequestContentException", 400), BackendError, Kind.PERMANENT, "as AWS says"),
    (answered("InvalidRuntimeException", 502), WorkerLostError, Kind.TRANSIENT, "as AWS says"),
    (broken("ParamValidationError"), BackendError, Kind.PERMANENT, "Invalid type"),
    (RuntimeError("who knows"), BackendError, Kind.PERMANENT, "RuntimeError: who knows"),
]  # fmt: skip


def name(value):
    if isinstance(value, BaseException):
        return f"{lambda_errors.code_of(value)}-{str(value)[-24:]}"
    return getattr(value, "__name__", "")


@pytest.mark.parametrize(("error", "expected", "kind", "words"), TABLE, ids=name)
def test_a_failed_request_has_a_type_a_kind_and_advice(error, expected, kind, words):
    told = lambda_errors.translate(error, "cells", "eu-west-1")
    assert type(told) is expected
    assert classify(told, Kind.TRANSIENT) is kind
    assert words in str(told)
    assert PLACE in str(told)


REFUSED = [
    ("TooManyRequestsException", 429), ("ThrottlingException", 400), ("Throttling", 400),
    ("RequestLimitExceeded", 503), ("EC2ThrottledException", 502), ("ENINotReadyException", 502),
    ("ENILimitReachedException", 502), ("SubnetIPAddressLimitReachedException", 502),
    ("SnapStartNotReadyException", 409), ("ResourceNotReadyException", 502),
]  # fmt: skip


@pytest.mark.parametrize(("code", "status"), REFUSED)
def test_what_lambda_refuses_for_now_may_be_sent_again(code, status):
    assert lambda_errors.was_refused(answered(code, status))


@pytest.mark.parametrize("error", [row[0] for row in TABLE], ids=name)
def test_only_what_certainly_did_not_run_is_sent_again_without_a_word(error):
    code = lambda_errors.code_of(error)
    assert lambda_errors.was_refused(error) is (code in dict(REFUSED))
    not_sent = {"EndpointConnectionError", "ConnectTimeoutError", "ProxyConnectionError"}
    assert lambda_errors.was_not_sent(error) is (code in not_sent)


def test_subclasses_count_as_what_they_are():
    class ProxyTimeoutError(botocore.ConnectTimeoutError):
        pass

    assert lambda_errors.was_not_sent(ProxyTimeoutError(endpoint_url="x"))


def test_lambda_says_why_it_refused():
    reason = "ReservedFunctionConcurrentInvocationLimitExceeded"
    assert lambda_errors.reason_of(answered("TooManyRequestsException", 429, reason=reason)) == (
        reason
    )
    assert lambda_errors.reason_of(answered("ThrottlingException", 400)) == "ThrottlingException"


def ended(kind, message, **more):
    return {"errorType": kind, "errorMessage": message} | more


def said(what):
    return f"RequestId: {REQUEST} Error: {what}"


ENDS = [
    (ended("Sandbox.Timedout", said("Task timed out after 900.00 seconds")), WorkerTimeoutError,
     Kind.TIMEOUT, "raise its timeout"),
    ({"errorMessage": f"2026-01-01T00:00:00.000Z {REQUEST} Task timed out after 3.00 seconds"},
     WorkerTimeoutError, Kind.TIMEOUT, "finer parent order"),
    (ended("Runtime.OutOfMemory", said("Runtime exited with error: signal: killed")),
     WorkerOutOfMemoryError, Kind.MEMORY, "of 2048 MB did not suffice; raise it"),
    (ended("Runtime.ExitError", said("Runtime exited with error: signal: killed")),
     WorkerOutOfMemoryError, Kind.MEMORY, "finer parent order"),
    (ended("Runtime.ExitError", said("Runtime exited with error: exit status 1")),
     WorkerLostError, Kind.TRANSIENT, "exit status 1"),
    (ended("Runtime.ExitError", said("Runtime exited with error: signal: segmentation fault")),
     WorkerLostError, Kind.TRANSIENT, "segmentation fault"),
    (ended("Runtime.ExitError", said("Runtime exited without providing a reason")),
     WorkerLostError, Kind.TRANSIENT, "without providing a reason"),
    (ended("Extension.Crash", said("exit code 1")), WorkerLostError, Kind.TRANSIENT, "exit code"),
    (ended("Sandbox.Failure", said("failed")), WorkerLostError, Kind.TRANSIENT, "failed"),
    (ended("Runtime.ImportModuleError", "Unable to import module 'h': No module named 'magg'"),
     BackendError, Kind.PERMANENT, "No module named 'magg'); deploy it again"),
    (ended("Runtime.HandlerNotFound", "Handler 'x' missing on module 'h'"), BackendError,
     Kind.PERMANENT, "package is broken"),
    (ended("Runtime.MalformedHandlerName", "Bad handler 'x'"), BackendError, Kind.PERMANENT,
     "package is broken"),
    (ended("Runtime.UserCodeSyntaxError", "Syntax error in module 'h'"), BackendError,
     Kind.PERMANENT, "package is broken"),
    (ended("Runtime.InvalidEntrypoint", said("fork/exec")), BackendError, Kind.PERMANENT, "again"),
    (ended("Function.ResponseSizeTooLarge", "Response payload size exceeded maximum allowed"),
     PayloadError, Kind.PERMANENT, "offload_to="),
    (ended("ValueError", "the throttle timed out"), RemoteError, Kind.PERMANENT,
     "ValueError: the throttle timed out"),
    ("who knows", RemoteError, Kind.PERMANENT, "who knows"),
    (None, RemoteError, Kind.PERMANENT, "None"),
    ([1], RemoteError, Kind.PERMANENT, "[1]"),
]  # fmt: skip


@pytest.mark.parametrize(("body", "expected", "kind", "words"), ENDS, ids=lambda v: str(v)[-40:])
def test_a_function_that_did_not_end_well_has_a_type_a_kind_and_advice(body, expected, kind, words):
    told = lambda_errors.of_function(body, "cells", 2048)
    assert type(told) is expected
    assert classify(told, Kind.TRANSIENT) is kind
    assert words in str(told)
    assert "function 'cells'" in str(told)
    assert f"RequestId: {REQUEST}" not in str(told)


def test_memory_that_is_not_known_is_not_named():
    told = lambda_errors.of_function(ended("Runtime.OutOfMemory", "killed"), "cells", None)
    assert "its memory did not suffice" in str(told)


def test_the_stack_of_a_function_that_raised_comes_with_the_error():
    stack = ['  File "h.py", line 3, in handler\n', "    1 / 0\n"]
    told = lambda_errors.of_function(
        ended("ZeroDivisionError", "division by zero", stackTrace=stack), "cells", None
    )
    assert isinstance(told, RemoteError)
    assert told.type == "ZeroDivisionError"
    assert told.traceback == "".join(stack)
    odd = lambda_errors.of_function(ended("E", "x", stackTrace="none"), "cells", None)
    assert odd.traceback == ""


def test_without_boto3_the_extra_is_named():
    assert "pip install 'magg-healpix[aws]'" in str(lambda_errors.missing_boto3())
