"""What can be known about a function, its account and a bucket before the first call."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from magg.errors import AccessDeniedError, BackendError
from magg.executors import lambda_errors
from magg.executors.retry import Kind, classify

if TYPE_CHECKING:
    from botocore.client import BaseClient

LEAST_MEMORY_MB = 512
LEAST_TIMEOUT_S = 30
CHECK_TIMEOUT_S = 10.0
PAUSES_S = (1.0, 3.0)


@dataclass(frozen=True)
class FunctionFacts:
    """A deployed function.

    Parameters
    ----------
    timeout_s : float
        How long a call may run.
    memory_mb : int
    architecture : {"x86_64", "arm64"}
    concurrency : int or None
        Calls at once that the function or its account admits; None where one may not ask.
    is_reserved : bool
        Whether that number is the function's own and not the account's.
    """

    timeout_s: float
    memory_mb: int
    architecture: str
    concurrency: int | None
    is_reserved: bool


def ask(client: BaseClient, function_name: str, region: str) -> FunctionFacts:
    """Ask AWS about a function.

    Raises
    ------
    FunctionNotFoundError, AccessDeniedError, CredentialsExpiredError, BackendError
        If it is not there, not to be seen, or cannot be called yet.
    """
    try:
        configuration = _patiently(
            lambda: client.get_function_configuration(FunctionName=function_name)
        )
    except Exception as error:  # noqa: BLE001 - told in words of our own
        raise lambda_errors.translate(error, function_name, region) from None
    if configuration.get("State") in ("Pending", "Failed"):
        raise BackendError(
            f"function {function_name!r} in {region} is {configuration['State'].lower()}: "
            f"{configuration.get('StateReason', 'AWS gives no reason')}; wait, or deploy it again"
        )
    reserved = _may_be_unknown(
        lambda: client.get_function_concurrency(FunctionName=function_name).get(
            "ReservedConcurrentExecutions"
        )
    )
    limit = reserved
    if reserved is None:
        limit = _may_be_unknown(
            lambda: client.get_account_settings()["AccountLimit"]["UnreservedConcurrentExecutions"]
        )
    return FunctionFacts(
        timeout_s=float(configuration["Timeout"]),
        memory_mb=int(configuration["MemorySize"]),
        architecture=(configuration.get("Architectures") or ["x86_64"])[0],
        concurrency=limit,
        is_reserved=reserved is not None,
    )


def judge(facts: FunctionFacts, max_workers: int) -> list[str]:
    """Return what a user should know, and how to mend it.

    Raises
    ------
    BackendError
        If the function can serve no call at all.
    """
    if facts.concurrency == 0:
        raise BackendError(
            "the function's reserved concurrency is 0, so that it takes no calls; raise or remove "
            "it (aws lambda delete-function-concurrency)"
        )
    notices = []
    if facts.concurrency is not None and facts.concurrency < max_workers:
        whose, remedy = (
            ("the function reserves", "raise its reserved concurrency")
            if facts.is_reserved
            else ("the account allows", "ask AWS for more (Service Quotas, Concurrent executions)")
        )
        notices.append(
            f"{whose} {facts.concurrency:,} calls at once and max_workers is {max_workers:,}; "
            f"the others wait. To run more, {remedy}"
        )
    if facts.memory_mb < LEAST_MEMORY_MB:
        notices.append(
            f"the function has {facts.memory_mb} MB; less than {LEAST_MEMORY_MB} MB may not "
            "suffice, and more also means more CPU"
        )
    if facts.timeout_s < LEAST_TIMEOUT_S:
        notices.append(
            f"the function stops after {facts.timeout_s:.0f} s; cells with many granules need "
            "longer (at most 900 s)"
        )
    return notices


def check_bucket(store: str, region: str) -> None:
    """Refuse a bucket that is not there, not to be used, or in another region than the function.

    Raises
    ------
    BackendError, AccessDeniedError
    """
    import boto3
    from botocore.config import Config
    from botocore.exceptions import BotoCoreError, ClientError

    bucket = urlsplit(store).netloc
    config = Config(connect_timeout=CHECK_TIMEOUT_S, read_timeout=CHECK_TIMEOUT_S)
    try:
        client = boto3.session.Session().client("s3", region_name=region, config=config)
        answer = client.head_bucket(Bucket=bucket)
    except ClientError as error:
        headers = error.response.get("ResponseMetadata", {}).get("HTTPHeaders", {})
        _compare(bucket, headers.get("x-amz-bucket-region"), region)
        if lambda_errors.code_of(error) in ("404", "NoSuchBucket"):
            raise BackendError(f"{store}: there is no bucket {bucket!r}; create it") from None
        raise AccessDeniedError(
            f"{store}: the bucket cannot be used ({lambda_errors.code_of(error)}); the credentials "
            "in use need s3:ListBucket, s3:GetObject, s3:PutObject and s3:DeleteObject on it"
        ) from None
    except BotoCoreError as error:
        raise BackendError(f"{store}: the bucket cannot be reached ({error})") from None
    _compare(bucket, _region_of(answer), region)


def _region_of(answer: dict[str, Any]) -> str | None:
    headers = answer.get("ResponseMetadata", {}).get("HTTPHeaders", {})
    region: str | None = answer.get("BucketRegion") or headers.get("x-amz-bucket-region")
    return region


def _compare(bucket: str, found: str | None, region: str) -> None:
    if found and found != region:
        raise BackendError(
            f"bucket {bucket!r} is in {found} and the function in {region}: every byte would "
            f"cross regions, slowly and at a price; use a bucket in {region}, or a function in "
            f"{found} (region={found!r})"
        )


def _patiently(ask_for: Callable[[], Any]) -> Any:
    """Ask again what failed for a reason that passes: questions cost nothing, unlike calls."""
    for pause_s in PAUSES_S:
        try:
            return ask_for()
        except Exception as error:
            if classify(lambda_errors.translate(error, "", "")) is not Kind.TRANSIENT:
                raise
            time.sleep(random.uniform(0.0, pause_s))  # noqa: S311 - jitter
    return ask_for()


def _may_be_unknown(ask_for: Callable[[], Any]) -> Any:
    """Return an answer, or None where the user's role does not allow the question."""
    try:
        return _patiently(ask_for)
    except Exception as error:
        if isinstance(error, KeyError) or "Denied" in lambda_errors.code_of(error):
            return None
        raise
