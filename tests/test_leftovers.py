"""Workers that outlive their run do no harm to a store that is made anew meanwhile.

At every storage operation of such a worker in turn, the store is overwritten. Either the worker is
alive, when the overwriting run waits for it if need be, or it stands still until it is taken for
dead, and then goes on all the same.
"""

from __future__ import annotations

import shutil
import threading
import time
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from cell_faults import PARENT_ORDER, assert_complete, assert_no_false_done, cells_of, reads_as_done
from storage_seams import hooked

import magg.cell
from magg import Catalog
from magg.cell import process_cell
from magg.grid import from_decimal
from magg.plan import make_plan
from magg.store import lock, makings
from magg.store.inspect import describe
from magg.testing import Track, simulate_granule

VARIABLES = ("count", "h_mean")


def with_variables(small, **variables):
    aggregation = replace(small.config.aggregation, variables=variables)
    return replace(small, config=replace(small.config, aggregation=aggregation))


@pytest.fixture
def few(small):
    """Return the small cells with two variables only."""
    return with_variables(small, **{name: small.config.statistics[name] for name in VARIABLES})


@dataclass(frozen=True)
class Case:
    """A store that is overwritten, and the task of a worker of its former run."""

    before: object
    after: object
    catalog: Catalog
    store: Path
    task: object
    # What happens to the granules before the overwriting run.
    change: object = lambda: None

    def overwrite(self):
        self.change()
        summary = self.after.run(
            self.store, catalog=self.catalog, overwrite=True, progress=False, max_workers=2
        )
        assert summary["errors"] == []
        return summary

    def expected(self, folder):
        """Return what the store comes to where no worker was left over."""
        shutil.rmtree(folder, ignore_errors=True)
        self.after.run(folder, catalog=self.catalog, progress=False)
        return cells_of(folder)


def begin(before, after, store, old, new, cell, **options):
    """Make a store of the old catalog and the task of one of its cells."""
    plan = make_plan(before.config, old, store)
    return Case(before, after, new, store, plan.task(cell, plan.prepare_store()), **options)


def another_catalog(few, tmp_path, store):
    """The cell's chunk is another cell's, and the cell has another chunk."""
    cells = sorted(few.catalog.cells, key=from_decimal)[:4]
    old = Catalog(PARENT_ORDER, {cell: few.catalog.cells[cell] for cell in cells})
    new = Catalog(PARENT_ORDER, {cell: few.catalog.cells[cell] for cell in cells[1:]})
    return begin(few, few, store, old, new, cells[2])


def another_config(few, tmp_path, store):
    """The chunks of a variable are of another type."""
    mean = replace(few.config.statistics["h_mean"], dtype="float64")
    other = with_variables(few, h_mean=mean, h_min=few.config.statistics["h_mean"])
    cells = sorted(few.catalog.cells, key=from_decimal)[:2]
    catalog = Catalog(PARENT_ORDER, {cell: few.catalog.cells[cell] for cell in cells})
    return begin(few, other, store, catalog, catalog, cells[1])


def other_granules_of_the_same_names(few, tmp_path, store):
    """Nothing that a digest covers has changed."""
    granule = tmp_path / "g.h5"
    tracks = [Track(-75.5, -101, segments=300)]
    simulate_granule(granule, *tracks, seed=1)
    whole = Catalog.from_files([granule], parent_order=PARENT_ORDER)
    catalog = Catalog(PARENT_ORDER, dict(list(whole.cells.items())[:2]))

    def change():
        simulate_granule(tmp_path / "new.h5", *tracks, seed=2)
        (tmp_path / "new.h5").replace(granule)

    return begin(few, few, store, catalog, catalog, next(iter(catalog.cells)), change=change)


CASES = [another_catalog, another_config, other_granules_of_the_same_names]


def taken_for_dead(case):
    """Overwrite the store while the worker stands still, its mark notwithstanding."""
    kept = set(lock._at_work)
    lock._at_work.clear()
    case.overwrite()
    lock._at_work.update(kept)


class Alive:
    """Overwrites the store while the worker goes on, once it is waited for."""

    def __init__(self, monkeypatch):
        self.waiting, self.threads, self.failed = threading.Event(), [], []
        clock = SimpleNamespace(monotonic=time.monotonic, sleep=self._sleep)
        monkeypatch.setattr(makings, "time", clock)

    def _sleep(self, _):
        self.waiting.set()
        time.sleep(0.001)

    def __call__(self, case):
        self.waiting.clear()
        thread = threading.Thread(target=self._overwrite, args=[case])
        self.threads.append(thread)
        thread.start()
        while thread.is_alive() and not self.waiting.is_set():
            time.sleep(0.001)

    def _overwrite(self, case):
        try:
            case.overwrite()
        except BaseException as error:  # noqa: BLE001 - told by the thread of the test
            self.failed.append(error)

    def join(self):
        for thread in self.threads:
            thread.join(300)
            assert not thread.is_alive()
        assert self.failed == []


def interrupted_at(number, case, meanwhile):
    """Run the worker and do something before an operation; return its result and if it came."""
    left, came = [number], []

    def hook(kind, about, operation):
        left[0] -= 1
        if left[0] == 0:
            came.append(f"{kind} {about}")
            meanwhile(case)
        return operation()

    with hooked(hook):
        result = process_cell(case.task)
        if isinstance(meanwhile, Alive):
            meanwhile.join()
    return result, came


def check_the_end(case, expected):
    """Check that a normal run completes the store, and that nothing is left of the worker."""
    summary = case.after.run(case.store, catalog=case.catalog, progress=False)
    assert summary["errors"] == []
    assert_complete(case.store, expected)
    states = describe(case.store)["cells"]
    assert states["failed"] == states["interrupted"] == states["missing"] == 0
    return len(summary["results"])


@pytest.mark.parametrize("make", CASES)
def test_a_worker_that_goes_on_is_waited_for_or_writes_nothing(few, tmp_path, monkeypatch, make):
    statuses, number, expected = [], 0, None
    while True:
        number += 1
        store = tmp_path / f"{number}.zarr"
        case = make(few, tmp_path, store)
        result, came = interrupted_at(number, case, Alive(monkeypatch))
        if not came:
            break
        expected = expected or case.expected(tmp_path / "expected.zarr")
        statuses.append(result.status)
        if result.error is not None:
            assert "the store was made anew since this run began" in result.error.message, came
        # The overwriting run was right in all that it counted.
        assert check_the_end(case, expected) == 0, came
    assert number > 11
    assert set(statuses) == {"data", "error"}
    assert statuses == sorted(statuses, reverse=True)


@pytest.mark.parametrize("make", CASES)
def test_what_a_worker_taken_for_dead_writes_over_is_done_again(few, tmp_path, make):
    number, redone, expected = 0, [], None
    while True:
        number += 1
        store = tmp_path / f"{number}.zarr"
        case = make(few, tmp_path, store)
        _, came = interrupted_at(number, case, taken_for_dead)
        if not came:
            break
        expected = expected or case.expected(tmp_path / "expected.zarr")
        done = reads_as_done(case.after, store, case.catalog)
        if done == set(expected):
            assert_no_false_done(store, expected, done)
        redone.append(check_the_end(case, expected))
    assert number > 11
    assert 0 in redone
    # The cell whose chunk it is now, and the worker's own where it removed a record.
    assert 1 <= max(redone) <= 2


def test_no_record_of_a_worker_left_over_counts_in_a_store_that_was_only_prepared(few, tmp_path):
    def prepare(case):
        lock._at_work.clear()
        make_plan(few.config, case.catalog, case.store, overwrite=True).prepare_store()

    number, came = 0, True
    while came:
        number += 1
        case = other_granules_of_the_same_names(few, tmp_path, tmp_path / f"{number}.zarr")
        _, came = interrupted_at(number, case, prepare)
        assert not came or reads_as_done(few, case.store, case.catalog) == set(), came
    assert number > 11
    assert reads_as_done(few, case.store, case.catalog) == {case.task.cell}


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_worker_left_over_in_a_bucket_does_no_harm(
    few, s3_bucket, aws_environment, tmp_path, monkeypatch, when
):
    aws_environment()
    case = another_catalog(few, tmp_path, s3_bucket.url("s.zarr"))
    write_chunks = magg.cell.write_chunks

    def paused(*arguments, **options):
        monkeypatch.setattr(magg.cell, "write_chunks", write_chunks)
        if when == "after":
            write_chunks(*arguments, **options)
        taken_for_dead(case)
        write_chunks(*arguments, **options)

    monkeypatch.setattr(magg.cell, "write_chunks", paused)
    result = process_cell(case.task)
    assert "made anew" in result.error.message
    summary = case.after.run(case.store, catalog=case.catalog, progress=False)
    assert len(summary["results"]) == 1
    here = tmp_path / "copy.zarr"
    for key in s3_bucket.keys("s.zarr"):
        path = here / Path(key).relative_to("s.zarr")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(s3_bucket.get(key))
    assert_complete(here, case.expected(tmp_path / "expected.zarr"))


def test_a_run_whose_store_is_made_anew_says_so_and_leaves_no_note(few, tmp_path):
    case = another_catalog(few, tmp_path, tmp_path / "s.zarr")
    case.overwrite()
    result = process_cell(case.task)
    assert result.status == "error"
    assert "the store was made anew since this run began; run again" in result.error.message
    assert describe(case.store)["cells"]["failed"] == 0
