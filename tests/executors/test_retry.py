"""The policy of trying again, as tables of cases."""

from __future__ import annotations

import errno
import pickle
from concurrent.futures import BrokenExecutor, CancelledError
from concurrent.futures.process import BrokenProcessPool
from statistics import mean

import pytest
from hypothesis import given
from hypothesis import strategies as st

from magg.errors import (
    BackendError,
    ConfigError,
    CredentialsExpiredError,
    GranuleError,
    GranuleNotFoundError,
    StatisticError,
    StoreError,
    WorkerLostError,
    WorkerOutOfMemoryError,
    WorkerTimeoutError,
)
from magg.executors.retry import ADVICE, Kind, Policy, backoff, classify, is_straggler, should_retry

OBSTORE = (
    "Generic S3 error: Error performing PUT https://b.s3.amazonaws.com/p/x/ATL06_20190429_0503 in "
    "7.2ms, after {retries} retries, max_retries: 10, retry_timeout: 180s  - {what}\n\n"
    "Debug source:\nGeneric {{ retry_timeout: 180s, inner: Status 503 Service Unavailable }}"
)
STATUS = "Server returned non-2xx status code: "
BOTOCORE = "An error occurred ({}) when calling the Invoke operation (reached max retries: 4): {}"


class KilledWorker(Exception):  # noqa: N818
    """Named as dask names it."""


class TerminatedWorkerError(BrokenProcessPool):
    """Named as loky names it."""


class CommClosedError(OSError):
    """Named as dask names it."""


class ObstoreError(Exception):
    """Stands for obstore's, which derive from Exception."""


def obstore(what, retries=0):
    return ObstoreError(OBSTORE.format(what=what, retries=retries))


def from_cause(outer, cause):
    try:
        raise outer from cause
    except type(outer) as error:
        return error


def while_handling(outer, inner, **suppressed):
    try:
        try:
            raise inner
        except type(inner):
            if suppressed:
                raise outer from None
            raise outer  # noqa: B904
    except type(outer) as error:
        return error


TRANSIENT = [
    ConnectionError("x"), ConnectionResetError(), BrokenPipeError(), ConnectionRefusedError(),
    TimeoutError(), OSError(errno.ETIMEDOUT, "timed out"), OSError(errno.ECONNRESET, "reset"),
    OSError(errno.ENETUNREACH, "Network is unreachable"),
    OSError(errno.ESTALE, "Stale file handle"),
    OSError(-3, "Temporary failure in name resolution"),
    BrokenProcessPool("terminated abruptly"), BrokenExecutor(), KilledWorker("x"),
    TerminatedWorkerError("x"), CommClosedError("x"), WorkerLostError("x"),
    obstore(STATUS + "500 Internal Server Error: "),
    obstore(STATUS + "429 Too Many Requests: ", 10),
    obstore(STATUS + "503 Service Unavailable: <Code>SlowDown</Code>", 10),
    obstore("HTTP error: error sending request"), obstore("HTTP error: connection closed"),
    obstore("error decoding response body"), obstore("operation timed out"),
    Exception(BOTOCORE.format("TooManyRequestsException", "Rate Exceeded.")),
    Exception(BOTOCORE.format("ThrottlingException", "Rate exceeded")),
    Exception(BOTOCORE.format("ServiceUnavailable", "")),
    Exception('Could not connect to the endpoint URL: "https://lambda.amazonaws.com/"'),
    Exception("Connection was closed before we received a valid response"),
    Exception("Read timeout on endpoint URL"), Exception("IncompleteRead(12 bytes read)"),
    OSError("HTTPSConnectionPool(host='x', port=443): Max retries exceeded with url: /a (Caused by "
            "NewConnectionError('Failed: [Errno 111] Connection refused'))"),
    GranuleError(f"s3://b/g.h5: cannot be read ({obstore(STATUS + '503 Service Unavailable')})"),
    from_cause(StoreError("variable h_mean cannot be written"), ConnectionResetError()),
    from_cause(ValueError("x"), from_cause(RuntimeError("y"), TimeoutError())),
    while_handling(RuntimeError("x"), ConnectionError()),
]  # fmt: skip

PERMANENT = [
    ValueError("x"), KeyError("x"), TypeError("x"), ZeroDivisionError(), RuntimeError("x"),
    OSError(errno.ENOSPC, "No space left on device"), PermissionError(errno.EACCES, "denied"),
    FileNotFoundError(errno.ENOENT, "No such file", "/data/timeout/throttle/g.h5"),
    pickle.PicklingError("x"), pickle.UnpicklingError("x"), ImportError("x"), AttributeError("x"),
    TypeError("cannot pickle '_thread.lock' object"), BrokenProcessPool("failed to un-serialize"),
    from_cause(AttributeError("Can't pickle local object"), ConnectionError()),
    obstore(STATUS + "403 Forbidden: <Code>AccessDenied</Code>"),
    obstore(STATUS + "400 Bad Request: <Code>EntityTooLarge</Code>", retries=3),
    GranuleError("/d/ATL06_20190429_05030301.h5: the file is damaged", granule="/d/x.h5"),
    GranuleError("/timeout/500 internal/g.h5: the file is damaged"),
    GranuleNotFoundError("/slowdown/g.h5: there is no such file"),
    StatisticError("timed out of range"), ConfigError("throttle: unknown key"),
    while_handling(ValueError("x"), ConnectionError(), suppressed=True), SystemExit(3),
]  # fmt: skip

CREDENTIALS = [
    CredentialsExpiredError("x"), PermissionError("Token has expired"),
    obstore(STATUS + "403 Forbidden: <Code>ExpiredToken</Code>"),
    obstore(STATUS + "400 Bad Request: <Code>ExpiredToken</Code>"),
    Exception(BOTOCORE.format("ExpiredTokenException", "The security token is expired")),
    Exception("The security token included in the request is expired"),
    Exception(BOTOCORE.format("RequestExpired", "")),
    GranuleError("s3://b/g.h5: access denied (403 Forbidden: <Code>ExpiredToken</Code>)"),
]  # fmt: skip

MEMORY = [
    MemoryError(), WorkerOutOfMemoryError("x"), OSError(errno.ENOMEM, "Cannot allocate memory"),
    from_cause(StatisticError("x"), MemoryError()),
]  # fmt: skip


def name(value):
    return f"{type(value).__name__}-{str(value)[-40:]}" if isinstance(value, BaseException) else ""


CASES = [
    (error, kind)
    for kind, errors in (
        (Kind.TRANSIENT, TRANSIENT),
        (Kind.PERMANENT, PERMANENT),
        (Kind.CREDENTIALS, CREDENTIALS),
        (Kind.MEMORY, MEMORY),
        (Kind.TIMEOUT, [WorkerTimeoutError("x"), from_cause(ValueError(), WorkerTimeoutError())]),
    )
    for error in errors
]


@pytest.mark.parametrize(("error", "kind"), CASES, ids=name)
def test_an_error_is_of_a_kind(error, kind):
    assert classify(error) is kind


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (OSError("who knows"), Kind.TRANSIENT),
        (SystemExit(1), Kind.TRANSIENT),
        (CancelledError(), Kind.TRANSIENT),
        (RuntimeError("who knows"), Kind.TRANSIENT),
        (BackendError("the payload is too large"), Kind.PERMANENT),
        (TypeError("cannot pickle 'module' object"), Kind.PERMANENT),
        (MemoryError(), Kind.MEMORY),
    ],
    ids=name,
)
def test_what_an_executor_raises_passes_unless_it_says_otherwise(error, kind):
    assert classify(error, Kind.TRANSIENT) is kind


def test_a_circle_of_causes_comes_to_an_end():
    first, second = ValueError("a"), ValueError("b")
    first.__cause__, second.__cause__ = second, first
    assert classify(first) is Kind.PERMANENT


@pytest.mark.parametrize("kind", list(Kind))
def test_what_passes_is_retried_twice_and_nothing_else_ever(kind):
    passes = kind in (Kind.TRANSIENT, Kind.CREDENTIALS)
    tried = [should_retry(kind, failures, Policy()) for failures in (1, 2, 3, 4)]
    assert tried == [passes, passes, False, False]


def test_every_kind_that_the_user_can_change_has_advice():
    assert set(ADVICE) == set(Kind) - {Kind.PERMANENT}
    assert "memory" in ADVICE[Kind.MEMORY]
    assert "parent order" in ADVICE[Kind.TIMEOUT]


@given(
    failures=st.integers(1, 60),
    base=st.floats(0.0, 10.0),
    cap=st.floats(0.0, 100.0),
    seed=st.randoms(use_true_random=False),
)
def test_waits_lie_between_nothing_and_a_bound_that_doubles_up_to_the_cap(
    failures, base, cap, seed
):
    policy = Policy(base_s=base, cap_s=cap)
    asked = []

    def uniform(low, high):
        asked.append((low, high))
        return seed.uniform(low, high)

    wait = backoff(failures, policy, uniform)
    assert asked == [(0.0, min(cap, base * 2 ** (failures - 1)))]
    assert 0.0 <= wait <= cap


def test_jitter_is_full():
    waits = sorted(backoff(3, Policy(base_s=1.0)) for _ in range(2000))
    assert waits[0] < 0.1
    assert 3.9 < waits[-1] <= 4.0
    assert mean(waits) == pytest.approx(2.0, abs=0.2)


@pytest.mark.parametrize(
    ("running", "finished", "total", "expected"),
    [
        (100.0, [], 10, False),
        (100.0, [1.0] * 4, 10, False),
        (100.0, [1.0] * 5, 10, True),
        (100.0, [1.0], 1, False),
        (3.0, [1.0] * 5, 10, False),
        (3.1, [1.0] * 5, 10, True),
        (3.0, [0.01] * 9, 10, False),  # nobody waits for the tail of cells that take no time
        (59.0, [20.0] * 9, 10, False),
        (61.0, [20.0] * 9, 10, True),
        (61.0, [20.0] * 5 + [100.0] * 4, 10, True),
    ],
)
def test_a_straggler_runs_far_longer_than_the_median_of_at_least_half(
    running, finished, total, expected
):
    assert is_straggler(running, finished, total, Policy()) is expected
