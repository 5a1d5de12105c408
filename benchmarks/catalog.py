"""How fast a catalog of 100,000 granule-cell pairs is saved and loaded, and how large it is."""

from __future__ import annotations

import json
import tempfile
import time
from pathlib import Path

import numpy as np

from magg import Catalog
from magg.catalog import GranuleInfo
from magg.grid import to_decimal, words_of

CELLS, GRANULES, PAIRS = 1_500, 4_200, 100_000
S3 = "s3://nsidc-cumulus-prod-protected/ATLAS/ATL06/007/"
HTTPS = "https://data.nsidc.earthdatacloud.nasa.gov/nsidc-cumulus-prod-protected/ATLAS/ATL06/007/"


def make_catalog() -> Catalog:
    """Return a catalog like that of one cycle over the Antarctic ice sheet."""
    rng = np.random.default_rng(0)
    cells = [to_decimal(word) for word in words_of(np.arange(40_000, 40_000 + CELLS), 6)]
    days = [f"2023/{1 + day // 28:02d}/{1 + day % 28:02d}/" for day in np.arange(GRANULES) // 46]
    names = [
        f"{days[n]}ATL06_2023{n:010d}_{n % 1387 + 1:04d}2211_007_01.h5" for n in range(GRANULES)
    ]
    info = {
        S3 + name: GranuleInfo(HTTPS + name, "2023-12-18T09:39:11Z", "2023-12-18T09:44:40Z")
        for name in names
    }
    each = PAIRS // CELLS + 1
    found = {
        cell: tuple(S3 + names[n] for n in rng.choice(GRANULES, each, replace=False))
        for cell in cells
    }
    return Catalog(6, found, {"short_name": "ATL06"}, info)


def main() -> None:
    """Print times, sizes and ratios."""
    catalog = make_catalog()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "catalog.json"
        began = time.perf_counter()
        catalog.save(path)
        saved = time.perf_counter() - began
        first = Path(folder) / "first.json"
        metadata = {"parent_order": 6, "total_cells": len(catalog)}
        first.write_text(json.dumps({"metadata": metadata, "catalog": catalog.cells}, indent=1))
        times = {}
        for name, place in (("this version", path), ("first version", first)):
            began = time.perf_counter()
            again = Catalog.load(place)
            times[name] = time.perf_counter() - began
            if again.cells != catalog.cells:
                raise RuntimeError("what was loaded is not what was saved")
            size = place.stat().st_size / 1e6
            print(f"{name:14} {size:6.2f} MB, loaded in {times[name]:.2f} s")
    pairs = catalog.summary()["pairs"]
    print(f"{pairs:,} pairs, {len(catalog.granules):,} granules with both links")
    print(f"saved in {saved:.2f} s")
    ratio = times["this version"] / times["first version"]
    print(f"loading takes {ratio:.2f} of the time that the first version takes")


if __name__ == "__main__":
    main()
