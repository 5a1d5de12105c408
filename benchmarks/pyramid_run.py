"""What all coarser orders cost beside the child order alone, in whole runs.

    python benchmarks/pyramid_run.py [--data DIR] [--repeats 9]

The granules are those of ``benchmarks/region.py``: twelve of full size, binned at order 12. They
give the 35 parent cells that they cross some 10^5 rows each. For more rows a cell there are hard
links to the granules, as the repeat cycles of a satellite would bring more of them; for 10^7 the
granules are short, so that few cells have all of their rows.

One run makes order 12 alone, the other orders 12 to 0. They take turns, each in a process of its
own, which knows nothing of the granules but the catalog and, where it says so, the granule index.
Imports are not counted. CPU times are of all threads; read them as ratios, within one run of this
script. Requests are what a run asks of the place where the store is, by kind; in a bucket each is a
round trip, and ``put`` costs most.

Stores are kept until the end, because ext4 looks for inodes that were not deleted lately: a run
would pay for the deletion of the stores before it, in proportion to the files that it makes.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import json
import shutil
import statistics
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import obstore.store
import zarr.storage
from measure import Cost, measure_call, measure_process, median, verdict
from region import REGION, make_granules

from magg import Catalog, PipelineConfig, load_config, run
from magg.testing import simulate_region

TIMES_THE_RUN = 1.15
ALONE, ALL = "order 12 alone", "orders 12 to 0"
KINDS = {"get": "get", "put": "put", "set": "put", "delete": "delete", "list": "list"}


@dataclass(frozen=True)
class Run(Cost):
    """What one run took, its requests by kind too; and the observations of each cell."""

    requests: dict[str, int]
    rows: dict[str, int]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, help="folder to keep the granules in (1 GB)")
    parser.add_argument("--repeats", type=int, default=9, help="fewer of the long runs")
    parser.add_argument("--job", nargs=3, metavar=("NAME", "CATALOG", "STORE"), help="one run")
    options = parser.parse_args()
    if options.job:
        name, catalog, store = options.job
        print(json.dumps(run_once(name, Catalog.load(catalog), Path(store))))
        return
    with tempfile.TemporaryDirectory() as temporary:
        granules = make_granules(options.data or Path(temporary) / "granules")
        # Links cannot lead to another file system.
        with tempfile.TemporaryDirectory(dir=granules[0].parent) as links:
            compare(make_cases(granules, Path(links), Path(temporary)), options.repeats)


@dataclass(frozen=True)
class Case:
    """Runs to be compared: of what catalog, and how often beside other cases."""

    name: str
    catalog: Path
    part_of_repeats: int = 1


def make_cases(granules: list[Path], links: Path, folder: Path) -> Iterator[Case]:
    """Yield the cases, each made when it is its turn."""
    path = Catalog.from_files(granules).save(folder / "1e5.json")
    yield Case("10^5", path)
    indexed = folder / "1e5-indexed.json"
    shutil.copy(path, indexed)
    Catalog.load(indexed).build_index(progress=False)
    yield Case("10^5, with an index", indexed)
    several = with_links(granules, links / "several", 6)
    yield Case("10^6", Catalog.from_files(several).save(folder / "1e6.json"), 3)
    short = simulate_region(
        links / "short", **REGION, granules=len(granules), segments=15_000, missing_beams_in=()
    )
    many = with_links(short, links / "many", 56)
    yield Case("10^7", Catalog.from_files(many).save(folder / "1e7.json"), 3)


def with_links(granules: list[Path], folder: Path, copies: int) -> list[Path]:
    """Return every granule so many times."""
    folder.mkdir()
    links = [
        folder / f"{number}-{granule.name}" for granule in granules for number in range(copies)
    ]
    for number, link in enumerate(links):
        link.hardlink_to(granules[number // copies])
    return links


def compare(cases: Iterable[Case], repeats: int) -> None:
    """Run both of each case in turn, and print what they cost."""
    print(f"Python {sys.version.split()[0]}, medians of runs in turn\n")
    kinds = "".join(f"{kind:>8}" for kind in sorted(set(KINDS.values())))
    print(
        f"{'':20}{'rows a cell':>12}{'cells':>6}  {'':15}{'CPU s':>7}{'wall s':>8}{kinds}  (a cell)"
    )
    verdicts = []
    for case in cases:
        found = measure(case, max(1, repeats // case.part_of_repeats))
        print_costs(case.name, found)
        for what in ("cpu", "wall"):
            ratios = [
                getattr(b, what) / getattr(a, what)
                for a, b in zip(found[ALONE], found[ALL], strict=True)
            ]
            name = f"{case.name}: {what} time ({' '.join(f'{r:.2f}' for r in sorted(ratios))})"
            verdicts.append(verdict(name, statistics.median(ratios), TIMES_THE_RUN, "times"))
    print("", *verdicts, sep="\n")


def measure(case: Case, repeats: int) -> dict[str, list[Run]]:
    """Run both in turn, each run in a process of its own."""
    found: dict[str, list[Run]] = {ALONE: [], ALL: []}
    for number in range(repeats + 1):
        for place, name in enumerate(found):
            store = case.catalog.with_name(f"{case.catalog.stem}-{number}-{place}.zarr")
            told = job(name, case.catalog, store)
            if number:  # the first round brings the disk's cache
                found[name].append(told)
    return found


def job(name: str, catalog: Path, store: Path) -> Run:
    """Do one run in a process of its own."""
    command = [sys.executable, __file__, "--job", name, f"{catalog}", f"{store}"]
    return Run(**json.loads(measure_process(command)[1]))


def run_once(name: str, catalog: Catalog, store: Path) -> dict[str, Any]:
    """Make a store where nothing is known of the granules but the catalog; return the costs."""
    config = load_config("atl06")
    if name == ALL:
        grid = replace(config.output.grid, coarsest_order=0)
        config = replace(config, output=replace(config.output, grid=grid))
    for module in ("h5py", "mortie", "zarr"):
        importlib.import_module(module)
    with counted() as requests:
        cost, rows = measure_call(lambda: complete(config, catalog, store))
    return {"cpu": cost.cpu, "wall": cost.wall, "requests": requests, "rows": rows}


def complete(config: PipelineConfig, catalog: Catalog, store: Path) -> dict[str, int]:
    """Run, and fail where a cell does; return the number of observations of each."""
    summary = run(config, catalog=catalog, store=store, progress=False)
    if summary["errors"]:
        raise SystemExit(str(summary["errors"]))
    return {result["cell"]: result["observations"] for result in summary["results"]}


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


def print_costs(case: str, found: dict[str, list[Run]]) -> None:
    """Print what both cost, in medians."""
    for name, runs in found.items():
        cost = median(runs)
        cells, mean = len(runs[0].rows), statistics.mean(runs[0].rows.values())
        kinds = sorted(set(KINDS.values()))
        each = "".join(f"{runs[-1].requests.get(kind, 0) / cells:8.1f}" for kind in kinds)
        print(
            f"{case:20}{mean:12,.0f}{cells:6}  {name:15}{cost.cpu:7.2f}{cost.wall:8.2f}{each}",
            flush=True,
        )


if __name__ == "__main__":
    main()
