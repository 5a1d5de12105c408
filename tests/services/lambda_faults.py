"""Faults of the Lambda API: which invocations go wrong before or after the function, and how."""

from __future__ import annotations

import json
import threading
from collections import Counter
from dataclasses import dataclass

RATE_EXCEEDED = (429, "TooManyRequestsException", "Rate Exceeded.")
# Kinds that answer in place of the function: status, and AWS's type and message.
ANSWERS = {
    "ConcurrentInvocationLimitExceeded": RATE_EXCEEDED,
    "FunctionInvocationRateLimitExceeded": RATE_EXCEEDED,
    "ReservedFunctionConcurrentInvocationLimitExceeded": RATE_EXCEEDED,
    "CallerRateLimitExceeded": RATE_EXCEEDED,
    "ServiceException": (500, "ServiceException", "An error occurred. Please try again."),
    "ServiceUnavailable": (503, "ServiceUnavailableException", "Service is unavailable."),
    "AccessDeniedException": (
        403,
        "AccessDeniedException",
        "User: arn:aws:iam::123456789012:user/magg is not authorized to perform: "
        "lambda:InvokeFunction on the resource because no identity-based policy allows the "
        "lambda:InvokeFunction action",
    ),
    "ExpiredTokenException": (
        403,
        "ExpiredTokenException",
        "The security token included in the request is expired",
    ),
    "UnrecognizedClientException": (
        403,
        "UnrecognizedClientException",
        "The security token included in the request is invalid.",
    ),
}
KINDS = {"answer", "latency", "drop", "drop-answer", *ANSWERS}


class Refusal(Exception):  # noqa: N818
    """An answer of the API itself in place of the function's."""

    def __init__(
        self,
        status: int,
        error: str,
        message: str,
        reason: str | None = None,
        retry_after: int | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.error, self.message = status, error, message
        self.reason, self.retry_after = reason, retry_after

    def body(self) -> bytes:
        """Return the body of the answer."""
        words = {"Reason": self.reason} if self.reason else {}
        words["Type"] = "User" if self.status < 500 else "Service"
        # Models of botocore name it in lower case, and its parser takes either.
        words["message" if self.reason else "Message"] = self.message
        return json.dumps(words).encode()

    def headers(self) -> list[tuple[str, str]]:
        """Return the headers of the answer."""
        after = [] if self.retry_after is None else [("Retry-After", str(self.retry_after))]
        return [("x-amzn-ErrorType", self.error), *after]


@dataclass(frozen=True)
class Fault:
    """What goes wrong with the next invocations of a function.

    Parameters
    ----------
    kind : str
        ``"latency"`` (the answer waits for ``seconds``, and other faults may strike besides),
        ``"drop"`` (the connection closes before the event is read, the function never runs),
        ``"drop-answer"`` (the function runs, then the connection closes),
        ``"answer"`` (with ``status``, ``error``, ``message`` and ``reason``), or the name of an
        answer of AWS: a reason of throttling, an exception.
    times : int or None
        Strike so many requests; None for all.
    seconds : float
        Of ``"latency"``.
    status, error, message, reason
        Of ``"answer"``; ``reason`` goes with status 429.
    retry_after : int, optional
        The header of that name, in seconds.
    """

    kind: str
    times: int | None = 1
    seconds: float = 0.0
    status: int = 0
    error: str = ""
    message: str = ""
    reason: str | None = None
    retry_after: int | None = None

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"unknown kind {self.kind!r}; there are {sorted(KINDS)}")
        if (self.kind == "latency") != (self.seconds > 0):
            raise ValueError("latency, and nothing else, needs seconds above 0")
        if (self.kind == "answer") != bool(self.status and self.error):
            raise ValueError("answer, and nothing else, needs a status and an error")

    def refusal(self) -> Refusal | None:
        """Return the answer in place of the function's, if there is to be one."""
        if self.kind == "answer":
            words = (self.status, self.error, self.message, self.reason)
        elif self.kind in ANSWERS:
            reason = self.kind if ANSWERS[self.kind][0] == 429 else None
            words = (*ANSWERS[self.kind], reason)
        else:
            return None
        return Refusal(*words, self.retry_after)


class FaultScript:
    """The faults of a function in the order in which they strike; threads may share it."""

    def __init__(self) -> None:
        self._left: list[list[Fault | int | None]] = []
        self._struck: Counter[str] = Counter()
        self._lock = threading.Lock()

    def inject(self, *faults: Fault) -> None:
        """Add faults after those that are there."""
        with self._lock:
            self._left += [[fault, fault.times] for fault in faults]

    def clear(self) -> None:
        """Forget the faults that have not struck yet."""
        with self._lock:
            self._left.clear()

    @property
    def struck(self) -> Counter[str]:
        """How many faults of each kind have struck."""
        with self._lock:
            return Counter(self._struck)

    def next(self) -> tuple[float, Fault | None]:
        """Return the delay of a request, and what else strikes it."""
        seconds, chosen = 0.0, None
        with self._lock:
            for entry in self._left:
                fault = entry[0]
                if fault.kind == "latency":
                    seconds += fault.seconds
                elif chosen is None:
                    chosen = fault
                else:
                    continue
                self._struck[fault.kind] += 1
                if entry[1] is not None:
                    entry[1] -= 1
            self._left = [entry for entry in self._left if entry[1] != 0]
        return seconds, chosen
