"""Making the index of a catalog: where it lies, what a kill leaves, who may make it."""

from __future__ import annotations

import gzip
import json
import os
import signal
import subprocess
import sys
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
from index_runs import Counting, index_lines, padded, write_lines

import magg
from magg import Catalog, build_index
from magg.catalog import index as index_room
from magg.catalog.index import GranuleIndex, IndexFile, IndexKey, load, place_of
from magg.errors import BackendError, CatalogError
from magg.granules.entries import survey

TESTS = Path(__file__).parents[1]


@pytest.fixture
def key(config):
    return IndexKey.of(config.data_source, 6)


def parts_of(catalog):
    place = Path(place_of(catalog.location))
    return sorted((place.parent / f"{place.name}.parts").glob("*"))


@pytest.mark.parametrize(
    ("catalog", "place"),
    [
        ("/data/catalog.json", "/data/catalog.index.gz"),
        ("/data/catalog", "/data/catalog.index.gz"),
        ("s3://bucket/a/catalog.json", "s3://bucket/a/catalog.index.gz"),
        ("https://host/catalog.json", "https://host/catalog.index.gz"),
        ("https://host/catalog.json?signature=1", None),
        (None, None),
    ],
)
def test_the_index_lies_beside_its_catalog(catalog, place):
    assert place_of(catalog) == place


def test_an_index_is_lines_of_json_that_anybody_can_read_and_write(saved, config):
    summary = saved.build_index(config, progress=False)
    assert summary["granules_indexed"] == summary["granules_surveyed"] == 6
    header, *entries = map(json.loads, index_lines(summary["index_path"]))
    assert (header["magg_index"], header["parent_order"]) == (1, 6)
    assert [entry["granule"] for entry in entries] == list(saved.granules)
    beam = entries[0]["beams"][0]
    assert sum(beam["lengths"]) >= beam["rows"] - beam["unlocated"]
    # Written by somebody else, who knows no more than the documentation.
    spaced = [
        json.dumps(line, indent=None, separators=(" ,", " : ")) for line in (header, *entries)
    ]
    write_lines(summary["index_path"], spaced)
    again = build_index(saved, config, progress=False)
    assert again["granules_known"] == 6


def test_equal_granules_give_equal_bytes(saved, config, tmp_path):
    place = Path(build_index(saved, config, progress=False)["index_path"])
    first = place.read_bytes()
    build_index(saved, config, progress=False, overwrite=True, max_workers=3)
    assert place.read_bytes() == first


def test_a_second_build_surveys_nothing(saved, config):
    build_index(saved, config, progress=False)
    with_nothing_to_do = Counting()
    summary = build_index(saved, config, executor=with_nothing_to_do, progress=False)
    with_nothing_to_do.shutdown()
    assert summary["granules_known"] == 6
    assert with_nothing_to_do.surveys == 0


def test_a_saved_and_a_loaded_catalog_know_where_they_lie(saved, config, tmp_path, monkeypatch):
    assert "index" not in saved.summary()
    build_index(saved, config, progress=False)
    assert Catalog.load(saved.location).summary()["index"]["granules"] == 6
    assert Catalog.load(saved.location).subset(cells=[next(iter(saved.cells))]).location
    assert Catalog.load(saved.location) == padded(saved, beside=0)
    monkeypatch.chdir(tmp_path)
    assert Path(Catalog.load("catalog.json").location).is_absolute()


@pytest.mark.parametrize("done", [1, 4])
def test_a_build_that_is_killed_loses_what_was_in_flight_at_most(saved, config, done):
    command = [sys.executable, str(TESTS / "index_build.py"), saved.location, str(done)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
    try:
        told = [process.stdout.readline().strip() for _ in range(done)]
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait(60)
        process.stdout.close()
    assert told == list(saved.granules[:done])
    assert parts_of(saved)
    assert not Path(place_of(saved.location)).exists()
    summary = build_index(saved, config, progress=False)
    assert summary["granules_known"] >= done
    assert summary["granules_known"] + summary["granules_surveyed"] == 6
    assert parts_of(saved) == []
    assert len(load(place_of(saved.location)).entries) == 6


def test_a_build_that_is_interrupted_keeps_what_is_finished(saved, config):
    heard = []

    def interrupt(event):
        heard.append(event)
        if len([e for e in heard if type(e).__name__ == "GranuleSurveyed"]) == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build_index(saved, config, progress=interrupt, max_workers=1)
    assert type(heard[-1]).__name__ == "IndexFinished"
    assert build_index(saved, config, progress=False)["granules_known"] == 3


def test_a_granule_that_cannot_be_surveyed_is_named_and_the_others_are_indexed(
    region, config, tmp_path
):
    broken = tmp_path / "broken.h5"
    broken.write_bytes(b"not HDF5")
    near = Catalog.from_files(region[:2])
    cells = {cell: (*granules, str(broken), "/lost.h5") for cell, granules in near.cells.items()}
    catalog = Catalog(6, cells)
    catalog.save(tmp_path / "catalog.json")
    summary = build_index(catalog, config, progress=False)
    assert {error["granule"] for error in summary["errors"]} == {str(broken), "/lost.h5"}
    assert summary["granules_indexed"] == 2
    assert {error["type"] for error in summary["errors"]} == {
        "GranuleError",
        "GranuleNotFoundError",
    }


def test_a_signed_url_is_in_no_index(region, config, tmp_path):
    near = Catalog.from_files(region[:1])
    signed = "https://host.invalid/a.h5?X-Amz-Signature=0123456789abcdef"
    cells = {cell: (*granules, signed) for cell, granules in near.cells.items()}
    catalog = Catalog(6, cells)
    catalog.save(tmp_path / "catalog.json")
    summary = build_index(catalog, config, progress=False)
    assert "0123456789abcdef" not in json.dumps(summary)
    assert "signed" in summary["errors"][0]["message"]
    assert summary["granules_indexed"] == 1


def test_entries_of_two_builds_at_once_are_all_kept(region, config, key, tmp_path):
    place = str(tmp_path / "catalog.index.gz")
    entries = [survey(str(granule), config.data_source, 6) for granule in region[:2]]
    files = [IndexFile(place, key), IndexFile(place, key)]
    indexes = [file.gather() for file in files]
    for file, index, entry in zip(files, indexes, entries, strict=True):
        file.add(entry)
        index.entries[entry.granule] = entry
    for file, index in zip(files, indexes, strict=True):
        file.finish(index)
    assert load(place).entries.keys() == {entry.granule for entry in entries}


def test_parts_of_a_build_with_fewer_beams_are_not_taken_for_whole(region, config, tmp_path):
    place = str(tmp_path / "catalog.index.gz")
    few = replace(config.data_source, groups=("gt1l",))
    part = IndexFile(place, IndexKey.of(few, 6))
    part.add(survey(str(region[0]), few, 6))
    part.flush()
    assert IndexFile(place, IndexKey.of(config.data_source, 6)).gather().entries == {}
    assert len(IndexFile(place, IndexKey.of(few, 6)).gather().entries) == 1


def test_a_damaged_part_is_named(saved, config, key):
    place = place_of(saved.location)
    file = IndexFile(place, key)
    file.add(survey(saved.granules[0], config.data_source, 6))
    file.flush()
    (part,) = parts_of(saved)
    part.write_bytes(part.read_bytes()[:40])
    with pytest.raises(CatalogError, match=part.name):
        build_index(saved, config, progress=False)
    assert build_index(saved, config, progress=False, overwrite=True)["granules_surveyed"] == 6


def test_an_index_cannot_be_written_beside_a_catalog_on_the_web(catalog, config):
    here = Catalog(catalog.parent_order, catalog.cells, location="https://host.invalid/c.json")
    with pytest.raises(CatalogError, match=r"https://host\.invalid/c\.index\.gz.*save the catalog"):
        build_index(here, config, progress=False)


def test_a_folder_that_may_not_be_written_to_is_an_error_that_says_so(key, tmp_path):
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(CatalogError, match="cannot be"):
        IndexFile(str(tmp_path / "file" / "c.index.gz"), key).finish(GranuleIndex(key))


def test_an_executor_that_is_none_is_an_error(saved, config):
    with pytest.raises(BackendError, match=r"concurrent\.futures\.Executor"):
        build_index(saved, config, executor="threads")


def test_workers_that_answer_nonsense_are_not_believed(saved, config):
    class Liar(ThreadPoolExecutor):
        def submit(self, function, task):
            done = Future()
            done.set_result(magg.catalog.surveying.Surveyed(task.unit, ("bm9uc2Vuc2U=",)))
            return done

    with Liar(1) as liar:
        summary = build_index(saved, config, executor=liar, progress=False)
    assert len(summary["errors"]) == 6
    assert summary["granules_indexed"] == 0


def test_an_executor_of_the_callers_own_is_left_open(saved, config):
    with ThreadPoolExecutor(2) as mine:
        build_index(saved, config, executor=mine, progress=False)
        assert mine.submit(int, "5").result(60) == 5


@pytest.mark.parametrize("backend", ["local", "processes"])
def test_any_backend_makes_the_same_index(backend, saved, config, tmp_path):
    summary = build_index(saved, config, backend=backend, progress=False)
    assert summary["backend"] == backend
    reference = IndexKey.of(config.data_source, 6)
    lines = index_lines(summary["index_path"])
    assert json.loads(lines[0]) == json.loads(reference.header())
    expected = {g: survey(g, config.data_source, 6) for g in saved.granules}
    for granule, entry in load(summary["index_path"]).entries.items():
        for beam, ours in zip(expected[granule].beams, entry.beams, strict=True):
            assert beam.cells.tolist() == ours.cells.tolist()
            assert beam.offsets.tolist() == ours.offsets.tolist()


def test_dask_makes_the_index_too(saved, config):
    distributed = pytest.importorskip("distributed")
    with (
        distributed.LocalCluster(
            n_workers=1, threads_per_worker=2, processes=False, dashboard_address=None
        ) as cluster,
        distributed.Client(cluster) as client,
    ):
        executor = client.get_executor()
        summary = build_index(saved, config, executor=executor, progress=False)
    assert summary["granules_surveyed"] == 6


def test_a_compressed_entry_takes_little_room(real_granules, config, tmp_path):
    catalog = Catalog.from_files(real_granules)
    catalog.save(tmp_path / "catalog.json")
    summary = build_index(catalog, config, progress=False)
    assert Path(summary["index_path"]).stat().st_size < 1_000 * len(real_granules)


def test_an_index_of_a_newer_version_is_left_as_it_is(saved, config):
    place = build_index(saved, config, progress=False)["index_path"]
    lines = index_lines(place)
    write_lines(place, [lines[0].replace('"magg_index": 1', '"magg_index": 7'), *lines[1:]])
    before = Path(place).read_bytes()
    with pytest.raises(CatalogError, match="version 7"):
        build_index(saved, config, progress=False)
    assert Path(place).read_bytes() == before
    assert gzip.decompress(before)
    assert index_room.FORMAT == 1
