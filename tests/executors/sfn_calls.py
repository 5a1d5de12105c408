"""The functions that tests of Step Functions call: known at both ends by these names."""

from __future__ import annotations

import os
import time


def double(x: int) -> int:
    return 2 * x


def fail(message: str) -> None:
    raise ValueError(message)


def die_at(x: int, bad: int) -> int:
    if x == bad:
        os._exit(7)
    return x


def nap(seconds: float) -> float:
    time.sleep(seconds)
    return seconds


def hold(path: str) -> str:
    while not os.path.exists(path):  # noqa: PTH110 - as the worker has it
        time.sleep(0.02)
    return path


def when(seconds: float) -> list[float]:
    began = time.time()
    time.sleep(seconds)
    return [began, time.time()]


def repeat(text: str, times: int) -> str:
    return text * times


def length(text: str) -> int:
    return len(text)


FUNCTIONS = {f.__name__: f for f in (double, fail, die_at, nap, hold, when, repeat, length)}
