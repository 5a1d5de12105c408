"""Stragglers, and real pools of processes in which workers die."""

from __future__ import annotations

import subprocess
import sys
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import pytest
from cell_faults import FaultyPool, Script, assert_complete, cells_of

from magg.cell import CellFailure, CellResult
from magg.drain import Drain, Pool
from magg.executors import base
from magg.executors.retry import Kind, Policy

POLICY = Policy(base_s=0.01, cap_s=0.02, straggler_factor=0.2)
GUILTY = 3


@pytest.fixture(autouse=True)
def tiny_waits(monkeypatch):
    monkeypatch.setattr("magg.runner.POLICY", POLICY)


class Slow(ThreadPoolExecutor):
    """Takes as long for each attempt of a cell as it is told; an error is returned."""

    def __init__(self, script):
        super().__init__(8)
        self.script, self.attempts = script, Counter()

    def submit(self, fn, cell):
        number = self.attempts[cell]
        self.attempts[cell] += 1
        seconds, error = self.script.get(cell, [(0.0, None)] * 2)[number]
        return super().submit(self._work, cell, number, seconds, error)

    @staticmethod
    def _work(cell, number, seconds, error):
        time.sleep(seconds)
        status = "error" if error else "data"
        return CellResult(cell, status, observations=number, error=error)


def drained(script, backups=True):
    executor = Slow(script)
    drain = Drain(Pool(executor), "abcdef", lambda cell: cell, 8, POLICY, backups)
    began = time.monotonic()
    results = {result.cell: result for result in drain.results()}
    return results, executor.attempts, time.monotonic() - began


@pytest.fixture
def ticks(monkeypatch):
    monkeypatch.setattr("magg.drain.TICK_S", 0.05)


def failure(kind):
    return CellFailure("X", "x", "", kind)


def test_a_straggler_is_submitted_once_more_and_nobody_waits_for_the_first(ticks):
    results, attempts, took = drained({"c": [(2.0, None), (0.1, None)]})
    assert results["c"].observations == 1
    assert attempts == Counter("abcdefc")
    assert took < 1.5


def test_of_a_straggler_the_first_result_wins(ticks):
    results, attempts, _ = drained({"c": [(0.6, None), (2.0, None)]})
    assert results["c"].observations == 0
    assert attempts["c"] == 2


def test_without_backups_a_straggler_is_waited_for(ticks):
    _, attempts, took = drained({"c": [(0.6, None)]}, backups=False)
    assert attempts["c"] == 1
    assert took > 0.55


@pytest.mark.parametrize("kind", [Kind.PERMANENT, Kind.TRANSIENT])
def test_a_backup_that_fails_does_not_fail_the_cell(ticks, kind):
    results, _, _ = drained({"c": [(0.8, None), (0.0, failure(kind)), (1, None)]})
    assert results["c"].error is None


def test_a_straggler_of_which_both_attempts_fail_is_one_error(ticks):
    results, _, _ = drained({"c": [(0.6, failure(Kind.PERMANENT))] * 2})
    assert results["c"].error.message == "x"
    assert len(results) == 6


def faulty(small, tmp_path, monkeypatch, *faults):
    """Return a script for one cell, and have the backend "faulty" follow it."""
    folder = tmp_path / "attempts"
    folder.mkdir()
    guilty = list(small.catalog.cells)[GUILTY]
    script = Script(str(folder), {guilty: faults})
    make = lambda max_workers, **_: FaultyPool(script, max_workers or 2)  # noqa: E731
    monkeypatch.setitem(base.BACKENDS, "faulty", make)
    return guilty, script


@pytest.mark.parametrize("fault", ["exit", "kill", "kill-while-writing"])
def test_one_deadly_cell_is_an_error_and_all_others_are_done(small, tmp_path, monkeypatch, fault):
    guilty, script = faulty(small, tmp_path, monkeypatch, *[fault] * 9)
    store = tmp_path / "s.zarr"
    summary = small.run(store, backend="faulty", max_workers=2)
    assert [error["cell"] for error in summary["errors"]] == [guilty]
    assert script.attempts(guilty) <= 3
    message = summary["errors"][0]["message"]
    assert "tried 3 times" in message
    assert "memory" in message
    held = cells_of(store)
    assert all(held[cell] == small.cells[cell] for cell in small.cells if cell != guilty)
    again = small.run(store)
    assert again["cells_skipped"] == len(small.cells) - 1
    assert_complete(store, small.cells)


@pytest.mark.parametrize("fault", ["kill", "kill-while-writing", "raise:SystemExit"])
def test_a_worker_that_dies_once_costs_nothing(small, tmp_path, monkeypatch, fault):
    faulty(small, tmp_path, monkeypatch, fault)
    summary = small.run(tmp_path / "s.zarr", backend="faulty", max_workers=2)
    assert summary["cells_error"] == 0
    assert_complete(tmp_path / "s.zarr", small.cells)


def test_an_exception_that_cannot_be_pickled_is_an_error_of_its_cell_alone(
    small, tmp_path, monkeypatch
):
    guilty, _ = faulty(small, tmp_path, monkeypatch, *["raise:Unpicklable"] * 9)
    summary = small.run(tmp_path / "s.zarr", backend="faulty", max_workers=2)
    assert [error["cell"] for error in summary["errors"]] == [guilty]
    assert "pickle" in summary["errors"][0]["message"]


def test_a_callers_pool_that_breaks_gives_errors_and_no_hang(small, tmp_path, monkeypatch):
    _, script = faulty(small, tmp_path, monkeypatch, *["kill"] * 9)
    began = time.monotonic()
    with FaultyPool(script, 2) as pool:
        summary = small.run(tmp_path / "s.zarr", executor=pool)
    assert time.monotonic() - began < 30
    assert len(summary["results"]) == len(small.cells)
    assert summary["cells_error"] >= 1
    assert "pass a new one" in summary["errors"][0]["message"]
    small.run(tmp_path / "s.zarr")
    assert_complete(tmp_path / "s.zarr", small.cells)


UNGUARDED = """
import sys
from magg import Catalog, run
from cell_faults import small_orders
from magg import load_config
config = small_orders(load_config("atl06"))
summary = run(config, catalog=sys.argv[1], store=sys.argv[2], backend="processes", max_workers=2,
              overwrite=True, progress=False)
print(summary["cells_error"], summary["errors"][-1]["message"])
"""


def test_a_script_without_a_main_guard_is_told_so_and_deletes_nothing(small, tmp_path):
    script, catalog = tmp_path / "script.py", small.catalog.save(tmp_path / "catalog.json")
    script.write_text(UNGUARDED)
    told = subprocess.run(
        [sys.executable, script, catalog, tmp_path / "s.zarr"],
        env={"PYTHONPATH": ":".join(sys.path)},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert told.stdout.startswith(f"{len(small.cells)} ")
    assert "__main__" in told.stdout
    assert "imports this script" in told.stderr
