"""Calls no faster than AWS Lambda starts environments for them.

Lambda gives a function up to 1,000 new execution environments at once and 1,000 more every ten
seconds; what comes faster is refused (AWS Lambda Developer Guide, "Understanding Lambda function
scaling"). A refused call costs a request, and 700 of them at once cost a second of CPU.
"""

from __future__ import annotations

import random
import threading
import time
from collections import deque
from collections.abc import Callable

BURST = 1_000
PER_SECOND = 100.0
LONGEST_PAUSE_S = 20.0
# After so long without a refusal the next one counts as the first.
FORGOTTEN_AFTER_S = 60.0


class Pacer:
    """Lets calls pass as environments for them exist or may be started.

    Calls wait in line, and only the first one looks at the clock: hundreds of threads that woke
    up for every new environment would do nothing else.

    Parameters
    ----------
    burst : int
        Environments that may be started at once.
    per_second : float
        Environments that may be started further on.
    clock : callable
        Monotonic seconds.

    Raises
    ------
    ValueError
        If no environment could ever be started.

    Attributes
    ----------
    limit : int or None
        Calls at once that the function or the account admits, where that is known.
    """

    def __init__(
        self,
        burst: int = BURST,
        per_second: float = PER_SECOND,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if burst < 1 or per_second <= 0:
            raise ValueError("burst must be at least 1 and per_second greater than 0")
        self.limit: int | None = None
        self._burst, self._per_second, self._clock = float(burst), per_second, clock
        self._lock = threading.Lock()
        self._line: deque[threading.Event] = deque()
        self._running = self._environments = 0
        self._startable, self._counted_at = self._burst, clock()
        self._refusals, self._refused_at = 0, float("-inf")
        self._stopped = threading.Event()

    def enter(self, *, first: bool = False) -> bool:
        """Wait until a call may be sent; tell whether it may, or everything was stopped.

        Parameters
        ----------
        first : bool
            Wait at the head of the line (a call that was refused has waited already).
        """
        with self._lock:
            if self._stopped.is_set():
                return False
            if not self._line and self._take():
                return True
            turn = threading.Event()
            if first:
                self._line.appendleft(turn)
            else:
                self._line.append(turn)
        while True:
            with self._lock:
                if self._stopped.is_set():
                    return False
                is_next = self._line[0] is turn
                if is_next and self._take():
                    self._line.popleft()
                    self._wake_next()
                    return True
                turn.clear()
                wait_s = self._until_startable() if is_next else None
            turn.wait(wait_s)

    def leave(self) -> None:
        """Say that a call has ended; its environment is free for the next."""
        with self._lock:
            self._running -= 1
            self._wake_next()

    def refused(self) -> None:
        """Say that a call was throttled: there is no environment for it, and none to be had now."""
        with self._lock:
            now = self._clock()
            self._running -= 1
            self._environments = max(self._running, self._environments - 1)
            if now >= self._counted_at:  # not one of many that were sent together
                forgotten = now - self._refused_at > FORGOTTEN_AFTER_S
                self._refusals = 0 if forgotten else self._refusals + 1
                pause = min(LONGEST_PAUSE_S, 2.0**self._refusals)
                self._counted_at = now + random.uniform(0.1, 1.0) * pause  # noqa: S311 - jitter
                self._refused_at = now
            self._startable = 0.0
            self._wake_next()

    def stop(self) -> None:
        """Send nobody any more; whoever waits is told so."""
        with self._lock:
            self._stopped.set()
            for turn in self._line:
                turn.set()

    def _take(self) -> bool:
        if self.limit is not None and self._running >= self.limit:
            return False
        if self._running >= self._environments:
            now = self._clock()
            if now > self._counted_at:
                grown = self._startable + (now - self._counted_at) * self._per_second
                self._startable, self._counted_at = min(self._burst, grown), now
            if self._startable < 1.0:
                return False
            self._startable -= 1.0
            self._environments += 1
        self._running += 1
        return True

    def _until_startable(self) -> float | None:
        if self.limit is not None and self._running >= self.limit:
            return None  # somebody who leaves will say so
        paused_s = max(0.0, self._counted_at - self._clock())
        return paused_s + (1.0 - self._startable) / self._per_second

    def _wake_next(self) -> None:
        if self._line:
            self._line[0].set()
