"""What AWS says when something cannot be deployed, in words that tell what to do."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

from magg.credentials import redact
from magg.errors import AccessDeniedError, DeployError, MaggError
from magg.executors import lambda_errors

_ACTION = re.compile(r"not authorized to perform:? ([a-z0-9-]+:[A-Za-z]+)")
_CODES = {
    "LimitExceededException": "a quota of the account is used up; ask AWS for more (Service "
    "Quotas), or delete what is not needed",
    "TokenAlreadyExistsException": "the same is being done already; wait, and try again",
    "OperationInProgressException": "something else is being done; wait, and try again",
    "BucketAlreadyExists": "the name belongs to another account; buckets share their names with "
    "all of AWS: choose another",
    "IllegalLocationConstraintException": "the bucket would be in another region than asked for",
}
# By what AWS writes about a resource that could not be made: what to do about it.
_REASONS = {
    r"UnreservedConcurrentExecution|ReservedConcurrentExecutions": "so much concurrency cannot be "
    "reserved: AWS keeps 100 calls (10 in new accounts) for all other functions. Reserve less "
    "(--concurrency), none, or ask AWS for more (Service Quotas, Concurrent executions)",
    r"MemorySize.*less than or equal to": "new accounts have at most 3,008 MB; use less "
    "(--memory), or ask AWS for more",
    r"already exists": "something of that name is there that this stack did not make; delete it, "
    "or use other names (--function-name, --state-machine, --bucket)",
    r"permissions? boundary": "the account demands a permissions boundary; pass "
    "--permissions-boundary with the ARN that your administrator names",
    r"LimitExceeded|quota": "a quota of the account is used up; ask AWS for more (Service Quotas)",
}


@contextmanager
def told(what: str) -> Iterator[None]:
    """Turn what botocore raises into errors for users.

    Parameters
    ----------
    what : str
        What is being done, for the message.
    """
    try:
        yield
    except MaggError:
        raise
    except Exception as error:
        if not lambda_errors.is_a(error, ("ClientError", "BotoCoreError", "ResponseParserError")):
            raise
        raise translate(error, what) from None


def translate(error: Exception, what: str) -> MaggError:
    """Return what an error of botocore means for the user."""
    code, message = lambda_errors.code_of(error), redact(lambda_errors.message_of(error))
    if lambda_errors.is_expired(error):
        return AccessDeniedError(
            f"{what}: the AWS credentials have expired; renew them (with `aws sso login`, say)"
        )
    missing = ("NoCredentialsError", "PartialCredentialsError", "CredentialRetrievalError")
    if code in lambda_errors.INVALID or lambda_errors.is_a(error, missing):
        return lambda_errors.no_credentials(what)
    if code in lambda_errors.DENIED or code in ("403", "Forbidden", "UnauthorizedOperation"):
        return AccessDeniedError(f"{what}: {denied(message)}")
    if lambda_errors.was_not_sent(error) or lambda_errors.is_a(error, lambda_errors.LOST):
        return DeployError(f"{what}: AWS cannot be reached ({message}); look at the network")
    if code == "ResponseParserError":
        return DeployError(f"{what}: AWS gave an answer that cannot be read; try again")
    advice = _CODES.get(code) or advice_on(message)
    return DeployError(f"{what}: {code}: {message}" + (f"; {advice}" if advice else ""))


def denied(message: str) -> str:
    """Return which permission is missing, by AWS's own words."""
    action = action_in(message)
    if action is None:
        return f"access denied ({message}); docs/deploy.md lists what must be allowed"
    return (
        f"the credentials in use are not allowed {action}; ask whoever administers the account "
        f"for it (docs/deploy.md lists all that is needed). AWS says: {message}"
    )


def action_in(message: str) -> str | None:
    """Return the IAM action that a message of AWS says is missing."""
    found = _ACTION.search(message)
    return found[1] if found else None


def advice_on(reason: str) -> str:
    """Return what to do about a resource that could not be made, or nothing."""
    action = action_in(reason)
    if action is not None:
        return f"the permission {action} is missing (docs/deploy.md lists all that is needed)"
    return next((do for form, do in _REASONS.items() if re.search(form, reason)), "")
