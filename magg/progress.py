"""Listeners that show a run: a bar in a terminal or notebook, plain log lines elsewhere."""

from __future__ import annotations

import logging
import sys
import time
from typing import TYPE_CHECKING

from magg.amounts import dollars
from magg.events import (
    CellFinished,
    Event,
    GranuleSurveyed,
    IndexFinished,
    IndexStarted,
    Listener,
    Notice,
    RunFinished,
    RunStarted,
)
from magg.html.live import NotebookBar

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress, TaskID

logger = logging.getLogger("magg")
LINES_PER_RUN = 20
ERRORS_SHOWN = 5


def make_listener(progress: bool | Listener | None) -> Listener:
    """Return the listener that an argument ``progress`` asks for.

    Parameters
    ----------
    progress : bool or callable, optional
        None decides by itself: a bar in a terminal or notebook, log lines elsewhere. True forces
        the bar, False silences the run, a callable receives every event.
    """
    if callable(progress):
        return progress
    if progress is False:
        return _ignore
    if in_notebook():
        return NotebookBar()
    return Bar() if progress or _is_watched() else LogLines()


def _ignore(_: Event) -> None:
    """Show nothing."""


def _is_watched() -> bool:
    return sys.stderr.isatty()


def in_notebook() -> bool:
    """Tell whether this is a Jupyter kernel."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython else None
    return shell is not None and hasattr(shell, "kernel")


class LogLines:
    """About twenty lines a run on the logger ``magg``, and one for every failed cell."""

    def __init__(self) -> None:
        self._total = self._done = self._errors = self._observations = 0
        self._began = time.monotonic()
        self._surveys = 0, 0

    def __call__(self, event: Event) -> None:
        """Log an event, if it is one that matters."""
        if isinstance(event, RunStarted):
            self._total, self._began = event.cells, time.monotonic()
            skipped = f", {event.skipped} done before" if event.skipped else ""
            logger.info("%d cells to do%s (%s)", event.cells, skipped, event.backend)
        elif isinstance(event, CellFinished):
            self._count(event)
        elif isinstance(event, IndexStarted):
            self._surveys = 0, event.granules
            logger.info("%d granules to survey (%s)", event.granules, event.backend)
        elif isinstance(event, GranuleSurveyed):
            self._survey(event)
        elif isinstance(event, Notice):
            logger.warning("%s", event.message)

    def _survey(self, event: GranuleSurveyed) -> None:
        done, total = self._surveys[0] + 1, self._surveys[1]
        self._surveys = done, total
        if event.error is not None:
            logger.error("granule %s cannot be surveyed: %s", event.granule, event.error)
        if done == total or done % max(1, total // LINES_PER_RUN) == 0:
            logger.info("%d of %d granules surveyed", done, total)

    def _count(self, event: CellFinished) -> None:
        self._done += 1
        self._observations += event.observations
        if event.error is not None:
            self._errors += 1
            logger.error("cell %s failed: %s", event.cell, event.error)
        if self._done == self._total or self._done % max(1, self._total // LINES_PER_RUN) == 0:
            elapsed = time.monotonic() - self._began
            logger.info(
                "%d of %d cells, %s observations, %d errors, %.1f cells/s",
                self._done,
                self._total,
                f"{self._observations:,}",
                self._errors,
                self._done / max(elapsed, 1e-9),
            )
            if event.cost_usd is not None:
                logger.info("estimated cost so far: %s", dollars(event.cost_usd))


class Bar:
    """A rich progress bar: cells done, observations, errors, rate and time left."""

    def __init__(self) -> None:
        self._progress: Progress | None = None
        self._task: TaskID | None = None
        self._observations = self._errors = 0
        self._survey = SurveyBar()

    def __call__(self, event: Event) -> None:
        """Move the bar by an event."""
        self._survey(event)
        if isinstance(event, RunStarted):
            self._open(event)
        elif self._progress is None or self._task is None:
            return
        elif isinstance(event, CellFinished):
            self._count(event, self._progress, self._task)
        elif isinstance(event, Notice):
            self._progress.console.print(event.message, style="yellow", markup=False)
        elif isinstance(event, RunFinished):
            self._progress.stop()

    def _open(self, event: RunStarted) -> None:
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            TextColumn,
            TimeElapsedColumn,
            TimeRemainingColumn,
        )

        console = _console()
        self._progress = Progress(
            TextColumn("[bold]{task.description}"),
            BarColumn(bar_width=None),
            MofNCompleteColumn(),
            TextColumn("{task.fields[observations]:,} obs"),
            TextColumn("{task.fields[rate]}"),
            TextColumn("{task.fields[cost]}"),
            TextColumn("{task.fields[errors]}"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=console,
            expand=True,
        )
        self._task = self._progress.add_task(
            f"cells ({event.backend})",
            total=event.cells,
            observations=0,
            errors="",
            rate="",
            cost="",
        )
        self._progress.start()

    def _count(self, event: CellFinished, progress: Progress, task: TaskID) -> None:
        self._observations += event.observations
        if event.error is not None:
            self._errors += 1
            if self._errors <= ERRORS_SHOWN:
                progress.console.print(
                    f"cell {event.cell} failed: {event.error}", style="red", markup=False
                )
            elif self._errors == ERRORS_SHOWN + 1:
                progress.console.print("further errors are in the summary", style="red")
        elapsed = progress.tasks[0].elapsed or 0.0
        done = progress.tasks[0].completed + 1
        progress.update(
            task,
            advance=1,
            observations=self._observations,
            errors=f"[red]{self._errors} errors" if self._errors else "",
            rate=f"{done / elapsed:.1f} cells/s" if elapsed > 0 else "",
            cost="" if event.cost_usd is None else f"[green]{dollars(event.cost_usd)}",
        )


class SurveyBar:
    """A rich progress bar of granules that are surveyed for an index."""

    def __init__(self) -> None:
        self._progress: Progress | None = None
        self._errors = 0

    def __call__(self, event: Event) -> None:
        """Move the bar by an event."""
        if isinstance(event, IndexStarted):
            self._open(event)
        elif self._progress is None:
            return
        elif isinstance(event, GranuleSurveyed):
            self._progress.update(self._progress.tasks[0].id, advance=1)
            self._errors += event.error is not None
            if event.error is not None and self._errors <= ERRORS_SHOWN:
                told = f"granule {event.granule} cannot be surveyed: {event.error}"
                self._progress.console.print(told, style="red", markup=False)
        elif isinstance(event, Notice):
            self._progress.console.print(event.message, style="yellow", markup=False)
        elif isinstance(event, IndexFinished):
            self._progress.stop()
            self._progress = None

    def _open(self, event: IndexStarted) -> None:
        from rich.progress import Progress

        self._progress = Progress(console=_console(), expand=True)
        self._progress.add_task(f"granules ({event.backend})", total=event.granules)
        self._progress.start()


def _console() -> Console:
    """Return where bars are drawn: a terminal keeps stdout for results."""
    from rich.console import Console

    return Console(stderr=True)
