"""What a worker does with the rows of a cell: ``worker_rows.py rows rounds``.

Joins the rows of 36 pieces and makes the statistics of ``atl06.yaml``, once in a fresh process
(``first``), then as often as there are rounds (``later``). Prints CPU seconds and minor page faults
of both, and the peak of memory, as JSON.
"""

import json
import re
import resource
import sys
from pathlib import Path

import numpy as np

from magg import load_config
from magg.config import compile_statistics
from magg.statistics import aggregate

PIECES, CHILDREN, ROWS_PER_CHILD = 36, 4096, 25


def main() -> None:
    """Join and aggregate, and print what it took."""
    rows, rounds = int(sys.argv[1]) // PIECES, int(sys.argv[2])
    statistics = compile_statistics(load_config("atl06"))
    names = sorted({column for one in statistics.values() for column in one.columns})
    rng = np.random.default_rng(0)
    crossed = rng.integers(0, CHILDREN, (PIECES, rows // ROWS_PER_CHILD + 1), dtype=np.uint16)
    children = [np.repeat(one, ROWS_PER_CHILD)[:rows] for one in crossed]
    columns = {name: [rng.random(rows, dtype=np.float32) + 1 for _ in children] for name in names}

    def measured(times: int) -> dict[str, float]:
        before = resource.getrusage(resource.RUSAGE_SELF)
        for _ in range(times):
            joined = {name: np.concatenate(pieces) for name, pieces in columns.items()}
            aggregate(statistics, np.concatenate(children), joined, CHILDREN)
        after = resource.getrusage(resource.RUSAGE_SELF)
        user, system = after.ru_utime - before.ru_utime, after.ru_stime - before.ru_stime
        return {
            "cpu_s": (user + system) / times,
            "faults": (after.ru_minflt - before.ru_minflt) / times,
        }

    first, later = measured(1), measured(rounds)
    peak = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    print(json.dumps({"first": first, "later": later, "peak_mb": int(peak[1]) / 1024}))


if __name__ == "__main__":
    main()
