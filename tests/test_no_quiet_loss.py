"""A granule that cannot be read is never a quietly smaller cell."""

from __future__ import annotations

import json
import os
import shutil
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from cell_faults import assert_complete, cells_of, reads_as_done

from magg import Catalog, run
from magg.cli import main
from magg.store.inspect import describe
from magg.store.records import read_record
from magg.testing import Track, simulate_granule


def missing(path):
    path.unlink()


def cut_at(share):
    def cut(path):
        os.truncate(path, int(path.stat().st_size * share))

    return cut


def without_its_last_byte(path):
    os.truncate(path, path.stat().st_size - 1)


def not_hdf5(path):
    path.write_text("<html>please log in</html>")


def a_folder(path):
    path.unlink()
    path.mkdir()


def corrupt(path):
    """Break the compressed bytes of every chunk of the heights."""
    import h5py

    with h5py.File(path) as file:
        chunks = []
        for beam in file:
            if beam.startswith("gt"):
                heights = file[beam]["land_ice_segments/h_li"].id
                found = [heights.get_chunk_info(n) for n in range(heights.get_num_chunks())]
                chunks += [(chunk.byte_offset, chunk.size) for chunk in found]
    assert chunks
    with path.open("r+b") as file:
        for offset, size in chunks:
            file.seek(offset)
            file.write(b"\xff" * size)


def unreadable(path):
    if os.geteuid() == 0:
        pytest.skip("root may read everything")
    path.chmod(0)


DAMAGE = [missing, not_hdf5, a_folder, corrupt, unreadable, without_its_last_byte] + [
    cut_at(share) for share in (0.0, 0.001, 0.3, 0.6, 0.95)
]
IDS = ["missing", "not-hdf5", "folder", "corrupt", "unreadable", "last-byte"] + [
    f"cut-at-{share}" for share in (0.0, 0.001, 0.3, 0.6, 0.95)
]


@contextmanager
def damaged(path, damage):
    """Damage a granule and put it right again, at the same path."""
    kept = path.with_suffix(".kept")
    shutil.copy2(path, kept)
    try:
        damage(path)
        yield
    finally:
        if path.is_dir():
            path.rmdir()
        path.unlink(missing_ok=True)
        kept.rename(path)


@pytest.fixture(scope="module", params=DAMAGE, ids=IDS)
def damage(request):
    return request.param


@pytest.fixture
def store(tmp_path):
    return tmp_path / "s.zarr"


def cells_with(small, granule):
    return {cell for cell, paths in small.catalog.cells.items() if str(granule) in paths}


def test_a_granule_that_cannot_be_read_makes_each_of_its_cells_an_error_that_names_it(
    small, store, damage
):
    granule = small.granules[1]
    doomed = cells_with(small, granule)
    assert 0 < len(doomed) < len(small.cells)
    with damaged(granule, damage):
        summary = small.run(store)
        assert {error["cell"] for error in summary["errors"]} == doomed
        assert all(str(granule) in error["message"] for error in summary["errors"])
        assert summary["cells_error"] == len(doomed)
        assert summary["cells_with_data"] == len(small.cells) - len(doomed)
        assert summary["retries"] == 0
        held = cells_of(store)
        assert all(held[cell] == small.cells[cell] for cell in set(small.cells) - doomed)
        assert reads_as_done(small, store) == set(small.cells) - doomed
        assert describe(store)["cells"]["failed"] == len(doomed)
    again = small.run(store)
    assert again["cells_skipped"] == len(small.cells) - len(doomed)
    assert_complete(store, small.cells)
    assert describe(store)["cells"]["failed"] == 0


def test_what_is_skipped_on_request_is_named_everywhere_and_read_later(small, store, damage):
    granule = small.granules[1]
    doomed = cells_with(small, granule)
    with damaged(granule, damage):
        summary = small.run(store, on_granule_error="skip")
        assert summary["cells_error"] == 0
        (skipped,) = summary["granules_skipped"]
        assert skipped["granule"] == str(granule)
        assert str(granule) in skipped["error"]
        assert set(skipped["cells"]) == doomed
        for entry in summary["results"]:
            assert entry["granules_skipped"] == ([str(granule)] if entry["cell"] in doomed else [])
            record = read_record(str(store), entry["cell"])
            assert [s.granule for s in record.skipped] == entry["granules_skipped"]
            assert (record.status == "partial") is (entry["cell"] in doomed)
        assert describe(store)["cells"]["partial"] == len(doomed)
        assert small.run(store, on_granule_error="skip")["cells_skipped"] == len(small.cells)
        assert reads_as_done(small, store) == set(small.cells) - doomed
        unskipped = small.run(store)
        assert {error["cell"] for error in unskipped["errors"]} == doomed
    small.run(store)
    assert_complete(store, small.cells)
    assert describe(store)["cells"]["partial"] == 0


def test_granules_of_any_date_are_skipped_on_request(small, tmp_path, store):
    """Their names hold digits that are also those of HTTP statuses."""
    doomed = next(iter(small.catalog.cells))
    lost = str(tmp_path / "timeout" / "ATL06_20190429050300_05030429_006_02.h5")
    cells = {doomed: (*small.catalog.cells[doomed], lost)}
    summary = small.run(store, catalog=Catalog(10, cells), on_granule_error="skip")
    assert summary["cells_error"] == 0
    assert [skipped["granule"] for skipped in summary["granules_skipped"]] == [lost]
    assert summary["retries"] == 0


def test_a_cell_of_which_every_granule_was_skipped_does_not_read_as_empty(small, store):
    cells = dict.fromkeys(list(small.cells)[:2], ("/nowhere/a.h5", "/nowhere/b.h5"))
    catalog = Catalog(10, cells)
    summary = small.run(store, catalog=catalog, on_granule_error="skip")
    assert len(summary["granules_skipped"]) == 2
    assert describe(store)["cells"] | {"first": 0, "last": 0} == {
        "data": 0, "empty": 0, "partial": 2, "failed": 0, "interrupted": 0, "missing": 0,
        "first": 0, "last": 0,
    }  # fmt: skip
    assert small.run(store, catalog=catalog)["cells_error"] == 2


def test_no_data_and_failed_are_different_everywhere(small, tmp_path, store, capsys):
    empty = simulate_granule(
        tmp_path / "bad.h5", Track(-75.5, -98.0, segments=100), bad_fraction=1.0
    )
    nothing = dict(Catalog.from_files(empty, parent_order=10).cells)
    failing = next(iter(small.catalog.cells))
    cells = nothing | {failing: (str(tmp_path / "lost.h5"),)}
    summary = small.run(store, catalog=Catalog(10, cells))
    assert summary["cells_empty"] == len(nothing)
    assert summary["cells_error"] == 1
    assert summary["cells_with_data"] == summary["total_obs"] == 0
    statuses = {entry["cell"]: entry["status"] for entry in summary["results"]}
    assert statuses == dict.fromkeys(nothing, "empty") | {failing: "error"}
    assert {read_record(str(store), cell).status for cell in nothing} == {"empty"}
    assert read_record(str(store), failing) is None
    assert main(["info", str(store), "--json"]) == 0
    held = json.loads(capsys.readouterr().out)["cells"]
    assert (held["empty"], held["failed"]) == (len(nothing), 1)


def test_the_command_line_tells_by_its_status_and_in_words(
    small, tmp_path, store, capsys, monkeypatch
):
    import yaml

    from magg import wire

    config = tmp_path / "small.yaml"
    config.write_text(yaml.safe_dump(wire.unstructure(small.config)))
    catalog = small.catalog.save(tmp_path / "catalog.json")
    granule = small.granules[1]
    doomed = cells_with(small, granule)
    command = ["run", str(config), "--catalog", str(catalog), "--store", str(store), "--quiet"]
    monkeypatch.setenv("COLUMNS", "1000")
    with damaged(granule, missing):
        assert main(command) == 1
        assert f"cell {min(doomed)} failed: GranuleNotFoundError" in capsys.readouterr().out
        main(["info", str(store)])
        assert f"{len(doomed)} cells" in capsys.readouterr().out
        assert main([*command, "--on-granule-error", "skip"]) == 0
        assert f"skipped {granule} in {len(doomed)} cells" in capsys.readouterr().out
        main(["info", str(store)])
        assert "granules skipped in" in capsys.readouterr().out
    assert main(command) == 0
    assert_complete(store, small.cells)


def test_skipping_never_hides_what_would_pass(small, store, monkeypatch):
    from magg import cell
    from magg.errors import GranuleError
    from magg.executors.retry import Policy

    granule = str(small.granules[0])

    def flaky(*_, **__):
        text = f"{granule}: cannot be read (HTTP error: error sending request)"
        raise GranuleError(text, granule=granule)

    monkeypatch.setattr("magg.runner.POLICY", Policy(base_s=0.001))
    monkeypatch.setattr(cell, "read_rows", flaky)
    summary = small.run(store, on_granule_error="skip")
    assert summary["cells_error"] == len(small.cells)
    assert summary["granules_skipped"] == []
    assert summary["retries"] == 2 * len(small.cells)


def test_a_granule_that_shrinks_while_it_is_read_is_an_error(small, store, monkeypatch):
    from magg.granules import visits

    granule = small.granules[1]
    doomed, visit = cells_with(small, granule), visits._visit

    def shrinking(name, request, **options):
        visited = visit(name, request, **options)
        if name == str(granule):
            path = Path(name)
            os.utime(path, ns=(path.stat().st_atime_ns, path.stat().st_mtime_ns + 1))
        return visited

    monkeypatch.setattr(visits, "_visit", shrinking)
    summary = run(small.config, catalog=small.catalog, store=store)
    assert {error["cell"] for error in summary["errors"]} == doomed
    assert all("changed while" in error["message"] for error in summary["errors"])
    assert np.all([str(granule) in error["message"] for error in summary["errors"]])
