"""Reads the rows of one cell, several times: ``read_cell.py CONTESTANT SPEC.json``.

Contestants: ``layouts`` derives the layout of every granule and writes them down; ``known`` reads
the cell with these layouts and ``nothing`` without; ``bytes`` fetches what ``known`` fetches and
does nothing with it; ``h5coro`` and ``h5py`` read the same rows, which they are told, with so many
granules at a time and blocks of so many KiB. Prints what it took as JSON.
"""

from __future__ import annotations

import itertools
import json
import pickle
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from magg import load_config
from magg.granules import chunks, granule_layout, layout, open_source, read_rows, words
from magg.granules.ranges import RangeRead, Want
from magg.grid import Grid, locate, prefixes

DATASETS = ("latitude", "longitude", "h_li", "h_li_sigma", "atl06_quality_summary")
USED = ("h_li", "s_li")
FILL = np.finfo(np.float32).max
GRID = Grid(6, 12)
SOURCE = load_config("atl06").data_source


def main() -> None:
    """Run the contestant and print what it took."""
    contestant, spec = sys.argv[1], json.loads(Path(sys.argv[2]).read_text())
    name, _, options = contestant.partition(" ")
    read = CONTESTANTS[name](spec, *map(int, options.split()))
    locate([0.0], [0.0])  # imports mortie
    took: list[dict[str, float]] = []
    answer = None
    for _ in range(spec["repeats"]):
        forget()
        before = memory_now(reset=True)
        cpu, wall = time.process_time(), time.perf_counter()
        answer = read()
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        took.append({"wall": wall, "cpu": cpu, "extra_mb": memory_peak() - before})
    print(json.dumps({"took": took, "answer": answer}))


def forget() -> None:
    """Forget what magg knows of granules in this process."""
    layout._layouts.clear()
    words.forget_words()
    chunks.forget_chunks()


def derive_layouts(spec: dict[str, Any]) -> Callable[[], Any]:
    """Derive the layout of one granule after the other; write them to a file."""

    def read() -> int:
        layouts = {url: granule_layout(url, SOURCE, GRID.parent_order) for url in spec["urls"]}
        Path(spec["layouts"]).write_bytes(pickle.dumps(layouts))
        return len(layouts)

    return read


def with_magg(spec: dict[str, Any], *, known: bool) -> Callable[[], Any]:
    """Read with magg, with layouts or without."""
    layouts = load_layouts(spec) if known else None

    def read() -> list[float]:
        rows, reads = read_rows(spec["urls"], spec["cell"], GRID, SOURCE, USED, layouts=layouts)
        assert not any(one.stale for one in reads)  # noqa: S101
        return [len(rows.child), float(rows.columns["h_li"].astype("f8").sum())]

    return read


def load_layouts(spec: dict[str, Any]) -> Any:
    """Return the layouts that `derive_layouts` wrote."""
    return pickle.loads(Path(spec["layouts"]).read_bytes())  # noqa: S301 - of this benchmark


def bytes_alone(spec: dict[str, Any]) -> Callable[[], Any]:
    """Fetch the ranges that the cell needs with obstore, and decode nothing."""
    asked: list[tuple[Any, int, int]] = []

    class Noted:
        """A source that notes what it is asked for."""

        def __init__(self, url: str, known: Any) -> None:
            self.granule = self.name = url
            self.size, self.etag = known.size, known.etag
            self.source = open_source(url, (known.size, known.etag))

        def read(self, start: int, stop: int) -> memoryview:
            asked.append((self.source, start, stop))
            return memoryview(bytes(stop - start))

    for url, known in load_layouts(spec).items():
        for beam in known.beams:
            starts, stops = beam.runs(spec["cell"])
            wants = [Want(beam.name, one, starts, stops) for one in beam.all_datasets()]
            for job in RangeRead(Noted(url, known), wants).jobs:
                try:
                    job()
                except OSError:
                    continue  # zeros do not decode

    def read() -> int:
        with ThreadPoolExecutor(64) as pool:
            return sum(pool.map(lambda one: len(one[0].read(one[1], one[2])), asked))

    return read


def with_h5coro(spec: dict[str, Any], threads: int, kib: int) -> Callable[[], Any]:
    """Read the rows that are known with h5coro, several granules at a time."""
    from h5coro import h5coro, s3driver

    def one(url: str) -> list[float]:
        file = h5coro.H5Coro(url.removeprefix("s3://"), s3driver.S3Driver, cacheLineSize=kib << 10)
        beams = spec["rows"][url]
        wanted = [
            {"dataset": path_of(beam, name), "hyperslice": [rows]}
            for beam, rows in beams.items()
            for name in DATASETS
        ]
        found = file.readDatasets(wanted)
        return add(*(kept([found[path_of(beam, name)] for name in DATASETS], spec["cell"])
                     for beam in beams))  # fmt: skip

    return lambda: together(one, spec["urls"], threads)


def with_h5py(spec: dict[str, Any], threads: int, kib: int) -> Callable[[], Any]:
    """Read the rows that are known with h5py over s3fs, which caches blocks."""
    import h5py
    import s3fs

    def one(url: str) -> list[float]:
        files = s3fs.S3FileSystem(skip_instance_cache=True)
        opened = files.open(url, block_size=kib << 10, cache_type="blockcache")
        with opened, h5py.File(opened) as file:
            return add(
                *(
                    kept([file[path_of(beam, name)][slice(*rows)] for name in DATASETS],
                         spec["cell"])
                    for beam, rows in spec["rows"][url].items()
                )
            )  # fmt: skip

    return lambda: together(one, spec["urls"], threads)


def path_of(beam: str, name: str) -> str:
    """Return where a dataset of a beam is."""
    return f"{beam}/land_ice_segments/{name}"


def kept(arrays: list[Any], cell: int) -> list[float]:
    """Return the number of observations in the cell and the sum of their heights."""
    latitude, longitude, height, error, quality = arrays
    order = GRID.parent_order
    keep = prefixes(locate(latitude, longitude), order) == prefixes(np.uint64(cell), order)
    keep &= (quality == 0) & (height < FILL) & (error < FILL)
    return [int(keep.sum()), float(height[keep].astype("f8").sum())]


def together(one: Callable[[str], list[float]], urls: list[str], threads: int) -> list[float]:
    """Read granules so many at a time."""
    with ThreadPoolExecutor(threads) as pool:
        return add(*pool.map(one, urls))


def add(*pairs: list[float]) -> list[float]:
    """Return the sums of pairs."""
    return [sum(column) for column in zip(*pairs, strict=True)] if pairs else [0, 0.0]


def memory_now(*, reset: bool = False) -> float:
    """Return the resident memory in MB; begin to watch for its peak anew."""
    if reset:
        Path("/proc/self/clear_refs").write_text("5")
    return status_of("VmRSS")


def memory_peak() -> float:
    """Return the most resident memory since then in MB."""
    return status_of("VmHWM")


def status_of(key: str) -> float:
    """Return a line of this process's status in MB (Linux)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    line = next(itertools.dropwhile(lambda line: not line.startswith(f"{key}:"), lines))
    return int(line.split()[1]) / 1024


CONTESTANTS: dict[str, Callable[..., Callable[[], Any]]] = {
    "layouts": derive_layouts,
    "known": lambda spec: with_magg(spec, known=True),
    "nothing": lambda spec: with_magg(spec, known=False),
    "bytes": bytes_alone,
    "h5coro": with_h5coro,
    "h5py": with_h5py,
}

if __name__ == "__main__":
    main()
