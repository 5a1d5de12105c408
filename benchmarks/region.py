"""The CPU time of a whole run over a region: magg, plain h5py with NumPy, and zagg.

    python benchmarks/region.py [--data DIR] [--repeats 3]

Twelve simulated full-size ATL06 granules (100,000 segments in each of six beams, 26 datasets a
beam) cross the same parent cells of order 6, and are binned at order 12. All times are CPU times
(user and system, all threads): read them as ratios, within one run of this script. The contestants
take turns, so that a disturbance of the machine meets all of them.

zagg takes part where it is installed (``pip install zagg``, Python 3.12 or newer). The granules
have no fill values, because zagg 0.61 does not filter them and stops at their weights of zero;
then all observations must agree, and the script fails where they do not.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import sys
import tempfile
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

from measure import Cost, measure_call, measure_process, median, verdict

from magg import Catalog, load_config, run
from magg.grid import from_decimal
from magg.testing import simulate_region

GRANULES, BEAMS, SEGMENTS = 12, 6, 100_000
# South of Greenland; tracks this close together share most of their cells.
REGION = {"latitude": 55.0, "longitude": -45.0, "width_km": 5.0}
OTHER_DATASETS = 20

CPU_US_PER_ROW = 1.0
TIMES_LESS_THAN_ZAGG = 10.0

JOBS = Path(__file__).parent / "jobs"
KNOWN, COLD = "magg, row ranges known", "magg, nothing known"
MAGG, H5PY, ZAGG = "magg, process", "h5py + NumPy, process", "zagg, process"
NOTES = {
    KNOWN: "run() in this process, which has the layouts from Catalog.from_files",
    COLD: "the same, but the granules' chunk tables and row ranges are found in the run",
    MAGG: "from the start of Python to its end: imports, catalog from JSON, nothing known",
    H5PY: "for each cell opens each granule, reads five datasets of a beam whole, loops over its "
    "child cells",
    ZAGG: "process_shard and write_dataframe_to_zarr over local files, 4 threads, built-in atl06 "
    "config\n(its agg() reads S3 and HTTPS only, and does more beside this)",
}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, help="folder to keep the granules in (1 GB)")
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        granules = make_granules(options.data or Path(temporary) / "granules")
        compare(granules, Path(temporary), options.repeats)


def make_granules(folder: Path) -> list[Path]:
    """Simulate the granules, unless the folder has them already."""
    found = sorted(folder.glob("*.h5"))
    if len(found) == GRANULES:
        return found
    print(f"Simulating {GRANULES} granules; this is not measured...", flush=True)
    return simulate_region(
        folder,
        **REGION,
        granules=GRANULES,
        segments=SEGMENTS,
        missing_beams_in=(),
        fill_fraction=0.0,
        extra_datasets=OTHER_DATASETS,
    )


def compare(granules: list[Path], folder: Path, repeats: int) -> None:
    """Run the contestants in turn and print what they cost."""
    catalog = Catalog.from_files(granules)
    catalog_path = catalog.save(folder / "catalog.json")
    magg = MaggRuns(granules, catalog, folder / "magg.zarr")
    contestants: dict[str, Callable[[], tuple[Cost, dict[str, int]]]] = {
        KNOWN: magg.known,
        COLD: magg.cold,
        MAGG: lambda: process("with_magg.py", catalog_path, folder),
        H5PY: lambda: process("with_h5py.py", catalog_path, folder),
    }
    if importlib.util.find_spec("zagg"):
        shardmap = write_shardmap(catalog, folder / "shardmap.json")
        contestants[ZAGG] = lambda: process("with_zagg.py", shardmap, folder)

    magg.known()  # once unmeasured: imports, and the disk's cache
    costs: dict[str, list[Cost]] = {name: [] for name in contestants}
    counts: dict[str, dict[str, int]] = {}
    for number in range(repeats):
        print(f"Round {number + 1} of {repeats}...", flush=True)
        for name, contestant in contestants.items():
            cost, counts[name] = contestant()
            costs[name].append(cost)

    rows = GRANULES * BEAMS * SEGMENTS
    if magg.rows_read != rows:
        raise SystemExit(f"magg located {magg.rows_read} rows in cells, not {rows}")
    print_report(catalog, rows, costs, counts)
    # Cell by cell, so that points binned into another cell cannot cancel.
    differing = [name for name, found in counts.items() if found != counts[KNOWN]]
    if differing:
        raise SystemExit(f"observations differ from magg's: {', '.join(differing)}")
    print("\nAll agree on the number of observations in every cell.")


class MaggRuns:
    """Runs of magg in this process."""

    def __init__(self, granules: list[Path], catalog: Catalog, store: Path) -> None:
        self.granules, self.catalog, self.store = granules, catalog, store
        self.config = load_config("atl06")
        self.rows_read = 0

    def known(self) -> tuple[Cost, dict[str, int]]:
        """Run where this process knows the layout of every granule, as after `from_files`."""
        cost, summary = measure_call(
            lambda: run(
                self.config,
                catalog=self.catalog,
                store=self.store,
                overwrite=True,
                progress=False,
            )
        )
        if summary["errors"]:
            raise SystemExit(str(summary["errors"]))
        self.rows_read = summary["rows_read"]
        return cost, {entry["cell"]: entry["observations"] for entry in summary["results"]}

    def cold(self) -> tuple[Cost, dict[str, int]]:
        """Run where every granule is news: its chunk tables and row ranges are found first."""
        for granule in self.granules:
            granule.touch()  # a layout is of one file at one time of modification
        return self.known()


def process(script: str, catalog: Path, folder: Path) -> tuple[Cost, dict[str, int]]:
    """Run a job from the start of Python to its end, into a new store."""
    with tempfile.TemporaryDirectory(dir=folder) as place:
        # -P: nothing beside the job can stand in for a module of Python or of a package.
        command = [sys.executable, "-P", str(JOBS / script), str(catalog), f"{place}/out.zarr"]
        cost, printed = measure_process(command)
    return cost, json.loads(printed.splitlines()[-1])["observations"]


def write_shardmap(catalog: Catalog, path: Path) -> Path:
    """Write the catalog as zagg's shard map: the same cells, and the same granules in each."""
    shardmap = {
        "shard_keys": [from_decimal(cell) for cell in catalog.cells],
        "granules": [
            [{"id": Path(granule).name, "s3": granule} for granule in granules]
            for granules in catalog.cells.values()
        ],
        "metadata": {"cells": list(catalog.cells)},
    }
    path.write_text(json.dumps(shardmap))
    return path


def print_report(
    catalog: Catalog,
    rows: int,
    costs: dict[str, list[Cost]],
    counts: dict[str, dict[str, int]],
) -> None:
    """Print the table, the ratios and the targets."""
    per_cell = sum(map(len, catalog.cells.values())) / len(catalog)
    repeats = len(costs[KNOWN])
    medians = {name: median(found) for name, found in costs.items()}
    print(
        f"\nPython {sys.version.split()[0]}, medians of {repeats}\n"
        f"{GRANULES} granules x {BEAMS} beams x {SEGMENTS:,} segments = {rows:,} rows located in "
        f"{len(catalog)} cells of order 6,\n{per_cell:.1f} granules a cell on average\n"
    )
    print(f"{'':24}{'CPU s':>8}{'wall s':>8}{'CPU us/row':>12}{'observations':>14}")
    for name, cost in medians.items():
        per_row = cost.cpu / rows * 1e6
        observations = sum(counts[name].values())
        print(f"{name:24}{cost.cpu:8.2f}{cost.wall:8.2f}{per_row:12.2f}{observations:14,}")
    print()
    for name in medians:
        print(f"{name}: {NOTES[name]}")
    print("\nCPU of whole processes, relative to magg's in the same round (median, range):")
    for name in (H5PY, ZAGG):
        if name in costs:
            times = ratios(costs[name], costs[MAGG])
            print(f"{name:24}{times[len(times) // 2]:8.1f} ({times[0]:.1f} to {times[-1]:.1f})")
    print()
    known = medians[KNOWN].cpu / rows * 1e6
    print(verdict("CPU per row with row ranges known", known, CPU_US_PER_ROW, "us"))
    if ZAGG in medians:
        times = ratios(costs[ZAGG], costs[MAGG])
        print(
            verdict(
                f"times less CPU than zagg {version('zagg')} for the whole process",
                times[len(times) // 2],
                TIMES_LESS_THAN_ZAGG,
                "times",
                at_least=True,
            )
        )
    else:
        print("----  zagg is not installed here (pip install zagg; Python 3.12): not compared")


def ratios(slow: list[Cost], fast: list[Cost]) -> list[float]:
    """Return the ratios of CPU time, round by round, ascending."""
    return sorted(a.cpu / b.cpu for a, b in zip(slow, fast, strict=True))


if __name__ == "__main__":
    main()
