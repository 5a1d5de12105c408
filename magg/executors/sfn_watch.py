"""Watching an execution of a state machine until it ends."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

from magg.errors import (
    AccessDeniedError,
    CredentialsExpiredError,
    MaggError,
    ServiceUnreachableError,
    ThrottledError,
    WorkerLostError,
)
from magg.executors.sfn_machine import StateMachine
from magg.executors.sfn_workers import Lease

LONGEST_POLL_S = 20.0
TELL_EVERY = 0.1  # of an execution's calls

Notify = Callable[[str], None]


class Watch:
    """Asks how executions go, often at first and then every tenth of their time.

    Parameters
    ----------
    machine : StateMachine
    poll_s : float
        How often at first.
    patience_s : float
        How long an execution is waited for of which nothing can be learned.
    """

    def __init__(self, machine: StateMachine, poll_s: float, patience_s: float) -> None:
        self._machine, self._poll_s, self._patience_s = machine, poll_s, patience_s
        self._stopped = threading.Event()

    @property
    def is_stopped(self) -> bool:
        """Whether executions are to be stopped instead of watched."""
        return self._stopped.is_set()

    def stop(self) -> None:
        """Stop all executions that are watched, now or later."""
        self._stopped.set()

    def until_ended(self, arn: str, calls: int, lease: Lease, notify: Notify) -> Mapping[str, Any]:
        """Return what Step Functions says of an execution when it has ended.

        Parameters
        ----------
        arn : str
        calls : int
            How many calls it has at least.
        lease : Lease
            The workers that the execution holds; those that it needs no more are given back.
        notify : callable
            Told how far it is, and what hinders asking.

        Raises
        ------
        WorkerLostError
            If `stop` was called; the execution is stopped then.
        ThrottledError, ServiceUnreachableError, CredentialsExpiredError
            If nothing could be learned for too long; the execution goes on.
        """
        began = heard = time.monotonic()
        pause_s, told_share, complaint = self._poll_s, 0.0, ""
        while not self._stopped.wait(pause_s):
            now = time.monotonic()
            pause_s = min(LONGEST_POLL_S, max(self._poll_s, (now - began) / 10))
            try:
                told = self._machine.execution(arn)
                if told["status"] != "RUNNING":
                    return told
                told_share = self._tell(arn, calls, lease, notify, told_share)
            except (ThrottledError, ServiceUnreachableError, CredentialsExpiredError) as error:
                if now - heard > self._patience_s:
                    raise
                if str(error) != complaint:
                    complaint = str(error)
                    notify(f"{complaint}; the execution goes on, and is asked for again")
            else:
                heard, complaint = now, ""
        with contextlib.suppress(MaggError):
            self._machine.stop(arn)
        raise WorkerLostError("the executor was shut down before the call was answered")

    def _tell(
        self, arn: str, expected: int, lease: Lease, notify: Notify, told_share: float
    ) -> float:
        """Tell how far an execution is, and let others have the workers that it needs no more."""
        try:
            state = self._machine.map_run(arn)
        except AccessDeniedError:
            return told_share  # the results do not depend on it
        if state is None:
            return told_share
        batches, calls = state["executionCounts"], state["itemCounts"]
        total = max(expected, calls["total"])
        if calls["total"] == total:  # else it is still reading its calls
            lease.keep(batches["pending"] + batches["running"])
        failed = calls["failed"] + calls["timedOut"]
        done = calls["succeeded"] + failed
        share = float(done / total)
        if share < told_share + TELL_EVERY:
            return told_share
        notify(
            f"Step Functions: {done:,} of {total:,} calls done"
            + (f", {failed:,} of them failed" if failed else "")
        )
        return share
