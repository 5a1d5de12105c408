"""The end of an executor, and the end of the process that uses one."""

# ruff: noqa: PT009, PT027 - authors of backends may have no pytest

from __future__ import annotations

import threading
import time
from concurrent.futures import Executor, Future, wait
from typing import Any

from magg.testing.contract import calls
from magg.testing.contract.case import ContractCase


class Shutdown(ContractCase):
    """`Executor.shutdown` and the with-block."""

    def test_submit_afterwards_is_an_error(self) -> None:
        """A RuntimeError, whether the executor has worked or not."""
        self.executor.shutdown()
        with self.assertRaises(RuntimeError):
            self.executor.submit(pow, 2, 3)

    def test_shutdown_again_is_no_error(self) -> None:
        """With and without waiting, in any order."""
        self.assert_usable()
        self.executor.shutdown(wait=False)
        self.executor.shutdown()
        self.executor.shutdown(wait=True)

    def test_shutdown_waits_for_all_calls(self) -> None:
        """Running and waiting calls are finished, and their futures done, when it returns."""
        # Long enough for a client that did not wait to look before they are over.
        futures = [self.executor.submit(calls.sleep_then, 1.0, n) for n in range(6)]
        self.executor.shutdown()
        self.assertTrue(all(future.done() for future in futures))
        self.assertEqual([future.result(0) for future in futures], list(range(6)))

    def test_shutdown_without_waiting_returns_at_once(self) -> None:
        """The calls are finished all the same."""

        def check(executor: Executor, pause: float) -> None:
            futures = [executor.submit(calls.sleep_then, pause, n) for n in range(4)]
            executor.shutdown(wait=False)
            self.assertFalse(any(future.done() for future in futures))
            self.assertEqual([future.result(self.patience) for future in futures], list(range(4)))

        self.in_time(check)

    def test_calls_that_wait_can_be_cancelled_with_it(self) -> None:
        """cancel_futures=True: what runs is finished, the rest is cancelled, none is left open."""

        def check(executor: Executor, pause: float) -> None:
            futures = [executor.submit(calls.sleep_then, pause / 4, "slept") for _ in range(40)]
            executor.shutdown(cancel_futures=True)
            # wait() is not told of them by the standard pools (gh-109934, gh-136655).
            self.eventually(lambda: all(future.done() for future in futures), "all are done")
            finished = [future.result() for future in futures if not future.cancelled()]
            self.assertEqual(finished, ["slept"] * len(finished))
            self.assertLess(len(finished), 30)

        self.in_time(check)

    def test_a_with_block_waits(self) -> None:
        """Leaving it, by an error too, finishes the calls and shuts the executor down."""
        futures = []
        with self.assertRaisesRegex(ValueError, "of the block"), self.executor:
            futures += [self.executor.submit(calls.sleep_then, 1.0, "slept") for _ in range(4)]
            raise ValueError("of the block")
        self.assertEqual([future.result(0) for future in futures], ["slept"] * 4)
        with self.assertRaises(RuntimeError):
            self.executor.submit(pow, 2, 3)

    def test_a_with_block_gives_the_executor(self) -> None:
        """`with executor as same` binds the executor itself."""
        with self.executor as same:
            self.assertIs(same, self.executor)

    def test_shutdown_after_a_call_was_cancelled_does_not_hang(self) -> None:
        """Cancelled calls count as finished (gh-94440)."""
        self.warm_up(self.executor)
        for _ in range(8):
            self.executor.submit(pow, 2, 3).cancel()
        self.executor.shutdown()

    def test_a_callback_may_submit_during_shutdown(self) -> None:
        """It gets a future that ends, or a RuntimeError, and shutdown() returns."""
        outcomes: list[Future[int] | None] = []

        def follow(_: Future[Any]) -> None:
            try:
                outcomes.append(self.executor.submit(pow, 2, 5))
            except RuntimeError:
                outcomes.append(None)

        for _ in range(4):
            self.executor.submit(calls.sleep_then, 1.0).add_done_callback(follow)
        self.executor.shutdown()
        self.eventually(lambda: len(outcomes) == 4, "submit() in a callback returned")
        for future in outcomes:
            if future is not None:
                self.assert_ends(future)

    def test_other_threads_may_submit_during_shutdown(self) -> None:
        """Each gets a RuntimeError in the end, and every future that it got before ends."""
        futures: list[Future[int]] = []

        def submit() -> None:
            try:
                while len(futures) < 10_000:
                    futures.append(self.executor.submit(pow, 2, 5))
                    time.sleep(0.02)
            except RuntimeError:
                pass

        threads = [threading.Thread(target=submit, daemon=True) for _ in range(4)]
        for thread in threads:
            thread.start()
        time.sleep(0.3)
        self.executor.shutdown()
        for thread in threads:
            thread.join(self.patience)
        self.assertFalse(any(thread.is_alive() for thread in threads), "submit() hangs")
        self.assertEqual(wait(futures, self.patience).not_done, set())

    def test_a_callback_may_shut_down(self) -> None:
        """shutdown(wait=False) in a callback returns, and the calls are finished."""
        returned = threading.Event()

        def end(_: Future[Any]) -> None:
            self.executor.shutdown(wait=False)
            returned.set()

        futures = [self.executor.submit(calls.sleep_then, 0.5, n) for n in range(4)]
        futures[0].add_done_callback(end)
        self.assertTrue(returned.wait(self.patience), "shutdown() in a callback did not return")
        self.assertEqual([future.result(self.patience) for future in futures], list(range(4)))

    def test_an_executor_that_is_dropped_finishes_its_calls(self) -> None:
        """Futures live on without the variable that held their executor."""
        executor = self.executor_type(max_workers=2)
        futures = [executor.submit(calls.sleep_then, 0.3, n) for n in range(6)]
        del executor
        self.assertEqual([future.result(self.patience) for future in futures], list(range(6)))

    def test_the_end_of_one_executor_is_not_that_of_another(self) -> None:
        """Two executors of one factory have nothing in common."""
        other = self.another()
        future = other.submit(calls.sleep_then, 1.0, "slept")
        self.executor.submit(pow, 2, 3).result(self.patience)
        self.executor.shutdown(wait=True)
        self.assertEqual(future.result(self.patience), "slept")
        self.assertEqual(other.submit(pow, 2, 5).result(self.patience), 32)


class Exit(ContractCase):
    """Processes that use an executor and end; each check plays a scene in another process."""

    def setUp(self) -> None:
        """Make no executor here."""

    def tearDown(self) -> None:
        """Shut down no executor here."""

    def test_calls_that_wait_are_finished(self) -> None:
        """The interpreter ends when all calls are done, and then at once."""
        code, said = self.at_exit("pending")
        self.assertEqual((code, said.split().count("finished")), (0, 6), repr(said))

    def test_calls_are_finished_after_shutdown_without_waiting(self) -> None:
        """shutdown(wait=False) loses no calls and keeps no process."""
        code, said = self.at_exit("no_wait")
        self.assertEqual((code, said.split().count("finished")), (0, 4), repr(said))

    def test_an_executor_without_work_keeps_no_process(self) -> None:
        """Nobody has to call shutdown()."""
        code, said = self.at_exit("idle")
        self.assertEqual((code, said.split()[:1]), (0, ["32"]), repr(said))

    def test_the_program_keeps_its_status(self) -> None:
        """sys.exit(3) while calls are running finishes them and ends with 3."""
        code, said = self.at_exit("error")
        self.assertEqual((code, said.split().count("finished")), (3, 1), repr(said))

    def test_submit_at_exit_is_an_error(self) -> None:
        """A RuntimeError, where it would otherwise wait for ever."""
        _, said = self.at_exit("submit_late")
        self.assertIn("RuntimeError", said)
