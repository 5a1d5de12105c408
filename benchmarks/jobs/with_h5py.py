"""The job as a short script with h5py and NumPy: ``with_h5py.py catalog.json store``.

For each cell it opens each of the cell's granules, reads five datasets of each beam whole, bins
the points as magg does (mortie), keeps the rows of the cell that are good, sorts them by child
cell, and computes the nine statistics of each child cell with NumPy's functions. Results go to the
same kind of Zarr arrays, one chunk a cell. One process, one thread of its own. Prints its counts
as JSON.
"""

import json
import sys

import h5py
import numpy as np
import zarr

from magg import Catalog
from magg.grid import Grid, child_indices, from_decimal, locate, prefixes

BEAMS = ("gt1l", "gt1r", "gt2l", "gt2r", "gt3l", "gt3r")
FILL = np.finfo(np.float32).max
STATISTICS = ("count", "h_min", "h_max", "h_mean", "h_sigma", "h_variance", "q25", "q50", "q75")


def rows_of_cell(granules, word, grid):
    """Return child cell, height and standard error of the good rows in one parent cell."""
    parts = []
    wanted = prefixes(np.uint64(word), grid.parent_order)
    for granule in granules:
        with h5py.File(granule) as file:
            for beam in BEAMS:
                if beam not in file:
                    continue
                segments = file[beam]["land_ice_segments"]
                words = locate(segments["latitude"][:], segments["longitude"][:])
                height, error = segments["h_li"][:], segments["h_li_sigma"][:]
                keep = prefixes(words, grid.parent_order) == wanted
                keep &= segments["atl06_quality_summary"][:] == 0
                keep &= (height < FILL) & (error < FILL)
                child = child_indices(words[keep], grid)
                parts.append((child, height[keep], error[keep]))
    return tuple(np.concatenate(column) for column in zip(*parts, strict=True))


def statistics_of(height, error):
    """Return the statistics of one child cell."""
    height, weight = height.astype(np.float64), 1.0 / error.astype(np.float64) ** 2
    return (
        len(height),
        height.min(),
        height.max(),
        np.average(height, weights=weight),
        1.0 / np.sqrt(weight.sum()),
        height.var(),
        *np.quantile(height, (0.25, 0.5, 0.75)),
    )


def main():
    """Go through the cells of the catalog."""
    catalog, store = sys.argv[1:]
    cells = Catalog.load(catalog).cells
    grid = Grid(6, 12)
    group = zarr.open_group(store, mode="w")
    arrays = [
        group.create_array(
            name,
            shape=len(cells) * grid.children,
            chunks=grid.children,
            dtype="int32" if name == "count" else "float32",
            fill_value=0 if name == "count" else np.nan,
        )
        for name in STATISTICS
    ]
    counts = {}
    for number, (cell, granules) in enumerate(cells.items()):
        child, height, error = rows_of_cell(granules, from_decimal(cell), grid)
        order = np.argsort(child, kind="stable")
        found, firsts = np.unique(child[order], return_index=True)
        values = np.full((len(STATISTICS), grid.children), np.nan)
        values[0] = 0
        by_child = (np.split(column[order], firsts[1:]) for column in (height, error))
        for place, *columns in zip(found, *by_child, strict=True):
            values[:, place] = statistics_of(*columns)
        for array, of_array in zip(arrays, values, strict=True):
            array[number * grid.children : (number + 1) * grid.children] = of_array
        counts[cell] = len(child)
    print(json.dumps({"observations": counts}))


if __name__ == "__main__":
    main()
