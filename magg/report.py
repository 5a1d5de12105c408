"""Summaries, catalogs and stores as tables for people (rich renderables)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from magg.amounts import dollars

if TYPE_CHECKING:
    from rich.console import RenderableType

    from magg.catalog import Catalog

FAILURES_SHOWN = 10


def of_summary(summary: Mapping[str, Any]) -> RenderableType:
    """Return the table of a run's summary, or of its plan after a dry run."""
    if summary["dry_run"]:
        return _table(rows_of(summary))
    from rich.console import Group
    from rich.text import Text

    failed, skipped = failures_of(summary)
    lines = [Text(line, style="red") for line in failed]
    return Group(
        _table(rows_of(summary)), *lines, *(Text(line, style="yellow") for line in skipped)
    )


def rows_of(summary: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return labels and values of a summary, or of the plan of a dry run."""
    if summary["dry_run"]:
        return _rows_of_plan(summary)
    done = summary["total_cells"] - summary["cells_error"]
    return [
        ("cells", f"{done:,} of {summary['total_cells']:,} done"),
        ("with data / empty", f"{summary['cells_with_data']:,} / {summary['cells_empty']:,}"),
        ("done before", f"{summary['cells_skipped']:,}" if summary["cells_skipped"] else ""),
        ("observations", f"{summary['total_obs']:,}"),
        ("time", f"{summary['wall_time_s']:.1f} s on {summary['backend']}"),
        ("cost", _cost(summary)),
        ("store", summary["store_path"]),
    ]


def failures_of(summary: Mapping[str, Any]) -> tuple[list[str], list[str]]:
    """Return a line for each cell that failed, and for each granule that was skipped."""
    failed = [
        f"cell {e['cell']} failed: {e['type']}: {e['message']}"
        for e in summary["errors"][:FAILURES_SHOWN]
    ]
    more = summary["cells_error"] - len(failed)
    if more > 0:
        failed.append(f"and {more} more failed")
    return failed, [
        f"skipped {s['granule']} in {len(s['cells'])} cells: {s['error']}"
        for s in summary["granules_skipped"][:FAILURES_SHOWN]
    ]


def _rows_of_plan(summary: Mapping[str, Any]) -> list[tuple[str, str]]:
    workers = summary["max_workers"]
    per_cell = (
        f"{summary['granules_per_cell_min']} to {summary['granules_per_cell_max']}, "
        f"{summary['granules_per_cell_mean']:.1f} on average"
    )
    return [
        (
            "would work on",
            f"{summary['total_cells']:,} cells of order {summary['parent_order']}",
        ),
        ("done before", f"{summary['cells_skipped']:,}" if summary["cells_skipped"] else ""),
        ("granules", f"{summary['granules']:,}"),
        ("granules per cell", per_cell),
        ("without rows", _without_rows(summary)),
        ("output", f"{summary['child_cells']:,} child cells of order {summary['child_order']}"),
        ("coarser orders", _orders(summary["coarser_orders"])),
        ("output size", f"at most {_bytes(summary['output_bytes'])} before compression"),
        ("would run on", f"{summary['backend']}" + (f", {workers} at once" if workers else "")),
        ("cost", _most(summary)),
        ("store", summary["store_path"]),
    ]


def _without_rows(summary: Mapping[str, Any]) -> str:
    if "cells_without_rows" not in summary:
        return ""
    return f"{summary['cells_without_rows']:,} cells, which need no worker (by the granule index)"


def _cost(summary: Mapping[str, Any]) -> str:
    if "estimated_cost_usd" not in summary:
        return ""
    return (
        f"about {dollars(summary['estimated_cost_usd'])} for {summary['lambda_calls']:,} calls, "
        f"{summary['gb_seconds']:,.0f} GB-s, at most {summary['peak_memory_mb']:,} MB each"
    )


def _most(summary: Mapping[str, Any]) -> str:
    if "cost_usd_ceiling" not in summary:
        return ""
    return (
        f"at most {dollars(summary['cost_usd_ceiling'])}, if every call ran into its time limit "
        "and none was repeated"
    )


def of_catalog(catalog: Catalog, path: Path) -> RenderableType:
    """Return the table of a catalog."""
    about = catalog.summary()
    product = " ".join(str(about[key]) for key in ("short_name", "version") if key in about)
    rows = [
        ("product", product),
        ("measured", f"{about['first']} to {about['last']}" if about["first"] else ""),
        ("cells", f"{about['cells']:,} of order {about['parent_order']}"),
        ("granules", f"{about['granules']:,}"),
        (
            "granules per cell",
            f"{about['granules_per_cell_min']} to {about['granules_per_cell_max']}",
        ),
        ("catalog", str(path)),
        ("index", _index_of(about)),
    ]
    return _table([(name, text) for name, text in rows if text])


def of_pyramid(made: Mapping[str, Any]) -> RenderableType:
    """Return the table of what `magg.build_pyramid` tells."""
    from rich.console import Group

    rows = [
        ("store", made["store"]),
        ("coarser orders", _orders(made["orders"])),
        ("parent cells", f"{made['cells']:,} in them, {made['cells_derived']:,} derived now"),
    ]
    return Group(_table(rows), *_lacking(made["absent"]))


def _lacking(absent: Mapping[int, Mapping[str, str]]) -> list[RenderableType]:
    """Return lines that say which statistics coarser orders lack, and why."""
    from rich.text import Text

    orders: dict[tuple[str, str], list[int]] = {}
    for order, reasons in absent.items():
        for told in reasons.items():
            orders.setdefault(told, []).append(order)
    return [
        Text(f"{name} is not in orders {_orders(found)}: {reason}", style="yellow")
        for (name, reason), found in orders.items()
    ]


def _orders(orders: Iterable[int]) -> str:
    """Return orders in words, runs of them in short."""
    runs: list[list[int]] = []
    for order in sorted(orders, reverse=True):
        if runs and runs[-1][-1] == order + 1:
            runs[-1].append(order)
        else:
            runs.append([order])
    return ", ".join(f"{run[0]} to {run[-1]}" if len(run) > 1 else f"{run[0]}" for run in runs)


def _index_of(about: Mapping[str, Any]) -> str:
    """Return one line about the index beside a catalog."""
    index = about.get("index")
    if index is None:
        return ""
    if "error" in index:
        return str(index["error"])
    return f"{index['path']}, of {index['granules']:,} of {about['granules']:,} granules"


def of_index(summary: Mapping[str, Any]) -> RenderableType:
    """Return the table of what `magg.build_index` did."""
    from rich.console import Group
    from rich.text import Text

    rows = [
        ("granules", f"{summary['granules_indexed']:,} of {summary['granules']:,} in the index"),
        ("known before", f"{summary['granules_known']:,}"),
        ("surveyed", f"{summary['granules_surveyed']:,}"),
        ("datasets added", f"to {summary['granules_completed']:,} granules"),
        ("time", f"{summary['wall_time_s']:.1f} s on {summary['backend']}"),
        ("index", summary["index_path"]),
    ]
    failures = [
        Text(f"cannot be surveyed: {e['type']}: {e['message']}", style="red")
        for e in summary["errors"][:FAILURES_SHOWN]
    ]
    return Group(_table(rows), *failures)


def of_store(store: Mapping[str, Any]) -> RenderableType:
    """Return the tables of what `magg.store.inspect.describe` tells."""
    from rich.console import Group
    from rich.table import Table

    variables = Table(box=None, header_style="dim", padding=(0, 2, 0, 0))
    for column in ("variable", "type", "units", "chunks", "what it is"):
        variables.add_column(column)
    for name, about in store["variables"].items():
        written = f"{about['chunks_written']}"
        variables.add_row(name, about["dtype"], about["units"], written, about["long_name"])
    versions = ", ".join(f"{name} {version}" for name, version in store["versions"].items())
    cells = store["cells"]
    rows = [
        ("store", store["store"]),
        ("parent cells", f"{store['parent_cells']:,} of order {store['parent_order']}"),
        ("child cells", f"{store['child_cells']:,} of order {store['child_order']}"),
        (
            "coarser orders",
            _orders(store["orders"][:-1]),
        ),
        ("state", "of the child cells is kept" if store["has_state"] else ""),
        ("done", f"{cells['data'] + cells['empty']:,}, of which {cells['empty']:,} empty"),
        ("granules skipped in", f"{cells['partial']:,} cells" if cells["partial"] else ""),
        ("failed", f"{cells['failed']:,} cells" if cells["failed"] else ""),
        ("interrupted", f"{cells['interrupted']:,} cells" if cells["interrupted"] else ""),
        ("missing", f"{cells['missing']:,} cells" if cells["missing"] else ""),
        ("written", f"{cells['first']} to {cells['last']}" if cells["first"] else ""),
        ("config", store["config_digest"][:12]),
        ("made with", versions),
    ]
    return Group(_table(rows), *_lacking(store["absent_variables"]), "", variables)


def _table(rows: Iterable[tuple[str, str]]) -> RenderableType:
    """Return rows of a label and a value; rows without a value are left out."""
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    for label, value in rows:
        if value:
            table.add_row(label, Text(value))
    return table


def _bytes(size: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"
