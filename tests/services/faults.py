"""Scripts of faults: which requests to an S3 server go wrong, and how."""

from __future__ import annotations

import hashlib
import threading
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Literal

# Kinds that answer in place of the server: status, and S3's code and message.
ANSWERS = {
    "500": (500, "InternalError", "We encountered an internal error. Please try again."),
    "503": (503, "SlowDown", "Please reduce your request rate."),
    # S3 itself answers 400 to an expired token; 403 is what other services in its place do.
    "400": (400, "ExpiredToken", "The provided token has expired."),
    "403": (403, "ExpiredToken", "The provided token has expired."),
    "404": (404, "NoSuchKey", "The specified key does not exist."),
}
KINDS = {"latency", "drop", "drop-answer", "truncate", *ANSWERS}


@dataclass(frozen=True)
class Fault:
    """What goes wrong with which requests; left to its defaults, with all of them.

    Parameters
    ----------
    kind : str or tuple of str
        ``"latency"`` (the request waits for ``seconds``, then goes on to further faults),
        ``"drop"`` (the connection closes, the server never hears of the request),
        ``"drop-answer"`` (the server acts, then the connection closes before any byte),
        ``"truncate"`` (half of the body comes, then the connection closes),
        ``"500"``, ``"503"`` (SlowDown), ``"400"``, ``"403"`` (both ExpiredToken) or ``"404"``. Of
        several kinds, the seed chooses one for each request.
    method, key : str
        Patterns of `fnmatch`. The key is that in the bucket, and empty for listings (GET) and for
        obstore's deletions (POST with the query ``delete``).
    times : int, optional
        Strike at most so many requests in all.
    attempts : collection of int, optional
        Strike these attempts only, counted from 1.
    per : {"key", "request"}
        Count as attempts all requests of one method for one key, or those alone that also have the
        same range and query: what a client repeats when it tries again.
    share : float
        Strike this share of the requests, which depends on the seed and on what is asked and how
        often, but never on the order of requests that run together.
    seed : int
    seconds : float
        Of ``"latency"``.
    """

    kind: str | tuple[str, ...]
    method: str = "*"
    key: str = "*"
    times: int | None = None
    attempts: Collection[int] | None = None
    per: Literal["key", "request"] = "key"
    share: float = 1.0
    seed: int = 0
    seconds: float = 0.0

    def __post_init__(self) -> None:
        unknown = set(self.kinds) - KINDS
        if unknown or not self.kinds:
            raise ValueError(f"unknown kinds {sorted(unknown)}; there are {sorted(KINDS)}")
        if ("latency" in self.kinds) != (self.seconds > 0):
            raise ValueError("latency, and nothing else, needs seconds above 0")

    @property
    def kinds(self) -> tuple[str, ...]:
        """The kinds, also if there is but one."""
        return (self.kind,) if isinstance(self.kind, str) else self.kind


@dataclass(frozen=True)
class Strike:
    """A fault as it strikes one request."""

    kind: str
    seconds: float


class Script:
    """Faults, and what they have done so far; threads may share it."""

    def __init__(self, faults: Collection[Fault]) -> None:
        self._faults = faults
        self._strikes = [0] * len(faults)
        self._attempts: Counter[tuple[str, ...]] = Counter()
        self._lock = threading.Lock()

    def arrived(self, method: str, key: str, query: str, range_: str) -> tuple[int, list[Strike]]:
        """Count a request, and return its number and what is to happen to it."""
        request = (method, key, query, range_)
        struck: list[Strike] = []
        with self._lock:
            self._attempts.update([(method, key), request])
            counts = {"key": self._attempts[method, key], "request": self._attempts[request]}
            for number, fault in enumerate(self._faults):
                if not (fnmatchcase(method, fault.method) and fnmatchcase(key, fault.key)):
                    continue
                if fault.times is not None and self._strikes[number] >= fault.times:
                    continue
                if fault.attempts is not None and counts[fault.per] not in fault.attempts:
                    continue
                chance, kind = _drawn(fault, (*request, str(counts["request"])))
                if chance >= fault.share:
                    continue
                if kind != "latency" and any(strike.kind != "latency" for strike in struck):
                    continue
                self._strikes[number] += 1
                struck.append(Strike(kind, fault.seconds))
        return counts["key"], struck

    def attempts(self, method: str = "*", key: str = "*") -> int:
        """Return how many requests came of which method and key match the patterns."""
        with self._lock:
            return sum(
                number
                for what, number in self._attempts.items()
                if len(what) == 2 and fnmatchcase(what[0], method) and fnmatchcase(what[1], key)
            )


def _drawn(fault: Fault, request: tuple[str, ...]) -> tuple[float, str]:
    """Return a number in [0, 1) and a kind, the same whenever the same is asked."""
    text = "\n".join((str(fault.seed), *request))
    digest = hashlib.blake2b(text.encode(), digest_size=16).digest()
    chance, choice = (int.from_bytes(part) / 2**64 for part in (digest[:8], digest[8:]))
    return chance, fault.kinds[int(choice * len(fault.kinds))]
