"""For any script of faults and interrupts, repeated calls end in the undisturbed store.

A script says for every operation (read of a cell, write of a chunk, of a record or a mark, delete,
listing, submission) and attempt whether and how it fails; it is drawn from a seed, so that it does
not depend on the order in which threads come to it.
"""

from __future__ import annotations

import re
import shutil
import time
from collections import Counter, defaultdict
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from random import Random

import numpy as np
import pytest
from cell_faults import PARENT_ORDER, assert_complete, assert_no_false_done, cells_of, reads_as_done
from storage_seams import hooked

import magg.cell
from magg import Catalog
from magg.errors import GranuleError, StoreError
from magg.executors.retry import Policy
from magg.granules import GranuleRead, Rows
from magg.grid import Grid, to_decimal, words_of
from magg.store import records
from magg.store.inspect import describe

TOKENS = re.compile(r"\.[0-9a-f]{32}\.json|-[0-9a-f]{32}$|(?<=/)[0-9a-f]{16}(?=\.|$)")
FAULTS = {
    "read": ("before", "memory", "bug", "granule", "panic"),
    "chunk": ("before", "after", "full", "panic"),
    "put": ("before", "after", "full"),
    "delete": ("before", "after"),
    "get": ("before",),
    "list": ("before",),
    "submit": ("raise", "lost before", "lost after", "exit"),
}


class PanicError(BaseException):
    """As native libraries raise it."""


class Script:
    """Which operation fails at which attempt."""

    def __init__(self, seed, rate):
        self.seed, self.rate = seed, rate
        self.attempts, self.done = defaultdict(int), Counter()

    def draw(self, kind, about):
        key = kind, TOKENS.sub("", about)
        self.attempts[key] += 1
        rng = Random(f"{self.seed} {key} {self.attempts[key]}")
        fault = rng.choice(FAULTS[kind]) if rng.random() < self.rate else None
        self.done[fault is not None] += 1
        return fault

    def hook(self, kind, about, operation):
        fault = self.draw(kind, about)
        if fault == "before":
            raise ConnectionResetError(f"{kind} was cut off")
        if fault == "full":
            raise OSError(28, "No space left on device")
        if fault == "memory":
            raise MemoryError
        if fault == "bug":
            raise ZeroDivisionError
        if fault == "granule":
            raise GranuleError("the file is damaged")
        if fault == "panic":
            raise PanicError("in native code")
        result = operation()
        if fault == "after":
            raise ConnectionResetError(f"the answer to {kind} was lost")
        return result


class FlakyExecutor(ThreadPoolExecutor):
    """Loses calls before and after they ran, as the script says."""

    def __init__(self, script, workers=3):
        super().__init__(workers)
        self.script = script

    def submit(self, fn, task):
        fault = self.script.draw("submit", task.cell)
        if fault == "raise":
            raise ConnectionError("cannot submit")
        future = Future()
        if fault == "exit":
            future.set_exception(SystemExit(1))
        elif fault == "lost before":
            future.set_exception(ConnectionError("the worker was lost"))
        else:
            inner = super().submit(fn, task)
            inner.add_done_callback(lambda ended: self._pass_on(ended, future, fault))
        return future

    @staticmethod
    def _pass_on(ended, future, fault):
        if ended.cancelled() or fault == "lost after":
            future.set_exception(ConnectionError("the worker was lost"))
        else:
            future.set_result(ended.result())


class Interrupting:
    """A listener that presses Ctrl-C at the n-th event."""

    def __init__(self, number):
        self.left = number

    def __call__(self, event):
        self.left -= 1
        if self.left == 0:
            raise KeyboardInterrupt


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr("magg.runner.POLICY", Policy(base_s=0.001, cap_s=0.002))
    monkeypatch.setattr(records, "GIVE_WAY_S", 0.01)


def disturbed(small, store, catalog, script, interrupt_at=0, **options):
    """Run under a script; return the summary, or None where the run did not get to one."""
    executor = FlakyExecutor(script)
    try:
        with hooked(script.hook):
            try:
                return small.run(
                    store,
                    catalog=catalog,
                    executor=executor,
                    progress=Interrupting(interrupt_at),
                    **options,
                )
            except (KeyboardInterrupt, ConnectionError, OSError, PanicError):
                return None
            finally:
                executor.shutdown()
    finally:
        executor.shutdown()


def check(small, store, catalog, summary, expected):
    """Check that what the summary counts is done, and that what reads as done is."""
    if not (Path(store) / "zarr.json").exists():
        assert summary is None
        return
    try:
        done = reads_as_done(small, store, catalog)
    except StoreError:
        assert summary is None  # the template is not finished
        return
    assert_no_false_done(store, expected, done)
    if summary is not None:
        finished = {e["cell"] for e in summary["results"] if e["status"] != "error"}
        assert finished <= done
        assert len(finished) == summary["cells_with_data"] + summary["cells_empty"]
        assert len(summary["results"]) + summary["cells_skipped"] == summary["total_cells"]
        assert {e["cell"] for e in summary["errors"]} | finished == {
            e["cell"] for e in summary["results"]
        }


def play(small, store, seed):
    """Play one script to its end; return how many operations failed."""
    rng = Random(seed)
    script = Script(seed, rng.choice([0.01, 0.03, 0.1, 0.3]))
    few = small.part(*sorted(rng.sample(range(len(small.cells)), 3)))
    for number in range(rng.randint(1, 4)):
        catalog = few if number == 0 and rng.random() < 0.3 else small.part(*range(6))
        overwrite = {"overwrite": True} if rng.random() < 0.1 else {}
        interrupt_at = rng.randint(2, 8) if rng.random() < 0.3 else 0
        summary = disturbed(small, store, catalog, script, interrupt_at, **overwrite)
        check(small, store, catalog, summary, small.cells)
    small.run(store, catalog=few)
    final = small.run(store, catalog=small.part(*range(6)))
    assert final["cells_error"] == 0
    wanted = set(few.cells) | set(small.part(*range(6)).cells)
    assert_complete(store, {cell: small.cells[cell] for cell in wanted})
    states = describe(store)["cells"]
    assert states["failed"] == states["interrupted"] == states["missing"] == 0
    return script.done[True]


@pytest.mark.parametrize("batch", range(4))
def test_scripts_of_faults_lose_nothing(small, tmp_path, batch):
    failed = [play(small, tmp_path / f"{seed}.zarr", f"{batch}-{seed}") for seed in range(8)]
    assert sum(failed) > 0


@pytest.mark.slow
@pytest.mark.parametrize("batch", range(10))
def test_many_scripts_of_faults_lose_nothing(small, tmp_path, batch):
    for seed in range(30):
        play(small, tmp_path / "s.zarr", f"many-{batch}-{seed}")
        shutil.rmtree(tmp_path / "s.zarr")


def synthetic_rows(granules, word, grid, source, columns, *, layouts):
    """Return a few rows that depend on the cell alone; some cells have none."""
    rng = np.random.default_rng(int(word) % 2**32)
    rows = int(rng.integers(0, 20))
    child = rng.integers(0, grid.children, rows).astype(np.uint16)
    values = {name: rng.uniform(0.1, 0.3, rows).astype(np.float32) for name in columns}
    read = [GranuleRead(granule, rows, rows, {}, 0, ()) for granule in granules]
    return Rows(child, values), read


@pytest.mark.slow
def test_thousands_of_cells_with_random_faults_come_to_their_end(small, tmp_path, monkeypatch):
    aggregation = small.config.aggregation
    kept = {name: aggregation.variables[name] for name in ("count", "h_max")}
    config = replace(small.config, aggregation=replace(aggregation, variables=kept))
    soaked = replace(small, config=config)
    words = words_of(np.arange(500_000, 502_000), PARENT_ORDER)
    catalog = Catalog(PARENT_ORDER, {to_decimal(word): ("a.h5",) for word in words})
    assert Grid(PARENT_ORDER, PARENT_ORDER + 1).children == 4
    monkeypatch.setattr(magg.cell, "read_rows", synthetic_rows)
    soaked.run(tmp_path / "reference.zarr", catalog=catalog)
    expected = cells_of(tmp_path / "reference.zarr")
    began, store, script = time.monotonic(), tmp_path / "s.zarr", Script("soak", 0.02)
    soaked.run(store, catalog=catalog, max_cells=1)  # of 4,000 coordinates, some would always fail
    for number in range(4):
        interrupt_at = 700 if number == 0 else 0
        summary = disturbed(soaked, store, catalog, script, interrupt_at)
        check(soaked, store, catalog, summary, expected)
        if time.monotonic() - began > 30:
            break
    soaked.run(store, catalog=catalog)
    assert_complete(store, expected)
    assert script.done[True] > 100
