"""What the granule index costs: to make, to keep, to load, and in the task of every cell.

    python benchmarks/index.py [--data DIR]

Twelve simulated full-size granules, those of region.py. CPU times are of all threads of this
process: read them as ratios. For tasks of 500 granules the entries are used again with chunks of
other sizes at other places, since equal ones would compress too well.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from region import make_granules

from magg import Catalog, build_index, load_config, run
from magg.catalog.index import load
from magg.granules import chunks, layout, words
from magg.granules.packing import pack, unpack
from magg.grid import from_decimal

TASKS = (12, 500)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, help="folder to keep the granules in (1 GB)")
    options = parser.parse_args()
    config = load_config("atl06")
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        granules = make_granules(options.data or folder / "granules")
        catalog = Catalog.from_files(granules)
        catalog.save(folder / "catalog.json")
        forget()
        seconds, built = cpu(lambda: build_index(catalog, config, progress=False))
        place = Path(built["index_path"])
        count = len(granules)
        print(f"survey: {seconds / count * 1e3:.0f} ms of CPU a granule")
        print(f"index: {place.stat().st_size / count:,.0f} bytes a granule")
        seconds, index = cpu(lambda: load(str(place)))
        print(f"load: {seconds / count * 1e3:.2f} ms of CPU a granule")
        for number in TASKS:
            tell_of_tasks(index, catalog, config, number)
        for mode in ("off", "auto"):
            forget()
            store = folder / f"{mode}.zarr"
            seconds, _ = cpu(
                lambda store=store, mode=mode: run(
                    config, catalog=catalog, store=store, index=mode, progress=False
                )
            )
            print(f"local run of {len(catalog)} cells, index {mode}: {seconds:.2f} s of CPU")


def forget() -> None:
    """Let this process forget what is where in granules, as a new one would not know."""
    for cache in (layout._layouts, words._kept, chunks._kept):
        cache.clear()


def tell_of_tasks(index: Any, catalog: Catalog, config: Any, number: int) -> None:
    """Print what the entries of so many granules take in the task of a cell."""
    cell = max(catalog.cells, key=lambda cell: len(catalog.cells[cell]))
    entries = [index.entries[granule] for granule in catalog.cells[cell]]
    rng = np.random.default_rng(1)
    while len(entries) < number:
        entries.append(elsewhere(entries[len(entries) % len(catalog.cells[cell])], rng))
    names = [f"{place}.h5" for place in range(len(entries))]
    source, word, columns = config.data_source, from_decimal(cell), ("h_li", "s_li")
    packing, text = cpu(lambda: pack(entries, word, source, columns))
    unpacking, _ = cpu(lambda: unpack(text, names, word, catalog.parent_order, source, columns))
    print(
        f"task of {number} granules: {len(text):,} bytes, {len(text) / number:.0f} a granule; "
        f"{packing / number * 1e3:.2f} ms of CPU a granule to pack, "
        f"{unpacking / number * 1e3:.2f} ms to unpack"
    )


def elsewhere(entry: Any, rng: np.random.Generator) -> Any:
    """Return an entry with chunks of other sizes at other places."""
    beams = []
    for beam in entry.beams:
        sizes = np.maximum(1, beam.sizes + rng.integers(-900, 900, len(beam.sizes)))
        gaps = np.maximum(0, np.diff(beam.offsets, prepend=0) - beam.sizes)
        offsets = np.cumsum(sizes + gaps) - sizes
        starts = beam.starts + rng.integers(0, 50, len(beam.starts))
        starts = np.minimum(starts, beam.stops - 1)
        beams.append(replace(beam, sizes=sizes, offsets=offsets, starts=starts))
    return replace(entry, beams=tuple(beams), size=1 << 40, etag=f'"{rng.integers(1 << 62):032x}"')


def cpu(call: Callable[[], Any]) -> tuple[float, Any]:
    """Return the CPU seconds of a call, and what it returns."""
    began = time.process_time()
    result = call()
    return time.process_time() - began, result


if __name__ == "__main__":
    main()
