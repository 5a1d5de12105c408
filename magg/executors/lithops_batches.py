"""Calls that are submitted close together travel as one lithops job."""

from __future__ import annotations

import contextlib
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

from magg.errors import PayloadError, WorkerLostError, WorkerTimeoutError
from magg.executors.lithops_jobs import LithopsJobs
from magg.executors.lithops_worker import CALLS
from magg.executors.threads import WaitingThreadPool

WINDOW_S = 0.05
TICK_S = 0.05
READERS = 16
# lithops ends a call that runs too long, and tells some seconds later.
GRACE_S = 30.0
# For deleting what is left, when the interpreter ends and nobody waits for the calls.
END_S = 15.0
# Of what lithops puts around a call.
ENVELOPE_BYTES = 512


class AskedFuture(Future[Any]):
    """A future that tells when somebody waits for it, so that its call leaves at once."""

    def __init__(self, asked: Callable[[], None]) -> None:
        super().__init__()
        self._asked = asked

    def result(self, timeout: float | None = None) -> Any:
        """Return what the call returned; see `concurrent.futures.Future.result`."""
        self._asked()
        return super().result(timeout)

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """Return what the call raised; see `concurrent.futures.Future.exception`."""
        self._asked()
        return super().exception(timeout)


@dataclass(eq=False)
class _Call:
    """A submission on its way."""

    future: Future[Any]
    function: Callable[..., Any] | None
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    request: dict[str, Any] | None = None
    sent: Any = None
    since: float = field(default_factory=time.monotonic)
    has_started: bool = False

    def encode(self) -> int:
        """Make plain data of the call, let its arguments go, and return the size (bytes)."""
        if self.request is None:
            assert self.function is not None  # noqa: S101 - for the type
            self.request = CALLS.request(self.function, self.args, self.kwargs)
            self.function, self.args, self.kwargs = None, (), {}
        return len(self.request["pickled"]) + ENVELOPE_BYTES


class Batches:
    """Two threads: one sends what waits, the other looks for what is done.

    The threads hold this object and not the executor, so that an executor which is dropped
    without a word is still known to be gone.

    Parameters
    ----------
    jobs : LithopsJobs
    window_s : float
        How long a call waits for others to travel with.
    start_timeout_s : float
        A call that no worker has begun after so long is lost.
    """

    def __init__(self, jobs: LithopsJobs, window_s: float, start_timeout_s: float) -> None:
        self.jobs = jobs
        self.jobs_sent = 0
        self.calls_sent = 0
        self.is_abandoned = False
        self._window_s = window_s
        self._start_timeout_s = start_timeout_s
        self._changed = threading.Condition()
        self._waiting: deque[_Call] = deque()
        self._under_way: list[_Call] = []
        self._left_of: Counter[str] = Counter()
        self._is_asked = False
        self._is_shut = False
        self._is_closed = False
        self._threads: list[threading.Thread] = []
        self._readers = WaitingThreadPool(READERS, name="magg-lithops-read")

    def add(self, function: Callable[..., Any], args: tuple[Any, ...], kwargs: Any) -> Future[Any]:
        """Let a call wait for its job."""
        with self._changed:
            if self._is_shut:
                raise RuntimeError("cannot schedule new futures after shutdown")
            future = AskedFuture(self.hurry)
            self._waiting.append(_Call(future, function, args, kwargs))
            if not self._threads:
                # Daemons, whose threads are daemons too: those that lithops starts among them.
                for work in (self._send, self._watch):
                    name = f"magg-lithops-{work.__name__.strip('_')}"
                    self._threads.append(threading.Thread(target=work, name=name, daemon=True))
                    self._threads[-1].start()
            self._changed.notify_all()
            return future

    def hurry(self) -> None:
        """Send what waits at once."""
        with self._changed:
            if self._waiting:
                self._is_asked = True
                self._changed.notify_all()

    def shut(self, *, cancel: bool, abandon: bool) -> None:
        """Accept no more calls; cancel what waits, and keep no interpreter, as told."""
        with self._changed:
            self._is_shut = True
            self.is_abandoned = self.is_abandoned or abandon
            # What there is a worker for counts as begun, unless nobody will wait for it.
            begun = 0 if abandon else self._room()
            dropped = []
            while cancel and len(self._waiting) > begun:
                dropped.append(self._waiting.pop().future)
            has_begun = bool(self._threads)
            self._changed.notify_all()
        for future in reversed(dropped):
            if future.cancel():
                future.set_running_or_notify_cancel()
        if not has_begun:
            self._close()

    def join(self) -> None:
        """Wait until everything is done and cleaned."""
        for thread in self._threads:
            if thread is not threading.current_thread():
                thread.join()

    def end(self) -> None:
        """Stop what runs on this machine, and hold up the interpreter for no more than seconds."""
        self._readers.shutdown(wait=False, cancel_futures=True)
        closing = threading.Thread(target=self._close_jobs, name="magg-lithops-end", daemon=True)
        closing.start()
        closing.join(END_S)

    def _close(self) -> None:
        self._readers.shutdown(wait=True)
        self._close_jobs()

    def _close_jobs(self) -> None:
        with self._changed:
            is_closed, self._is_closed = self._is_closed, True
        if not is_closed:
            self.jobs.close()

    # Sending

    def _send(self) -> None:
        while self._send_next():
            pass

    def _send_next(self) -> bool:
        with self._changed:
            self._changed.wait_for(lambda: self._room() if self._waiting else self._is_shut)
            if not self._waiting:
                return False
            self._changed.wait_for(
                lambda: self._is_asked or self._is_shut or len(self._waiting) >= self.jobs.capacity,
                self._window_s,
            )
            self._is_asked = False
            batch, unfit = self._take()
        for call, error in unfit:
            if call.future.set_running_or_notify_cancel():
                _end(call.future, error=error)
        if batch:
            self._send_batch(batch)
        return True

    def _room(self) -> int:
        return max(0, self.jobs.capacity - len(self._under_way))

    def _take(self) -> tuple[list[_Call], list[tuple[_Call, BaseException]]]:
        """Take as many calls as there are workers free and one job can carry.

        Returns
        -------
        batch : list of _Call
        unfit : list of (_Call, BaseException)
            Those that cannot be sent, and why.
        """
        batch: list[_Call] = []
        unfit: list[tuple[_Call, BaseException]] = []
        size, room = 0, self._room()
        while self._waiting and len(batch) < room:
            call = self._waiting[0]
            try:
                more = call.encode()
                if more > self.jobs.limit and self.jobs.is_limit_strict:
                    raise _too_large(more, self.jobs.limit)
            except BaseException as error:  # noqa: BLE001 - what pickling raises is the caller's
                self._waiting.popleft()
                unfit.append((call, error))
                continue
            if batch and size + more > self.jobs.limit:
                break
            self._waiting.popleft()
            if call.future.set_running_or_notify_cancel():
                batch.append(call)
                size += more
        now = time.monotonic()
        for call in batch:
            call.since = now
        self._under_way += batch
        self._changed.notify_all()
        return batch, unfit

    def _send_batch(self, batch: list[_Call]) -> None:
        try:
            sent = self.jobs.send([call.request or {} for call in batch])
        except Exception as error:  # noqa: BLE001 - the futures tell
            for call in batch:
                self._finish(call, error=error)
            return
        with self._changed:
            self.jobs_sent += 1
            self.calls_sent += len(batch)
            self._left_of[sent[0].job_key] += len(batch)
            for call, of_lithops in zip(batch, sent, strict=True):
                call.request, call.sent = None, of_lithops
            lost = [call for call in batch if call not in self._under_way]
        for call in lost:  # given up while lithops was sending
            self._count_down(call)

    # Watching

    def _watch(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._under_way or self._is_shut)
                if not self._under_way and not self._waiting and self._is_shut:
                    break
            self._look()
            time.sleep(TICK_S)
        self.join()  # lithops may be sending a call that was given up: it is to be cleaned too
        self._close()

    def _look(self) -> None:
        calls = list(self._under_way)
        self._read_done(calls)
        for call in calls:
            self._look_at(call)

    def _read_done(self, calls: list[_Call]) -> None:
        """Free the workers of all calls that are done at once, so that as many go out together."""
        done = [call for call in calls if call.sent is not None and _is_done(call.sent)]
        if done:
            with self._changed:
                for call in done:
                    self._under_way.remove(call)
                self._changed.notify_all()
        for call in done:
            calls.remove(call)
            self._readers.submit(self._read, call)

    def _look_at(self, call: _Call) -> None:
        """End a call that was refused, or has taken too long."""
        now = time.monotonic()
        if call.sent is not None:
            refusal = self.jobs.refusal(call.sent)
            if refusal is not None:
                self._give_up(call, refusal)
                return
            if call.sent.running and not call.has_started:
                call.has_started, call.since = True, now
        limit = self.jobs.longest_call_s + GRACE_S if call.has_started else self._start_timeout_s
        if now - call.since > limit:
            self._give_up(call, _overdue(call, limit, self.jobs.name))

    def _give_up(self, call: _Call, error: BaseException) -> None:
        if not call.has_started:
            self.jobs.free_worker()
        self._finish(call, error=error)

    def _read(self, call: _Call) -> None:
        try:
            result = CALLS.result(_read_of, self.jobs.answer(call.sent))
        except BaseException as error:  # noqa: BLE001 - an executor hands on whatever is raised
            _end(call.future, error=error)
        else:
            _end(call.future, result=result)
            del result
        self._count_down(call)

    def _finish(self, call: _Call, error: BaseException) -> None:
        with self._changed:
            if call not in self._under_way:
                return  # given up while lithops was sending
            self._under_way.remove(call)
            self._changed.notify_all()
        _end(call.future, error=error)
        self._count_down(call)

    def _count_down(self, call: _Call) -> None:
        """Clean up after the last call of a job."""
        if call.sent is None:
            return
        job = call.sent.job_key
        with self._changed:
            self._left_of[job] -= 1
            is_last = not self._left_of[job]
            if is_last:
                del self._left_of[job]
        if is_last:
            with contextlib.suppress(RuntimeError):  # everything is cleaned at the end anyway
                self._readers.submit(self.jobs.clean, job)


def _read_of() -> Any:
    """Stand for the function of a pickled call, which the other side knows."""


def _is_done(sent: Any) -> bool:
    return bool(sent.ready or sent.success or sent.done)


def _end(future: Future[Any], result: Any = None, error: BaseException | None = None) -> None:
    if error is None:
        future.set_result(result)
    else:
        future.set_exception(error)


def _too_large(size: int, limit: int) -> PayloadError:
    return PayloadError(
        f"the call is {size / 2**20:.1f} MB and lithops takes {limit / 2**20:g} MB; raise "
        "`data_limit` (MiB) in its configuration, or pass what is large by its URL"
    )


def _overdue(call: _Call, limit: float, backend: str) -> WorkerLostError | WorkerTimeoutError:
    if call.has_started:
        return WorkerTimeoutError(f"no answer from the worker on {backend} within {limit:.0f} s")
    return WorkerLostError(
        f"no worker on {backend} began the call within {limit:.0f} s; it may fail to start: see "
        "lithops' logs (`lithops logs poll`) and the runtime's own"
    )
