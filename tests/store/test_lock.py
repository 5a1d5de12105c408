"""One at a time makes or grows a store; two runs at once end with a correct one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
from cell_faults import assert_complete, cells_of, reads_as_done
from obstore.exceptions import AlreadyExistsError
from obstore.store import LocalStore as ObstoreLocal

from magg import Catalog, run
from magg.errors import StoreError, StoreMismatchError
from magg.store import lock, template
from magg.store.open import open_objects

NOBODY = 2**22 + 1  # beyond the largest pid of Linux


@pytest.fixture
def path(tmp_path):
    return str(tmp_path / "s.zarr")


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(lock, "POLL_S", 0.005)


def signature(**changed):
    """Return what somebody signed who is alive, the parent of this process, or who is not."""
    with lock.signed() as signature:
        return signature | {"pid": os.getppid()} | changed


def left_behind(path, **changed):
    signature_ = signature(**changed)
    open_objects(path).put(lock.NAME, json.dumps(signature_).encode())
    return signature_


def holders_at_once(path, threads, rounds):
    """Take the lock from many threads; return how many ever held it together."""
    inside, most, errors = [], [0], []

    def work():
        try:
            for _ in range(rounds):
                with lock.exclusive(path):
                    inside.append(1)
                    most[0] = max(most[0], len(inside))
                    time.sleep(0.001)
                    inside.pop()
        except BaseException as error:
            errors.append(error)
            raise

    workers = [threading.Thread(target=work) for _ in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert errors == []
    return most[0]


def test_it_excludes(path):
    assert holders_at_once(path, threads=6, rounds=5) == 1


def test_it_is_waited_for(path):
    with lock.exclusive(path):
        waiting = threading.Thread(target=holders_at_once, args=[path, 1, 1])
        waiting.start()
        waiting.join(0.1)
        assert waiting.is_alive()
    waiting.join(60.0)
    assert not waiting.is_alive()


def test_it_is_let_go_after_an_error(path):
    with pytest.raises(KeyboardInterrupt), lock.exclusive(path):
        raise KeyboardInterrupt
    with lock.exclusive(path):
        pass
    assert not open_objects(path).list(prefix=".magg").collect()


@pytest.mark.parametrize("left", [{"pid": NOBODY}, {"time": 0.0}], ids=["dead", "old"])
def test_that_of_a_dead_process_is_taken_over(path, left):
    left_behind(path, **left)
    began = time.monotonic()
    with lock.exclusive(path):
        assert time.monotonic() - began < lock.STALE_AFTER_S / 2
    assert not open_objects(path).list(prefix=".magg").collect()


@pytest.mark.parametrize(
    "left", [{}, {"pid": NOBODY, "host": "elsewhere"}, {"pid": NOBODY, "pids": "pid:[1]"}]
)
def test_that_of_another_host_or_container_is_respected(path, monkeypatch, left):
    left_behind(path, **left)
    monkeypatch.setattr(time, "monotonic", iter([0.0, 400.0]).__next__)
    with pytest.raises(StoreError, match="another run"), lock.exclusive(path):
        pass


@pytest.mark.parametrize("attempt", range(5))
def test_only_one_of_many_takes_over_a_dead_one(path, attempt):
    left_behind(path, pid=NOBODY)
    assert holders_at_once(path, threads=8, rounds=2) == 1


def test_who_saw_a_dead_lock_does_not_take_away_the_one_that_came_after_it(path):
    dead = left_behind(path, pid=NOBODY)
    with lock.exclusive(path):
        lock._take_away(open_objects(path), dead, signature())
        assert lock.read_signature(open_objects(path), lock.NAME) is not None


def test_a_take_over_that_was_killed_half_way_is_finished_by_the_next(path):
    dead = left_behind(path, pid=NOBODY)
    claim = signature(pid=NOBODY)
    open_objects(path).put(f"{lock.NAME}-{dead['token']}", json.dumps(claim).encode())
    with lock.exclusive(path):
        pass


def test_a_lock_that_this_process_left_behind_is_taken_over(path):
    left_behind(path, pid=os.getpid())
    began = time.monotonic()
    with lock.exclusive(path):
        assert time.monotonic() - began < lock.STALE_AFTER_S / 2


@pytest.mark.parametrize("answer", [ConnectionError, AlreadyExistsError])
def test_a_lock_is_ones_own_also_where_the_answer_was_lost(path, monkeypatch, answer):
    put = ObstoreLocal.put

    def lost(self, name, *args, **kwargs):
        put(self, name, *args, **kwargs)
        monkeypatch.setattr(ObstoreLocal, "put", put)
        raise answer("the answer was lost, or the request was sent twice")

    monkeypatch.setattr(ObstoreLocal, "put", lost, raising=False)
    try:
        with lock.exclusive(path):
            pass
    except ConnectionError:
        assert answer is ConnectionError
    assert not open_objects(path).list(prefix=".magg").collect()


def test_a_lock_that_cannot_be_given_back_hurts_nobody_here(path, monkeypatch):
    def broken(*_):
        raise ConnectionError("gone")

    with monkeypatch.context() as patch:
        patch.setattr(ObstoreLocal, "delete", broken, raising=False)
        with lock.exclusive(path):
            pass
    with lock.exclusive(path):
        pass


RUN = """
import sys
from magg import Catalog, load_config, run
from cell_faults import small_orders
if __name__ == "__main__":
    catalogs = sys.argv[2:]
    for catalog in catalogs:
        summary = run(small_orders(load_config("atl06")), catalog=catalog, store=sys.argv[1],
                      max_workers=3, progress=False)
        assert summary["cells_error"] == 0, summary["errors"]
"""


@pytest.fixture
def start():
    runs = []

    def start(store, *catalogs):
        command = [sys.executable, "-c", RUN, store, *map(str, catalogs)]
        runs.append(subprocess.Popen(command, env={"PYTHONPATH": ":".join(sys.path)}))
        return runs[-1]

    yield start
    for started in runs:
        started.kill()
        started.wait()


def halves(small, tmp_path):
    """Return two overlapping parts of the catalog, each wholly known to one run."""
    count = len(small.cells)
    first, second = small.part(*range(count - 3)), small.part(*range(3, count))
    return first.save(tmp_path / "first.json"), second.save(tmp_path / "second.json")


def test_two_runs_that_make_and_grow_one_store_at_once_end_with_the_union(
    start, small, path, tmp_path
):
    first, second = halves(small, tmp_path)
    runs = [start(path, first), start(path, second)]
    assert [run.wait(300) for run in runs] == [0, 0]
    assert_complete(path, small.cells)


def test_a_store_that_another_run_begins_between_two_looks_is_its_store_too(
    small, path, monkeypatch
):
    is_empty = template._is_empty

    def begun_meanwhile(objects):
        monkeypatch.setattr(template, "_is_empty", is_empty)
        small.run(path)
        return is_empty(objects)

    monkeypatch.setattr(template, "_is_empty", begun_meanwhile)
    Path(path).mkdir()
    assert small.run(path)["cells_skipped"] == len(small.cells)


def test_two_runs_with_other_granules_for_the_same_cells_leave_no_mixture(
    start, small, path, tmp_path
):
    fewer = {cell: granules[:1] for cell, granules in small.catalog.cells.items()}
    older = Catalog(10, fewer).save(tmp_path / "older.json")
    newer = small.catalog.save(tmp_path / "newer.json")
    small.run(tmp_path / "older.zarr", catalog=Catalog(10, fewer))
    of_older = cells_of(tmp_path / "older.zarr")
    runs = [start(path, older, older, older), start(path, newer, newer, newer)]
    assert [run.wait(300) for run in runs] == [0, 0]
    held = cells_of(path)
    newer_done = reads_as_done(small, path)
    older_done = reads_as_done(small, path, Catalog(10, fewer))
    same = {c for c in fewer if len(small.catalog.cells[c]) == 1}
    assert newer_done | older_done == set(small.cells)
    assert newer_done & older_done == same
    assert all(held[cell] == small.cells[cell] for cell in newer_done)
    assert all(held[cell] == of_older[cell] for cell in older_done)


def test_a_second_run_with_another_config_is_refused_while_the_first_goes_on(small, path):
    aggregation = small.config.aggregation
    kept = {name: s for name, s in aggregation.variables.items() if name != "h_max"}
    other = replace(small.config, aggregation=replace(aggregation, variables=kept))
    refused = []

    def second(event):
        if not refused:
            with pytest.raises(StoreMismatchError, match="h_max") as caught:
                run(other, catalog=small.catalog, store=path, progress=False)
            refused.append(caught)

    small.run(path, progress=second)
    assert refused
    assert_complete(path, small.cells)
