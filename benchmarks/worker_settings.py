"""Which settings of a worker's environment matter: allocation thresholds and numbers of threads.

    python benchmarks/worker_settings.py [--repeats 5] [--rows 300000 1000000] [--granules 12]

Three kinds of work, each in a process of its own for every setting; the processes take turns.
Figures are medians of the repeats, the ratios are to the process in which nothing is set.

1. The rows of a cell are joined and aggregated, as they lie in memory.
2. Whole calls: the handler of the deployed function reads granules, aggregates and writes.
3. NumPy is imported.
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

JOBS = Path(__file__).parent / "jobs"
REGION = {"latitude": 55.0, "longitude": -45.0, "width_km": 5.0}
LARGE = str(2**30)
MAP, TRIM = {"MALLOC_MMAP_THRESHOLD_": LARGE}, {"MALLOC_TRIM_THRESHOLD_": LARGE}
NOTHING = "nothing"
SETTINGS: dict[str, dict[str, str]] = {
    NOTHING: {},
    "MALLOC_MMAP and TRIM of 1 GiB": MAP | TRIM,
    "MALLOC_TRIM alone": TRIM,
    "MALLOC_ARENA_MAX=1": {"MALLOC_ARENA_MAX": "1"},
    "OPENBLAS_NUM_THREADS=1": {"OPENBLAS_NUM_THREADS": "1"},
    "OMP_NUM_THREADS=1": {"OMP_NUM_THREADS": "1"},
    "BLOSC_NTHREADS=1": {"BLOSC_NTHREADS": "1"},
}
COLUMNS = {
    "first: CPU": ("first", "cpu_s"),
    "faults": ("first", "faults"),
    "later: CPU": ("later", "cpu_s"),
    "faults ": ("later", "faults"),
    "peak MB": ("peak_mb",),
}
ROUNDS = 4
IMPORT = """
import json, resource, numpy
used = resource.getrusage(resource.RUSAGE_SELF)
told = dict(line.split(":", 1) for line in open("/proc/self/status"))
print(json.dumps({
    "cpu_ms": 1e3 * (used.ru_utime + used.ru_stime), "threads": int(told["Threads"]),
    "address_mb": int(told["VmSize"].split()[0]) / 1024,
}))
"""


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
    parser.add_argument("--rows", type=int, nargs="+", default=[300_000, 1_000_000])
    parser.add_argument("--granules", type=int, default=12)
    options = parser.parse_args()
    for rows in options.rows:
        print(f"\n{rows:,} rows, joined and aggregated")
        command = [str(JOBS / "worker_rows.py"), str(rows), str(ROUNDS)]
        report(measured(command, options.repeats))
    with tempfile.TemporaryDirectory() as temporary:
        events = Path(temporary, "events.json")
        recorded, observations = calls(Path(temporary), options.granules)
        events.write_text(json.dumps(recorded))
        print(f"\nwhole calls, {observations // len(recorded):,} observations each")
        command = [str(JOBS / "worker_cells.py"), str(events), str(ROUNDS)]
        report(measured(command, options.repeats))
    print("\nimport numpy")
    for name, each in measured(["-c", IMPORT], 3 * options.repeats).items():
        figures = (f"{key} {np.median([one[key] for one in each]):.0f}" for key in each[0])
        print(f"{name:34}{', '.join(figures)}")


def measured(command: list[str], repeats: int) -> dict[str, list[dict[str, Any]]]:
    """Run a Python command with every setting in turn, and return what each printed."""
    names = {name for one in SETTINGS.values() for name in one}
    bare = {name: value for name, value in os.environ.items() if name not in names}
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in SETTINGS}
    for _ in range(repeats):
        for name, setting in SETTINGS.items():
            variables = [f"{key}={value}" for key, value in (bare | setting).items()]
            _, told = measure_process(["env", "-i", *variables, sys.executable, *command])
            found[name].append(json.loads(told))
    return found


def calls(folder: Path, granules: int) -> tuple[list[dict[str, Any]], int]:
    """Return the calls of two cells over a store that is ready, and their observations."""
    recorder = Recorder()
    summary = run(
        load_config("atl06"),
        catalog=Catalog.from_files(
            simulate_region(folder / "granules", granules=granules, segments=40_000, **REGION)
        ),
        store=folder / "s.zarr",
        executor=recorder,
        max_cells=2,
        progress=False,
    )
    if summary["errors"]:
        raise SystemExit(str(summary["errors"]))
    return recorder.events, summary["total_obs"]


def report(found: dict[str, list[dict[str, Any]]]) -> None:
    """Print the figures where nothing is set, and ratios to them."""
    table = {
        name: {column: middle(each, path) for column, path in COLUMNS.items()}
        for name, each in found.items()
    }
    base = table[NOTHING]
    print(
        f"nothing set: first {1e3 * base['first: CPU']:.1f} ms CPU, {base['faults']:,.0f} page "
        f"faults; later {1e3 * base['later: CPU']:.1f} ms, {base['faults ']:,.0f}; "
        f"{base['peak MB']:.0f} MB at most"
    )
    print(f"{'ratios':34}" + "".join(f"{name:>12}" for name in COLUMNS))
    for name, each in table.items():
        print(f"{name:34}" + "".join(f"{each[c] / max(base[c], 1e-9):12.2f}" for c in COLUMNS))


def middle(each: list[dict[str, Any]], path: tuple[str, ...]) -> float:
    """Return the median of a figure."""
    return float(np.median([functools.reduce(dict.__getitem__, path, one) for one in each]))


if __name__ == "__main__":
    main()
