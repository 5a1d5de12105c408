"""Calls that fail."""

# ruff: noqa: PT009, PT027 - authors of backends may have no pytest

from __future__ import annotations

import threading
import traceback
from concurrent.futures import CancelledError, Future
from typing import Any

from magg.testing.contract import calls
from magg.testing.contract.case import ContractCase


class Errors(ContractCase):
    """What the caller learns of an exception, and that one failed call harms no other."""

    def error_of(self, name: str) -> BaseException:
        """Return the exception of a call that raised it."""
        future = self.executor.submit(calls.raise_named, name)
        error = future.exception(self.patience)
        if error is None:
            self.fail(f"the exception was lost: {future}")
        return error

    def test_result_raises_what_the_call_raised(self) -> None:
        """Type and arguments are those of the function's exception."""
        future = self.executor.submit(calls.raise_error, ValueError("wrong", 7))
        with self.assertRaises(ValueError) as raised:
            future.result(self.patience)
        self.assertIs(type(raised.exception), ValueError)
        self.assertEqual(raised.exception.args, ("wrong", 7))

    def test_exception_returns_what_result_raises(self) -> None:
        """exception() returns it without raising, and None where the call went well."""
        error = self.error_of("DetailedError")
        self.assertIs(type(error), calls.DetailedError)
        self.assertEqual((error.args, error.code), (("detailed", 7), 7))  # type: ignore[attr-defined]
        self.assertIsNone(self.executor.submit(pow, 2, 3).exception(self.patience))

    def test_an_os_error_keeps_its_file(self) -> None:
        """Number and file name of an OSError arrive."""
        error = self.error_of("FileNotFoundError")
        self.assertIs(type(error), FileNotFoundError)
        self.assertEqual((error.errno, error.filename), (2, "granule.h5"))  # type: ignore[attr-defined]

    def test_the_traceback_tells_where_it_was_raised(self) -> None:
        """The printed traceback names the worker's frames, in itself, a cause or a note."""
        error = self.error_of("FileNotFoundError")
        printed = "".join(traceback.format_exception(error))
        self.assertIn("fail_deep_inside", printed)
        self.assertIn("calls.py", printed)

    def test_an_exception_that_is_false_is_still_raised(self) -> None:
        """Whether an exception counts as true does not matter."""
        future = self.executor.submit(calls.raise_named, "FalseyError")
        self.assertIs(type(future.exception(self.patience)), calls.FalseyError)
        if not _futures_raise_what_is_false():
            self.skipTest("exception() is right; result() of this Python loses such exceptions")
        with self.assertRaises(calls.FalseyError):
            future.result()

    def test_an_exception_that_is_returned_is_a_result(self) -> None:
        """Only what is raised is an error."""
        result = self.executor.submit(calls.identity, ValueError("fine")).result(self.patience)
        self.assertIs(type(result), ValueError)

    def test_system_exit_ends_the_call_alone(self) -> None:
        """SystemExit is stored like any exception, and the workers go on."""
        error = self.error_of("SystemExit")
        self.assertIs(type(error), SystemExit)
        self.assert_usable()

    def test_a_keyboard_interrupt_of_the_call_ends_the_call_alone(self) -> None:
        """KeyboardInterrupt is stored like any exception, and the workers go on."""
        error = self.error_of("KeyboardInterrupt")
        self.assertIs(type(error), KeyboardInterrupt)
        self.assert_usable()

    def test_a_timeout_of_the_call_is_the_calls_own(self) -> None:
        """A TimeoutError that the function raised ends the future."""
        future = self.executor.submit(calls.raise_named, "TimeoutError")
        self.eventually(future.done, "a call that raised TimeoutError is done")
        self.assertEqual(str(future.exception(0)), "the call's own")

    def test_a_cancelled_error_of_the_call_is_no_cancellation(self) -> None:
        """A function that raises CancelledError has failed; nobody cancelled it."""
        future = self.executor.submit(calls.raise_named, "CancelledError")
        self.eventually(future.done, "a call that raised CancelledError is done")
        self.assertFalse(future.cancelled())
        self.assertIs(type(future.exception(0)), CancelledError)

    def test_stop_iteration_is_stored(self) -> None:
        """StopIteration, which ends loops by accident, is an exception like others."""
        self.assertIs(type(self.error_of("StopIteration")), StopIteration)

    def test_an_argument_that_cannot_be_pickled_does_not_hang(self) -> None:
        """It is an error at submit() or of the future, or works; later calls go on."""
        self._ends(calls.identity, threading.Lock())
        self.assert_usable()

    def test_a_function_that_cannot_be_pickled_does_not_hang(self) -> None:
        """So are functions that have no importable name."""
        self._ends(lambda: 5)
        self.assert_usable()

    def test_a_result_that_cannot_be_pickled_does_not_hang(self) -> None:
        """It is an error of the future, or works; later calls go on."""
        self._ends(calls.make_lock)
        self._ends(calls.count_up_to, 3)
        self.assert_usable()

    def test_an_exception_that_cannot_be_pickled_does_not_hang(self) -> None:
        """An exception that cannot be brought back is another exception, never silence."""
        self.assertIsNotNone(self.error_of("OneWayError"))

    def test_a_worker_that_dies_fails_its_call(self) -> None:
        """A worker that is killed or runs out of memory ends its future with an exception."""
        if self.executor.submit(calls.place).result(self.patience) == calls.place():
            self.skipTest("calls run in this process, which would end")
        future = self.executor.submit(calls.die)
        self.assertIsInstance(future.exception(2 * self.patience), Exception)

    def _ends(self, function: Any, *args: Any) -> None:
        """Check that a call ends, were it at once with an error."""
        try:
            future = self.executor.submit(function, *args)
        except Exception:  # noqa: BLE001 - any is better than silence
            return
        self.assert_ends(future)


def _futures_raise_what_is_false() -> bool:
    """Tell whether this Python's own Future raises exceptions that are false (gh-132063)."""
    future: Future[None] = Future()
    future.set_exception(calls.FalseyError())
    try:
        future.result()
    except calls.FalseyError:
        return True
    return False
