"""A deployed Lambda function: its execution environments, its limits, and what happened to it."""

from __future__ import annotations

import secrets
import threading
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from services.lambda_faults import RATE_EXCEEDED, Fault, FaultScript, Refusal
from services.lambda_runtime import Invocation
from services.lambda_worker import Outcome, Settings, Worker

RESERVED = "ReservedFunctionConcurrentInvocationLimitExceeded"
UNRESERVED = "ConcurrentInvocationLimitExceeded"


@dataclass(frozen=True)
class Call:
    """One run of a handler.

    Parameters
    ----------
    request_id : str
        Retries of an asynchronous invocation have the same.
    error : str or None
        The type of the error.
    pid : int or None
        The process that ran it.
    cold : bool
    billed_ms, peak_mb : int
        As the log reported them.
    """

    request_id: str
    error: str | None
    pid: int | None
    cold: bool
    billed_ms: int
    peak_mb: int


class Account:
    """What functions without reserved concurrency share; threads may share it."""

    def __init__(self, concurrent_executions: int) -> None:
        self.concurrent_executions = concurrent_executions
        self.functions: dict[str, Function] = {}
        self.lock = threading.RLock()

    @property
    def unreserved(self) -> int:
        """How many environments such functions may have busy together."""
        with self.lock:
            reserved = sum(one.concurrency or 0 for one in self.functions.values())
        return max(0, self.concurrent_executions - reserved)

    @property
    def unreserved_busy(self) -> int:
        """How many they have busy."""
        with self.lock:
            return sum(one.busy for one in self.functions.values() if one.concurrency is None)


class Function:
    """A deployed function.

    Parameters
    ----------
    settings : Settings
    account : Account
    variables : dict
        The whole environment of its workers.
    concurrency : int or None
        Reserved for it; None to share what the account has left.
    burst : int or None
        So many environments may be started at once; None for any number.
    rate : float
        So many further ones a second.

    Attributes
    ----------
    calls : list of Call
        All runs of the handler that have ended.
    requests : int
        Invocations that were asked for, whatever came of them.
    cold_starts, throttled : int
        Environments that were started; requests refused for want of them (not by a fault).
    busy, peak : int
        Environments that run a handler, now and at most.
    retry_after : int or None
        The seconds that a throttled client is told to wait.
    """

    def __init__(
        self,
        settings: Settings,
        account: Account,
        variables: dict[str, str],
        concurrency: int | None,
        burst: int | None,
        rate: float,
    ) -> None:
        self.settings, self.concurrency, self.burst, self.rate = settings, concurrency, burst, rate
        self.name, self.arn = settings.name, settings.arn
        self.retry_after: int | None = 1
        self.requests = self.cold_starts = self.throttled = self.busy = self.peak = 0
        self._account, self._variables = account, variables
        self._calls: list[Call] = []
        self._idle: list[Worker] = []
        self._running: set[Worker] = set()
        self._script = FaultScript()
        self._allowance, self._counted_at = float(burst or 0), time.monotonic()
        self._lock = account.lock
        self._removed = False

    @property
    def calls(self) -> list[Call]:
        """All runs so far; each is here before its client has the whole answer."""
        with self._lock:
            return list(self._calls)

    @property
    def struck(self) -> Counter[str]:
        """How many faults of each kind have struck."""
        return self._script.struck

    def inject(self, *faults: Fault) -> None:
        """Let these faults strike the next requests, after those injected before."""
        self._script.inject(*faults)

    def clear_faults(self) -> None:
        """Let no fault strike from now on."""
        self._script.clear()

    def requested(self) -> tuple[float, Fault | None]:
        """Count a request; return the delay of its answer, and what else strikes it."""
        with self._lock:
            self.requests += 1
        return self._script.next()

    def invoke(self, invocation: Invocation) -> Outcome:
        """Run the handler in an idle environment, or in a new one.

        Raises
        ------
        Refusal
            If there is none to be had.
        """
        worker = self._acquire()
        usable = False
        try:
            cold = worker is None
            if worker is None:
                worker = Worker(self.settings, self._worker_variables())
                self._started(worker)
            outcome = worker.invoke(invocation)
            usable = not outcome.answer.fatal
            self._record(outcome, cold)
            return outcome
        finally:
            self._release(worker, usable)

    def configuration(self) -> dict[str, Any]:
        """Return what `GetFunctionConfiguration` answers."""
        settings = self.settings
        return {
            "FunctionName": self.name,
            "FunctionArn": self.arn,
            "Runtime": self._variables["AWS_EXECUTION_ENV"].removeprefix("AWS_Lambda_"),
            "Role": "arn:aws:iam::123456789012:role/magg",
            "Handler": settings.handler,
            "Timeout": int(settings.timeout),
            "MemorySize": settings.memory_mb,
            "Version": "$LATEST",
            "State": "Active",
            "LastUpdateStatus": "Successful",
            "PackageType": "Zip",
            "Architectures": [settings.architecture],
            "EphemeralStorage": {"Size": 512},
            "LastModified": "2026-01-01T00:00:00.000+0000",
            "Environment": {"Variables": dict(settings.environment)},
            "LoggingConfig": {
                "LogFormat": settings.log_format,
                "LogGroup": f"/aws/lambda/{self.name}",
            },
        }

    @property
    def removed(self) -> bool:
        """Whether it takes no more calls, because the service has removed it."""
        with self._lock:
            return self._removed

    def idle(self) -> list[Worker]:
        """Return its workers that wait for a call, also those that died meanwhile."""
        with self._lock:
            return list(self._idle)

    def folders(self) -> list[Path]:
        """Return the folders of its workers."""
        with self._lock:
            return [worker.folder for worker in (*self._idle, *self._running)]

    def stop(self) -> None:
        """End all environments, also those that run a handler; may be called twice."""
        with self._lock:
            self._removed = True
            workers = [*self._idle, *self._running]
            self._idle.clear()
        for worker in workers:
            worker.end()
        for worker in workers:
            worker.stop()

    def _acquire(self) -> Worker | None:
        """Take an idle environment; None if one is to be started."""
        with self._lock:
            reserved = self.concurrency is not None
            busy = self.busy if reserved else self._account.unreserved_busy
            limit = self.concurrency if reserved else self._account.unreserved
            if self._removed or busy >= limit:
                self._throttle(RESERVED if reserved else UNRESERVED)
            dead = [worker for worker in self._idle if not worker.alive]
            self._idle = [worker for worker in self._idle if worker.alive]
            if not self._idle and not self._may_start():
                self._throttle(UNRESERVED)
            found = self._idle.pop() if self._idle else None
            if found:
                self._running.add(found)
            self.cold_starts += found is None
            self.busy += 1
            self.peak = max(self.peak, self.busy)
        for worker in dead:
            worker.stop()
        return found

    def _started(self, worker: Worker) -> None:
        with self._lock:
            self._running.add(worker)
            removed = self._removed
        if removed:  # meanwhile
            worker.end()

    def _may_start(self) -> bool:
        """Take one from the allowance of new environments, which grows back with time."""
        if self.burst is None:
            return True
        now = time.monotonic()
        grown = self._allowance + (now - self._counted_at) * self.rate
        self._allowance, self._counted_at = min(float(self.burst), grown), now
        if self._allowance < 1:
            return False
        self._allowance -= 1
        return True

    def _throttle(self, reason: str) -> None:
        self.throttled += 1
        raise Refusal(*RATE_EXCEEDED, reason, self.retry_after)

    def _record(self, outcome: Outcome, cold: bool) -> None:
        report = outcome.report
        call = Call(
            report.request_id,
            outcome.answer.error,
            outcome.pid,
            cold,
            report.billed_ms,
            report.peak_mb,
        )
        with self._lock:
            self._calls.append(call)

    def _release(self, worker: Worker | None, usable: bool) -> None:
        with self._lock:
            self.busy -= 1
            self._running.discard(worker)
            usable = usable and not self._removed
            if usable:
                self._idle.append(worker)
        if worker is not None and not usable:
            worker.stop()

    def _worker_variables(self) -> dict[str, str]:
        stream = f"{time.strftime('%Y/%m/%d')}/[$LATEST]{secrets.token_hex(16)}"
        return self._variables | {"AWS_LAMBDA_LOG_STREAM_NAME": stream}
