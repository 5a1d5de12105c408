"""Runs of rows per cell, and the layouts that a process keeps."""

from __future__ import annotations

import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from granule_files import CHUNKED, data_source, track, write_granule
from hypothesis import given, settings
from hypothesis import strategies as st

from magg.config import Column
from magg.errors import GranuleError
from magg.granules import granule_layout, layout
from magg.granules.cache import OnceCache
from magg.grid import locate, nested_ids, words_of

PLACES = locate([70.0, 0.0, -45.0], [-50.0, 10.0, 100.0])


@given(
    places=st.lists(st.integers(-1, 2), max_size=80),
    repeats=st.integers(1, 4),
    gap=st.integers(1, 12),
)
@settings(max_examples=150, deadline=None, derandomize=True)
def test_runs_hold_every_row_of_their_cell(places: list[int], repeats: int, gap: int) -> None:
    index = np.repeat(np.array(places, dtype=int), repeats)
    words = np.where(index < 0, np.uint64(0), PLACES[index])
    cells, starts, stops = layout.runs_of_cells(words, 6, gap)
    names = words_of(nested_ids(PLACES, 6), 6)
    assert (np.diff(cells.astype(object)) >= 0).all()
    for place, name in enumerate(names):
        mine = cells == name
        covered = {
            row for a, z in zip(starts[mine], stops[mine], strict=True) for row in range(a, z)
        }
        assert covered >= set(np.flatnonzero(index == place))
        assert all(index[row] == place for edge in (starts[mine], stops[mine] - 1) for row in edge)
        assert (starts[mine][1:] - stops[mine][:-1] >= gap).all()
        assert mine.sum() <= len(index) / gap + 1


def test_a_path_that_flickers_between_two_cells_has_few_runs() -> None:
    words = np.tile(PLACES[:2], 50_000)
    cells, starts, stops = layout.runs_of_cells(words, 6)
    assert len(cells) == 2
    assert sorted(zip(starts.tolist(), stops.tolist(), strict=True)) == [(0, 99_999), (1, 100_000)]


def test_runs_are_joined_below_the_gap_and_not_at_it() -> None:
    words = PLACES[[0, 1, 1, 1, 0]]
    assert len(layout.runs_of_cells(words, 6, gap=3)[0]) == 3
    assert len(layout.runs_of_cells(words, 6, gap=4)[0]) == 2


@pytest.fixture
def computed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The granules whose layouts were computed, in order."""
    names: list[str] = []
    compute = layout._computed

    def counting(opened: Any, *rest: Any) -> Any:
        names.append(opened.name)
        time.sleep(0.05)
        return compute(opened, *rest)

    monkeypatch.setattr(layout, "_computed", counting)
    return names


def test_a_layout_is_computed_once_for_many_threads(tmp_path: Path, computed: list[str]) -> None:
    granule = write_granule(tmp_path / "a.h5", {"gt1l": track(2000)}, **CHUNKED)
    gate = threading.Barrier(8)

    def ask() -> Any:
        gate.wait()
        return granule_layout(granule, data_source(), 6)

    with ThreadPoolExecutor(8) as pool:
        found = [future.result() for future in [pool.submit(ask) for _ in range(8)]]
    assert computed == [granule]
    assert all(one is found[0] for one in found)


def test_another_order_or_config_or_a_changed_file_is_computed_anew(
    tmp_path: Path, computed: list[str]
) -> None:
    granule = write_granule(tmp_path / "a.h5", {"gt1l": track(2000)}, **CHUNKED)
    before = granule_layout(granule, data_source(), 6)
    granule_layout(granule, data_source(), 6)
    granule_layout(granule, data_source(), 5)
    path = "/{group}/land_ice_segments/h_li"
    granule_layout(granule, data_source(variables={"h_li": Column(path, valid_min=0.0)}), 6)
    assert len(computed) == 3
    status = Path(granule).stat()
    write_granule(tmp_path / "b.h5", {"gt1l": track(1999, 3)}, **CHUNKED)
    Path(granule).rename(tmp_path / "old.h5")
    (tmp_path / "b.h5").rename(granule)
    os.utime(granule, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert granule_layout(granule, data_source(), 6).beams[0].rows == 1999
    assert before.beams[0].rows == 2000
    assert len(computed) == 4


def test_failures_are_not_kept(tmp_path: Path, computed: list[str]) -> None:
    granule = tmp_path / "a.h5"
    granule.write_text("no granule")
    status = granule.stat()
    for _ in range(2):
        with pytest.raises(GranuleError):
            granule_layout(str(granule), data_source(), 6)
    assert len(computed) == 2
    write_granule(granule, {"gt1l": track(10)})
    os.utime(granule, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert granule_layout(str(granule), data_source(), 6).beams[0].rows == 10


def test_a_file_replaced_while_it_is_read_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    granule = write_granule(tmp_path / "a.h5", {"gt1l": track(100)})
    find = layout.find_beam

    def replacing(*arguments: Any) -> Any:
        write_granule(tmp_path / "b.h5", {"gt1l": track(100, 5)})
        (tmp_path / "b.h5").replace(granule)
        return find(*arguments)

    monkeypatch.setattr(layout, "find_beam", replacing)
    with pytest.raises(GranuleError, match="changed while it was being read"):
        granule_layout(granule, data_source(), 6)


class Block:
    nbytes = 40


def test_the_cache_stays_within_its_bound_and_keeps_what_is_used() -> None:
    cache: OnceCache[Block] = OnceCache(100)
    first = cache.get("a", Block)
    cache.get("b", Block)
    assert cache.get("a", Block) is first
    cache.get("c", Block)  # "b" leaves
    assert (len(cache), cache.nbytes) == (2, 80)
    assert cache.get("a", Block) is first
    cache.limit = 10
    latest = cache.get("d", Block)
    assert (len(cache), cache.get("d", Block)) == (1, latest)


def test_those_who_wait_get_the_error_or_take_over_after_an_interrupt() -> None:
    cache: OnceCache[Block] = OnceCache(100)
    errors: list[BaseException] = [KeyboardInterrupt(), ValueError("no"), ValueError("no")]
    started, gate = threading.Event(), threading.Event()

    def failing() -> Block:
        started.set()
        gate.wait(60)
        raise errors.pop(0)

    def ask() -> BaseException | None:
        try:
            cache.get("a", failing)
        except BaseException as error:  # noqa: BLE001 - the interrupt is what is tested
            return error
        return None

    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(ask)
        assert started.wait(60)
        second = pool.submit(ask)
        time.sleep(0.05)
        gate.set()
        assert isinstance(first.result(60), KeyboardInterrupt)
        assert isinstance(second.result(60), ValueError)
    assert cache.get("a", Block).nbytes == 40


def test_a_layout_of_a_granule_takes_the_memory_that_is_stated(tmp_path: Path) -> None:
    beams = {f"gt{n}{side}": track(20_000, n) for n in (1, 2, 3) for side in "lr"}
    granule = write_granule(tmp_path / "a.h5", beams, chunks=(2000,), compression="gzip")
    assert granule_layout(granule, data_source(), 6).nbytes < 70_000
