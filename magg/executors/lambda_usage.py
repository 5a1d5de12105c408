"""What calls of AWS Lambda used and cost: reports of single calls, prices, and the sum of a run."""

from __future__ import annotations

import json
import math
import re
import threading
from dataclasses import dataclass
from typing import Any

# On-demand prices of the first tier in US dollars (aws.amazon.com/lambda/pricing, 2026).
_COMMON = (0.0000166667, 0.20)
_BY_REGION = {
    "af-south-1": (0.0000221, 0.27),
    "ap-east-1": (0.00002292, 0.28),
    "eu-central-2": (0.0000183334, 0.22),
    "eu-south-1": (0.0000195172, 0.23),
    "il-central-1": (0.0000175, 0.21),
    "me-central-1": (0.0000206667, 0.25),
    "me-south-1": (0.0000206667, 0.25),
}
_ARM_SHARE = 0.8
_MB_PER_GB = 1024.0
_FIELD = re.compile(r"(Billed Duration|Memory Size|Max Memory Used|Init Duration): (\d+(?:\.\d+)?)")
_KEYS = {
    "Billed Duration": "billedDurationMs",
    "Memory Size": "memorySizeMB",
    "Max Memory Used": "maxMemoryUsedMB",
    "Init Duration": "initDurationMs",
}


@dataclass(frozen=True)
class Price:
    """What a call costs: an estimate, without free tier, discounts, storage or traffic.

    Parameters
    ----------
    per_gb_second, per_million_calls : float
        US dollars.
    """

    per_gb_second: float
    per_million_calls: float

    @classmethod
    def of(cls, region: str, architecture: str = "x86_64") -> Price:
        """Return the on-demand price in a region; that of most regions where it is not known.

        Parameters
        ----------
        region : str
        architecture : {"x86_64", "arm64"}
        """
        per_gb_second, per_million = _BY_REGION.get(region, _COMMON)
        share = _ARM_SHARE if architecture == "arm64" else 1.0
        return cls(per_gb_second * share, per_million)

    def cost(self, gb_seconds: float, calls: int) -> float:
        """Return US dollars."""
        return gb_seconds * self.per_gb_second + calls * self.per_million_calls / 1e6


@dataclass(frozen=True)
class Report:
    """What the platform says of one call, in the last lines of its log.

    Parameters
    ----------
    billed_s : float
    memory_mb, peak_memory_mb : int
        What the function may use, and the most that its environment has used so far.
    is_cold : bool
        Whether an environment was started for it.
    """

    billed_s: float
    memory_mb: int
    peak_memory_mb: int
    is_cold: bool

    @classmethod
    def parse(cls, log: str) -> Report | None:
        """Return the report at the end of a log, written as text or JSON, if there is one."""
        for line in reversed(log.splitlines()):
            if line.startswith("REPORT RequestId:"):
                return cls._of_values({name: float(value) for name, value in _FIELD.findall(line)})
            if '"platform.report"' in line:
                return cls._of_json(line)
        return None

    @classmethod
    def _of_json(cls, line: str) -> Report | None:
        try:
            metrics = json.loads(line)["record"]["metrics"]
            values = {name: float(metrics[key]) for name, key in _KEYS.items() if key in metrics}
        except (ValueError, KeyError, TypeError):
            return None
        return cls._of_values(values)

    @classmethod
    def _of_values(cls, values: dict[str, float]) -> Report:
        return cls(
            billed_s=values.get("Billed Duration", 0.0) / 1e3,
            memory_mb=int(values.get("Memory Size", 0)),
            peak_memory_mb=int(values.get("Max Memory Used", 0)),
            is_cold="Init Duration" in values,
        )


class Usage:
    """The sum over all calls of an executor; safe to add to from many threads.

    Parameters
    ----------
    price : Price
    """

    def __init__(self, price: Price) -> None:
        self.price = price
        self._lock = threading.Lock()
        self.reset()

    def reset(self) -> None:
        """Begin to count anew."""
        with self._lock:
            self.calls = self.unreported = self.throttled = self.resent = self.cold_starts = 0
            self.billed_s = self.gb_seconds = 0.0
            self.peak_memory_mb = 0

    def add(self, report: Report | None) -> None:
        """Count a call that was answered, with what its log says of it."""
        with self._lock:
            self.calls += 1
            if report is None:
                self.unreported += 1
                return
            self.billed_s += report.billed_s
            self.gb_seconds += report.billed_s * report.memory_mb / _MB_PER_GB
            self.peak_memory_mb = max(self.peak_memory_mb, report.peak_memory_mb)
            self.cold_starts += report.is_cold

    def add_throttled(self) -> None:
        """Count a request that was refused because too many were under way."""
        with self._lock:
            self.throttled += 1

    def add_resent(self) -> None:
        """Count a request that never reached the function and was sent again."""
        with self._lock:
            self.resent += 1

    @property
    def cost_usd(self) -> float:
        """The estimated cost so far, in US dollars."""
        return self.price.cost(self.gb_seconds, self.calls)

    def summary(self) -> dict[str, Any]:
        """Return the sums as plain data."""
        return {
            "lambda_calls": self.calls,
            "lambda_time_s": self.billed_s,
            "gb_seconds": self.gb_seconds,
            "estimated_cost_usd": self.cost_usd,
            "peak_memory_mb": self.peak_memory_mb,
            "cold_starts": self.cold_starts,
            "calls_throttled": self.throttled,
            "calls_resent": self.resent,
            "calls_without_report": self.unreported,
        }


def ceiling(calls: int, timeout_s: float, memory_mb: int, price: Price) -> dict[str, float]:
    """Return what so many calls cost if every one of them runs into its time limit."""
    gb_seconds = calls * math.ceil(timeout_s * 1e3) / 1e3 * memory_mb / _MB_PER_GB
    return {"gb_seconds": gb_seconds, "cost_usd": price.cost(gb_seconds, calls)}
