"""AWS Step Functions as an executor: calls that are submitted together are one execution."""

from __future__ import annotations

import contextlib
import math
import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, ParamSpec, TypeVar
from urllib.parse import urlsplit

from magg.errors import BackendError
from magg.executors import lambda_preflight, sfn_preflight
from magg.executors.cloud import CloudExecutor
from magg.executors.lambda_usage import Price
from magg.executors.payload import Calls, Codec, Functions
from magg.executors.sfn_execution import Call, Runner
from magg.executors.sfn_machine import Clients, StateMachine
from magg.executors.sfn_usage import Usage
from magg.executors.sfn_workers import Lease
from magg.executors.threads import WaitingThreadPool

P = ParamSpec("P")
T = TypeVar("T")

DEFAULT_WORKERS = 1_000
MOST_WORKERS = 10_000  # of one Distributed Map (Step Functions Developer Guide, "Quotas")
CALLS_PER_EXECUTION = 5_000
WINDOW_S = 0.5
# Calls that never cease to come are not waited for longer than so many windows.
WINDOWS = 20


class StepFunctionsExecutor(CloudExecutor):
    """Runs submitted calls in a deployed Lambda function, by way of AWS Step Functions.

    Calls that are submitted together become one execution of a state machine with a Distributed
    Map, and end together: their results are there when its last call has ended. Step Functions
    calls the function and tries again what Lambda refuses, also after this process has ended.

    Parameters
    ----------
    state_machine_arn : str
        ARN of the state machine, deployed from `magg.aws.state_machine.state_machine`.
    prefix : str
        ``s3://bucket/prefix`` through which calls and answers travel, in the same region. They are
        below ``.magg/executions`` there until the answers have been read.
    max_workers : int, default 1000
        Calls of the function at once.
    calls_per_worker : int, default 1
        Calls that one invocation of the function makes, one after another.
    window_s : float
        An execution is started when nothing was submitted for so long.
    calls_per_execution : int
        ... or when so many calls are there.
    poll_s : float
        How often to ask how an execution goes at first; later every tenth of its time, at most
        every 20 s.
    functions : mapping of str to callable
        The functions that the deployed handler knows, by name.
    codec : {"json", "pickle"}
        "pickle" sends any function; the handler must have been told to accept it.
    resume_execution : str, optional
        ARN of an execution that another process started. Calls equal to its calls are not made
        again, but answered from its results.
    clients : Clients, optional
        Used as they are; for clients with special settings.
    patience_s : float
        For how long an execution is waited for of which nothing can be learned.

    Attributes
    ----------
    usage : Usage
        Calls, executions and estimated cost so far.
    longest_call_s : float or None
        The function's time limit, once `preflight` has asked for it.
    in_flight : int
        As many calls as fit into an execution.

    Raises
    ------
    ValueError
        If a number is less than 1, or there are more workers than Step Functions admits.
    MissingExtraError
        If boto3 is not installed.
    AccessDeniedError
        If there are no AWS credentials.
    BackendError
        If ARN or prefix are none.
    """

    keeps_calls = True

    def __init__(
        self,
        state_machine_arn: str,
        prefix: str,
        *,
        max_workers: int = DEFAULT_WORKERS,
        calls_per_worker: int = 1,
        window_s: float = WINDOW_S,
        calls_per_execution: int = CALLS_PER_EXECUTION,
        poll_s: float = 1.0,
        functions: Functions | None = None,
        codec: Codec = "json",
        resume_execution: str | None = None,
        clients: Clients | None = None,
        patience_s: float = 600.0,
    ) -> None:
        if max_workers <= 0:
            raise ValueError("max_workers must be greater than 0")
        if max_workers > MOST_WORKERS:
            raise ValueError(f"max_workers must be at most {MOST_WORKERS:,}")
        if calls_per_worker < 1 or calls_per_execution < 1:
            raise ValueError("there must be at least 1 call per worker and per execution")
        self._codec = Calls(functions or {}, codec)
        self._machine = StateMachine(state_machine_arn, prefix, clients)
        self._max_workers, self._per_worker = max_workers, calls_per_worker
        self._per_execution = self.in_flight = calls_per_execution
        self._window_s = window_s
        self.usage = Usage(Price.of(self._machine.region))
        self._runner = Runner(
            self._machine, self._codec, prefix, max_workers, self.usage, poll_s, patience_s
        )
        if resume_execution is not None:
            self._runner.attach(resume_execution)
        self._facts: lambda_preflight.FunctionFacts | None = None
        # One thread for every execution, and one that collects calls for the next.
        self._pool = WaitingThreadPool(max_workers + 1, name="magg-sfn")
        self._changed = threading.Condition()
        self._waiting: list[Call] = []
        self._came_at = self._first_at = 0.0
        self._is_collecting = self._is_shut = False

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Add a call to the next execution.

        Raises
        ------
        BackendError
            If the deployed handler does not know the function.
        RuntimeError
            After `shutdown`.
        """
        self._codec.check(fn)
        future: Future[T] = Future()
        with self._changed:
            if self._is_shut:
                raise RuntimeError("cannot schedule new futures after shutdown")
            if not self._is_collecting:
                self._pool.submit(self._carry)
                self._is_collecting = True
            self._came_at = time.monotonic()
            if not self._waiting:
                self._first_at = self._came_at
            self._waiting.append(Call(future, fn, args, kwargs))
            if len(self._waiting) >= self._per_execution:
                self._changed.notify_all()
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Accept no more calls, and start at once those that wait.

        With ``wait=False`` and ``cancel_futures=True`` executions are stopped, and nothing is
        waited for, not even by the end of the interpreter; invocations under way run to their end
        in the cloud.
        """
        with self._changed:
            self._is_shut = True
            cancelled = self._waiting if cancel_futures else []
            self._waiting = [] if cancel_futures else self._waiting
            self._changed.notify_all()
        for call in cancelled:
            if call.future.cancel():
                call.future.set_running_or_notify_cancel()
        is_left = cancel_futures and not wait
        if is_left:
            self._runner.stop()
        self._pool.shutdown(wait=wait, cancel_futures=is_left)

    def preflight(self, store: str | None = None) -> list[str]:
        """Ask AWS about state machine, function and bucket; see `CloudExecutor.preflight`."""
        function, notices = sfn_preflight.ask(self._machine, self._runner.attached)
        self._runner.function = function
        self._facts = facts = self._machine.function(function)
        # Calls usually travel through the bucket of the store.
        buckets = {self._machine.bucket, urlsplit(store or "").netloc or self._machine.bucket}
        for bucket in sorted(buckets):
            lambda_preflight.check_bucket(f"s3://{bucket}", self._machine.region)
        if facts is None:
            return notices
        self.longest_call_s = facts.timeout_s
        self._runner.memory_mb = facts.memory_mb
        self.usage.function.price = Price.of(self._machine.region, facts.architecture)
        return notices + lambda_preflight.judge(facts, self._max_workers)

    def ceiling(self, calls: int) -> dict[str, Any]:
        """Return what so many calls cost at most, each invocation up to its time limit, once."""
        if self._facts is None:
            return {}
        invocations = math.ceil(calls / self._per_worker)
        return self.usage.ceiling(invocations, self._facts.timeout_s, self._facts.memory_mb)

    def used(self) -> dict[str, Any]:
        """Return executions, calls, time and estimated cost so far."""
        return self.usage.summary()

    def _carry(self) -> None:
        """Collect calls and run them as one execution; then, maybe, what has come meanwhile."""
        while True:
            calls, workers = self._collect()
            self._runner.run(calls, workers, self._per_worker, self.notify)
            with self._changed:
                if self._is_collecting or not self._waiting:
                    return
                self._is_collecting = True

    def _collect(self) -> tuple[list[Call], Lease]:
        """Wait until calls are complete and a worker is free; take both."""
        with self._changed:
            while (wait_s := self._still_open_s()) > 0:
                self._changed.wait(wait_s)
        workers = self._runner.workers.take(self._wanted)
        with self._changed:
            calls = self._waiting[: self._per_execution]
            self._waiting = self._waiting[self._per_execution :]
            self._is_collecting = False
            # After the pool was shut down this thread comes back for what is left.
            with contextlib.suppress(RuntimeError):
                if self._waiting:
                    self._pool.submit(self._carry)
                    self._is_collecting = True
        return calls, workers

    def _still_open_s(self) -> float:
        """Return for how long more calls may come before the next execution is started."""
        if self._is_shut or not self._waiting or len(self._waiting) >= self._per_execution:
            return 0.0
        end = min(self._came_at + self._window_s, self._first_at + WINDOWS * self._window_s)
        return end - time.monotonic()

    def _wanted(self) -> int:
        """Return how many workers the calls that wait could use."""
        with self._changed:
            calls = min(len(self._waiting), self._per_execution)
        return math.ceil(calls / self._per_worker)


def make(
    max_workers: int | None = None,
    *,
    function_name: str | None = None,
    functions: Functions | None = None,
    store: str | None = None,
    **_: Any,
) -> StepFunctionsExecutor:
    """Return the executor of ``backend="sfn"``; see `magg.executors.make_executor`."""
    arn = function_name if ":stateMachine:" in (function_name or "") else None
    arn = arn or os.environ.get("MAGG_STATE_MACHINE_ARN")
    if not arn:
        raise BackendError(
            "backend='sfn' needs the ARN of a state machine: pass function_name="
            "'arn:aws:states:us-west-2:123456789012:stateMachine:magg', or set "
            "MAGG_STATE_MACHINE_ARN"
        )
    return StepFunctionsExecutor(
        arn,
        store or "",
        max_workers=DEFAULT_WORKERS if max_workers is None else max_workers,
        functions=functions,
        resume_execution=os.environ.get("MAGG_RESUME_EXECUTION") or None,
    )
