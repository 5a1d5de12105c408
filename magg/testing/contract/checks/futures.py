"""Futures: their states, cancelling, callbacks and what they hold on to."""

# ruff: noqa: PT009, PT027 - authors of backends may have no pytest

from __future__ import annotations

import logging
import tempfile
import threading
import time
import weakref
from concurrent.futures import CancelledError, Executor, Future, wait
from pathlib import Path
from typing import Any

from magg.testing.contract import calls
from magg.testing.contract.case import ContractCase


class States(ContractCase):
    """Pending, running, done."""

    def test_a_call_is_running_and_then_done(self) -> None:
        """running() and done() follow the call, and are never both true."""

        def check(executor: Executor, pause: float) -> None:
            future = executor.submit(calls.sleep_then, 2 * pause, "slept")
            self.assertFalse(future.done())
            self.eventually(lambda: future.running() or future.done(), "the call is running")
            self.assertTrue(future.running(), "done without ever running")
            self.assertEqual(future.result(self.patience), "slept")
            self.assertEqual(
                (future.running(), future.done(), future.cancelled()), (False, True, False)
            )

        self.in_time(check)

    def test_a_call_that_failed_is_done(self) -> None:
        """An exception ends a future as a result does."""
        future = self.executor.submit(calls.raise_named, "DetailedError")
        future.exception(self.patience)
        self.assertEqual(
            (future.running(), future.done(), future.cancelled()), (False, True, False)
        )


class Cancelling(ContractCase):
    """`Future.cancel`."""

    def test_a_call_that_waits_can_be_cancelled(self) -> None:
        """It is then cancelled and done, says so, and the others are untouched."""

        def check(executor: Executor, pause: float) -> list[Future[str]]:
            futures = [executor.submit(calls.sleep_then, pause / 2, "slept") for _ in range(8)]
            self.assertTrue(futures[-1].cancel())
            return futures

        futures = self.in_time(check)
        last = futures[-1]
        self.assertEqual((last.cancelled(), last.done(), last.running()), (True, True, False))
        self.assertTrue(last.cancel(), "cancelling again is no error")
        with self.assertRaises(CancelledError):
            last.result(self.patience)
        with self.assertRaises(CancelledError):
            last.exception(self.patience)
        self.assertEqual([future.result(self.patience) for future in futures[:-1]], ["slept"] * 7)
        self.assertIn(last, wait(futures, self.patience).done)

    def test_a_call_that_was_cancelled_is_never_made(self) -> None:
        """True from cancel() is a promise."""
        self.needs_shared_files()
        with tempfile.TemporaryDirectory() as folder:

            def check(executor: Executor, pause: float) -> Path:
                path = Path(folder, f"called-{pause:g}")
                executor.submit(calls.sleep_then, 2 * pause)
                call = executor.submit(calls.append_line, str(path))
                later = executor.submit(pow, 2, 5)
                self.assertTrue(call.cancel())
                # One worker makes the calls in their order, and shutdown() waits for the worker:
                # by then the call has been made, if it is made at all.
                self.assertEqual(later.result(self.patience), 32)
                executor.shutdown(wait=True)
                return path

            self.assertFalse(self.in_time(check, max_workers=1).exists())

    def test_a_call_that_runs_cannot_be_cancelled(self) -> None:
        """cancel() returns False, and the result comes."""

        def check(executor: Executor, pause: float) -> None:
            future = executor.submit(calls.sleep_then, 2 * pause, "slept")
            self.eventually(lambda: future.running() or future.done(), "the call is running")
            self.assertFalse(future.cancel())
            self.assertFalse(future.done(), "the call was over before it could be cancelled")
            self.assertFalse(future.cancelled())
            self.assertEqual(future.result(self.patience), "slept")

        self.in_time(check)

    def test_a_call_that_is_done_cannot_be_cancelled(self) -> None:
        """cancel() returns False, and the result stays."""
        future = self.executor.submit(pow, 2, 8)
        future.result(self.patience)
        self.assertFalse(future.cancel())
        self.assertEqual(future.result(), 256)


class Callbacks(ContractCase):
    """`Future.add_done_callback`."""

    def test_a_callback_comes_once_with_the_future_that_is_done(self) -> None:
        """Whether the call went well, failed or was cancelled."""
        seen: list[tuple[Future[Any], bool]] = []
        busy = [self.executor.submit(calls.sleep_then, 0.5) for _ in range(8)]
        futures = [busy[0], self.executor.submit(calls.raise_named, "DetailedError"), busy[-1]]
        for future in futures:
            future.add_done_callback(lambda future: seen.append((future, future.done())))
        busy[-1].cancel()
        self.eventually(lambda: len(seen) >= 3, "three callbacks came")
        self.executor.shutdown(wait=True)
        time.sleep(0.5)
        self.assertEqual(len(seen), 3)
        self.assertEqual(dict(seen), dict.fromkeys(futures, True))

    def test_a_callback_added_late_comes_at_once(self) -> None:
        """Adding to a future that is done calls before returning."""
        future = self.executor.submit(pow, 2, 8)
        future.result(self.patience)
        seen: list[Future[int]] = []
        future.add_done_callback(seen.append)
        self.assertEqual(seen, [future])

    def test_a_callback_that_fails_harms_nobody(self) -> None:
        """Later callbacks come, in the order in which they were added, and calls go on."""
        logging.getLogger("concurrent.futures").addHandler(logging.NullHandler())
        seen: list[int] = []
        future = self.executor.submit(calls.sleep_then, 0.5, "slept")
        future.add_done_callback(lambda _: seen.append(1))
        future.add_done_callback(lambda _: calls.raise_named("DetailedError"))
        future.add_done_callback(lambda _: seen.append(2))
        self.assertEqual(future.result(self.patience), "slept")
        self.eventually(lambda: seen == [1, 2], "the other callbacks came in order")
        self.assert_usable()

    def test_a_callback_may_submit(self) -> None:
        """A call that follows another needs no thread of its own."""
        followers: list[Future[int]] = []
        came = threading.Event()

        def follow(_: Future[Any]) -> None:
            followers.append(self.executor.submit(pow, 2, 5))
            came.set()

        self.executor.submit(calls.sleep_then, 0.2).add_done_callback(follow)
        self.assertTrue(came.wait(self.patience), "submit() in a callback did not return")
        self.assertEqual(followers[0].result(self.patience), 32)


class References(ContractCase):
    """Nothing is held longer than the caller holds it: thousands of results add up."""

    def test_arguments_are_let_go_after_the_call(self) -> None:
        """Whether it went well or failed, and with the future dropped."""
        for method in ("touch", "fail"):
            thing = calls.Thing()
            reference = weakref.ref(thing)
            self.executor.submit(getattr(thing, method))
            del thing
            self.assert_dies(reference, f"the argument of a call ({method})")

    def test_a_result_goes_with_its_future(self) -> None:
        """Neither executor nor workers keep results."""
        future = self.executor.submit(calls.make_thing)
        reference = weakref.ref(future.result(self.patience))
        self.assertIsNotNone(reference())
        del future
        self.assert_dies(reference, "the result of a dropped future")

    def test_a_future_is_let_go_when_it_is_done(self) -> None:
        """The executor keeps no future that is done; one that was cancelled neither."""
        future: Future[Any] = self.executor.submit(pow, 2, 3)
        future.result(self.patience)
        reference = weakref.ref(future)
        del future
        self.assert_dies(reference, "a future that is done")

    def test_an_error_goes_with_its_future(self) -> None:
        """Exceptions hold frames, and frames hold data."""
        future = self.executor.submit(calls.raise_named, "DetailedError")
        error = future.exception(self.patience)
        assert error is not None  # noqa: S101 - for the type
        reference = weakref.ref(error)
        del future, error
        self.assert_dies(reference, "the error of a dropped future")
