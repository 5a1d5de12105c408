"""The functions that the checks send to workers: importable wherever magg is installed."""

from __future__ import annotations

import os
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import CancelledError
from pathlib import Path
from typing import Any


class Thing:
    """An object that weak references may point to."""

    def touch(self) -> None:
        """Do nothing: a method, so that submitting it sends the object."""

    def fail(self) -> None:
        """Raise `ValueError` with this object in the frame."""
        raise ValueError("the thing failed")


class FalseyError(ValueError):
    """An exception that is false, as an empty collection is."""

    def __bool__(self) -> bool:
        return False


class DetailedError(Exception):
    """An exception that carries more than its message."""

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message, code)
        self.code = code


class OneWayError(Exception):
    """An exception that pickle can write but not read."""

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.code = code


def capture(*args: Any, **kwargs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return what was passed."""
    return args, kwargs


def identity(value: Any) -> Any:
    """Return the argument."""
    return value


def sleep_then(seconds: float, value: Any = None) -> Any:
    """Return the value after a while."""
    time.sleep(seconds)
    return value


def sleep_then_fail(seconds: float) -> None:
    """Raise `ValueError` after a while."""
    time.sleep(seconds)
    raise ValueError("failed after a while")


def span(seconds: float) -> tuple[float, float]:
    """Return when the call began and ended by the worker's clock (s since 1970)."""
    began = time.time()
    time.sleep(seconds)
    return began, time.time()


def unique() -> str:
    """Return another text at every call."""
    return uuid.uuid4().hex


def place() -> tuple[str, int]:
    """Return the machine and process that run the call."""
    return socket.gethostname(), os.getpid()


def make_thing(_: object = None) -> Thing:
    """Return a new object that weak references may point to."""
    return Thing()


def make_lock(_: object = None) -> object:
    """Return what cannot be pickled."""
    return threading.Lock()


def append_line(path: str, seconds: float = 0.0) -> None:
    """Add a line to a file, after a while."""
    time.sleep(seconds)
    with Path(path).open("a") as file:
        file.write("called\n")


def raise_error(error: BaseException) -> None:
    """Raise what was passed."""
    fail_deep_inside(error)


def fail_deep_inside(error: BaseException) -> None:
    """Raise what was passed, one frame below."""
    raise error


def raise_named(name: str) -> None:
    """Raise an exception that need not travel to the worker."""
    made: dict[str, BaseException] = {
        "SystemExit": SystemExit(3),
        "KeyboardInterrupt": KeyboardInterrupt(),
        "TimeoutError": TimeoutError("the call's own"),
        "CancelledError": CancelledError("the call's own"),
        "StopIteration": StopIteration("the call's own"),
        "FalseyError": FalseyError("false, but raised"),
        "DetailedError": DetailedError("detailed", 7),
        "OneWayError": OneWayError("one way", 7),
        "FileNotFoundError": FileNotFoundError(2, "gone", "granule.h5"),
    }
    fail_deep_inside(made[name])


def die() -> None:
    """End the worker at once, without a word."""
    os._exit(13)


def count_up_to(end: int) -> Iterator[int]:
    """Yield the numbers below the end; a generator cannot be pickled."""
    yield from range(end)
