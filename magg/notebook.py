"""What notebooks show of a run's summary and of a dry run's plan.

A summary is a plain dict and stays one: a subclass could not be told from it in most ways, but
``yaml.safe_dump`` and others refuse it, and a pickle of it could not be read without magg. So
IPython is told instead how to show a dict that is a summary. That happens when `magg.run` is called
within IPython, and never where the user has said how dicts are to be shown.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

from magg import report
from magg.html import pieces

CELLS_SHOWN = 200
# Enough to tell a summary from any other dict.
_KEYS = {"total_cells", "cells_error", "total_obs", "store_path", "dry_run", "results", "errors"}


def summary_html(summary: Mapping[str, Any]) -> str:
    """Return a summary, or the plan of a dry run, as HTML.

    Parameters
    ----------
    summary : dict
        What `magg.run` returned.

    Raises
    ------
    ValueError
        If it is no summary.
    """
    if not is_summary(summary):
        raise ValueError("this is no summary of a run")
    pairs = report.rows_of(summary)
    if summary["dry_run"]:
        return pieces.card("Plan", "dry run: nothing was read or written", pieces.rows(pairs))
    bad, skipped = report.failures_of(summary)
    errors = summary["cells_error"]
    state = f"{errors:,} cell{'s' * (errors != 1)} failed" if errors else "complete"
    return pieces.card(
        "Run",
        state,
        pieces.rows(pairs),
        pieces.notes({"bad": bad, "warn": skipped}),
        _cells(summary["results"]) if summary["results"] else "",
    )


def is_summary(value: object) -> bool:
    """Tell whether a value is a summary of a run."""
    return isinstance(value, Mapping) and value.keys() >= _KEYS


def show_summaries() -> None:
    """Have IPython, where this runs in it, show dicts that are summaries as tables."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython else None
    if shell is None:
        return
    formatter = shell.display_formatter.formatters["text/html"]
    try:
        formatter.lookup_by_type(dict)
    except KeyError:
        formatter.for_type(dict, _html_of_dict)


def _html_of_dict(value: dict[Any, Any]) -> str | None:
    """Return what a dict is shown as, or None for its plain text."""
    if is_summary(value):
        return summary_html(value)
    # IPython asks this function in place of what a subclass says of itself.
    own = getattr(value, "_repr_html_", None)
    shown: str | None = own() if callable(own) else None
    return shown


def _cells(results: list[dict[str, Any]]) -> str:
    worst_first = sorted(results, key=lambda entry: (entry["status"] != "error",))
    lines = [
        (
            entry["cell"],
            entry["status"],
            f"{entry['observations']:,}",
            f"{entry['children']:,}",
            entry["granules"],
            f"{entry['duration_s']:.2f} s",
        )
        for entry in worst_first[:CELLS_SHOWN]
    ]
    label = f"{len(results):,} cells"
    if len(results) > len(lines):
        label += f", {len(lines)} of them shown"
    columns = ("cell", "status", "observations", "child cells", "granules", "time")
    return pieces.folded(label, pieces.table(columns, lines))
