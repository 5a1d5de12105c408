"""Scenes at the end of a process that uses an executor; each is played in a process of its own.

``python -m magg.testing.contract.exits FACTORY SCENE [PATH]``
"""

from __future__ import annotations

import atexit
import os
import sys
from concurrent.futures import Future
from typing import Any

from magg.testing.contract import calls
from magg.testing.contract.settings import Settings


def say(word: str) -> None:
    """Write a word past Python's buffers, which may be closed at exit."""
    os.write(1, f"{word}\n".encode())


def _say_result(future: Future[Any]) -> None:
    error = future.exception()
    say("finished" if error is None else f"failed: {error!r}")


def pending(settings: Settings) -> None:
    """Leave calls running and waiting."""
    executor = settings.make(2)
    for _ in range(6):
        executor.submit(calls.sleep_then, 1.0).add_done_callback(_say_result)


def no_wait(settings: Settings) -> None:
    """Shut down without waiting, and leave calls running and waiting."""
    executor = settings.make(2)
    for _ in range(4):
        executor.submit(calls.sleep_then, 1.0).add_done_callback(_say_result)
    executor.shutdown(wait=False)


def idle(settings: Settings) -> None:
    """Leave an executor that has worked and was never shut down."""
    say(str(settings.make(2).submit(pow, 2, 5).result()))


def error(settings: Settings) -> None:
    """End with a status of the program's own while calls are running."""
    executor = settings.make(2)
    executor.submit(calls.sleep_then, 1.0).add_done_callback(_say_result)
    sys.exit(3)


def submit_late(settings: Settings) -> None:
    """Submit when the interpreter is ending."""

    def last() -> None:
        try:
            executor.submit(pow, 2, 5)
        except RuntimeError:
            say("RuntimeError")
        else:
            say("accepted")

    atexit.register(last)
    executor = settings.make(2)
    executor.submit(pow, 2, 5).result()


def leave_file(settings: Settings, path: str) -> None:
    """Leave a call running that writes a file."""
    settings.make(5).submit(calls.append_line, path, 1.0)


def leave_file_no_wait(settings: Settings, path: str) -> None:
    """Shut down without waiting for a call that writes a file."""
    executor = settings.make(3)
    executor.submit(calls.append_line, path, 1.0)
    executor.shutdown(wait=False)


SCENES = {
    play.__name__: play
    for play in (pending, no_wait, idle, error, submit_late, leave_file, leave_file_no_wait)
}

if __name__ == "__main__":
    factory, scene, *rest = sys.argv[1:]
    SCENES[scene](Settings(factory), *rest)
