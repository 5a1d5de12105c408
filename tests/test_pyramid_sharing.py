"""Who may write, change and delete the chunks that parent cells share, and when."""

from __future__ import annotations

import threading
from dataclasses import replace

import numpy as np
import pytest
from pyramid_faults import COARSER, make_pyramid, values_of

import magg.cell
import magg.runner
from magg import build_pyramid
from magg.cell import process_cell
from magg.errors import StoreError
from magg.events import CellFinished
from magg.plan import make_plan
from magg.store import consolidate as consolidation
from magg.store import lock, shared
from magg.store.consolidate import OutOfTimeError, consolidate, leave_out
from magg.store.marks import list_marks
from magg.store.open import open_objects
from magg.store.pieces import read_piece
from magg.store.shared import MANIFEST, hold_shared, read_manifest


@pytest.fixture(scope="module")
def pyramid(tmp_path_factory):
    return make_pyramid(tmp_path_factory.mktemp("pyramid"))


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(lock, "POLL_S", 0.005)


@pytest.fixture
def older(pyramid, tmp_path):
    """Return a store of older granules, finished."""
    store = tmp_path / "s.zarr"
    pyramid.small.run(store, catalog=pyramid.catalogs["older"])
    return store


def changed_cells(pyramid):
    older, newer = (pyramid.catalogs[name].cells for name in ("older", "all"))
    return [cell for cell in newer if older[cell] != newer[cell]]


def newer_task(pyramid, store, cell):
    plan = make_plan(pyramid.small.config, pyramid.small.catalog, store)
    return plan.task(cell, plan.prepare_store())


def test_a_rerun_that_finds_nothing_to_do_changes_nothing(pyramid, older):
    before = {path: path.stat().st_mtime_ns for path in older.rglob("c/*")}
    pyramid.small.run(older, catalog=pyramid.catalogs["older"])
    assert {path: path.stat().st_mtime_ns for path in older.rglob("c/*")} == before


def test_newer_granules_are_in_every_order_after_the_run(pyramid, older, tmp_path):
    pyramid.small.run(older)
    pyramid.small.run(tmp_path / "fresh.zarr")
    assert values_of(older) == values_of(tmp_path / "fresh.zarr")


def test_cells_that_are_to_be_done_again_are_left_out_before_the_first_of_them_starts(
    pyramid, older, monkeypatch
):
    seen, read_rows = [], magg.cell.read_rows

    def looking(*arguments, **options):
        manifest = read_manifest(open_objects(older))
        seen.append(set(manifest.cells) if manifest else set())
        return read_rows(*arguments, **options)

    monkeypatch.setattr(magg.cell, "read_rows", looking)
    pyramid.small.run(older, max_workers=1)
    changed = set(changed_cells(pyramid))
    assert changed
    assert all(named.isdisjoint(changed) for named in seen)
    # The others stay to be seen meanwhile.
    assert seen[0] == set(pyramid.small.catalog.cells) - changed


def test_a_worker_of_another_run_takes_its_cell_out_of_the_shared_chunks(pyramid, older):
    cell = changed_cells(pyramid)[0]
    task = newer_task(pyramid, older, cell)
    assert cell in read_manifest(open_objects(older)).cells
    assert process_cell(task).error is None
    assert read_manifest(open_objects(older)) is None
    pyramid.assert_claims_nothing_false(older)
    consolidate(str(older))
    pyramid.assert_claims_nothing_false(older)
    assert len(read_manifest(open_objects(older)).cells) == len(pyramid.small.cells)


def test_a_worker_that_dies_half_way_leaves_no_coarser_value_of_its_cell(
    pyramid, older, monkeypatch
):
    cell = changed_cells(pyramid)[0]
    task = newer_task(pyramid, older, cell)
    write_chunks = magg.cell.write_chunks

    def fails(path, order, chunk, values, **options):
        write_chunks(path, order, chunk, {"count": values["count"]}, **options)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(magg.cell, "write_chunks", fails)
    assert process_cell(task).error is not None
    pyramid.assert_claims_nothing_false(older)
    consolidate(str(older))
    pyramid.assert_claims_nothing_false(older)
    assert cell not in read_manifest(open_objects(older)).cells


def test_a_worker_that_changes_a_finished_cell_waits_for_consolidation(pyramid, older):
    cell = changed_cells(pyramid)[0]
    task, results = newer_task(pyramid, older, cell), []
    with hold_shared(str(older), None):
        worker = threading.Thread(target=lambda: results.append(process_cell(task)))
        worker.start()
        while cell not in list_marks(str(older)).writing:
            assert worker.is_alive()
        worker.join(0.2)
        assert worker.is_alive()
        assert len(list_marks(str(older)).done[cell]) == 1  # it has changed nothing yet
    worker.join(60)
    assert results[0].error is None


def test_consolidation_leaves_out_a_cell_that_somebody_is_writing(pyramid, older, monkeypatch):
    cell = changed_cells(pyramid)[0]
    task, during = newer_task(pyramid, older, cell), []
    write_chunks = magg.cell.write_chunks

    def meanwhile(*arguments, **options):
        consolidate(str(older))
        during.append(set(read_manifest(open_objects(older)).cells))
        pyramid.assert_claims_nothing_false(older)
        write_chunks(*arguments, **options)

    monkeypatch.setattr(magg.cell, "write_chunks", meanwhile)
    assert process_cell(task).error is None
    assert during == [set(pyramid.small.cells) - {cell}]


def test_consolidation_leaves_out_a_cell_whose_worker_has_only_begun(pyramid, older, monkeypatch):
    cell = changed_cells(pyramid)[0]
    task, withdraw = newer_task(pyramid, older, cell), shared.withdraw

    def meanwhile(*arguments):
        withdraw(*arguments)
        consolidate(str(older))  # the cell still has its former record

    def fails(*arguments, **options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(shared, "withdraw", meanwhile)
    monkeypatch.setattr(magg.cell, "write_chunks", fails)
    assert process_cell(task).error is not None
    assert read_manifest(open_objects(older)).cells.keys() == set(pyramid.small.cells) - {cell}
    pyramid.assert_claims_nothing_false(older)


def test_a_twin_that_still_writes_a_cell_that_is_done_does_not_keep_it_out(
    pyramid, older, monkeypatch
):
    cell = changed_cells(pyramid)[0]
    plan = make_plan(pyramid.small.config, pyramid.catalogs["older"], older)
    task, during = plan.task(cell, plan.prepare_store()), []
    write_chunks = magg.cell.write_chunks

    def meanwhile(*arguments, **options):
        consolidate(str(older), anew=True)
        during.append(set(read_manifest(open_objects(older)).cells))
        write_chunks(*arguments, **options)

    monkeypatch.setattr(magg.cell, "write_chunks", meanwhile)
    assert process_cell(task).error is None
    assert during == [set(pyramid.small.cells)]
    pyramid.assert_claims_nothing_false(older)


def test_a_piece_that_is_gone_is_looked_for_again_by_the_next_run(pyramid, older, tmp_path):
    pyramid.small.run(tmp_path / "fresh.zarr", catalog=pyramid.catalogs["older"])
    piece = next((older / ".magg" / "coarse").glob("*/*"))
    kept = piece.read_bytes()

    def without(objects, name):
        return None if str(older / str(name)) == str(piece) else read_piece(objects, name)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(consolidation, "read_piece", without)
        consolidate(str(older), anew=True)
    assert not read_manifest(open_objects(older)).is_complete
    assert piece.read_bytes() == kept
    pyramid.small.run(older, catalog=pyramid.catalogs["older"])
    assert values_of(older) == values_of(tmp_path / "fresh.zarr")


def test_a_process_that_was_taken_for_dead_while_it_consolidated_leaves_nothing_of_its_own(
    pyramid, older, monkeypatch
):
    write = consolidation._write_below

    def loses_the_lock(*arguments):
        open_objects(older).delete(shared.LOCK)
        write(*arguments)

    monkeypatch.setattr(consolidation, "_write_below", loses_the_lock)
    with pytest.raises(StoreError, match="stood still"):
        consolidate(str(older), anew=True)
    assert not [chunk for order in COARSER[1:] for chunk in older.glob(f"{order}/h_*/c/*")]
    assert not (older / MANIFEST).exists()
    monkeypatch.undo()
    consolidate(str(older))
    pyramid.assert_claims_nothing_false(older)


def test_consolidation_without_time_stops_and_can_be_called_again(pyramid, older, tmp_path):
    leave_out(str(older), changed_cells(pyramid))
    with pytest.raises(OutOfTimeError):
        consolidate(str(older), within_s=0.0)
    pyramid.assert_claims_nothing_false(older)
    assert consolidate(str(older)) == len(pyramid.small.cells)
    pyramid.small.run(tmp_path / "fresh.zarr", catalog=pyramid.catalogs["older"])
    assert values_of(older) == values_of(tmp_path / "fresh.zarr")


def test_ctrl_c_keeps_what_is_finished_in_every_order(pyramid, tmp_path):
    store, done = tmp_path / "s.zarr", []

    def listen(event):
        if isinstance(event, CellFinished):
            done.append(event.cell)
            if len(done) == 5:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pyramid.small.run(store, max_workers=1, progress=listen)
    assert set(done) <= set(read_manifest(open_objects(store)).cells)
    pyramid.assert_claims_nothing_false(store)
    pyramid.small.run(store)
    pyramid.small.run(tmp_path / "fresh.zarr")
    assert values_of(store) == values_of(tmp_path / "fresh.zarr")


def test_a_failed_cell_is_missing_from_every_order_and_the_others_are_there(
    pyramid, tmp_path, monkeypatch
):
    store, read_rows, failed = tmp_path / "s.zarr", magg.cell.read_rows, []

    def fails_once(*arguments, **options):
        if not failed:
            failed.append(True)
            raise ZeroDivisionError
        return read_rows(*arguments, **options)

    monkeypatch.setattr(magg.cell, "read_rows", fails_once)
    summary = pyramid.small.run(store, max_workers=1)
    assert summary["cells_error"] == 1
    named = set(read_manifest(open_objects(store)).cells)
    assert named == set(pyramid.small.cells) - {summary["errors"][0]["cell"]}
    pyramid.assert_claims_nothing_false(store)


def test_a_consolidation_that_fails_makes_the_run_fail_and_the_next_one_completes_it(
    pyramid, tmp_path, monkeypatch
):
    def fails(*arguments, **options):
        raise StoreError("the bucket is gone")

    store = tmp_path / "s.zarr"
    with monkeypatch.context() as patch:
        patch.setattr(magg.runner, "consolidate", fails)
        with pytest.raises(StoreError, match="the bucket is gone"):
            pyramid.small.run(store)
    assert pyramid.small.run(store)["cells_skipped"] == len(pyramid.small.cells)
    pyramid.small.run(tmp_path / "fresh.zarr")
    assert values_of(store) == values_of(tmp_path / "fresh.zarr")


def test_two_runs_at_once_from_different_granules_end_in_a_store_that_claims_nothing_false(
    pyramid, tmp_path
):
    store, errors = tmp_path / "s.zarr", []

    def work(catalog):
        try:
            pyramid.small.run(store, catalog=catalog, max_workers=2)
        except BaseException as error:  # noqa: BLE001 - told by the thread of the test
            errors.append(error)

    threads = [threading.Thread(target=work, args=[c]) for c in pyramid.catalogs.values()]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(240)
        assert not thread.is_alive()
    assert errors == []
    pyramid.assert_claims_nothing_false(store)
    pyramid.small.run(store)
    pyramid.small.run(tmp_path / "fresh.zarr")
    assert values_of(store) == values_of(tmp_path / "fresh.zarr")


def test_orders_that_are_added_while_a_run_of_the_child_order_goes_on_stay_right(
    pyramid, tmp_path, monkeypatch
):
    grid = replace(pyramid.small.config.output.grid, orders=None)
    config = replace(pyramid.small.config, output=replace(pyramid.small.config.output, grid=grid))
    leaf_only = replace(pyramid.small, config=config)
    store, read_rows, added = tmp_path / "s.zarr", magg.cell.read_rows, []

    def adds(*arguments, **options):
        if len(list_marks(str(store)).done) == 4 and not added:
            added.append(build_pyramid(store, coarsest_order=COARSER[-1]))
        return read_rows(*arguments, **options)

    leaf_only.run(store, catalog=pyramid.catalogs["older"])
    monkeypatch.setattr(magg.cell, "read_rows", adds)
    leaf_only.run(store, overwrite=True, max_workers=1)
    assert added
    assert added[0]["cells"] == 4
    made = build_pyramid(store, coarsest_order=COARSER[-1])
    assert made["cells"] == len(pyramid.small.cells)
    for order in range(COARSER[-1], 17):
        total = np.sum(magg_counts(store, order))
        assert total == np.sum(magg_counts(store, 17))


def magg_counts(store, order):
    import zarr

    return zarr.open_group(str(store), mode="r")[str(order)]["count"][:].astype(np.int64)
