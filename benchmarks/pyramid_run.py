"""What all coarser orders cost beside the child order alone, in a whole run.

    python benchmarks/pyramid_run.py [--data DIR] [--repeats 5]

The granules are those of ``benchmarks/region.py``: twelve of full size, binned at order 12. One
run makes order 12 alone, the other orders 12 to 0. They take turns. CPU times are of all threads;
read them as ratios, within one run of this script. Requests are what a run asks of the place where
the store is, by kind; in a bucket each is a round trip, and ``put`` is what costs most.
"""

from __future__ import annotations

import argparse
import contextlib
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import obstore.store
import zarr.storage
from measure import Cost, measure_call, median, verdict
from region import make_granules

from magg import Catalog, PipelineConfig, load_config, run

TIMES_THE_RUN = 1.15
ALONE, ALL = "order 12 alone", "orders 12 to 0"
KINDS = {"get": "get", "put": "put", "set": "put", "delete": "delete", "list": "list"}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, help="folder to keep the granules in (1 GB)")
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        granules = make_granules(options.data or Path(temporary) / "granules")
        compare(Catalog.from_files(granules), Path(temporary) / "s.zarr", options.repeats)


def compare(catalog: Catalog, store: Path, repeats: int) -> None:
    """Run both in turn and print what they cost."""
    alone = load_config("atl06")
    grid = replace(alone.output.grid, coarsest_order=0)
    configs = {ALONE: alone, ALL: replace(alone, output=replace(alone.output, grid=grid))}
    costs: dict[str, list[Cost]] = {name: [] for name in configs}
    asked: dict[str, Counter[str]] = {}
    for number in range(repeats + 1):
        for name, config in configs.items():
            shutil.rmtree(store, ignore_errors=True)
            with counted() as requests:
                cost, _ = measure_call(lambda config=config: complete(config, catalog, store))
            asked[name] = requests
            if number:  # the first round brings imports and the disk's cache
                costs[name].append(cost)
    print_report(len(catalog), costs, asked)


def complete(config: PipelineConfig, catalog: Catalog, store: Path) -> None:
    """Run, and fail where a cell does."""
    summary = run(config, catalog=catalog, store=store, progress=False)
    if summary["errors"]:
        raise SystemExit(str(summary["errors"]))


@contextlib.contextmanager
def counted() -> Iterator[Counter[str]]:
    """Count what is asked of a local store, by kind."""
    requests: Counter[str] = Counter()
    kept = []
    for owner in (obstore.store.LocalStore, zarr.storage.LocalStore):
        for name, kind in KINDS.items():
            if (method := getattr(owner, name, None)) is not None:
                kept.append((owner, name, owner.__dict__.get(name)))
                setattr(owner, name, _counting(method, requests, kind))
    try:
        yield requests
    finally:
        for owner, name, method in kept:
            if method is None:
                delattr(owner, name)
            else:
                setattr(owner, name, method)


def _counting(method: Any, requests: Counter[str], kind: str) -> Any:
    def wrapped(*arguments: Any, **options: Any) -> Any:
        requests[kind] += 1
        return method(*arguments, **options)

    return wrapped


def print_report(cells: int, costs: dict[str, list[Cost]], asked: dict[str, Counter[str]]) -> None:
    """Print the table, the ratios and the target."""
    print(f"\nPython {sys.version.split()[0]}, {cells} parent cells, medians of runs in turn\n")
    kinds = sorted(set(KINDS.values()))
    heads = "".join(f"{kind:>8}" for kind in kinds)
    print(f"{'':18}{'CPU s':>8}{'wall s':>8}{heads}   (requests a parent cell)")
    for name, found in costs.items():
        cost = median(found)
        each = "".join(f"{asked[name][kind] / cells:8.1f}" for kind in kinds)
        print(f"{name:18}{cost.cpu:8.2f}{cost.wall:8.2f}{each}")
    ratios = sorted(b.cpu / a.cpu for a, b in zip(costs[ALONE], costs[ALL], strict=True))
    middle = ratios[len(ratios) // 2]
    print(f"\nratios of CPU time: {', '.join(f'{ratio:.2f}' for ratio in ratios)}")
    print(verdict("CPU time of a run with all orders", middle, TIMES_THE_RUN, "times"))


if __name__ == "__main__":
    main()
