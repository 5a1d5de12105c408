"""What the Lambda platform writes to the log of a function, worded as AWS words it."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

LogFormat = Literal["Text", "JSON"]
TAIL_BYTES = 4096


@dataclass(frozen=True)
class Report:
    """What an invocation took.

    Parameters
    ----------
    request_id : str
    duration_ms : float
    memory_mb, peak_mb : int
    init_ms : float, optional
        Of a cold start that succeeded.
    status : {"success", "error", "timeout"}
    error : str, optional
        Its type.
    fatal : bool
        Whether the runtime ended with it.
    """

    request_id: str
    duration_ms: float
    memory_mb: int
    peak_mb: int
    init_ms: float | None = None
    status: str = "success"
    error: str | None = None
    fatal: bool = False

    @property
    def billed_ms(self) -> int:
        """What AWS charges for, which includes the initialisation since August 2025."""
        return max(1, math.ceil(round(self.duration_ms + (self.init_ms or 0.0), 2)))


def started(form: LogFormat, request_id: str, arn: str) -> bytes:
    """Return the line at the beginning of an invocation."""
    if form == "JSON":
        return _event("start", requestId=request_id, functionArn=arn, version="$LATEST")
    return f"START RequestId: {request_id} Version: $LATEST\n".encode()


def ended(form: LogFormat, report: Report, exit_message: str | None) -> bytes:
    """Return the lines at the end of an invocation, given what is to be said if it was killed."""
    return (_ended_json if form == "JSON" else _ended_text)(report, exit_message)


def initialisation_failed(form: LogFormat, ms: float, phase: str, status: str, error: str) -> bytes:
    """Return the line about an initialisation that failed."""
    if form == "JSON":
        words = {"initializationType": "on-demand", "phase": phase, "status": status}
        if status == "error":
            words["errorType"] = error
        return _event("initReport", **words, metrics={"durationMs": round(ms, 3)})
    kind = f"\tError Type: {error}" if status == "error" else ""
    outcome = f"Phase: {phase}\tStatus: {status}{kind}"
    return f"INIT_REPORT Init Duration: {ms:.2f} ms\t{outcome}\n".encode()


def _ended_text(report: Report, exit_message: str | None) -> bytes:
    request = f"RequestId: {report.request_id}"
    text = ""
    if exit_message and report.status == "error":
        text += f"{exit_message}\n{report.error}\n"
    text += f"END {request}\nREPORT {request}\t"
    text += f"Duration: {report.duration_ms:.2f} ms\tBilled Duration: {report.billed_ms} ms\t"
    text += f"Memory Size: {report.memory_mb} MB\tMax Memory Used: {report.peak_mb} MB\t"
    if report.init_ms is not None:
        text += f"Init Duration: {report.init_ms:.2f} ms\t"
    if report.fatal:
        text += f"Status: {report.status}"
        text += f"\tError Type: {report.error}" if report.status == "error" else ""
    return f"{text}\n".encode()


def _ended_json(report: Report, exit_message: str | None) -> bytes:
    metrics: dict[str, float] = {
        "durationMs": round(report.duration_ms, 3),
        "billedDurationMs": report.billed_ms,
        "memorySizeMB": report.memory_mb,
        "maxMemoryUsedMB": report.peak_mb,
    }
    if report.init_ms is not None:
        metrics["initDurationMs"] = round(report.init_ms, 3)
    words: dict[str, Any] = {"metrics": metrics, "status": report.status}
    if report.status == "error":
        words["errorType"] = report.error
    return _event("report", requestId=report.request_id, **words)


def _event(kind: str, **record: Any) -> bytes:
    now = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    event = {"time": now, "type": f"platform.{kind}", "record": record}
    return json.dumps(event, separators=(",", ":")).encode() + b"\n"
