"""Calls and their results."""

# ruff: noqa: PT009, PT027 - authors of backends may have no pytest

from __future__ import annotations

import concurrent.futures
import itertools
import tempfile
import threading
import time
from concurrent.futures import Executor, Future
from pathlib import Path
from typing import Any

from magg.testing.contract import calls
from magg.testing.contract.case import ContractCase


class Submitting(ContractCase):
    """`Executor.submit` and what comes back."""

    def test_executor_and_future_are_of_concurrent_futures(self) -> None:
        """Both are instances of the standard classes, so that wait() and asyncio accept them."""
        self.assertIsInstance(self.executor, concurrent.futures.Executor)
        self.assertIsInstance(self.executor.submit(pow, 2, 3), Future)

    def test_the_result_comes_back(self) -> None:
        """result() returns what the function returned."""
        self.assertEqual(self.executor.submit(pow, 2, 8).result(self.patience), 256)

    def test_a_result_may_be_false(self) -> None:
        """None, 0 and empty results are results."""
        values: list[Any] = [None, 0, "", []]
        futures = [self.executor.submit(calls.identity, value) for value in values]
        self.assertEqual([future.result(self.patience) for future in futures], values)

    def test_arguments_and_keywords_arrive(self) -> None:
        """The function gets what was passed, in order and by name."""
        future = self.executor.submit(calls.capture, 1, (2, "three"), four={"five": 6})
        self.assertEqual(future.result(self.patience), ((1, (2, "three")), {"four": {"five": 6}}))

    def test_a_keyword_may_be_named_self_or_fn(self) -> None:
        """Only the function is the executor's own argument, and by position."""
        future = self.executor.submit(calls.capture, 1, self=2, fn=3)
        self.assertEqual(future.result(self.patience), ((1,), {"self": 2, "fn": 3}))

    def test_keywords_belong_to_the_function(self) -> None:
        """No keyword is taken as an option of the executor."""
        keywords = ["pure", "key", "workers", "retries", "priority", "timeout", "args", "kwargs"]
        given = dict.fromkeys([*keywords, "resources", "callback", "func", "executor"], 1)
        future = self.executor.submit(calls.capture, **given)
        self.assertEqual(future.result(self.patience), ((), given))

    def test_the_function_is_given_by_position(self) -> None:
        """submit(fn=...) and submit() are TypeErrors."""
        submit: Any = self.executor.submit
        with self.assertRaises(TypeError):
            submit(fn=calls.capture, argument=1)
        with self.assertRaises(TypeError):
            submit()

    def test_submit_does_not_wait_for_the_call(self) -> None:
        """submit() returns while the call is running, and also when all workers are busy."""

        def check(executor: Executor, pause: float) -> None:
            first = executor.submit(calls.sleep_then, 2 * pause)
            self.assertFalse(first.done())
            others = [executor.submit(calls.sleep_then, 2 * pause) for _ in range(3 * self.workers)]
            self.assertFalse(first.done())
            for future in others:
                future.cancel()

        self.in_time(check)

    def test_calls_run_side_by_side(self) -> None:
        """With two workers, two calls run at the same time."""

        def check(executor: Executor, pause: float) -> None:
            spans = [executor.submit(calls.span, pause) for _ in range(3 * self.workers)]
            times = sorted(future.result(self.patience) for future in spans)
            overlaps = [begin < end for (_, end), (begin, _) in itertools.pairwise(times)]
            self.assertTrue(any(overlaps), f"one after another: {times}")

        self.in_time(check)

    def test_equal_calls_are_all_made(self) -> None:
        """A call like an earlier one is a call of its own, and not answered from memory."""
        futures = [self.executor.submit(calls.unique) for _ in range(5)]
        self.assertEqual(len({future.result(self.patience) for future in futures}), 5)

    def test_a_call_is_made_once(self) -> None:
        """The function runs exactly once for each submit()."""
        self.needs_shared_files()
        with tempfile.TemporaryDirectory() as folder:
            paths = [Path(folder, str(number)) for number in range(4)]
            futures = [self.executor.submit(calls.append_line, str(path)) for path in paths]
            for future in futures:
                future.result(self.patience)
            self.executor.shutdown(wait=True)
            time.sleep(0.5)
            self.assertEqual([path.read_text() for path in paths], ["called\n"] * 4)

    def test_a_megabyte_travels_both_ways(self) -> None:
        """Arguments and results of a million bytes arrive unchanged."""
        sent = bytes(range(250)) * 4_000
        self.assertEqual(self.executor.submit(calls.identity, sent).result(self.patience), sent)

    def test_many_futures_all_get_their_own_result(self) -> None:
        """Thousands of calls may wait at once, and none is lost or mixed up."""
        many = self.settings.many
        executor = self.another(8)
        futures = [executor.submit(calls.identity, number) for number in range(many)]
        done, waiting = concurrent.futures.wait(futures)
        self.assertEqual((len(done), len(waiting)), (many, 0))
        self.assertEqual([future.result() for future in futures], list(range(many)))

    def test_several_threads_may_submit(self) -> None:
        """submit() from eight threads at once loses and mixes up nothing."""
        results: dict[int, list[int]] = {}

        def submit(start: int) -> None:
            futures = [self.executor.submit(calls.identity, start + n) for n in range(5)]
            results[start] = [future.result() for future in futures]

        threads = [
            threading.Thread(target=submit, args=(start,), daemon=True)
            for start in range(0, 800, 100)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(2 * self.patience)
        self.assertEqual(results, {s: list(range(s, s + 5)) for s in range(0, 800, 100)})

    def test_the_number_of_workers_must_be_positive(self) -> None:
        """No workers, or fewer, are a ValueError when the executor is made."""
        for number in (0, -1):
            with self.assertRaises(ValueError):
                self.executor_type(max_workers=number)

    def test_the_number_of_workers_may_be_left_out(self) -> None:
        """max_workers=None leaves the number to the executor."""
        executor = self.another(None)
        self.assertEqual(executor.submit(pow, 2, 8).result(self.patience), 256)
