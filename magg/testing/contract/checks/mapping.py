"""`Executor.map`."""

# ruff: noqa: PT009, PT027 - authors of backends may have no pytest

from __future__ import annotations

import time
import weakref
from concurrent.futures import Executor

from magg.testing.contract import calls
from magg.testing.contract.case import ContractCase


class Mapping(ContractCase):
    """`Executor.map`: order, errors, time, and an iterator that nobody finishes."""

    def test_results_come_in_the_order_of_the_arguments(self) -> None:
        """Whichever call ends first, results come in order; with chunks too."""
        delays = [0.4, 0.2, 0.0]
        self.assertEqual(list(self.executor.map(calls.sleep_then, delays, "abc")), ["a", "b", "c"])
        squares = list(self.executor.map(pow, range(10), [2] * 10, chunksize=3))
        self.assertEqual(squares, [n * n for n in range(10)])

    def test_the_shortest_argument_ends_it(self) -> None:
        """Iterables of different lengths are cut to the shortest, as by zip."""
        self.assertEqual(list(self.executor.map(pow, [2, 3, 4], [1, 2])), [2, 9])
        self.assertEqual(list(self.executor.map(pow, [], [])), [])

    def test_an_error_is_raised_when_its_turn_comes(self) -> None:
        """Results before the failed call are delivered first."""
        results = self.executor.map(divmod, [7, 7, 7], [2, 0, 3])
        self.assertEqual(next(results), (3, 1))
        with self.assertRaises(ZeroDivisionError):
            next(results)

    def test_the_timeout_counts_from_the_call_of_map(self) -> None:
        """A result that is not there in time is a TimeoutError."""

        def check(executor: Executor, pause: float) -> None:
            delays = [0.0, 6 * pause]
            results = executor.map(calls.sleep_then, delays, [1, 2], timeout=3 * pause)
            self.assertEqual(next(results), 1)
            with self.assertRaises(TimeoutError):
                next(results)

        self.in_time(check)

    def test_calls_start_before_anybody_iterates(self) -> None:
        """map() submits at once."""

        def check(executor: Executor, pause: float) -> None:
            results = executor.map(calls.span, [0.0])
            time.sleep(2 * pause)
            asked = time.time()
            self.assertLess(next(results)[0], asked)

        self.in_time(check)

    def test_an_iterator_that_is_dropped_cancels_the_rest(self) -> None:
        """Calls that have not started are cancelled when their results cannot be asked for."""

        def check(executor: Executor, pause: float) -> None:
            results = executor.map(calls.sleep_then, [pause / 4] * 40)
            next(results)
            began = time.monotonic()
            del results
            executor.shutdown(wait=True)
            self.assertLess(time.monotonic() - began, 3 * pause, "all calls were made")

        self.in_time(check)

    def test_the_iterator_keeps_no_results(self) -> None:
        """A result that was yielded and dropped is freed."""
        for thing in self.executor.map(calls.make_thing, range(5)):
            reference = weakref.ref(thing)
            del thing
            self.assert_dies(reference, "a result that was yielded")

    def test_map_after_shutdown_is_an_error(self) -> None:
        """map() on an executor that was shut down is a RuntimeError."""
        self.executor.shutdown()
        with self.assertRaises(RuntimeError):
            list(self.executor.map(pow, [2], [3]))
