"""What happens in a run, told to whoever listens (progress bars, logs, a caller's function)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class RunStarted:
    """The plan stands and the first cell is about to be submitted.

    Parameters
    ----------
    cells : int
        Parent cells that will be worked on.
    skipped : int
        Parent cells that are done already.
    backend, store : str
        Where the cells run, and where the statistics go.
    """

    cells: int
    skipped: int
    backend: str
    store: str


@dataclass(frozen=True)
class CellFinished:
    """One parent cell came to its end.

    Parameters
    ----------
    cell : str
        Decimal Morton id.
    status : {"data", "empty", "error"}
    observations : int
    error : str, optional
        What went wrong, in one line.
    cost_usd : float, optional
        What the run has cost so far, estimated; None where it costs nothing that magg knows of.
    """

    cell: str
    status: str
    observations: int
    error: str | None = None
    cost_usd: float | None = None


@dataclass(frozen=True)
class Notice:
    """Something that the user should know while the run goes on."""

    message: str


@dataclass(frozen=True)
class RunFinished:
    """The run is over, interrupted or not; ``summary`` is what `magg.run` returns."""

    summary: dict[str, Any]


@dataclass(frozen=True)
class IndexStarted:
    """Granules are about to be surveyed for the index of a catalog.

    Parameters
    ----------
    granules : int
        Those that will be surveyed.
    known : int
        Those that are in the index already.
    backend : str
        Where they are surveyed.
    """

    granules: int
    known: int
    backend: str


@dataclass(frozen=True)
class GranuleSurveyed:
    """One granule is surveyed, or cannot be: ``error`` says why, in one line."""

    granule: str
    error: str | None = None


@dataclass(frozen=True)
class IndexFinished:
    """The survey is over, interrupted or not."""


Event = (
    RunStarted
    | CellFinished
    | Notice
    | RunFinished
    | IndexStarted
    | GranuleSurveyed
    | IndexFinished
)
Listener = Callable[[Event], None]
