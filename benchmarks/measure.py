"""What a piece of work costs in CPU and wall time; shared by the benchmarks."""

from __future__ import annotations

import os
import resource
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Cost:
    """What a piece of work took.

    Parameters
    ----------
    cpu, wall : float
        Seconds. The CPU time is that of all threads, user and system.
    """

    cpu: float
    wall: float


def median(costs: Sequence[Cost]) -> Cost:
    """Return the medians, each on its own."""
    table = [(cost.cpu, cost.wall) for cost in costs]
    return Cost(*(float(value) for value in np.median(table, axis=0)))


def measure_call(function: Callable[[], Any]) -> tuple[Cost, Any]:
    """Call a function in this process; return its cost and its result."""
    cpu, wall = _cpu_seconds(), time.perf_counter()
    result = function()
    return Cost(_cpu_seconds() - cpu, time.perf_counter() - wall), result


def measure_process(command: Sequence[str]) -> tuple[Cost, str]:
    """Run a command to its end; return the cost of it and its children, and what it printed.

    Raises
    ------
    RuntimeError
        If it fails; with what it wrote to its standard error.
    """
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        wall = time.perf_counter()
        process = subprocess.Popen(command, stdout=out, stderr=err)
        # Unlike getrusage(RUSAGE_CHILDREN), this is about one child alone.
        _, status, usage = os.wait4(process.pid, 0)
        wall = time.perf_counter() - wall
        process.returncode = os.waitstatus_to_exitcode(status)
        for stream in (out, err):
            stream.seek(0)
        if process.returncode:
            raise RuntimeError(f"{' '.join(command)} failed:\n{err.read()[-4000:]}")
        return Cost(usage.ru_utime + usage.ru_stime, wall), out.read()


def verdict(name: str, value: float, limit: float, unit: str, *, at_least: bool = False) -> str:
    """Return a line that says whether a target is met."""
    met = value >= limit if at_least else value < limit
    wanted = f"at least {limit:g}" if at_least else f"under {limit:g}"
    return f"{'PASS' if met else 'MISS'}  {name}: {value:.2f} {unit} (target: {wanted})"


def _cpu_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime
