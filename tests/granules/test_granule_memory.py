"""Threads and memory are bounded for the process, however many granules and cells there are."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from granule_files import BEAMS, CHUNKED, GRID, data_source, plain_read, track, write_granule
from range_server import RangeServer

from magg.errors import ConfigError
from magg.granules import granule_layout, pool, read_rows
from magg.granules.pool import Budget, read_memory, run_all
from magg.testing import simulate_region

USED = ("h_li", "s_li")
RSS_LIMIT = 1 << 30


def test_a_budget_lets_the_too_large_through_alone_and_others_wait() -> None:
    budget = Budget(100)
    assert budget.try_take(60)
    assert not budget.try_take(41)
    assert budget.try_take(40)
    budget.give(60)
    budget.give(40)
    budget.take(1000)
    assert not budget.try_take(1)
    waiting = threading.Thread(target=budget.take, args=(1,))
    waiting.start()
    assert waiting.is_alive()
    budget.give(1000)
    waiting.join(60)
    assert budget.held == 1


@pytest.mark.parametrize("text", ["", "16", "256", " 1024 "])
def test_the_memory_of_reads_is_set_in_mebibytes(
    text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(pool.MEMORY_VARIABLE, text)
    assert read_memory() == int(text or pool.DEFAULT_MEMORY) << 20


@pytest.mark.parametrize("text", ["much", "15", "-1", "1.5", "256MB"])
def test_another_setting_is_told_by_name(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(pool.MEMORY_VARIABLE, text)
    with pytest.raises(ConfigError, match=r"MAGG_READ_MEMORY must be a number of MiB"):
        read_memory()


def test_jobs_of_jobs_and_more_jobs_than_threads_come_to_an_end() -> None:
    def outer(number: int) -> list[int]:
        return run_all([lambda: number, lambda: number + 1])

    jobs = [lambda number=number: outer(number) for number in range(4 * pool.RANGE_THREADS)]
    assert run_all(jobs) == [[number, number + 1] for number in range(len(jobs))]


def test_the_first_error_drops_the_jobs_that_wait() -> None:
    ran = []

    def fails() -> None:
        raise ValueError("first")

    with pytest.raises(ValueError, match="first"):
        run_all([fails, *[lambda: ran.append(1)] * 2000])
    assert len(ran) < 2000


@pytest.fixture
def small_pool(monkeypatch: pytest.MonkeyPatch) -> pool.Pool:
    """Return the pool of this process with room for one small granule at a time."""
    small = pool.Pool()
    small.rows, small.coordinates = Budget(1), Budget(1)
    monkeypatch.setattr(pool, "_pool", small)
    return small


def test_many_granules_and_cells_share_little_memory_without_waiting_for_ever(
    server: RangeServer, tmp_path: Path, small_pool: pool.Pool
) -> None:
    beams = {beam: track(3000, seed) for seed, beam in enumerate(BEAMS)}
    local = write_granule(tmp_path / "a.h5", beams, **CHUNKED)
    urls = [server.url(local, prefix=f"{number}/") for number in range(60)]
    cells = [int(cell) for cell in granule_layout(local, data_source(), 6).cells()]
    most: list[int] = []
    take = small_pool.rows.try_take

    def watching(nbytes: int) -> bool:
        taken = take(nbytes)
        most.append(small_pool.rows.held)
        return taken

    small_pool.rows.try_take = watching  # type: ignore[method-assign]
    with ThreadPoolExecutor(len(cells)) as threads:
        found = list(
            threads.map(lambda cell: read_rows(urls, cell, GRID, data_source(), USED), cells)
        )
    for cell, (rows, reads) in zip(cells, found, strict=True):
        plain = plain_read([local], cell, GRID, USED)
        np.testing.assert_array_equal(rows.child, np.tile(plain["child"], len(urls)))
        assert len(reads) == len(urls)
    one = 2 * 3000 * 6 * (8 + 8 + 4 + 4 + 1)
    assert max(most) <= one
    assert small_pool.rows.held == small_pool.coordinates.held == 0


READING = """
import pickle, resource, sys
from pathlib import Path
from magg import load_config
from magg.granules import granule_layout, read_rows
from magg.grid import Grid
base, number, local, how = sys.argv[1], int(sys.argv[2]), sys.argv[3], sys.argv[4]
source = load_config("atl06").data_source
urls = [base.replace("NUMBER", str(i)) for i in range(number)]
layout = granule_layout(urls[0], source, 6)
rows = {int(c): 0 for c in layout.cells()}
for beam in layout.beams:
    for cell, start, stop in zip(beam.cells, beam.starts, beam.stops):
        rows[int(cell)] += int(stop - start)
cell = max(rows, key=rows.get)
layouts = dict.fromkeys(urls, layout) if how == "given" else None
found, reads = read_rows(urls, cell, Grid(6, 12), source, ("h_li", "s_li"), layouts=layouts)
assert len(reads) == number and not any(read.stale for read in reads)
print(len(found.child), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss counts other units elsewhere")
@pytest.mark.parametrize("how", ["given", "nothing"])
def test_a_cell_of_500_full_size_granules_is_read_within_a_gibibyte(
    server: RangeServer, tmp_path: Path, how: str
) -> None:
    (granule,) = simulate_region(
        tmp_path, latitude=-75, longitude=10, granules=1, segments=100_000, missing_beams_in=()
    )
    base = server.url(str(granule), prefix="NUMBER/")
    printed = subprocess.run(
        [sys.executable, "-c", READING, base, "500", str(granule), how],
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | {"MALLOC_ARENA_MAX": os.environ.get("MALLOC_ARENA_MAX", "")},
        timeout=3000,
    ).stdout
    rows, peak = map(int, printed.split())
    assert rows > 500 * 6 * 1000
    assert peak < RSS_LIMIT, f"{peak / 1e6:.0f} MB for {rows:,} rows"
