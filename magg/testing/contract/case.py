"""What all checks share: an executor before, its shutdown after."""

# ruff: noqa: PT009 - authors of backends may have no pytest

from __future__ import annotations

import contextlib
import gc
import subprocess
import sys
import tempfile
import time
import unittest
import weakref
from collections.abc import Callable
from concurrent.futures import CancelledError, Executor, Future
from pathlib import Path
from typing import Any, TypeVar

from magg.testing.contract import calls
from magg.testing.contract.settings import Settings

T = TypeVar("T")


class ContractCase(unittest.TestCase):
    """One executor, made by the factory and shut down after each check."""

    settings: Settings
    executor: Executor
    workers = 2

    @property
    def patience(self) -> float:
        """How long to wait for what should come at once (s): a busy machine fails no check."""
        return self.settings.time_limit / 3

    def setUp(self) -> None:
        """Make the executor."""
        self.executor = self.executor_type(max_workers=self.workers)

    def tearDown(self) -> None:
        """Shut the executor down, which must not hang either."""
        self.executor.shutdown(wait=True)
        del self.executor

    def executor_type(self, max_workers: int | None = None) -> Executor:
        """Return another executor; the name is CPython's."""
        return self.settings.make(max_workers)

    def another(self, max_workers: int | None = 2) -> Executor:
        """Return another executor, shut down after the check."""
        executor = self.executor_type(max_workers)
        self.addCleanup(executor.shutdown, wait=True)
        return executor

    def warm_up(self, executor: Executor) -> float:
        """Let the first worker start, so that a check may look at the clock.

        Returns
        -------
        float
            A while in which a worker that is warm does a few small calls (s).
        """
        executor.submit(calls.identity, 1).result(self.patience)
        began = time.monotonic()
        executor.submit(calls.identity, 1).result(self.patience)
        return max(1.0, 4 * (time.monotonic() - began))

    def in_time(self, check: Callable[[Executor, float], T], max_workers: int = 2) -> T:
        """Check what looks at the clock, and if it does not hold, again with more time.

        A busy machine may stop client and workers for seconds. What is wrong with an executor
        does not depend on that: it shows both times.

        Parameters
        ----------
        check : callable
            Called with a new executor that is warm, and with the while of `warm_up` or a longer
            one (s).
        max_workers : int, default 2

        Returns
        -------
        object
            What the check returned.
        """
        executor = self.another(max_workers)
        pause = self.warm_up(executor)
        try:
            return check(executor, pause)
        except (self.failureException, TimeoutError):
            executor = self.another(max_workers)
            return check(executor, max(4 * pause, self.warm_up(executor)))

    def needs_shared_files(self) -> None:
        """Skip the check where workers cannot see the client's files."""
        if not self.settings.shared_files:
            self.skipTest("the workers share no files with the client")

    def eventually(self, condition: Callable[[], object], what: str) -> None:
        """Wait until something holds, or fail with what was expected."""
        end = time.monotonic() + self.patience
        while not condition():
            if time.monotonic() > end:
                self.fail(f"{what}: not so within {self.patience:g} s")
            time.sleep(0.02)

    def assert_dies(self, reference: weakref.ref[Any], what: str) -> None:
        """Wait until nothing holds an object any more."""

        def is_dead() -> bool:
            gc.collect()
            return reference() is None

        self.eventually(is_dead, f"{what} is let go")

    def assert_usable(self) -> None:
        """Check that the executor still runs calls."""
        self.assertEqual(self.executor.submit(pow, 2, 5).result(self.patience), 32)

    def assert_ends(self, future: Future[Any]) -> None:
        """Check that a future ends, in whatever way."""
        try:
            future.exception(self.patience)
        except CancelledError:
            pass
        except TimeoutError:
            self.fail(f"the future did not end within {self.patience:g} s: {future}")

    def at_exit(self, scene: str, *args: str) -> tuple[int, str]:
        """Play a scene of `magg.testing.contract.exits` in a process of its own.

        Returns
        -------
        code : int
            How the process ended.
        said : str
            What it printed, errors included.
        """
        with contextlib.ExitStack() as stack:
            # A file: workers that outlive the process would keep a pipe open.
            output = stack.enter_context(tempfile.NamedTemporaryFile("w+"))
            command = [sys.executable, "-m", "magg.testing.contract.exits"]
            process = subprocess.Popen(  # noqa: S603
                [*command, self.settings.factory, scene, *args],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
            try:
                code = process.wait(2 * self.patience)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
                said = Path(output.name).read_text()[-2_000:]
                self.fail(
                    f"the process did not end within {2 * self.patience:g} s; it said: {said!r}"
                )
            return code, Path(output.name).read_text()
