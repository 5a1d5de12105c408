"""What executions of AWS Step Functions used and cost."""

from __future__ import annotations

import threading
from typing import Any

from magg.executors import lambda_usage
from magg.executors.lambda_usage import Price, Report

# Standard workflows in most regions (aws.amazon.com/step-functions/pricing, 2026).
USD_PER_TRANSITION = 0.025 / 1e3
# The states that are counted: of an execution, and of a batch with its start. Attempts that
# Lambda refused count too, and are not known here.
PER_EXECUTION, PER_BATCH = 3, 3


class Usage:
    """The sum over all executions; safe to add to from many threads.

    Time is what the handler measured of itself, without the start of its runtime; batches that
    failed are not in it.

    Parameters
    ----------
    price : Price
        Of the function.

    Attributes
    ----------
    function : magg.executors.lambda_usage.Usage
        The function's part of it.
    """

    def __init__(self, price: Price) -> None:
        self.function = lambda_usage.Usage(price)
        self.executions = self.transitions = 0
        self._lock = threading.Lock()

    def add_execution(self) -> None:
        """Count an execution that was started."""
        with self._lock:
            self.executions += 1
            self.transitions += PER_EXECUTION

    def add_batch(self, report: Report | None) -> None:
        """Count a batch that has ended, with what it says of itself."""
        self.function.add(report)
        with self._lock:
            self.transitions += PER_BATCH

    def summary(self) -> dict[str, Any]:
        """Return the sums as plain data."""
        told = self.function.summary()
        names = ("lambda_calls", "lambda_time_s", "gb_seconds", "peak_memory_mb")
        transitions = self.transitions
        return {name: told[name] for name in names} | {
            "calls_without_report": told["calls_without_report"],
            "executions": self.executions,
            "state_transitions": transitions,
            "estimated_cost_usd": told["estimated_cost_usd"] + transitions * USD_PER_TRANSITION,
        }

    def ceiling(self, batches: int, timeout_s: float, memory_mb: int) -> dict[str, Any]:
        """Return what so many batches cost if each of them runs into its time limit."""
        most = lambda_usage.ceiling(batches, timeout_s, memory_mb, self.function.price)
        transitions = PER_EXECUTION + batches * PER_BATCH
        return {
            "gb_seconds_ceiling": most["gb_seconds"],
            "state_transitions_ceiling": transitions,
            "cost_usd_ceiling": most["cost_usd"] + transitions * USD_PER_TRANSITION,
        }
