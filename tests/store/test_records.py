"""Which cells are done, from what, and what finding out costs."""

from __future__ import annotations

import json
import os
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
import zarr
from cell_faults import assert_complete, cells_of, done_cells, reads_as_done

from magg import Catalog
from magg.errors import StoreError
from magg.grid import from_decimal
from magg.store import lock, makings, marks, records
from magg.store.inspect import cell_states
from magg.store.marks import Mark
from magg.store.open import object_names, open_objects

CELL = "-5121132"
MAKING = "0123456789abcdef"


@pytest.fixture
def path(tmp_path):
    path = str(tmp_path / "s.zarr")
    put(path, f"{makings.MADE}/{MAKING}", "")
    return path


def record(digest="a" * 32, status="data", skipped=()):
    return records.Record(CELL, digest, status, 0, 1, 1, skipped=skipped)


def names(path, folder=makings.FOLDER):
    return sorted(
        name
        for name in object_names(open_objects(path), folder)
        if not name.startswith(makings.MADE)
    )


def put(path, name, content):
    open_objects(path).put(name, json.dumps(content).encode())


def signature():
    """Return what somebody signed who is alive: the parent of this process."""
    with lock.signed() as signature:
        return signature | {"pid": os.getppid()}


def test_a_record_appears_only_after_all_chunks(path):
    seen = []
    records.write_cell(path, MAKING, record(), lambda: seen.append(names(path)))
    ((mark,),) = seen
    assert mark.startswith(f".magg/writing/{CELL}/")
    assert names(path) == [f".magg/cells/{CELL}/{MAKING}.{'a' * 32}.data.json"]


def test_what_was_read_used_and_dropped_is_in_the_record(small, path):
    began = datetime.now(UTC) - timedelta(seconds=1)
    summary = small.run(path)
    for entry in summary["results"]:
        found = records.read_record(path, entry["cell"])
        assert {read.granule for read in found.granules} == set(small.catalog.cells[entry["cell"]])
        assert sum(read.rows_read for read in found.granules) == entry["rows_read"] > 0
        assert sum(read.rows_used for read in found.granules) == entry["observations"]
        dropped = Counter()
        for read in found.granules:
            dropped.update(read.rows_dropped)
        assert dropped == entry["rows_dropped"]
        assert entry["rows_read"] == entry["observations"] + sum(dropped.values())
        assert found.skipped == ()
        assert began < datetime.fromisoformat(found.time) <= datetime.now(UTC)


def test_a_second_run_skips_every_cell_and_counts_no_observation_twice(small, path):
    small.run(path)
    again = small.run(path)
    assert again["cells_skipped"] == again["total_cells"] == len(small.cells)
    assert again["results"] == []
    assert again["total_obs"] == 0


def test_a_newer_catalog_redoes_the_cells_that_it_changes_and_adds_those_that_are_new(small, path):
    ids = list(small.catalog.cells)
    fewer = next(cell for cell in ids if len(small.catalog.cells[cell]) > 1)
    number = ids.index(fewer)
    others = [n for n in range(len(ids)) if n not in (number, 0)]
    older = small.part(*others, **{fewer: small.catalog.cells[fewer][:1]})
    small.run(path, catalog=older)
    assert cells_of(path)[fewer] != small.cells[fewer]
    assert reads_as_done(small, path) == {ids[n] for n in others}
    summary = small.run(path)
    assert summary["cells_skipped"] == len(others)
    assert_complete(path, small.cells)


def test_the_order_of_granules_in_a_catalog_means_nothing(small, path):
    small.run(path)
    reordered = {cell: granules[::-1] for cell, granules in reversed(small.catalog.cells.items())}
    assert small.run(path, catalog=Catalog(10, reordered))["results"] == []


@pytest.mark.parametrize(
    ("status", "accept_partial", "satisfied"),
    [
        ("data", False, True),
        ("empty", False, True),
        ("partial", False, False),
        ("data", True, True),
        ("empty", True, True),
        ("partial", True, True),
    ],
)
def test_a_partial_record_satisfies_only_who_accepts_it(status, accept_partial, satisfied):
    mark = Mark("d", status, datetime.now(UTC))
    assert mark.satisfies("d", accept_partial=accept_partial) is satisfied
    assert not mark.satisfies("other", accept_partial=accept_partial)


def test_finding_out_what_is_done_costs_one_listing(small, path, monkeypatch):
    small.run(path)
    calls = Counter()

    class Counting:
        def __init__(self, inner):
            self._inner = inner

        def __getattr__(self, name):
            calls[name] += 1
            return getattr(self._inner, name)

    monkeypatch.setattr(marks, "open_objects", lambda *a, **k: Counting(open_objects(*a, **k)))
    assert small.run(path)["cells_skipped"] == len(small.cells)
    assert calls == {"list": 1}


def test_a_failure_is_noted_and_a_success_removes_the_note(path):
    records.write_failure(path, MAKING, CELL, "a" * 32, "ValueError", "no")
    (note,) = names(path)
    held = json.loads(bytes(open_objects(path).get(note).bytes()))
    assert (held["cell"], held["type"], held["message"]) == (CELL, "ValueError", "no")
    assert cell_states(path, [CELL])["failed"] == 1
    records.write_cell(path, MAKING, record(), lambda: None)
    assert cell_states(path, [CELL]) | {"first": 0, "last": 0} == states(data=1)


def test_a_straggler_that_fails_after_its_twin_succeeded_makes_no_failure(path):
    records.write_cell(path, MAKING, record(), lambda: None)
    records.write_failure(path, MAKING, CELL, "a" * 32, "ValueError", "no")
    assert cell_states(path, [CELL])["failed"] == 0


def states(**known):
    kinds = ("data", "empty", "partial", "failed", "interrupted", "missing")
    return dict.fromkeys(kinds, 0) | {"first": 0, "last": 0} | known


def test_states_tell_cells_apart(path):
    done = [("1", "data"), ("2", "empty"), ("3", "partial")]
    for cell, status in done:
        records.write_cell(path, MAKING, replace(record(status=status), cell=cell), lambda: None)
    records.write_failure(path, MAKING, "4", "d", "ValueError", "no")
    put(path, ".magg/writing/5/in.token.json", {})
    found = cell_states(path, ["1", "2", "3", "4", "5", "6"])
    assert found | {"first": 0, "last": 0} == states(
        data=1, empty=1, partial=1, failed=1, interrupted=1, missing=1
    )


def test_chunks_that_cannot_be_written_leave_no_record_of_older_ones(path):
    records.write_cell(path, MAKING, record("a" * 32), lambda: None)

    def broken():
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        records.write_cell(path, MAKING, record("b" * 32), broken)
    assert names(path) == []


def test_a_twin_that_fails_leaves_the_record_of_the_first(path):
    records.write_cell(path, MAKING, record(), lambda: None)
    with pytest.raises(OSError, match="x"):
        records.write_cell(path, MAKING, record(), lambda: (_ for _ in ()).throw(OSError("x")))
    assert done_cells(path) == {CELL}


def both_at_once(path, first, second):
    """Write one cell from two threads; return whether they were at the chunks together."""
    inside, together, errors = [], [], []

    def writer(mine):
        def chunks():
            inside.append(mine)
            time.sleep(0.02)
            together.append(len(inside) > 1)
            inside.remove(mine)

        try:
            records.write_cell(path, MAKING, mine, chunks)
        except StoreError as error:
            errors.append(error)

    threads = [threading.Thread(target=writer, args=[mine]) for mine in (first, second)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    return any(together)


SKIPPED = (records.SkippedGranule("g.h5", "lost"),)
OTHERS = (records.SkippedGranule("h.h5", "lost"),)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (record("a" * 32), record("b" * 32)),
        (record("a" * 32), record("a" * 32, "partial", SKIPPED)),
        (record("a" * 32, "partial", OTHERS), record("a" * 32, "partial", SKIPPED)),
    ],
    ids=["other-granules", "some-skipped", "others-skipped"],
)
@pytest.mark.parametrize("attempt", range(3))
def test_writers_of_other_bytes_never_write_together_and_leave_one_record(
    path, monkeypatch, first, second, attempt
):
    monkeypatch.setattr(records, "GIVE_WAY_S", 0.05)
    assert not both_at_once(path, first, second)
    assert len(names(path)) == 1


def test_writers_of_equal_bytes_do_not_wait_for_each_other(path):
    both = threading.Barrier(2)

    def chunks():
        both.wait(300)  # for the other, which must be at its chunks too

    def write():
        records.write_cell(path, MAKING, record(), chunks)

    with ThreadPoolExecutor(2) as pool:
        for future in [pool.submit(write), pool.submit(write)]:
            future.result()
    assert names(path) == [f".magg/cells/{CELL}/{MAKING}.{'a' * 32}.data.json"]


@pytest.mark.parametrize("how", ["dead", "old"])
def test_the_mark_of_a_dead_writer_is_taken_away(path, how):
    mark = signature() | ({"pid": 2**22 + 1} if how == "dead" else {"time": 0.0})
    put(path, f".magg/writing/{CELL}/other.token.json", mark)
    assert cell_states(path, [CELL])["interrupted"] == 1
    records.write_cell(path, MAKING, record(), lambda: None)
    assert names(path, records.WRITING) == []


def test_a_writer_that_does_not_end_is_an_error_and_no_mixture(path, monkeypatch):
    monkeypatch.setattr(records, "PATIENCE_S", 0.05)
    monkeypatch.setattr(records, "GIVE_WAY_S", 0.02)
    put(path, f".magg/writing/{CELL}/other.token.json", signature())
    wrote = []
    with pytest.raises(StoreError, match=f"another run is writing cell {CELL}"):
        records.write_cell(path, MAKING, record(), lambda: wrote.append(1))
    assert wrote == []
    assert done_cells(path) == set()


def test_a_writer_that_was_taken_for_dead_writes_again(path):
    wrote = []

    def chunks():
        wrote.append(1)
        if len(wrote) == 1:
            for name in names(path, records.WRITING):
                open_objects(path).delete(name)

    records.write_cell(path, MAKING, record(), chunks)
    assert len(wrote) == 2
    assert done_cells(path) == {CELL}


def test_a_writer_that_was_taken_for_dead_and_fails_leaves_no_record_of_what_it_wrote_over(path):
    parents = np.array([from_decimal(CELL)], dtype=np.uint64)
    zarr.open_group(path, mode="a").create_array("parent_cells", data=parents)
    twins = f"{records.DONE}/{CELL}/{MAKING}.{'b' * 32}.data.json"

    def chunks():
        if done_cells(path):
            raise OSError("disk full")
        for name in names(path, makings.WRITING):
            open_objects(path).delete(name)
        put(path, twins, {})

    with pytest.raises(OSError, match="disk full"):
        records.write_cell(path, MAKING, record("b" * 32), chunks)
    assert done_cells(path) == set()


def test_a_record_of_no_present_making_does_not_count(path):
    records.write_cell(path, MAKING, record(), lambda: None)
    assert done_cells(path) == {CELL}
    makings.end(open_objects(path))
    assert done_cells(path) == set()
    assert records.read_record(path, CELL) is None
    assert makings.begin(open_objects(path)) != MAKING
    assert done_cells(path) == set()
    with pytest.raises(StoreError, match="made anew"):
        records.write_cell(path, MAKING, record(), lambda: None)
