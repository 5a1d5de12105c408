"""How long ``import magg`` takes beyond ``import numpy``, each in a fresh process.

    python benchmarks/import_time.py [--repeats 15]

NumPy is counted apart because everyone who uses magg has paid for it already. Processes of the
different imports take turns, so that a disturbance of the machine meets all of them.
"""

from __future__ import annotations

import argparse
import sys

from measure import Cost, measure_process, median, verdict

TARGET_S = 0.15
NUMPY = "import numpy"
STATEMENTS = ("pass", NUMPY, f"{NUMPY}; import magg", f"{NUMPY}; from magg import load_config, run")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=15)
    repeats = parser.parse_args().repeats
    costs: dict[str, list[Cost]] = {statement: [] for statement in STATEMENTS}
    for statement in STATEMENTS:  # once for the byte code and the disk's cache
        measure_process([sys.executable, "-P", "-c", statement])
    for _ in range(repeats):
        for statement, found in costs.items():
            found.append(measure_process([sys.executable, "-P", "-c", statement])[0])

    medians = {statement: median(found) for statement, found in costs.items()}
    base = medians[NUMPY]
    print(f"Python {sys.version.split()[0]}, medians of {repeats} processes each\n")
    print(f"{'statement':48} {'wall s':>7} {'CPU s':>7} {'beyond numpy: wall s':>21} {'CPU s':>7}")
    for statement, cost in medians.items():
        beyond = f"{cost.wall - base.wall:21.3f} {cost.cpu - base.cpu:7.3f}"
        print(f"{statement:48} {cost.wall:7.3f} {cost.cpu:7.3f} {beyond}")
    print()
    alone = medians[STATEMENTS[2]].wall - base.wall
    print(verdict("import magg beyond import numpy", alone, TARGET_S, "s"))


if __name__ == "__main__":
    main()
