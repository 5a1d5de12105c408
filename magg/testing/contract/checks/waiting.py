"""Waiting for futures: `result`, `wait`, `as_completed`, asyncio."""

# ruff: noqa: PT009, PT027 - authors of backends may have no pytest

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import (
    FIRST_COMPLETED,
    FIRST_EXCEPTION,
    Executor,
    Future,
    as_completed,
    wait,
)

from magg.testing.contract import calls
from magg.testing.contract.case import ContractCase


class Waiting(ContractCase):
    """All ways to wait see the same futures."""

    def test_a_result_may_be_asked_for_again_after_a_timeout(self) -> None:
        """TimeoutError tells of the waiting, not of the call."""

        def check(executor: Executor, pause: float) -> None:
            future = executor.submit(calls.sleep_then, 2 * pause, "slept")
            with self.assertRaises(TimeoutError):
                future.result(0.05)
            with self.assertRaises(TimeoutError):
                future.exception(0.05)
            self.assertFalse(future.cancelled())
            self.assertEqual([future.result(self.patience), future.result()], ["slept", "slept"])

        self.in_time(check)

    def test_several_threads_may_wait_for_one_future(self) -> None:
        """Each gets the result."""
        future = self.executor.submit(calls.sleep_then, 0.5, "slept")
        got: list[str] = []
        threads = [
            threading.Thread(target=lambda: got.append(future.result()), daemon=True)
            for _ in range(4)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(self.patience)
        self.assertEqual(got, ["slept"] * 4)

    def test_wait_returns_when_all_are_done(self) -> None:
        """Failed futures and those that appear twice count as done, once."""
        good = self.executor.submit(calls.sleep_then, 0.5)
        bad = self.executor.submit(calls.sleep_then_fail, 0.5)
        done, waiting = wait([good, bad, good], self.patience)
        self.assertEqual((done, waiting), ({good, bad}, set()))

    def test_wait_returns_at_the_first_that_is_done(self) -> None:
        """FIRST_COMPLETED does not wait for the slow one."""

        def check(executor: Executor, pause: float) -> None:
            slow = executor.submit(calls.sleep_then, 6 * pause)
            quick = executor.submit(pow, 2, 3)
            done, waiting = wait([slow, quick], self.patience, return_when=FIRST_COMPLETED)
            self.assertEqual((done, waiting), ({quick}, {slow}))

        self.in_time(check)

    def test_wait_returns_at_the_first_error(self) -> None:
        """FIRST_EXCEPTION passes over results."""

        def check(executor: Executor, pause: float) -> None:
            slow = executor.submit(calls.sleep_then, 6 * pause)
            quick = executor.submit(pow, 2, 3)
            bad = executor.submit(calls.sleep_then_fail, pause)
            done, waiting = wait([slow, quick, bad], self.patience, return_when=FIRST_EXCEPTION)
            self.assertEqual((done, waiting), ({quick, bad}, {slow}))

        self.in_time(check, max_workers=3)

    def test_wait_gives_up_in_time(self) -> None:
        """A timeout returns what is done by then."""

        def check(executor: Executor, pause: float) -> None:
            slow = executor.submit(calls.sleep_then, 4 * pause)
            quick = executor.submit(pow, 2, 3)
            done, waiting = wait([slow, quick], 2 * pause)
            self.assertEqual((done, waiting), ({quick}, {slow}))

        self.in_time(check)

    def test_wait_takes_futures_of_several_executors(self) -> None:
        """Futures of two executors, and one that belongs to none."""
        foreign: Future[int] = Future()
        foreign.set_result(1)
        futures = {
            self.executor.submit(pow, 2, 3),
            self.another().submit(pow, 2, 4),
            foreign,
        }
        self.assertEqual(wait(futures, self.patience).done, futures)

    def test_as_completed_yields_in_the_order_of_ending(self) -> None:
        """The quick one comes first, and one that was given twice comes once."""

        def check(executor: Executor, pause: float) -> None:
            slow = executor.submit(calls.sleep_then, 4 * pause)
            quick = executor.submit(pow, 2, 3)
            self.assertEqual(list(as_completed([slow, quick, slow], self.patience)), [quick, slow])

        self.in_time(check)

    def test_as_completed_gives_up_in_time(self) -> None:
        """What is done by then was yielded before the TimeoutError."""

        def check(executor: Executor, pause: float) -> None:
            slow = executor.submit(calls.sleep_then, 4 * pause)
            quick = executor.submit(pow, 2, 3)
            seen = []
            with self.assertRaises(TimeoutError):
                for future in as_completed([slow, quick], 2 * pause):
                    seen.append(future)  # noqa: PERF402 - the loop ends by an error
            self.assertEqual(seen, [quick])

        self.in_time(check)

    def test_asyncio_can_await_calls(self) -> None:
        """loop.run_in_executor() works, with results and errors."""

        async def main() -> tuple[int, BaseException]:
            loop = asyncio.get_running_loop()
            good = loop.run_in_executor(self.executor, pow, 2, 8)
            bad = loop.run_in_executor(self.executor, calls.raise_named, "DetailedError")
            result, error = await asyncio.gather(good, bad, return_exceptions=True)
            return result, error  # type: ignore[return-value]

        result, error = asyncio.run(asyncio.wait_for(main(), 2 * self.patience))
        self.assertEqual((result, type(error)), (256, calls.DetailedError))
