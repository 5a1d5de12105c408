"""A pool of threads that wait for answers from elsewhere, and that can be left behind."""

from __future__ import annotations

import atexit
import itertools
import queue
import threading
import weakref
from collections.abc import Callable
from concurrent.futures import Executor, Future
from dataclasses import dataclass
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

_numbers = itertools.count(1)


@dataclass
class _Call:
    """A submission that waits for a thread."""

    # The end of the interpreter waits for pools that exist, so calls keep theirs.
    pool: WaitingThreadPool
    future: Future[Any]
    function: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]

    def run(self) -> None:
        if not self.future.set_running_or_notify_cancel():
            return
        try:
            result = self.function(*self.args, **self.kwargs)
        except BaseException as error:  # noqa: BLE001 - an executor hands on whatever is raised
            self.future.set_exception(error)
            # The error's traceback holds this frame, which must not hold the error in turn.
            del self
        else:
            self.future.set_result(result)


class WaitingThreadPool(Executor):
    """Threads that wait for remote calls: a ThreadPoolExecutor that can be left behind.

    The standard pool keeps the interpreter alive until its last call has returned, which for a
    remote call may be a quarter of an hour after Ctrl-C. The threads of this one are daemons: the
    end of the interpreter waits for what was submitted, unless ``shutdown(wait=False,
    cancel_futures=True)`` has said that nobody wants the answers.

    Parameters
    ----------
    max_workers : int
        Threads at most; they are started as they are needed.
    name : str
        What threads are called, for those who look at a stack.

    Raises
    ------
    ValueError
        If ``max_workers`` is less than 1.
    """

    def __init__(self, max_workers: int, name: str = "magg-wait") -> None:
        if max_workers <= 0:
            raise ValueError("max_workers must be greater than 0")
        self._max_workers = max_workers
        self._name = f"{name}-{next(_numbers)}"
        self._queue: queue.SimpleQueue[_Call | None] = queue.SimpleQueue()
        self._idle = threading.Semaphore(0)
        self._lock = threading.Lock()
        self._threads: list[threading.Thread] = []
        self._is_shut = False
        _wait_at_exit(self)
        # Threads hold the queue alone, so a pool that is dropped without a word ends them too.
        weakref.finalize(self, self._queue.put, None).atexit = False

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Schedule a call; see `concurrent.futures.Executor.submit`."""
        with self._lock:
            if self._is_shut:
                raise RuntimeError("cannot schedule new futures after shutdown")
            future: Future[T] = Future()
            self._queue.put(_Call(self, future, fn, args, kwargs))
            self._add_thread()
            return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Accept no more calls; see `concurrent.futures.Executor.shutdown`."""
        with self._lock:
            self._is_shut = True
            if cancel_futures:
                self._cancel_waiting()
            self._queue.put(None)
        if cancel_futures and not wait:
            _open_pools.discard(self)
        if wait:
            for thread in self._threads:
                thread.join()

    def _add_thread(self) -> None:
        if len(self._threads) >= self._max_workers or self._idle.acquire(blocking=False):
            return
        thread = threading.Thread(
            target=_serve,
            args=(self._queue, self._idle),
            name=f"{self._name}-{len(self._threads)}",
            daemon=True,
        )
        try:
            thread.start()
        except RuntimeError:
            if not self._threads:
                raise
            # The system allows no more of them; those that there are do the work.
            self._max_workers = len(self._threads)
        else:
            self._threads.append(thread)

    def _cancel_waiting(self) -> None:
        while True:
            try:
                call = self._queue.get_nowait()
            except queue.Empty:
                return
            if call is not None and call.future.cancel():
                call.future.set_running_or_notify_cancel()


def _serve(calls: queue.SimpleQueue[_Call | None], idle: threading.Semaphore) -> None:
    """Run calls until told to stop, and tell the next thread."""
    while True:
        try:
            call = calls.get_nowait()
        except queue.Empty:
            idle.release()
            call = calls.get()
        if call is None:
            calls.put(None)
            return
        call.run()
        del call  # else the last result lives as long as the thread waits


_open_pools: weakref.WeakSet[WaitingThreadPool] = weakref.WeakSet()


def _wait_at_exit(pool: WaitingThreadPool) -> None:
    if not _open_pools:
        # Registered late, so that it runs before what a program registered for its own end.
        atexit.unregister(_finish_pools)
        atexit.register(_finish_pools)
    _open_pools.add(pool)


def _finish_pools() -> None:
    """Let open pools finish what they have, as the standard pool does when Python ends."""
    pools = list(_open_pools)
    for pool in pools:
        pool.shutdown(wait=False)
    for pool in pools:
        pool.shutdown()
