"""Stragglers, and real pools of processes in which workers die."""

from __future__ import annotations

import subprocess
import sys
import threading
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


# What an attempt waits for before it ends.
AT_ONCE, THE_NEXT, THE_END = "at once", "the next attempt of its cell", "the end of the test"
HANG_S = 120.0


class Slow(ThreadPoolExecutor):
    """Ends each attempt of a cell when it is told; an error is returned."""

    def __init__(self, script):
        super().__init__(32)
        self.script, self.attempts, self.over = script, Counter(), threading.Event()
        self.begun = {(cell, number): threading.Event() for cell in "abcdef" for number in range(9)}

    def submit(self, fn, cell):
        number = self.attempts[cell]
        self.attempts[cell] += 1
        until, error = self.script.get(cell, [(AT_ONCE, None)] * 9)[number]
        return super().submit(self._work, cell, number, until, error)

    def _work(self, cell, number, until, error):
        self.begun[cell, number].set()
        if until != AT_ONCE:
            awaited = self.begun[cell, number + 1] if until == THE_NEXT else self.over
            assert awaited.wait(HANG_S)
        status = "error" if error else "data"
        return CellResult(cell, status, observations=number, error=error)


def drained(script, backups=True):
    executor = Slow(script)
    drain = Drain(Pool(executor), "abcdef", lambda cell: cell, 8, POLICY, backups)
    ending = threading.Timer(HANG_S / 2 if backups else 0.6, executor.over.set)
    ending.start()
    try:
        results = {result.cell: result for result in drain.results()}
        was_over = executor.over.is_set()
    finally:
        ending.cancel()
        executor.over.set()
    return results, executor.attempts, was_over


@pytest.fixture
def ticks(monkeypatch):
    monkeypatch.setattr("magg.drain.TICK_S", 0.05)


def failure(kind):
    return CellFailure("X", "x", "", kind)


def end_when_the_backup_failed(executor):
    """Let the first attempt end a while after the second has failed."""
    assert executor.begun["c", 1].wait(HANG_S)
    time.sleep(0.5)
    executor.over.set()


def test_a_straggler_is_submitted_once_more_and_nobody_waits_for_the_first(ticks):
    results, attempts, was_over = drained({"c": [(THE_END, None), (AT_ONCE, None)]})
    assert results["c"].observations == 1
    assert attempts["c"] == 2
    assert not was_over


def test_of_a_straggler_the_first_result_wins(ticks):
    results, attempts, was_over = drained({"c": [(THE_NEXT, None), (THE_END, None)]})
    assert results["c"].observations == 0
    assert attempts["c"] == 2
    assert not was_over


def test_without_backups_a_straggler_is_waited_for(ticks):
    _, attempts, was_over = drained({"c": [(THE_END, None)]}, backups=False)
    assert attempts["c"] == 1
    assert was_over


@pytest.mark.parametrize("kind", [Kind.PERMANENT, Kind.TRANSIENT])
def test_a_backup_that_fails_does_not_fail_the_cell(ticks, kind):
    executor = Slow({"c": [(THE_END, None), (AT_ONCE, failure(kind)), (THE_END, None)]})
    drain = Drain(Pool(executor), "abcdef", lambda cell: cell, 8, POLICY, True)
    results = drain.results()
    others = {next(results).cell for _ in range(5)}
    ending = threading.Thread(target=end_when_the_backup_failed, args=[executor])
    ending.start()
    (last,) = results
    ending.join()
    assert others == set("abdef")
    assert (last.cell, last.error) == ("c", None)


def test_a_straggler_of_which_both_attempts_fail_is_one_error(ticks):
    error = failure(Kind.PERMANENT)
    results, attempts, _ = drained({"c": [(THE_NEXT, error), (AT_ONCE, error)]})
    assert results["c"].error.message == "x"
    assert attempts["c"] == 2
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
    with FaultyPool(script, 2) as pool:
        summary = small.run(tmp_path / "s.zarr", executor=pool)
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
        timeout=600,
        check=True,
    )
    assert told.stdout.startswith(f"{len(small.cells)} ")
    assert "__main__" in told.stdout
    assert "imports this script" in told.stderr
