"""The progress of a run in a notebook: a bar while it runs, and one line that stays.

Of plain HTML, which is replaced as the run goes on. A widget would be lost when the notebook is
saved, and needs a package and an extension of the notebook.
"""

from __future__ import annotations

import time
from typing import Any

from magg.amounts import dollars, duration
from magg.events import (
    CellFinished,
    Event,
    GranuleSurveyed,
    IndexFinished,
    IndexStarted,
    Notice,
    RunFinished,
    RunStarted,
)
from magg.html import pieces

# Browsers and connections to hubs are slower than small cells.
INTERVAL_S = 0.2
NOTES_SHOWN = 5
_BAR = '<progress value="{}" max="{}" style="width:14em;vertical-align:middle"></progress> '
_LINE = '<div style="font:13px/1.6 system-ui,sans-serif">{}</div>'


class NotebookBar:
    """Cells or granules done, observations, errors, rate and time left, below a notebook's cell."""

    def __init__(self) -> None:
        self._handle: Any = None
        self._cost: float | None = None
        self._notices: list[str] = []
        self._failures: list[str] = []
        self._shown = 0.0
        self._spent: float | None = None

    def __call__(self, event: Event) -> None:
        """Show an event."""
        if isinstance(event, RunStarted):
            self._open("cells", event.cells, event.backend, event.skipped)
        elif isinstance(event, IndexStarted):
            self._open("granules surveyed", event.granules, event.backend, event.known)
        elif isinstance(event, CellFinished):
            self._observations += event.observations
            self._cost = event.cost_usd
            self._count(f"cell {event.cell} failed", event.error)
        elif isinstance(event, GranuleSurveyed):
            self._count(f"granule {event.granule} cannot be surveyed", event.error)
        elif isinstance(event, Notice):
            self._notices.append(event.message)
            self._show()
        elif isinstance(event, RunFinished | IndexFinished):
            self._is_over = True
            if isinstance(event, RunFinished):
                self._spent = event.summary.get("wall_time_s")  # the planning before it too
            self._show()

    def _open(self, what: str, total: int, backend: str, before: int) -> None:
        self._what, self._total, self._backend, self._before = what, total, backend, before
        self._done = self._observations = self._errors = 0
        self._handle, self._cost, self._notices, self._failures = None, None, [], []
        self._began, self._is_over, self._spent = time.monotonic(), False, None
        self._show()

    def _count(self, what: str, error: str | None) -> None:
        self._done += 1
        if error is not None:
            self._errors += 1
            if self._errors <= NOTES_SHOWN:
                self._failures.append(f"{what}: {error}")
            elif self._errors == NOTES_SHOWN + 1:
                self._failures.append("further errors are in the summary")
        if time.monotonic() - self._shown >= INTERVAL_S:
            self._show()

    def _show(self) -> None:
        """Replace what is shown."""
        import IPython.display

        display: Any = IPython.display.display
        self._shown = time.monotonic()
        line = self._line()
        bar = "" if self._is_over else _BAR.format(self._done, max(1, self._total))
        notes = pieces.notes({"warn": self._notices, "bad": self._failures})
        shown = pieces.plain(_LINE.format(bar + pieces.text(line)), notes)
        bundle = {"text/html": shown, "text/plain": line}
        if self._handle is None:
            self._handle = display(bundle, raw=True, display_id=True)
        else:
            self._handle.update(bundle, raw=True)

    def _line(self) -> str:
        spent = self._spent or time.monotonic() - self._began
        parts = [f"{self._done:,} of {self._total:,} {self._what}"]
        if self._before:
            parts.append(f"{self._before:,} done before")
        if self._observations:
            parts.append(f"{self._observations:,} observations")
        if self._errors:
            parts.append(f"{self._errors:,} failed")
        if self._cost is not None:
            parts.append(f"about {dollars(self._cost)}")
        if self._is_over:
            parts.append(f"{duration(spent)} on {self._backend}")
        elif self._done:
            parts.append(f"{duration(spent * (self._total - self._done) / self._done)} left")
        return " · ".join(parts)
