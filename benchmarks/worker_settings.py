"""Which settings of a worker's environment matter: allocation thresholds and numbers of threads.

    python benchmarks/worker_settings.py [--repeats 5] [--rounds 4] [--granules 12]

The handler of the deployed function answers calls for cells of simulated granules, in a process for
each setting, which take turns. Figures are medians of the repeats, as ratios to the process in
which nothing is set: of the first answer to each call in a fresh process, and of later ones.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import sys
import tempfile
from concurrent.futures import Executor, Future
from pathlib import Path
from typing import Any

import numpy as np
from measure import measure_process

from magg import Catalog, load_config, run
from magg.executors.payload import Calls
from magg.testing import simulate_region
from magg.worker import FUNCTIONS

JOB = Path(__file__).parent / "jobs" / "worker_cells.py"
REGION = {"latitude": 55.0, "longitude": -45.0, "width_km": 5.0}
LARGE = str(2**30)
THRESHOLDS = {"MALLOC_MMAP_THRESHOLD_": LARGE, "MALLOC_TRIM_THRESHOLD_": LARGE}
SETTINGS: dict[str, dict[str, str]] = {
    "nothing": {},
    "allocation thresholds of 1 GiB": THRESHOLDS,
    "one arena": {"MALLOC_ARENA_MAX": "1"},
    "one thread of OpenBLAS": {"OPENBLAS_NUM_THREADS": "1"},
    "one thread of OpenMP": {"OMP_NUM_THREADS": "1"},
    "one thread of blosc": {"BLOSC_NTHREADS": "1"},
    "thresholds and OpenBLAS": {**THRESHOLDS, "OPENBLAS_NUM_THREADS": "1"},
}
COLUMNS = {
    "first: CPU": ("first", "cpu_s"),
    "system": ("first", "system_s"),
    "faults": ("first", "faults"),
    "later: CPU": ("later", "cpu_s"),
    "system ": ("later", "system_s"),
    "faults ": ("later", "faults"),
    "peak MB": ("peak_mb",),
}


class Recorder(Executor):
    """Makes every call at once, and keeps it."""

    def __init__(self) -> None:
        self.events: list[dict[str, Any]] = []

    def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Make the call."""
        self.events.append(Calls(FUNCTIONS).request(fn, args, kwargs))
        future: Future[Any] = Future()
        future.set_result(fn(*args, **kwargs))
        return future


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--granules", type=int, default=12)
    parser.add_argument("--cells", type=int, default=4)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        events = Path(temporary, "events.json")
        events.write_text(json.dumps(calls(Path(temporary), options)))
        found: dict[str, list[dict[str, Any]]] = {name: [] for name in SETTINGS}
        for _ in range(options.repeats):
            for name, setting in SETTINGS.items():
                found[name].append(answered(events, options.rounds, setting))
    report(found)


def calls(folder: Path, options: argparse.Namespace) -> list[dict[str, Any]]:
    """Return the calls of the cells with most granules, over a store that is ready."""
    granules = simulate_region(
        folder / "granules", granules=options.granules, segments=40_000, **REGION
    )
    recorder = Recorder()
    summary = run(
        load_config("atl06"),
        catalog=Catalog.from_files(granules),
        store=folder / "s.zarr",
        executor=recorder,
        max_cells=options.cells,
        progress=False,
    )
    if summary["errors"]:
        raise SystemExit(str(summary["errors"]))
    print(f"{summary['total_cells']} cells, {summary['total_obs']:,} observations\n")
    return recorder.events


def answered(events: Path, rounds: int, setting: dict[str, str]) -> dict[str, Any]:
    """Return what it costs to answer all calls with a setting."""
    names = {name for one in SETTINGS.values() for name in one}
    bare = {name: value for name, value in os.environ.items() if name not in names}
    variables = [f"{name}={value}" for name, value in (bare | setting).items()]
    command = [sys.executable, str(JOB), str(events), str(rounds)]
    told: dict[str, Any] = json.loads(measure_process(["env", "-i", *variables, *command])[1])
    return told


def report(found: dict[str, list[dict[str, Any]]]) -> None:
    """Print the figures where nothing is set, and ratios to them."""
    table = {
        name: {column: middle(each, path) for column, path in COLUMNS.items()}
        for name, each in found.items()
    }
    base = table["nothing"]
    print(
        f"nothing set, a cell: first {1e3 * base['first: CPU']:.0f} ms CPU "
        f"({1e3 * base['system']:.0f} of the system), {base['faults']:,.0f} page faults; later "
        f"{1e3 * base['later: CPU']:.0f} ms ({1e3 * base['system ']:.0f}), "
        f"{base['faults ']:,.0f} faults; {base['peak MB']:.0f} MB at most\n"
    )
    print(f"{'set':34}" + "".join(f"{name:>12}" for name in COLUMNS))
    for name, each in table.items():
        print(f"{name:34}" + "".join(f"{each[c] / max(base[c], 1e-9):12.2f}" for c in COLUMNS))


def middle(each: list[dict[str, Any]], path: tuple[str, ...]) -> float:
    """Return the median of a figure."""
    return float(np.median([functools.reduce(dict.__getitem__, path, one) for one in each]))


if __name__ == "__main__":
    main()
