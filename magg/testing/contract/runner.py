"""Each check in a process of its own with a time limit, so that a hang is an outcome."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from magg.testing.contract.settings import Settings

Status = Literal["passed", "failed", "skipped", "hung", "crashed"]
# For worker processes to notice that their parent has ended.
GRACE_S = 3.0
TAIL = 4_000


@dataclass(frozen=True)
class Outcome:
    """What came of one check.

    Parameters
    ----------
    check : str
    status : {"passed", "failed", "skipped", "hung", "crashed"}
        Hung: stopped by the time limit. Crashed: the process died before the check was over, or
        died at its end.
    reason : str
        Why it failed or was skipped.
    seconds : float
    exited : bool
        Whether the process ended by itself, as it must.
    """

    check: str
    status: Status
    reason: str
    seconds: float
    exited: bool = True

    @property
    def ok(self) -> bool:
        """Whether the executor keeps the contract, as far as this check can tell."""
        return self.status in ("passed", "skipped") and self.exited

    def __str__(self) -> str:
        how: str = self.status
        if not self.exited and self.status != "hung":
            how += ", but its process did not end by itself"
        return f"{self.check} {how} ({self.seconds:.1f} s)\n{self.reason}".rstrip()


def list_checks() -> list[str]:
    """Return the names of all checks: ``cpython.Case.test`` and ``magg.Case.test``."""
    import unittest

    from magg.testing.contract.child import load_cases

    return [
        f"{origin}.{name}.{test}"
        for origin in ("cpython", "magg")
        for name, case in load_cases(origin).items()
        for test in unittest.TestLoader().getTestCaseNames(case)
    ]


def run_checks(
    checks: Iterable[str],
    settings: Settings,
    *,
    jobs: int = 2,
    heard: Callable[[Outcome], None] = lambda _: None,
) -> list[Outcome]:
    """Run checks, several at a time.

    Parameters
    ----------
    checks : iterable of str
        Names from `list_checks`.
    settings : Settings
    jobs : int, default 2
        Checks at once. A busy machine fails no check, but may make it reach the time limit.
    heard : callable, optional
        Told each outcome, in the order of the checks.

    Returns
    -------
    list of Outcome
    """
    outcomes = []
    pool = ThreadPoolExecutor(jobs)
    try:
        for outcome in pool.map(lambda check: run_check(check, settings), checks):
            heard(outcome)
            outcomes.append(outcome)
    finally:
        pool.shutdown(cancel_futures=True)
    return outcomes


def run_check(check: str, settings: Settings) -> Outcome:
    """Run one check; no process of its session is left behind."""
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="magg-", ignore_cleanup_errors=True) as folder:
        # The report is a file: what the executor prints must not be taken for it.
        report, output = Path(folder, "report.json"), Path(folder, "output.txt")
        command = [sys.executable, "-m", "magg.testing.contract.child"]
        # The list of processes shows arguments to everybody; the environment may hold secrets.
        told_openly = json.dumps(asdict(replace(settings, environment={})))
        with output.open("w") as file:
            process = subprocess.Popen(  # noqa: S603
                [*command, check, str(report), told_openly],
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                env=_environment(settings, folder),
                start_new_session=True,
            )
            code = None
            try:
                code = process.wait(settings.time_limit)
            except subprocess.TimeoutExpired:
                pass
            finally:
                _end_session(process, 0.0 if code is None else GRACE_S)
        said = output.read_text(errors="replace")
        told = json.loads(report.read_text()) if report.exists() else None
    return _judge(check, code, told, said, time.monotonic() - began)


def _environment(settings: Settings, folder: str) -> dict[str, str]:
    """Return the environment of a check: modules of this process, temporary files of its own."""
    path = os.pathsep.join(entry or str(Path.cwd()) for entry in sys.path)
    return {**os.environ, "PYTHONPATH": path, "TMPDIR": folder, **settings.environment}


def _end_session(process: subprocess.Popen[bytes], grace_s: float) -> None:
    """Wait for the processes of a session, and kill those that stay."""
    end = time.monotonic() + grace_s
    try:
        while process.returncode is not None and time.monotonic() < end:
            os.killpg(process.pid, 0)
            time.sleep(0.02)
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    process.wait()


def _judge(
    check: str, code: int | None, told: dict[str, Any] | None, said: str, seconds: float
) -> Outcome:
    exited = code is not None
    if told is None:
        ended = f"the process ended with status {code}" if exited else "no end within the limit"
        status: Status = "crashed" if exited else "hung"
        return Outcome(check, status, f"{ended}\n{said[-TAIL:]}", seconds, exited)
    if code and told["status"] != "failed":
        reason = f"the process ended with status {code}\n{said[-TAIL:]}"
        return Outcome(check, "crashed", reason, seconds)
    reason = told["reason"] if exited else f"{told['reason']}\n{said[-TAIL:]}".strip()
    return Outcome(check, told["status"], reason, seconds, exited)
