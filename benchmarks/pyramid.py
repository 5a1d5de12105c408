"""What all orders of a parent cell cost beside its child order alone: CPU time and memory.

Run it as ``python benchmarks/pyramid.py``. Rows and statistics are those of ``aggregation.py``,
without the median and the standard deviation: the built-in ATL06 config. There are six orders above
that of the child cells, and "with states" adds what still coarser orders are made of. "terrain"
gives each child cell heights of its own, so that cells differ as they do on land. The three take
turns.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import yaml
from aggregation import CHILDREN, ROOT, cpu, observations, resident

from magg.statistics import Statistic, aggregate, aggregate_levels, compile_statistic

SIZES = (10**5, 10**6, 10**7)
LEVELS = 6


def main() -> None:
    """Print a table, and whether each target is met."""
    if len(sys.argv) > 1:
        print(extra_memory(Path(sys.argv[1]), all_orders=sys.argv[2] == "all"))
        return
    statistics = declared()
    targets = []
    print("      rows  heights   child order  all orders  ratio  with states  ratio   (ns a row)")
    for size in SIZES:
        for terrain in (False, True):
            child, columns = rows(size, terrain=terrain)
            calls = (
                lambda c=child, v=columns: aggregate(statistics, c, v, CHILDREN),
                lambda c=child, v=columns: levels(statistics, c, v),
                lambda c=child, v=columns: levels(statistics, c, v, state=True),
            )
            one, every, kept = in_turn(calls, 50 if size < 10**6 else 11 if size < 10**7 else 5)
            one, every, kept = (1e9 * seconds / size for seconds in (one, every, kept))
            name = "terrain" if terrain else "alike"
            print(
                f"{size:>10,}  {name:8}  {one:11.1f}  {every:10.1f}  {every / one:5.2f}"
                f"  {kept:11.1f}  {kept / one:5.2f}"
            )
            targets.append((f"{size:,} rows, {name}: times the child order", every / one, 2.5))
    for size in SIZES:
        alone, every = (in_fresh_process(size, which) for which in ("child", "all"))
        print(f"extra memory at {size:,} rows: child order {alone:.1f} MB, all {every:.1f} MB")
    targets.append((f"{SIZES[-1]:,} rows: extra memory in MB", every, 32))
    for name, measured, limit in targets:
        print(f"{'PASS' if measured <= limit else 'MISS'}  {name}: {measured:.2f} (<= {limit:g})")


def in_turn(calls, repeats: int) -> list[float]:
    """Return the least CPU seconds of each call, all of which meet the memory of the others.

    In a run a cell comes after all that was done for the cell before. A call that is repeated at
    once finds its own memory in the cache, the smaller one more of it.
    """
    rounds = [[cpu(call, 1) for call in calls] for _ in range(repeats)]
    return [min(seconds) for seconds in zip(*rounds, strict=True)]


def levels(statistics, child, columns, *, state=False):
    """Compute all orders of a parent cell."""
    return aggregate_levels(statistics, child, columns, CHILDREN, LEVELS, state=state)


def declared():
    """Return the statistics of the built-in ATL06 config."""
    config = yaml.safe_load((ROOT / "magg" / "configs" / "atl06.yaml").read_text())
    return {
        name: compile_statistic(name, Statistic(**declaration), ["h_li", "s_li"])
        for name, declaration in config["aggregation"]["variables"].items()
    }


def rows(size: int, *, terrain: bool) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Return child indices, and heights and their errors as float32."""
    child, columns = observations(size, shuffled=False)
    if terrain:
        slope = np.random.default_rng(7).normal(0, 40, CHILDREN).cumsum().astype(np.float32)
        columns["h_li"] += slope[child]
    return child, columns


def in_fresh_process(size: int, which: str) -> float:
    """Return what `extra_memory` measures in a process that never held anything else."""
    child, columns = rows(size, terrain=True)
    with tempfile.TemporaryDirectory() as folder:
        for name, values in {"child": child, **columns}.items():
            np.save(Path(folder) / name, values)
        command = [sys.executable, __file__, folder, which]
        return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def extra_memory(folder: Path, *, all_orders: bool) -> float:
    """Return by how many MB a call raises the peak of resident memory (Linux only)."""
    child, *values = (np.load(folder / f"{name}.npy") for name in ("child", "h_li", "s_li"))
    statistics, columns = declared(), dict(zip(("h_li", "s_li"), values, strict=True))
    few = {name: column[:1000] for name, column in columns.items()}
    work = levels if all_orders else (lambda s, c, v: aggregate(s, c, v, CHILDREN))
    work(statistics, child[:1000], few)  # so that code is in memory
    try:
        Path("/proc/self/clear_refs").write_text("5")  # resets the peak
    except OSError:
        return float("nan")
    before = resident("VmRSS")
    work(statistics, child, columns)
    return resident("VmHWM") - before


if __name__ == "__main__":
    main()
