"""What a run did when: from its summary, or from the records of a store."""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from magg.amounts import dollars, duration
from magg.credentials import redact
from magg.projections import Floats
from magg.store.history import Moment


@dataclass(frozen=True)
class Timeline:
    """Cells in the order in which they ended.

    Parameters
    ----------
    title : str
    facts : list of (str, str)
        The figures that matter most, each with what it counts.
    ended : ndarray of float64, shape (n,)
        Seconds from the start of the run, or since 1970 for the records of a store.
    status : ndarray of str, shape (n,)
        ``"data"``, ``"empty"`` or ``"error"``.
    observations : ndarray of int64, shape (n,)
    began : ndarray of float64, shape (n,), optional
        None where nobody noted it.
    attempts : ndarray of int64, shape (n,)
    cost : ndarray of float64, shape (n,), optional
        US dollars that the run had cost by then.
    failures : list of str
        One line each.
    """

    title: str
    facts: list[tuple[str, str]]
    ended: Floats
    status: NDArray[np.str_]
    observations: NDArray[np.int64]
    attempts: NDArray[np.int64]
    began: Floats | None = None
    cost: Floats | None = None
    failures: list[str] = field(default_factory=list)


def of_summary(summary: Mapping[str, Any]) -> Timeline:
    """Return what a run did, told by its summary.

    Raises
    ------
    ValueError
        If it is no summary, or one of a version of magg that did not note when cells ended.
    """
    try:
        entries = sorted(summary["results"], key=lambda entry: entry["ended_s"])
        ended = np.array([entry["ended_s"] for entry in entries], dtype=np.float64)
        durations = np.array([entry["duration_s"] for entry in entries], dtype=np.float64)
        done = summary["total_cells"] - summary["cells_error"]
        facts = [
            (f"{done:,}", f"of {_some(summary['total_cells'], 'cell')} done"),
            (f"{summary['cells_error']:,}", "failed"),
            (_short(summary["total_obs"]), "observations"),
            (f"{summary['retries']:,}", "tried again"),
            (_seconds(summary["wall_time_s"]), f"on {summary['backend']}"),
        ]
        errors = [f"{e['cell']}   {e['type']}: {e['message']}" for e in summary["errors"]]
    except (KeyError, TypeError) as error:
        raise ValueError(
            f"this is no summary of a run that notes when its cells ended: {error} is missing"
        ) from None
    if "estimated_cost_usd" in summary:
        facts.append((dollars(summary["estimated_cost_usd"]), "estimated cost"))
    cost = [entry.get("cost_usd_so_far", np.nan) for entry in entries]
    return Timeline(
        title="Dry run" if summary["dry_run"] else "Run",
        facts=facts,
        ended=ended,
        began=np.maximum(0.0, ended - durations),
        status=np.array([entry["status"] for entry in entries], dtype=np.str_),
        observations=np.array([entry["observations"] for entry in entries], dtype=np.int64),
        attempts=np.array([entry["attempts"] for entry in entries], dtype=np.int64),
        cost=np.array(cost, dtype=np.float64) if "estimated_cost_usd" in summary else None,
        failures=[_line(error) for error in errors],
    )


def of_moments(moments: Sequence[Moment], parents: int) -> Timeline:
    """Return what all runs on a store of so many parent cells did, told by its records."""
    failed = [moment for moment in moments if moment.status == "failed"]
    done = len({moment.cell for moment in moments} - {moment.cell for moment in failed})
    observations = sum(moment.observations for moment in moments)
    statuses = {"failed": "error", "partial": "data"}
    facts = [
        (f"{done:,}", f"of {_some(parents, 'cell')} done"),
        (f"{len(failed):,}", "failed"),
        (_short(observations), "observations"),
    ]
    if moments:
        facts.append((f"{moments[-1].time:%Y-%m-%d %H:%M}", "last written (UTC)"))
    return Timeline(
        title="Records of the store",
        facts=facts,
        ended=np.array([moment.time.timestamp() for moment in moments], dtype=np.float64),
        status=np.array([statuses.get(m.status, m.status) for m in moments], dtype=np.str_),
        observations=np.array([moment.observations for moment in moments], dtype=np.int64),
        attempts=np.ones(len(moments), dtype=np.int64),
        failures=[_line(f"{moment.cell}   {moment.error}") for moment in failed],
    )


def lanes(began: Floats, ended: Floats) -> NDArray[np.int64]:
    """Return a lane for each cell, so that cells of one lane do not overlap, and few lanes.

    An end is noted a moment after a worker began its next cell: so much overlap is none.
    """
    moment = 0.01 * float(ended.max(initial=0.0))
    chosen = np.zeros(len(began), dtype=np.int64)
    free: list[int] = []
    busy: list[tuple[float, int]] = []
    count = 0
    for cell in np.argsort(began, kind="stable").tolist():
        while busy and busy[0][0] <= began[cell] + moment:
            heapq.heappush(free, heapq.heappop(busy)[1])
        if free:
            lane = heapq.heappop(free)
        else:
            lane, count = count, count + 1
        chosen[cell] = lane
        heapq.heappush(busy, (float(ended[cell]), lane))
    return chosen


def _some(number: int, what: str) -> str:
    return f"{number:,} {what}{'s' * (number != 1)}"


def _short(number: float) -> str:
    """Return a count to three digits, such as ``"1.24 M"``."""
    for size, unit in ((1e12, "T"), (1e9, "G"), (1e6, "M")):
        if number >= size:
            return f"{number / size:.3g} {unit}"
    return f"{number:,.0f}"


def _seconds(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.3g} s"
    return duration(seconds)


def _line(text: str) -> str:
    return " ".join(redact(text).split())
