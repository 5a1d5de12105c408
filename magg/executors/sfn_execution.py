"""One execution of a state machine: sent, watched, and its results handed to futures."""

from __future__ import annotations

import contextlib
import hashlib
import json
import threading
import uuid
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

from magg.errors import ExecutionStoppedError, PayloadError, WorkerLostError
from magg.executors import batch, offload, sfn_errors
from magg.executors.payload import Calls
from magg.executors.sfn_machine import StateMachine
from magg.executors.sfn_usage import Usage
from magg.executors.sfn_watch import Notify, Watch
from magg.executors.sfn_workers import Lease, Workers

# For so long an interrupted program waits until its executions are stopped.
STOP_S = 5.0


@dataclass
class Call:
    """A submission."""

    future: Future[Any]
    function: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]


@dataclass
class _Sent:
    """A call as it travels."""

    future: Future[Any]
    function: Callable[..., Any]
    text: str
    url: str | None


class Runner:
    """Runs calls as executions of a state machine, and settles their futures.

    Parameters
    ----------
    machine : StateMachine
    codec : Calls
    prefix : str
        ``s3://bucket/prefix`` for calls and answers that are too large to travel.
    workers : int
        Invocations of the function at once, over all executions.
    usage : Usage
    poll_s, patience_s : float
        See `magg.executors.StepFunctionsExecutor`.

    Attributes
    ----------
    function : str
        What the state machine calls, for messages.
    memory_mb : int or None
        What it may use.
    attached : str
        ARN of the execution of another process that is waited for, if any.
    """

    def __init__(
        self,
        machine: StateMachine,
        codec: Calls,
        prefix: str,
        workers: int,
        usage: Usage,
        poll_s: float,
        patience_s: float,
    ) -> None:
        self.workers = Workers(workers)
        self.function = f"of {machine.place}"
        self.memory_mb: int | None = None
        self._machine, self._codec, self._usage = machine, codec, usage
        self._place = {"prefix": prefix, "region": machine.region}
        self._watch = Watch(machine, poll_s, patience_s)
        self.attached = ""
        self._attached_names: set[str] = set()
        self._running = 0
        self._changed = threading.Condition()

    def attach(self, arn: str) -> None:
        """Answer calls from an execution that was started before, if they are among its calls."""
        told = self._machine.execution(arn)
        self._attached_names = {item["id"] for item in self._machine.calls(told)}
        self.attached = arn

    def stop(self) -> None:
        """Stop all executions, and wait a moment until that is done."""
        self._watch.stop()
        self.workers.open()
        with self._changed:
            self._changed.wait_for(lambda: not self._running, STOP_S)

    def run(self, calls: list[Call], lease: Lease, per_worker: int, notify: Notify) -> None:
        """Run calls as one execution.

        A batch that fails takes several calls with it; each of these is then made alone.

        Parameters
        ----------
        calls : list of Call
            Emptied.
        lease : Lease
            The workers for it; given back.
        per_worker : int
            Calls in a batch.
        notify : callable
            Told how it goes.
        """
        with self._under_way():
            sent = self._encoded([c for c in calls if c.future.set_running_or_notify_cancel()])
            calls.clear()  # else results would live until the last of them has been read
            self._await_attached(sent, notify)
            alone = self._execute(sent, lease, per_worker, notify)
            if alone:
                count = len(alone)
                self._execute(alone, self.workers.take(lambda: count), 1, notify)

    @contextlib.contextmanager
    def _under_way(self) -> Iterator[None]:
        """Let `stop` wait for what is inside."""
        with self._changed:
            self._running += 1
        try:
            yield
        finally:
            with self._changed:
                self._running -= 1
                self._changed.notify_all()

    def _encoded(self, calls: list[Call]) -> dict[str, _Sent]:
        """Return calls as they travel, by ids that equal calls of another process have too."""
        sent: dict[str, _Sent] = {}
        for call in calls:
            try:
                request = self._codec.request(call.function, call.args, call.kwargs)
                text = json.dumps(request, separators=(",", ":"), sort_keys=True, allow_nan=False)
                name = digest = hashlib.sha256(text.encode()).hexdigest()[:32]
                while name in sent:
                    name = f"{digest}-{len(sent)}"
                sent[name] = self._sendable(call, text)
            except Exception as error:  # noqa: BLE001 - whatever cannot be sent is told
                call.future.set_exception(error)
        return sent

    def _sendable(self, call: Call, text: str) -> _Sent:
        """Put a call that is too large into the bucket, and name it instead."""
        if len(text) <= batch.CALL_BYTES:
            return _Sent(call.future, call.function, text, None)
        url = offload.put(self._place["prefix"], text.encode(), self._place["region"])
        return _Sent(call.future, call.function, json.dumps(offload.naming(url, self._place)), url)

    def _await_attached(self, sent: dict[str, _Sent], notify: Notify) -> None:
        """Take out the calls that an execution of another process makes, and wait for it."""
        known = {name: sent.pop(name) for name in sent.keys() & self._attached_names}
        self._attached_names -= known.keys()  # tried again, they are calls of a new execution
        if known:
            sent |= self._finish(self.attached, known, Lease(self.workers, 0), notify)

    def _execute(
        self, sent: dict[str, _Sent], lease: Lease, per_worker: int, notify: Notify
    ) -> dict[str, _Sent]:
        """Run calls as a new execution; return those that are to be made alone."""
        try:
            arn = self._start(sent, max(1, lease.number), per_worker) if sent else None
            return self._finish(arn, sent, lease, notify) if arn else {}
        except Exception as error:  # noqa: BLE001 - the calls were not made, and are told why
            _fail(sent, error)
            return {}
        finally:
            lease.keep(0)

    def _start(self, sent: dict[str, _Sent], workers: int, per_worker: int) -> str:
        if self._watch.is_stopped:
            raise WorkerLostError("the executor was shut down before the call was sent")
        items = (f'{{"id":"{name}","call":{one.text}}}' for name, one in sent.items())
        arn = self._machine.start(
            f"magg-{uuid.uuid4().hex}",
            f"[{','.join(items)}]".encode(),
            workers=workers,
            calls_per_worker=per_worker,
            offload=self._place,
        )
        self._usage.add_execution()
        return arn

    def _finish(
        self, arn: str, sent: dict[str, _Sent], lease: Lease, notify: Notify
    ) -> dict[str, _Sent]:
        """Wait for an execution and settle its calls; return those that are to be made alone."""
        urls = [one.url for one in sent.values() if one.url]
        alone: dict[str, _Sent] = {}
        is_over = False
        try:
            told = self._watch.until_ended(arn, len(sent), lease, notify)
            is_over = True
            error = sfn_errors.of_execution(told, self._machine.place)
            if error is not None:
                raise error
            for record in self._machine.results(told):
                alone |= self._settle(record, sent)
            if sent:
                raise WorkerLostError(f"{arn} has ended, and its results do not name every call")
        except Exception as error:  # noqa: BLE001 - what is not settled yet is told why
            _fail(sent, error)
        finally:
            if is_over or self._watch.is_stopped:  # else it may go on, and be attached to
                self._clean(arn, urls)
        return alone

    def _clean(self, arn: str, urls: list[str]) -> None:
        """Delete what an execution needed; what stays is small, and goes with the store."""
        with contextlib.suppress(Exception):
            self._machine.clean(arn.rpartition(":")[2])
            for url in urls:
                offload.delete(url, self._machine.region)

    def _settle(self, record: Mapping[str, Any], sent: dict[str, _Sent]) -> dict[str, _Sent]:
        """Settle the calls of one batch; return those that are to be made alone."""
        names = batch.calls_in(record.get("Input"))
        try:
            if record["Status"] != "SUCCEEDED":
                raise sfn_errors.of_batch(record, self.function, self.memory_mb)
            answers, report = batch.answers_in(record["Output"])
        except Exception as error:  # noqa: BLE001 - each call is told, or made again
            self._usage.add_batch(None)
            mine = {name: sent.pop(name) for name in names if name in sent}
            if len(mine) > 1 and not isinstance(error, ExecutionStoppedError | PayloadError):
                return mine
            _fail(mine, error)
            return {}
        self._usage.add_batch(report)
        for name, answer in answers:
            one = sent.pop(name, None)
            if one is not None:
                self._answer(one, answer)
        return {}

    def _answer(self, one: _Sent, answer: Any) -> None:
        try:
            result = self._codec.result(one.function, offload.fetched(answer))
        except BaseException as error:  # noqa: BLE001 - whatever the function raised
            one.future.set_exception(error)
        else:
            one.future.set_result(result)


def _fail(sent: dict[str, _Sent], error: Exception) -> None:
    """End calls with an error; none is left."""
    while sent:
        sent.popitem()[1].future.set_exception(error)
