"""A real `awslambdaric` process behind a Lambda Runtime API of its own."""

from __future__ import annotations

import json
import os
import re
import secrets
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from services.http_server import LoopbackHandler, LoopbackServer
from services.lambda_sandbox import BUSY, DONE, IDLE, KILL, LOG, peak_memory

SANDBOX = Path(__file__).with_name("lambda_sandbox.py")
STOP_SECONDS = 10.0
API = "/2018-06-01/runtime"
RESPONSE_BYTES = 6_291_556  # 100 bytes more than a request may have


@dataclass(frozen=True)
class Program:
    """What a runtime runs, and within which bounds."""

    python: str
    handler: str
    folder: Path
    environment: Mapping[str, str]
    memory_mb: int


@dataclass(frozen=True)
class Invocation:
    """An event on its way to a handler."""

    request_id: str
    event: bytes
    arn: str
    client_context: str | None = None


@dataclass(frozen=True)
class Answer:
    """What came of an invocation or of an initialisation.

    Parameters
    ----------
    payload : bytes
    error : str or None
        The type of the error that the payload tells of.
    fatal : str or None
        ``"timeout"`` or ``"error"`` if the runtime is no longer of use.
    """

    payload: bytes
    error: str | None = None
    fatal: str | None = None


class Runtime:
    """One process of ``python -m awslambdaric``; it ends with this process at the latest."""

    def __init__(self, program: Program) -> None:
        self.program = program
        self._change = threading.Condition()
        self._waiting = False
        self._next: Invocation | None = None
        self._deadline = 0.0
        self._current: str | None = None
        self._answer: Answer | None = None
        self._pid: int | None = None
        self._end: dict[str, Any] | None = None
        self._log_read = 0
        self._api = LoopbackServer(_RuntimeApi, self)
        self.folder = Path(tempfile.gettempdir(), f"magg-lambda-{secrets.token_hex(8)}")
        self._sandbox = subprocess.Popen(
            [sys.executable, "-I", "-S", str(SANDBOX)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,
        )
        self._listener = threading.Thread(target=self._listen, name="lambda-sandbox", daemon=True)
        self._listener.start()
        self._tell(json.dumps(self._order()).encode() + b"\n")

    @property
    def alive(self) -> bool:
        """Whether the process has not ended yet."""
        return self._end is None

    @property
    def pid(self) -> int | None:
        """The process, None if there has been none."""
        return self._pid

    @property
    def peak_mb(self) -> int:
        """The most memory that the process has held so far, in whole MB."""
        ended = self._end or {}
        peak = ended.get("peak", 0) if self._end else peak_memory(self._pid or 0)
        if ended.get("out_of_memory"):
            return self.program.memory_mb
        return min(-(-peak // 2**20), self.program.memory_mb)

    def initialise(self, seconds: float, limit: float, request_id: str) -> Answer | None:
        """Wait until the handler is imported; return what went wrong, if it did."""
        with self._change:
            self._wait(seconds, lambda: self._waiting or self._answer is not None)
            self._tell(IDLE)
            return None if self._waiting else self._outcome(limit, request_id)

    def invoke(self, invocation: Invocation, seconds: float, limit: float) -> Answer:
        """Run the handler for at most so many seconds, of a limit that errors tell."""
        with self._change:
            self._answer, self._next = None, invocation
            self._current = invocation.request_id
            self._deadline = time.time() + seconds
            self._tell(BUSY)
            self._change.notify_all()
            self._wait(seconds, lambda: self._answer is not None)
            self._current = None
            if self.alive and peak_memory(self._pid) > self.program.memory_mb * 2**20:
                self._end = {"out_of_memory": True, "status": -signal.SIGKILL}
                self._answer = None  # it was too quick to be killed before it had one
            self._tell(IDLE)
            return self._outcome(limit, invocation.request_id)

    def log(self) -> bytes:
        """Return what the process has written since this was called last."""
        with suppress(FileNotFoundError), (self.folder / LOG).open("rb") as file:
            file.seek(self._log_read)
            text = file.read()
            self._log_read += len(text)
            return text
        return b""

    def kill(self) -> None:
        """Kill the process, and wait until it has ended; the log stays."""
        self._tell(KILL)
        with self._change:
            self._change.wait_for(lambda: self._end is not None, STOP_SECONDS)

    def end(self) -> None:
        """Begin to kill the process and to delete its folder."""
        self._tell(KILL + DONE)
        with suppress(OSError):
            self._sandbox.stdin.close()

    def stop(self) -> None:
        """Kill the process, and wait until all is gone; may be called twice."""
        self.end()
        try:
            self._sandbox.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._sandbox.kill()
            if self._pid:
                with suppress(ProcessLookupError):
                    os.killpg(self._pid, signal.SIGKILL)
        self._listener.join()
        self._sandbox.stdout.close()
        self._api.hang_up()
        self._api.join()

    # Called by the Runtime API

    def next_invocation(self) -> tuple[Invocation, float] | None:
        """Wait for an invocation, and return it with its deadline; None if there will be none."""
        with self._change:
            self._waiting = True
            self._change.notify_all()
            self._change.wait_for(lambda: self._next is not None or self._end is not None)
            invocation, self._next = self._next, None
            self._waiting = False
            return None if invocation is None else (invocation, self._deadline)

    def answered(self, request_id: str | None, answer: Answer) -> bool:
        """Take the answer to an invocation, or to the initialisation; return if it is awaited."""
        with self._change:
            if request_id != self._current or self._answer is not None:
                return False
            self._answer = answer
            self._change.notify_all()
            return True

    # Helpers

    def _tell(self, word: bytes) -> None:
        with suppress(OSError, ValueError):  # it has ended, or is about to
            self._sandbox.stdin.write(word)
            self._sandbox.stdin.flush()

    def _wait(self, seconds: float, ready: Callable[[], bool]) -> None:
        self._change.wait_for(lambda: ready() or self._end is not None, seconds)

    def _outcome(self, limit: float, request_id: str) -> Answer:
        """Return what the runtime answered, or else what the platform says of its end."""
        if self._answer is not None:
            return self._answer
        if self._end is None:
            message = f"Task timed out after {limit:.2f} seconds"
            return _platform_error("Sandbox.Timedout", message, request_id, "timeout")
        kind = "OutOfMemory" if self._end.get("out_of_memory") else "ExitError"
        message = _how_it_ended(self._end.get("status"))
        return _platform_error(f"Runtime.{kind}", message, request_id, "error")

    def _listen(self) -> None:
        for line in self._sandbox.stdout:
            words = json.loads(line)
            with self._change:
                self._pid = words.get("pid", self._pid)
                if "status" in words:
                    self._end = words
                self._change.notify_all()
        with self._change:
            self._end = self._end or {"status": -signal.SIGKILL}
            self._change.notify_all()

    def _order(self) -> dict[str, Any]:
        program = self.program
        bare = {
            "PATH": "/usr/local/bin:/usr/bin:/bin",
            "LANG": "en_US.UTF-8",
            "TZ": ":UTC",
            "HOME": str(self.folder / "tmp"),
            "TMPDIR": str(self.folder / "tmp"),
            "PYTHONDONTWRITEBYTECODE": "1",  # the folder of a function is read-only on AWS
            "AWS_LAMBDA_RUNTIME_API": self._api.address,
        }
        paths = [str(program.folder), program.environment.get("PYTHONPATH", "")]
        search = {"PYTHONPATH": os.pathsep.join(filter(None, paths))}
        return {
            "command": [program.python, "-m", "awslambdaric", program.handler],
            "working_folder": str(program.folder),
            "environment": bare | dict(program.environment) | search,
            "folder": str(self.folder),
            "memory_bytes": program.memory_mb * 2**20,
            "owner": os.getpid(),
        }


class _RuntimeApi(LoopbackHandler):
    """What `awslambdaric` talks to."""

    def do_GET(self) -> None:  # noqa: N802
        if self.path != f"{API}/invocation/next":
            return self.answer(404, b"{}")
        found = self.server.owner.next_invocation()
        if found is None:
            return self.drop()
        invocation, deadline = found
        trace = f"Root=1-{int(time.time()):08x}-{secrets.token_hex(12)};Sampled=0"
        headers = [
            ("Lambda-Runtime-Aws-Request-Id", invocation.request_id),
            ("Lambda-Runtime-Deadline-Ms", str(int(deadline * 1000))),
            ("Lambda-Runtime-Invoked-Function-Arn", invocation.arn),
            ("Lambda-Runtime-Trace-Id", trace),
        ]
        if invocation.client_context:
            headers.append(("Lambda-Runtime-Client-Context", invocation.client_context))
        return self.answer(200, invocation.event, headers)

    def do_POST(self) -> None:  # noqa: N802
        body = self.body()
        form = rf"{API}/(?:invocation/([^/]+)/(response|error)|init/error)"
        found = re.fullmatch(form, self.path)
        if not found:
            return self.answer(404, b"{}")
        request_id, kind = found.groups()
        answer = _judged(kind, body)
        if not self.server.owner.answered(request_id, answer):
            return self.answer(400, b'{"errorType": "InvalidRequestID"}')
        return self.answer(413 if answer.error == "Function.ResponseSizeTooLarge" else 202, b"{}")


def _judged(kind: str | None, body: bytes) -> Answer:
    if kind == "response" and len(body) <= RESPONSE_BYTES:
        return Answer(body)
    if kind == "response":
        error = {
            "errorType": "Function.ResponseSizeTooLarge",
            "errorMessage": "Response payload size exceeded maximum allowed payload size "
            f"({RESPONSE_BYTES} bytes).",
        }
        # The runtime ends, because it was not answered 202.
        return Answer(json.dumps(error).encode(), error["errorType"], "error")
    error_type = json.loads(body).get("errorType") or "Unhandled"
    return Answer(body, error_type, None if kind == "error" else "error")


def _platform_error(error: str, message: str, request_id: str, fatal: str) -> Answer:
    text = f"RequestId: {request_id} Error: {message}"
    return Answer(json.dumps({"errorType": error, "errorMessage": text}).encode(), error, fatal)


def _how_it_ended(status: int) -> str:
    """Say it as the `os/exec` package of Go does, which the platform is written in."""
    if status == 0:
        return "Runtime exited without providing a reason"
    if status > 0:
        return f"Runtime exited with error: exit status {status}"
    name = (signal.strsignal(-status) or f"signal {-status}").lower()
    return f"Runtime exited with error: signal: {name}"
