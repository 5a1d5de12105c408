"""Executors that break the contract, each in one way, over threads that keep it."""

from __future__ import annotations

import os
import sys
import threading
import time
import unittest
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from typing import ClassVar

SHARED = ThreadPoolExecutor(2)


class LosesSystemExit(ThreadPoolExecutor):
    """The worker catches Exception alone, so that the future of a call that exits never ends."""

    def submit(self, fn, /, *args, **kwargs):
        future = Future()

        def work():
            future.set_running_or_notify_cancel()
            try:
                future.set_result(fn(*args, **kwargs))
            except Exception as error:  # noqa: BLE001 - the fault in question
                future.set_exception(error)

        super().submit(work)
        return future


class Wrapping(ThreadPoolExecutor):
    """Runs something else than the call."""

    def submit(self, fn, /, *args, **kwargs):
        return super().submit(self.work, fn, args, kwargs)

    def work(self, fn, args, kwargs):
        return fn(*args, **kwargs)


class CallsTwice(Wrapping):
    def work(self, fn, args, kwargs):
        fn(*args, **kwargs)
        return fn(*args, **kwargs)


class ChangesErrors(Wrapping):
    def work(self, fn, args, kwargs):
        try:
            return fn(*args, **kwargs)
        except Exception as error:
            raise RuntimeError(str(error)) from error


class LosesTracebacks(ThreadPoolExecutor):
    def submit(self, fn, /, *args, **kwargs):
        inner, outer = super().submit(fn, *args, **kwargs), Future()

        def copy(_):
            error = inner.exception()
            if error is None:
                outer.set_result(inner.result())
            else:
                outer.set_exception(type(error)(*error.args))

        inner.add_done_callback(copy)
        return outer


class LosesFalseErrors(ThreadPoolExecutor):
    def submit(self, fn, /, *args, **kwargs):
        inner, outer = super().submit(fn, *args, **kwargs), Future()

        def copy(_):
            if error := inner.exception():
                outer.set_exception(error)
            else:
                outer.set_result(None)

        inner.add_done_callback(copy)
        return outer


class Remembers(Wrapping):
    def __init__(self, max_workers):
        super().__init__(max_workers)
        self.memory = {}

    def work(self, fn, args, kwargs):
        key = (fn, args, *kwargs.items())
        if key not in self.memory:
            self.memory[key] = fn(*args, **kwargs)
        return self.memory[key]


class LosesOneInAThousand(ThreadPoolExecutor):
    count = 0

    def submit(self, fn, /, *args, **kwargs):
        self.count += 1
        return Future() if self.count % 1_000 == 0 else super().submit(fn, *args, **kwargs)


class RunsAtSubmit(ThreadPoolExecutor):
    def submit(self, fn, /, *args, **kwargs):
        future = super().submit(fn, *args, **kwargs)
        future.exception()
        return future


class OneAtATime(ThreadPoolExecutor):
    def __init__(self, max_workers):
        super().__init__(1)


class TakesKeywords(ThreadPoolExecutor):
    def submit(self, fn, /, *args, retries=0, **kwargs):
        return super().submit(fn, *args, **kwargs)


class NamesItsArguments(ThreadPoolExecutor):
    def submit(self, fn, *args, **kwargs):
        return super().submit(fn, *args, **kwargs)


class TakesAnyNumber(ThreadPoolExecutor):
    def __init__(self, max_workers):
        super().__init__(max_workers if max_workers and max_workers > 0 else 1)


class NeverCancels(ThreadPoolExecutor):
    def submit(self, fn, /, *args, **kwargs):
        future = super().submit(fn, *args, **kwargs)
        future.cancel = lambda: False
        return future


class CancelsInNameOnly(ThreadPoolExecutor):
    """The future is cancelled, and the call is made all the same."""

    def submit(self, fn, /, *args, **kwargs):
        inner, outer = super().submit(fn, *args, **kwargs), Future()
        inner.add_done_callback(lambda _: outer.cancelled() or outer.set_result(inner.result()))
        return outer


class CallsBackTwice(ThreadPoolExecutor):
    def submit(self, fn, /, *args, **kwargs):
        future = super().submit(fn, *args, **kwargs)
        add = future.add_done_callback
        future.add_done_callback = lambda callback: (add(callback), add(callback))
        return future


class KeepsFutures(ThreadPoolExecutor):
    def __init__(self, max_workers):
        super().__init__(max_workers)
        self.kept = []

    def submit(self, fn, /, *args, **kwargs):
        self.kept.append(super().submit(fn, *args, **kwargs))
        return self.kept[-1]


class KeepsArguments(Wrapping):
    kept: ClassVar = []

    def work(self, fn, args, kwargs):
        self.kept.append((fn, args, kwargs))
        return fn(*args, **kwargs)


class MapsWithoutCancelling(ThreadPoolExecutor):
    def map(self, fn, *iterables, timeout=None, chunksize=1):
        futures = [self.submit(fn, *args) for args in zip(*iterables, strict=False)]
        return (future.result() for future in futures)


class MapsLazily(ThreadPoolExecutor):
    def map(self, fn, *iterables, timeout=None, chunksize=1):
        return (self.submit(fn, *args).result() for args in zip(*iterables, strict=False))


class WorksAfterShutdown(ThreadPoolExecutor):
    def shutdown(self, wait=True, *, cancel_futures=False):
        pass


class ShutsDownWithoutWaiting(ThreadPoolExecutor):
    def shutdown(self, wait=True, *, cancel_futures=False):
        super().shutdown(wait=False, cancel_futures=cancel_futures)


class AlwaysWaits(ThreadPoolExecutor):
    def shutdown(self, wait=True, *, cancel_futures=False):
        super().shutdown(wait=True, cancel_futures=cancel_futures)


class CancelsNothing(ThreadPoolExecutor):
    def shutdown(self, wait=True, *, cancel_futures=False):
        super().shutdown(wait=wait)


class HangsAtShutdown(ThreadPoolExecutor):
    def shutdown(self, wait=True, *, cancel_futures=False):
        threading.Event().wait()


class LocksAtShutdown(ThreadPoolExecutor):
    """Waits for its calls with the lock that submit() needs."""

    def __init__(self, max_workers):
        super().__init__(max_workers)
        self.lock = threading.Lock()

    def submit(self, fn, /, *args, **kwargs):
        with self.lock:
            return super().submit(fn, *args, **kwargs)

    def shutdown(self, wait=True, *, cancel_futures=False):
        with self.lock:
            super().shutdown(wait=wait, cancel_futures=cancel_futures)


class KeepsTheProcess(ThreadPoolExecutor):
    def __init__(self, max_workers):
        super().__init__(max_workers)
        threading.Thread(target=time.sleep, args=(600,)).start()


class LosesCallsAtExit(Executor):
    """Threads that the interpreter does not wait for."""

    def __init__(self, max_workers):
        pass

    def submit(self, fn, /, *args, **kwargs):
        future = Future()

        def work():
            future.set_result(fn(*args, **kwargs))

        threading.Thread(target=work, daemon=True).start()
        return future


class Crashes(ThreadPoolExecutor):
    def submit(self, fn, /, *args, **kwargs):
        os._exit(9)


class LeavesAProcess(ThreadPoolExecutor):
    """Hangs at shutdown with a process of its own that outlives it."""

    def __init__(self, max_workers):
        import subprocess
        from pathlib import Path

        super().__init__(max_workers)
        process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
        Path(os.environ["MAGG_TEST_PIDS"]).write_text(f"{os.getpid()} {process.pid}")

    def shutdown(self, wait=True, *, cancel_futures=False):
        threading.Event().wait()


def one_for_all(max_workers):
    return SHARED


def refuses_none(max_workers):
    if max_workers is None:
        raise unittest.SkipTest("say how many")
    return ThreadPoolExecutor(max_workers)


def needs_a_variable(max_workers):
    assert os.environ["MAGG_TEST_GIVEN"] == "1"
    return ThreadPoolExecutor(max_workers)


def tells_arguments(max_workers):
    raise unittest.SkipTest(" ".join(sys.orig_argv))
