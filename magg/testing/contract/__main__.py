"""``python -m magg.testing.contract package.module:function``: the checks without pytest."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
from collections import Counter
from dataclasses import asdict
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table

from magg.testing.contract.runner import Outcome, list_checks, run_checks
from magg.testing.contract.settings import Settings


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m magg.testing.contract",
        description="Check that executors keep the contract of concurrent.futures.",
    )
    parser.add_argument("factories", nargs="+", metavar="package.module:function")
    parser.add_argument("-k", default="", metavar="TEXT", help="only checks with this in the name")
    parser.add_argument("--time-limit", type=float, default=Settings.time_limit, metavar="SECONDS")
    parser.add_argument("--jobs", type=int, default=2, help="checks at once (default 2)")
    parser.add_argument("--many", type=int, default=Settings.many, help="how many many futures are")
    parser.add_argument(
        "--no-shared-files", action="store_true", help="workers do not see the client's files"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all outcomes to a file")
    parser.add_argument("--markdown", action="store_true", help="print a table for documentation")
    return parser


def main(argv: list[str] | None = None) -> int:
    """Run the checks on each executor; return 0 if all keep the contract, otherwise 1."""
    arguments = parser().parse_args(argv)
    if str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    checks = [check for check in list_checks() if arguments.k in check]
    console = Console()
    told = {}
    for factory in arguments.factories:
        settings = Settings(
            factory, arguments.time_limit, arguments.many, not arguments.no_shared_files
        )
        # In a notebook rich takes a pipe for a terminal, and leaves every turn of the spinner.
        waits = console.status(f"{factory}: {len(checks)} checks")
        with waits if sys.stdout.isatty() else contextlib.nullcontext():
            told[factory] = run_checks(checks, settings, jobs=arguments.jobs)
        if not arguments.markdown:
            show(console, factory, told[factory])
    if arguments.markdown:
        sys.stdout.write(markdown(told))
    if arguments.json:
        outcomes = {name: [asdict(outcome) for outcome in all_] for name, all_ in told.items()}
        arguments.json.write_text(json.dumps(outcomes, indent=1))
    return int(not all(outcome.ok for outcomes in told.values() for outcome in outcomes))


def show(console: Console, factory: str, outcomes: list[Outcome]) -> None:
    """Print what did not pass with its last words, and how many did."""
    table = Table(Column("check", overflow="fold"), "", "s", "why", title=factory)
    for outcome in outcomes:
        if outcome.status != "passed" or not outcome.exited:
            how = outcome.status if outcome.exited else f"{outcome.status}, did not end"
            style = "yellow" if outcome.ok else "red"
            row = (outcome.check, f"[{style}]{how}[/]", f"{outcome.seconds:.1f}")
            table.add_row(*row, escape(gist(outcome)))
    if table.row_count:
        console.print(table)
    console.print(f"{factory}: {count(outcomes)}")


def count(outcomes: list[Outcome]) -> str:
    """Return how many passed, and how many did what else."""
    passed = sum(outcome.ok and outcome.status == "passed" for outcome in outcomes)
    others = Counter(o.status if o.exited else "did not end" for o in outcomes)
    del others["passed"]
    rest = "".join(f", {number} {status}" for status, number in sorted(others.items()))
    return f"{passed} of {len(outcomes)} passed{rest}"


def gist(outcome: Outcome) -> str:
    """Return the line of a reason that says most."""
    lines = [line.strip() for line in outcome.reason.splitlines() if line.strip()]
    if not lines:
        return ""
    # An exception is named at the end of its traceback.
    return lines[-1 if outcome.status in ("failed", "skipped") else 0][:200]


def markdown(told: dict[str, list[Outcome]]) -> str:
    """Return a table with a row for every executor."""
    lines = ["| executor | CPython's | magg's | what fails |", "|---|---|---|---|"]
    for factory, outcomes in told.items():
        parts = [
            count([outcome for outcome in outcomes if outcome.check.startswith(origin)])
            for origin in ("cpython.", "magg.")
        ]
        bad = [f"`{outcome.check}`" for outcome in outcomes if not outcome.ok]
        name = factory.partition(":")[2]
        lines.append(f"| {name} | {' | '.join(parts)} | {', '.join(bad) or 'nothing'} |")
    return os.linesep.join(lines) + os.linesep


if __name__ == "__main__":
    sys.exit(main())
