"""What all coarser orders cost beside the child order alone, in a whole run.

    python benchmarks/pyramid_run.py [--data DIR] [--repeats 5]

The granules are those of ``benchmarks/region.py``: twelve of full size, binned at order 12. One
run makes order 12 alone, the other orders 12 to 0. They take turns, each in a process of its own,
which knows nothing of the granules but the catalog. Imports are not counted. CPU times are of all
threads; read them as ratios, within one run of this script. Requests are what a run asks of the
place where the store is, by kind; in a bucket each is a round trip, and ``put`` costs most.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import json
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
from measure import Cost, measure_call, measure_process, median, verdict
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
    parser.add_argument("--job", nargs=3, metavar=("NAME", "CATALOG", "STORE"), help="one run")
    options = parser.parse_args()
    if options.job:
        name, catalog, store = options.job
        print(json.dumps(run_once(name, Catalog.load(catalog), Path(store))))
        return
    with tempfile.TemporaryDirectory() as temporary:
        catalog = Catalog.from_files(make_granules(options.data or Path(temporary) / "granules"))
        catalog.save(Path(temporary) / "catalog.json")
        compare(len(catalog), Path(temporary), options.repeats)


def compare(cells: int, folder: Path, repeats: int) -> None:
    """Run both in turn, each run in a process of its own, and print what they cost."""
    costs: dict[str, list[Cost]] = {ALONE: [], ALL: []}
    asked: dict[str, dict[str, int]] = {}
    for number in range(repeats + 1):
        for name in costs:
            job = ["--job", name, f"{folder / 'catalog.json'}", f"{folder / f'{number}.zarr'}"]
            told = json.loads(measure_process([sys.executable, __file__, *job])[1])
            shutil.rmtree(folder / f"{number}.zarr")
            asked[name] = told["requests"]
            if number:  # the first round brings the disk's cache
                costs[name].append(Cost(told["cpu"], told["wall"]))
    print_report(cells, costs, asked)


def run_once(name: str, catalog: Catalog, store: Path) -> dict[str, Any]:
    """Make a store where nothing is known of the granules but the catalog; return the costs."""
    config = load_config("atl06")
    if name == ALL:
        grid = replace(config.output.grid, coarsest_order=0)
        config = replace(config, output=replace(config.output, grid=grid))
    for module in ("h5py", "mortie", "zarr"):
        importlib.import_module(module)
    with counted() as requests:
        cost, _ = measure_call(lambda: complete(config, catalog, store))
    return {"cpu": cost.cpu, "wall": cost.wall, "requests": requests}


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


def print_report(
    cells: int, costs: dict[str, list[Cost]], asked: dict[str, dict[str, int]]
) -> None:
    """Print the table, the ratios and the target."""
    print(f"\nPython {sys.version.split()[0]}, {cells} parent cells, medians of runs in turn\n")
    kinds = sorted(set(KINDS.values()))
    heads = "".join(f"{kind:>8}" for kind in kinds)
    print(f"{'':18}{'CPU s':>8}{'wall s':>8}{heads}   (requests a parent cell)")
    for name, found in costs.items():
        cost = median(found)
        each = "".join(f"{asked[name].get(kind, 0) / cells:8.1f}" for kind in kinds)
        print(f"{name:18}{cost.cpu:8.2f}{cost.wall:8.2f}{each}")
    ratios = sorted(b.cpu / a.cpu for a, b in zip(costs[ALONE], costs[ALL], strict=True))
    middle = ratios[len(ratios) // 2]
    print(f"\nratios of CPU time: {', '.join(f'{ratio:.2f}' for ratio in ratios)}")
    print(verdict("CPU time of a run with all orders", middle, TIMES_THE_RUN, "times"))


if __name__ == "__main__":
    main()
