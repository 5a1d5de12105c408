"""What came of a run: results to a plain dict."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from magg import wire
from magg.cell import CellResult
from magg.granules import GranuleRead
from magg.plan import Plan


@dataclass
class Tally:
    """What came of a run so far, and the summary of it.

    Parameters
    ----------
    plan : Plan
    backend : str
    skipped : int
        Cells that were done before.
    results : list of CellResult
    used : callable
        Returns what the executor's calls have used and cost so far.
    moments : list of dict
        When each of the results came, after how many attempts; see `add`.
    """

    plan: Plan
    backend: str
    skipped: int = 0
    results: list[CellResult] = field(default_factory=list)
    used: Callable[[], dict[str, Any]] = dict
    moments: list[dict[str, Any]] = field(default_factory=list)

    def add(self, result: CellResult, ended_s: float, attempts: int, cost: float | None) -> None:
        """Take in the result of a cell.

        Parameters
        ----------
        result : CellResult
        ended_s : float
            Seconds from the start of the run until the result was there.
        attempts : int
            How often the cell was tried.
        cost : float, optional
            What the run had cost until then, in US dollars; None where nobody knows.
        """
        self.results.append(result)
        so_far = {} if cost is None else {"cost_usd_so_far": cost}
        self.moments.append({"ended_s": ended_s, "attempts": attempts, **so_far})

    def summary(self, wall_time_s: float, retries: int = 0) -> dict[str, Any]:
        """Return the summary of a run."""
        statuses = Counter(result.status for result in self.results)
        return {
            "total_cells": len(self.plan.cells),
            "cells_with_data": statuses["data"],
            "cells_empty": statuses["empty"],
            "cells_error": statuses["error"],
            "cells_skipped": self.skipped,
            "total_obs": sum(result.observations for result in self.results),
            "rows_read": sum(granule.rows_read for granule in self._granules()),
            "rows_dropped": _dropped(self._granules()),
            # Rows without a position are in no cell, so each granule's count once.
            "rows_unlocated": sum({g.granule: g.rows_unlocated for g in self._granules()}.values()),
            "granules_skipped": self._granules_skipped(),
            "granules_stale": sorted({g.granule for g in self._granules() if g.stale}),
            "retries": retries,
            "wall_time_s": wall_time_s,
            "store_path": self.plan.store,
            "backend": self.backend,
            "dry_run": False,
            "errors": [
                {"cell": result.cell, "type": result.error.type, "message": result.error.message}
                for result in self.results
                if result.error
            ],
            "results": [
                _entry(result) | moment
                for result, moment in zip(self.results, self.moments, strict=True)
            ],
            **self.used(),
        }

    def dry_summary(self, workers: int | None) -> dict[str, Any]:
        """Return what a dry run reports: an empty summary, the plan, and how it would run."""
        summary = self.summary(0.0) | {"dry_run": True, "max_workers": workers}
        return summary | self.plan.describe()

    def _granules(self) -> Iterator[GranuleRead]:
        return (granule for result in self.results for granule in result.granules)

    def _granules_skipped(self) -> list[dict[str, Any]]:
        """Return each granule that was left out, why, and in which cells."""
        cells: dict[str, dict[str, Any]] = {}
        for result in self.results:
            for skipped in result.skipped:
                entry = {"granule": skipped.granule, "error": skipped.error, "cells": []}
                cells.setdefault(skipped.granule, entry)["cells"].append(result.cell)
        return [cells[granule] for granule in sorted(cells)]


def _entry(result: CellResult) -> dict[str, Any]:
    return {
        "cell": result.cell,
        "status": result.status,
        "observations": result.observations,
        "children": result.children,
        "granules": len(result.granules),
        "granules_skipped": [skipped.granule for skipped in result.skipped],
        "rows_read": sum(granule.rows_read for granule in result.granules),
        "rows_dropped": _dropped(result.granules),
        "duration_s": result.duration_s,
        "error": wire.unstructure(result.error) if result.error else None,
    }


def _dropped(granules: Iterable[GranuleRead]) -> dict[str, int]:
    """Return how many rows were dropped, by reason."""
    dropped: Counter[str] = Counter()
    for granule in granules:
        dropped.update(granule.rows_dropped)
    return dict(dropped)
