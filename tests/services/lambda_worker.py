"""One execution environment of a Lambda function: initialised once, invoked again and again."""

from __future__ import annotations

import json
import threading
import time
from dataclasses import dataclass
from pathlib import Path

from services import lambda_log
from services.lambda_log import LogFormat, Report
from services.lambda_runtime import Answer, Invocation, Program, Runtime


@dataclass(frozen=True)
class Settings:
    """How a function was deployed; see `LambdaService.deploy`."""

    name: str
    arn: str
    handler: str
    folder: Path
    python: str
    timeout: float
    memory_mb: int
    environment: dict[str, str]
    architecture: str
    init_timeout: float
    log_format: LogFormat


@dataclass(frozen=True)
class Outcome:
    """An answer with what it took, and all that was logged."""

    answer: Answer
    report: Report
    log: bytes
    pid: int | None


class Worker:
    """One execution environment.

    As on AWS, an initialisation that fails or takes too long is tried once more within the time of
    the first invocation. Unlike there, an environment whose runtime ended is not used again.
    """

    def __init__(self, settings: Settings, variables: dict[str, str]) -> None:
        self.settings = settings
        self._program = Program(
            settings.python, settings.handler, settings.folder, variables, settings.memory_mb
        )
        self._runtime = Runtime(self._program)
        self._started = time.perf_counter()
        self._fresh = True
        self._lock = threading.Lock()
        self._ending = False

    @property
    def alive(self) -> bool:
        """Whether it can be invoked."""
        return self._runtime.alive

    @property
    def folder(self) -> Path:
        """The folder that is its own."""
        return self._runtime.folder

    def invoke(self, invocation: Invocation) -> Outcome:
        """Run the handler once; if the answer is fatal, the environment is to be stopped."""
        request_id, form = invocation.request_id, self.settings.log_format
        failed, init_ms, spent_ms, log = self._first_initialised(request_id)
        log += lambda_log.started(form, request_id, self.settings.arn)
        began, limit = time.perf_counter(), self.settings.timeout
        answer = failed or self._runtime.invoke(invocation, limit - spent_ms / 1e3, limit)
        ms = spent_ms + (time.perf_counter() - began) * 1e3
        if answer.fatal:
            self._runtime.kill()
        report = Report(
            request_id,
            limit * 1e3 if answer.fatal == "timeout" else ms,
            self.settings.memory_mb,
            self._runtime.peak_mb,
            init_ms,
            answer.fatal or ("error" if answer.error else "success"),
            answer.error,
            answer.fatal is not None,
        )
        log += self._runtime.log() + lambda_log.ended(form, report, _exit_message(answer))
        return Outcome(answer, report, log, self._runtime.pid)

    def end(self) -> None:
        """Begin to end it, whatever it does; a thread that waits for an answer gets one soon."""
        with self._lock:
            self._ending = True
            self._runtime.end()

    def stop(self) -> None:
        """End it, and wait until all is gone; may be called twice."""
        self.end()
        self._runtime.stop()

    def _first_initialised(
        self, request_id: str
    ) -> tuple[Answer | None, float | None, float, bytes]:
        """Initialise the environment if it is fresh.

        Returns
        -------
        What went wrong; the ms of a cold start; the ms of the invocation that are spent already;
        what was logged.
        """
        if not self._fresh:
            return None, None, 0.0, b""
        self._fresh = False
        failed, ms, log = self._initialise("init", self.settings.init_timeout, request_id)
        if not failed:
            return None, ms, 0.0, log
        self._runtime.stop()
        with self._lock:
            if self._ending:
                return failed, None, ms, log
            self._runtime = Runtime(self._program)
        self._started = time.perf_counter()
        failed, ms, more = self._initialise("invoke", self.settings.timeout, request_id)
        return failed, None, ms, log + more

    def _initialise(
        self, phase: str, seconds: float, request_id: str
    ) -> tuple[Answer | None, float, bytes]:
        """Wait for the runtime; return what went wrong, the time in ms, and what was logged."""
        left = seconds - (time.perf_counter() - self._started)
        failed = self._runtime.initialise(max(0.0, left), seconds, request_id)
        ms = (time.perf_counter() - self._started) * 1e3
        if not failed:
            return None, ms, self._runtime.log()
        if failed.fatal == "timeout":
            ms = seconds * 1e3
        status, error = failed.fatal or "error", failed.error or ""
        line = lambda_log.initialisation_failed(self.settings.log_format, ms, phase, status, error)
        return failed, ms, self._runtime.log() + line


def _exit_message(answer: Answer) -> str | None:
    """Return what the log says of a runtime that ended without a word of its own."""
    if answer.error in {"Runtime.ExitError", "Runtime.OutOfMemory"}:
        return str(json.loads(answer.payload)["errorMessage"])
    return None
