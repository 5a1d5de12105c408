"""The one policy of trying again: what a failure is, whether to retry it, how long to wait.

All of it is pure functions. Requests have retries of their own underneath (obstore, botocore);
this policy is about whole cells.
"""

from __future__ import annotations

import errno
import pickle
import random
import re
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import BrokenExecutor
from dataclasses import dataclass
from enum import StrEnum
from statistics import median

from magg.errors import (
    CredentialsExpiredError,
    MaggError,
    WorkerOutOfMemoryError,
    WorkerTimeoutError,
)


class Kind(StrEnum):
    """What a failure is, as far as trying again is concerned."""

    TRANSIENT = "transient"
    CREDENTIALS = "credentials"
    MEMORY = "memory"
    TIMEOUT = "timeout"
    PERMANENT = "permanent"


ADVICE = {
    Kind.TRANSIENT: "it may pass; run again to complete the store",
    Kind.CREDENTIALS: "renew the credentials and run again",
    Kind.MEMORY: "give workers more memory, or use a finer parent order so that cells are smaller",
    Kind.TIMEOUT: "raise the time limit, or use a finer parent order so that cells are smaller",
}

# How obstore, botocore and requests word what passes by itself, and what new credentials mend.
_EXPIRED = re.compile(r"expired ?token|token (has |is )?expired|requestexpired|request is expired")
_PASSING = re.compile(
    r"slow ?down|throttl|too ?many ?requests|rate exceeded|status code: (429|5\d\d)|server error"
    r"|internal ?error|internal ?failure|service ?unavailable|bad gateway"
    r"|connection (was )?(reset|refused|closed|aborted|lost|error)|could not connect|broken pipe"
    r"|name resolution|dns error|unreachable|no route to host|stale file handle"
    # obstore names its setting retry_timeout in every message.
    r"|timed ?out|(?<!_)timeout|error sending request"
    r"|error decoding response body|response body error|incomplete ?(message|read)|unexpected eof"
)
_UNPICKLABLE = re.compile(r"(can't|cannot|could not) (be )?(un)?pickle|un-serialize")
# Names of files and objects may hold any of these words, or the date of 29 April.
_TAGS, _PLACES = re.compile(r"</?\w+>"), re.compile(r"\S*/\S*")
# Raised by executors that are no dependency of magg, so known by name.
_WORKER_DIED = {"KilledWorker", "TerminatedWorkerError", "CommClosedError"}
_HOPELESS = (pickle.PicklingError, pickle.UnpicklingError, ImportError, AttributeError)


@dataclass(frozen=True)
class Policy:
    """How often and how soon a cell is tried again.

    Parameters
    ----------
    retries : int
        Further attempts after the first.
    base_s, cap_s : float
        The wait before attempt n is uniform over 0 to ``min(cap_s, base_s * 2**n)`` seconds
        (full jitter: many cells that failed together do not come back together).
    straggler_factor : float
        A cell is a straggler when it has run so many times longer than the median.
    """

    retries: int = 2
    base_s: float = 1.0
    cap_s: float = 30.0
    straggler_factor: float = 3.0


def classify(error: BaseException, default: Kind = Kind.PERMANENT) -> Kind:
    """Say what a failure is, by its type and those of its causes.

    Parameters
    ----------
    error : BaseException
    default : Kind
        What an error of no telling type is: permanent where a cell's own code raised it,
        transient where the executor did.
    """
    for link in _chain(error):
        if isinstance(link, WorkerOutOfMemoryError | MemoryError) or _errno(link) == errno.ENOMEM:
            return Kind.MEMORY
        if isinstance(link, WorkerTimeoutError):
            return Kind.TIMEOUT
        if isinstance(link, CredentialsExpiredError):
            return Kind.CREDENTIALS
        if isinstance(link, _HOPELESS) or _UNPICKLABLE.search(str(link).lower()):
            return Kind.PERMANENT
        if isinstance(link, ConnectionError | TimeoutError | BrokenExecutor):
            return Kind.TRANSIENT
        if type(link).__name__ in _WORKER_DIED:
            return Kind.TRANSIENT
        kind = _by_words(link)
        if kind is not None:
            return kind
    # What magg raises on purpose is about the input, whoever hands it on.
    return Kind.PERMANENT if isinstance(error, MaggError) else default


def should_retry(kind: Kind, failures: int, policy: Policy) -> bool:
    """Tell whether a cell that failed so many times is tried again."""
    return kind in (Kind.TRANSIENT, Kind.CREDENTIALS) and failures <= policy.retries


def backoff(
    failures: int, policy: Policy, uniform: Callable[[float, float], float] = random.uniform
) -> float:
    """Return how many seconds to wait after so many failures (at least 1)."""
    return uniform(0.0, min(policy.cap_s, policy.base_s * 2 ** (failures - 1)))


def is_straggler(running_s: float, finished_s: Sequence[float], total: int, policy: Policy) -> bool:
    """Tell whether a cell runs so long that a second submission of it may end first.

    Half of all cells must have finished, so that the median means something.
    """
    if len(finished_s) < max(2, total / 2):
        return False
    return running_s > policy.straggler_factor * max(median(finished_s), 1.0)


def _chain(error: BaseException) -> Iterator[BaseException]:
    """Yield an error and its causes, outermost first."""
    seen: set[int] = set()
    link: BaseException | None = error
    while link is not None and id(link) not in seen:
        seen.add(id(link))
        yield link
        link = link.__cause__ or (None if link.__suppress_context__ else link.__context__)


def _by_words(error: BaseException) -> Kind | None:
    """Judge errors that carry their meaning in their text alone."""
    if isinstance(error, MaggError) and not isinstance(error, OSError):
        return None
    words, _, _ = str(error).lower().partition("debug source:")
    words = _TAGS.sub(" ", words)
    if _EXPIRED.search(words):
        return Kind.CREDENTIALS
    return Kind.TRANSIENT if _PASSING.search(_PLACES.sub(" ", words)) else None


def _errno(error: BaseException) -> int | None:
    return error.errno if isinstance(error, OSError) else None
