"""What statistics cost: CPU time a row against a floor and pandas, and memory at 10 million rows.

Run it as ``python benchmarks/aggregation.py``. Rows are those of one parent cell: straight tracks
over its 64 x 64 child cells, 80 rows per cell width, as ATL06 segments of 20 m lie in cells of
1.6 km; "shuffled" is the same rows in random order, the worst case. The floor is one sort of the
float32 heights and one copy of each column. pandas starts from a frame that is already made.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
# In place of this folder, whose statistics.py would hide the standard library's.
sys.path[0] = str(ROOT)

import numpy as np  # noqa: E402
import pandas as pd  # noqa: E402
import yaml  # noqa: E402

from magg.statistics import Statistic, aggregate, compile_statistic  # noqa: E402

SIZES = (10**4, 10**5, 10**6, 10**7)
WIDTH = 64  # child cells along a side of the parent cell
CHILDREN = WIDTH**2
ROWS_PER_CELL = 80
QUANTILES = [0.25, 0.5, 0.75]


def main() -> None:
    """Print a table, and whether each target is met."""
    parser = argparse.ArgumentParser(description="What statistics cost.")
    parser.add_argument("--memory", metavar="FOLDER", help=argparse.SUPPRESS)
    folder = parser.parse_args().memory
    if folder is not None:
        print(extra_memory(Path(folder)))
        return
    statistics = declared()
    targets = []
    print("      rows  order     ns/row   floor  ratio  pandas  ratio")
    for size in SIZES:
        for layout in ("tracks", "shuffled"):
            child, columns = observations(size, shuffled=layout == "shuffled")
            repeats = 3 if size > 10**6 else 7
            own = cpu(lambda c=child, v=columns: aggregate(statistics, c, v, CHILDREN), repeats)
            floor = cpu(lambda v=columns: (np.sort(v["h_li"]), *map(np.copy, v.values())), repeats)
            frame = pd.DataFrame({"child": child, **columns})
            peer = cpu(lambda f=frame: with_pandas(f), 3)
            print(
                f"{size:>10,}  {layout:8}  {1e9 * own / size:6.1f}  {1e9 * floor / size:6.1f}  "
                f"{own / floor:5.2f}  {1e9 * peer / size:6.1f}  {peer / own:5.1f}"
            )
            if layout == "tracks":
                targets.append((f"{size:,} rows: a fifth of pandas", peer / own, ">=", 5.0))
                if size >= 10**6:
                    targets.append((f"{size:,} rows: 4 times the floor", own / floor, "<=", 4.0))
    for layout in ("tracks", "shuffled", "one cell"):
        memory = in_fresh_process(layout)
        print(f"extra memory at {SIZES[-1]:,} rows, {layout}: {memory:.1f} MB")
        if layout == "tracks":
            targets.append((f"{SIZES[-1]:,} rows: 32 MB of extra memory", memory, "<=", 32.0))
    for name, measured, relation, limit in targets:
        met = measured <= limit if relation == "<=" else measured >= limit
        print(f"{'PASS' if met else 'MISS'}  {name}: {measured:.2f} ({relation} {limit:g})")


def declared():
    """Return the statistics of the built-in ATL06 config, and the median and std."""
    config = yaml.safe_load((ROOT / "magg" / "configs" / "atl06.yaml").read_text())
    variables = {
        **config["aggregation"]["variables"],
        "h_median": {"function": "median", "source": "h_li"},
        "h_std": {"function": "std", "source": "h_li"},
    }
    return {
        name: compile_statistic(name, Statistic(**declaration), ["h_li", "s_li"])
        for name, declaration in variables.items()
    }


def observations(size: int, *, shuffled: bool) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Return child indices in Morton order, and heights and their errors as float32."""
    rng = np.random.default_rng(6)
    parts, found = [], 0
    along = np.arange(-2 * WIDTH * ROWS_PER_CELL, 2 * WIDTH * ROWS_PER_CELL) / ROWS_PER_CELL
    while found < size:
        angle = rng.uniform(0, np.pi)
        x = np.floor(rng.uniform(0, WIDTH) + along * np.cos(angle)).astype(np.int64)
        y = np.floor(rng.uniform(0, WIDTH) + along * np.sin(angle)).astype(np.int64)
        inside = (x >= 0) & (x < WIDTH) & (y >= 0) & (y < WIDTH)
        x, y = x[inside], y[inside]
        bits = range(WIDTH.bit_length() - 1)
        parts.append(sum(((x >> b & 1) << 2 * b) | ((y >> b & 1) << 2 * b + 1) for b in bits))
        found += x.size
    child = np.concatenate(parts)[:size].astype(np.uint16)
    if shuffled:
        rng.shuffle(child)
    heights = (2000 + 30 * rng.standard_normal(size, dtype=np.float32)).astype(np.float32)
    errors = (0.01 + 0.5 * rng.random(size, dtype=np.float32)).astype(np.float32)
    return child, {"h_li": heights, "s_li": errors}


def with_pandas(frame: pd.DataFrame) -> object:
    """Return the same statistics as pandas computes them."""
    weights = 1.0 / frame["s_li"].astype(np.float64) ** 2
    work = frame.assign(w=weights, wh=weights * frame["h_li"])
    groups = work.groupby("child")
    heights = groups["h_li"]
    result = heights.agg(["count", "min", "max", "median"])
    result["var"], result["std"] = heights.var(ddof=0), heights.std(ddof=0)
    sums = groups[["w", "wh"]].sum()
    result["mean"], result["sigma"] = sums["wh"] / sums["w"], 1 / np.sqrt(sums["w"])
    return result, heights.quantile(QUANTILES).unstack()


def cpu(function: Callable[[], object], repeats: int) -> float:
    """Return the least CPU seconds of several calls, threads included."""
    seconds = []
    for _ in range(repeats):
        start = time.process_time()
        function()
        seconds.append(time.process_time() - start)
    return min(seconds)


def in_fresh_process(layout: str) -> float:
    """Return what `extra_memory` measures in a process that never held anything else."""
    child, columns = observations(SIZES[-1], shuffled=layout == "shuffled")
    if layout == "one cell":
        child[:] = 7
    with tempfile.TemporaryDirectory() as folder:
        for name, values in {"child": child, **columns}.items():
            np.save(Path(folder) / name, values)
        command = [sys.executable, __file__, "--memory", folder]
        return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def extra_memory(folder: Path) -> float:
    """Return by how many MB a call raises the peak of resident memory (Linux only)."""
    child, *values = (np.load(folder / f"{name}.npy") for name in ("child", "h_li", "s_li"))
    statistics, columns = declared(), dict(zip(("h_li", "s_li"), values, strict=True))
    few = {name: column[:1000] for name, column in columns.items()}
    aggregate(statistics, child[:1000], few, CHILDREN)  # so that code is in memory
    try:
        Path("/proc/self/clear_refs").write_text("5")  # resets the peak
    except OSError:
        return float("nan")
    before = resident("VmRSS")
    aggregate(statistics, child, columns, CHILDREN)
    return resident("VmHWM") - before


def resident(key: str) -> float:
    """Return a number of MB that Linux keeps about this process, such as "VmRSS"."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(key)) / 1024


if __name__ == "__main__":
    main()
