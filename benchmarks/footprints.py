"""How many more cells footprints of few vertices give than the tracks within really cross."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import numpy as np

from magg.catalog.footprint import footprints
from magg.grid import prefixes

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "catalog"))
from orbits import gpolygon, outline, true_words

TRACKS = 60
VERTICES = (2, 3, 4, 6, 12)
EDGES = (0, 27, 59.5, 80, 100, 120.5, 153, 180, 207, 239.5, 260, 280, 300.5, 333, 360)


def main() -> None:
    """Print ratios for tracks like ATL06's, by the number of vertices along either side."""
    rng = np.random.default_rng(1)
    tracks = [(rng.uniform(-180, 180), *EDGES[r : r + 2]) for r in rng.integers(14, size=TRACKS)]
    for order in (6, 8):
        true = [np.unique(prefixes(true_words(*track), order)) for track in tracks]
        for vertices in VERTICES:
            extents = [gpolygon(outline(*track, vertices)) for track in tracks]
            began = time.perf_counter()
            found = footprints(extents, order, representation="GEODETIC")
            took = 1e3 * (time.perf_counter() - began) / TRACKS
            cells = [np.unique(prefixes(one.words, order)) for one in found]
            ratios = [here.size / real.size for here, real in zip(cells, true, strict=True)]
            missed = sum(
                np.setdiff1d(real, here).size for here, real in zip(cells, true, strict=True)
            )
            print(
                f"order {order}, {vertices:2} vertices a side: {np.mean(ratios):.2f} times the "
                f"cells (at most {np.max(ratios):.2f}), {missed} missed, {took:.1f} ms a granule"
            )


if __name__ == "__main__":
    main()
