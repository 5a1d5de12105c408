"""Runs with a granule index: the same stores, and less done for them."""

from __future__ import annotations

import shutil
import threading
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from index_runs import (
    Counting,
    assert_same_store,
    contents,
    exact,
    index_lines,
    padded,
    told,
    write_lines,
)
from pyramids import with_orders

import magg.granules.layout
from magg import Catalog, build_index, run
from magg.catalog.index import place_of
from magg.errors import CatalogError, ConfigError
from magg.events import CellFinished, IndexStarted, Notice
from magg.granules import open_source
from magg.store.inspect import describe
from magg.testing import Track, simulate_granule


@pytest.fixture
def forget():
    """Return a function that lets this process forget what it knows of granules."""

    def clear():
        magg.granules.layout._layouts.clear()

    clear()
    return clear


@pytest.fixture(scope="module")
def plain(config, catalog, tmp_path_factory):
    """Return the store of the padded catalog that is made without an index, and its summary."""
    store = tmp_path_factory.mktemp("plain") / "s.zarr"
    return store, run(config, catalog=padded(catalog), store=store, progress=False)


@pytest.fixture
def indexed(saved, config):
    build_index(saved, config, progress=False)
    return saved


def notices_of(run_it):
    heard = []
    summary = run_it(progress=heard.append)
    return summary, [event.message for event in heard if isinstance(event, Notice)]


@pytest.mark.parametrize(
    ("index", "backend"),
    [("auto", "local"), ("build", "local"), (True, "local"), ("auto", "processes")],
)
def test_the_store_is_the_same_bit_by_bit(backend, index, saved, config, plain, tmp_path, forget):
    if index == "auto":
        build_index(saved, config, progress=False, backend=backend)
        forget()
    store = tmp_path / "s.zarr"
    summary = run(config, catalog=saved, store=store, backend=backend, index=index, progress=False)
    assert Path(place_of(saved.location)).exists()
    assert told(summary) == told(plain[1])
    assert_same_store(store, plain[0])


def test_real_granules_give_the_same_store(real_granules, config, tmp_path, forget):
    catalog = padded(Catalog.from_files(real_granules))
    without = run(config, catalog=catalog, store=tmp_path / "a.zarr", progress=False)
    catalog.save(tmp_path / "catalog.json")
    with_index = run(config, catalog=catalog, store=tmp_path / "b.zarr", index=True, progress=False)
    assert without["total_obs"] == with_index["total_obs"] == 5_224
    assert told(without) == told(with_index)
    assert_same_store(tmp_path / "a.zarr", tmp_path / "b.zarr")


def test_coarser_orders_are_the_same_with_an_index(config, saved, tmp_path, forget):
    config = with_orders(config, coarsest_order=0, state=True)
    for name, index in (("a.zarr", "off"), ("b.zarr", "build")):
        run(config, catalog=saved, store=tmp_path / name, index=index, progress=False)
        assert describe(tmp_path / name)["cells"]["empty"] > 0
    one, other = (contents(tmp_path / name) for name in ("a.zarr", "b.zarr"))
    chunks = [name for name in one if "/c/" in name]
    assert {name.partition("/")[0] for name in chunks} > {str(order) for order in range(13)}
    assert [name for name in chunks if one[name] != other.pop(name)] == []
    assert not [name for name in other if "/c/" in name]


def test_a_run_without_an_index_asks_for_none(saved, config, counting, plain, tmp_path):
    assert not Path(place_of(saved.location)).exists()
    run(config, catalog=saved, store=tmp_path / "s.zarr", executor=counting, progress=False)
    assert {name for name, _ in counting.submitted} == {"process_cell"}
    assert set(counting.cells) == set(saved.cells)
    assert not Path(place_of(saved.location)).exists()


def test_an_index_that_is_there_may_be_left_alone(indexed, config, counting, tmp_path):
    options = {"catalog": indexed, "executor": counting, "index": False, "progress": False}
    run(config, store=tmp_path / "s.zarr", **options)
    assert set(counting.cells) == set(indexed.cells)


def test_cells_without_rows_are_not_submitted_and_are_done(
    indexed, config, counting, plain, tmp_path
):
    store = tmp_path / "s.zarr"
    summary = run(config, catalog=indexed, store=store, executor=counting, progress=False)
    assert set(counting.cells) == exact(indexed)
    assert summary["cells_empty"] == len(indexed.cells) - len(exact(indexed)) > 0
    assert told(summary) == told(plain[1])
    assert_same_store(store, plain[0])
    assert describe(store)["cells"]["empty"] == summary["cells_empty"]
    assert describe(store)["cells"]["missing"] == 0
    again = run(config, catalog=indexed, store=store, index="off", progress=False)
    assert again["cells_skipped"] == len(indexed.cells)


def test_a_run_with_an_index_goes_on_where_one_without_stopped(
    indexed, config, plain, tmp_path, forget
):
    store = tmp_path / "s.zarr"
    for index in ("off", "auto"):
        run(config, catalog=indexed, store=store, index=index, max_cells=2, progress=False)
    summary = run(config, catalog=indexed, store=store, progress=False)
    assert summary["cells_skipped"] == 2
    assert_same_store(store, plain[0])


def test_granules_without_rows_in_a_cell_are_not_opened(
    config, region, tmp_path, forget, monkeypatch
):
    far = simulate_granule(tmp_path / "far.h5", Track(-40.0, 20.0, segments=300))
    near = Catalog.from_files(region[:2])
    cells = {cell: (*granules, str(far)) for cell, granules in near.cells.items()}
    catalog = Catalog(6, cells, near.metadata)
    run(config, catalog=catalog, store=tmp_path / "a.zarr", progress=False)
    catalog.save(tmp_path / "catalog.json")
    build_index(catalog, config, progress=False)
    forget()
    opened = []

    def noting(granule, *rest):
        opened.append(granule)
        return open_source(granule, *rest)

    monkeypatch.setattr("magg.granules.visits.open_source", noting)
    run(config, catalog=catalog, store=tmp_path / "b.zarr", progress=False)
    assert set(opened) == set(map(str, region[:2]))
    assert_same_store(tmp_path / "a.zarr", tmp_path / "b.zarr")


def test_with_an_index_no_coordinates_of_other_cells_are_read(
    indexed, config, tmp_path, forget, monkeypatch
):
    def refused(*_, **__):
        raise AssertionError("a layout was derived")

    monkeypatch.setattr("magg.granules.layout._computed", refused)
    summary = run(config, catalog=indexed, store=tmp_path / "s.zarr", progress=False)
    assert summary["cells_error"] == 0


def test_a_dry_run_tells_how_many_cells_have_no_rows(indexed, config, tmp_path):
    dry = run(config, catalog=indexed, store=tmp_path / "s.zarr", dry_run=True)
    assert dry["cells_without_rows"] == len(indexed.cells) - len(exact(indexed))
    without = run(config, catalog=indexed, store=tmp_path / "s.zarr", dry_run=True, index="off")
    assert "cells_without_rows" not in without


@pytest.mark.parametrize("index", ["always", 1, None, ["auto"]])
def test_another_word_for_the_index_is_an_error(index, catalog, config, tmp_path):
    with pytest.raises(ConfigError, match="'auto', 'build'"):
        run(config, catalog=catalog, store=tmp_path / "s.zarr", index=index)


def test_a_catalog_that_lies_nowhere_has_its_index_for_one_run(
    catalog, config, plain, tmp_path, counting
):
    made = padded(catalog)
    _, notices = notices_of(
        lambda **options: run(
            config,
            catalog=made,
            store=tmp_path / "s.zarr",
            index=True,
            executor=counting,
            **options,
        )
    )
    assert "not saved" in " ".join(notices)
    assert counting.surveys == len(made.granules)
    assert set(counting.cells) == exact(made)
    assert_same_store(tmp_path / "s.zarr", plain[0])
    with pytest.raises(CatalogError, match="save it first"):
        made.build_index(config)


def test_a_subset_uses_the_index_of_the_whole(indexed, config, counting, tmp_path):
    part = Catalog.load(indexed.location).subset(cells=list(indexed.cells)[:2])
    run(config, catalog=part, store=tmp_path / "s.zarr", executor=counting, progress=False)
    assert set(counting.cells) == exact(indexed) & set(part.cells)


class TestChange:
    """Granules that are not what they were when the index was made."""

    @pytest.fixture
    def copies(self, region, tmp_path):
        folder = tmp_path / "granules"
        folder.mkdir()
        return [shutil.copy(granule, folder) for granule in region[:3]]

    @pytest.fixture
    def changing(self, copies, config, tmp_path):
        catalog = padded(Catalog.from_files(copies))
        catalog.save(tmp_path / "catalog.json")
        build_index(catalog, config, progress=False)
        return catalog

    def change(self, granule):
        """Replace a granule by one that lies elsewhere, with rows where there were none."""
        simulate_granule(granule, Track(-75.5, -99.0, segments=4_000), seed=9)

    def test_a_changed_granule_is_surveyed_again(
        self, changing, copies, config, counting, tmp_path, forget
    ):
        self.change(copies[1])
        forget()
        store = tmp_path / "with.zarr"
        with_index = run(config, catalog=changing, store=store, executor=counting, progress=False)
        assert counting.surveys == 1
        without = run(
            config, catalog=changing, store=tmp_path / "without.zarr", index="off", progress=False
        )
        assert told(with_index) == told(without)
        assert_same_store(store, tmp_path / "without.zarr")
        again = Counting()
        run(config, catalog=changing, store=store, overwrite=True, executor=again, progress=False)
        again.shutdown()
        assert again.surveys == 0  # what was surveyed again is in the index now

    def test_a_granule_that_changes_meanwhile_is_read_as_it_is(
        self, changing, copies, config, tmp_path, forget, monkeypatch
    ):
        import magg.runner

        ready = magg.runner.index_for_run

        def then_changed(*arguments, **options):
            found = ready(*arguments, **options)
            self.change(copies[1])
            return found

        forget()
        monkeypatch.setattr("magg.runner.index_for_run", then_changed)
        one = {"morton_cell": sorted(exact(changing))[0]}
        with_index = run(config, catalog=changing, store=tmp_path / "a.zarr", progress=False, **one)
        monkeypatch.undo()
        assert with_index["granules_stale"] == [str(copies[1])]
        options = {"index": "off", "progress": False, **one}
        without = run(config, catalog=changing, store=tmp_path / "b.zarr", **options)
        assert told(with_index) == told(without)
        assert_same_store(tmp_path / "a.zarr", tmp_path / "b.zarr")

    def test_a_copy_elsewhere_is_surveyed_again(
        self, changing, copies, config, counting, tmp_path, forget
    ):
        for granule in copies:
            shutil.copy2(granule, granule + ".new")
            Path(granule + ".new").replace(granule)
        run(config, catalog=changing, store=tmp_path / "s.zarr", executor=counting, progress=False)
        assert counting.surveys == len(copies)

    @pytest.mark.parametrize("on_granule_error", ["fail", "skip"])
    def test_a_granule_that_is_gone_is_missed_as_without_an_index(
        self, on_granule_error, changing, copies, config, tmp_path, forget
    ):
        Path(copies[1]).unlink()
        forget()
        summaries = []
        for index in ("auto", "off"):
            options = {"index": index, "on_granule_error": on_granule_error, "progress": False}
            summaries.append(
                run(config, catalog=changing, store=tmp_path / f"{index}.zarr", **options)
            )
        assert told(summaries[0]) == told(summaries[1])
        for summary in summaries:
            for skipped in summary["granules_skipped"]:
                skipped["cells"].sort()
        assert summaries[0]["granules_skipped"] == summaries[1]["granules_skipped"]
        errors = {error["cell"]: error["message"] for error in summaries[0]["errors"]}
        assert errors == {e["cell"]: e["message"] for e in summaries[1]["errors"]}
        assert bool(errors) == (on_granule_error == "fail")
        if on_granule_error == "skip":
            assert_same_store(tmp_path / "auto.zarr", tmp_path / "off.zarr")
        # It may come back: its entry is still there.
        assert any(
            Path(copies[1]).name in line for line in index_lines(place_of(changing.location))
        )

    def test_granules_that_are_added_are_read_and_surveyed_when_asked_for(
        self, changing, region, config, counting, tmp_path
    ):
        more = padded(changing.merge(Catalog.from_files(region[3])))
        more.save(changing.location)
        run(config, catalog=more, store=tmp_path / "a.zarr", executor=counting, progress=False)
        assert counting.surveys == 0
        built = build_index(more, config, progress=False)
        assert (built["granules_known"], built["granules_surveyed"]) == (3, 1)
        assert (built["granules"], built["granules_indexed"]) == (4, 4)
        run(config, catalog=more, store=tmp_path / "b.zarr", progress=False)
        run(config, catalog=more, store=tmp_path / "c.zarr", index="off", progress=False)
        assert_same_store(tmp_path / "a.zarr", tmp_path / "c.zarr")
        assert_same_store(tmp_path / "b.zarr", tmp_path / "c.zarr")


class TestOtherConfig:
    """Configs other than the one that the index was made for."""

    def with_time(self, config):
        source = config.data_source
        path = source.coordinates.latitude.replace("latitude", "delta_time")
        statistic = replace(config.statistics["h_max"], source="time", dtype="float64")
        return replace(
            config,
            data_source=replace(source, variables={**source.variables, "time": path}),
            aggregation=replace(
                config.aggregation, variables={**config.statistics, "time": statistic}
            ),
        )

    def test_datasets_that_the_index_lacks_are_added_to_it(
        self, indexed, config, counting, tmp_path, forget, monkeypatch
    ):
        other = self.with_time(config)
        run(other, catalog=indexed, store=tmp_path / "a.zarr", index="off", progress=False)
        forget()

        def refused(*_, **__):
            raise AssertionError("coordinates were read again")

        monkeypatch.setattr("magg.granules.layout._computed", refused)
        heard = []
        options = {"catalog": indexed, "executor": counting, "progress": heard.append}
        run(other, store=tmp_path / "b.zarr", **options)
        monkeypatch.undo()
        assert [e.granules for e in heard if isinstance(e, IndexStarted)] == [6]
        assert set(counting.cells) == exact(indexed)
        assert_same_store(tmp_path / "a.zarr", tmp_path / "b.zarr")
        again = build_index(indexed, other, progress=False)
        assert (again["granules_known"], again["granules_completed"]) == (6, 0)
        assert build_index(indexed, config, progress=False)["granules_known"] == 6

    def test_other_statistics_use_the_index_as_it_is(self, indexed, config, counting, tmp_path):
        fewer = {"count": config.statistics["count"]}
        other = replace(config, aggregation=replace(config.aggregation, variables=fewer))
        run(other, catalog=indexed, store=tmp_path / "a.zarr", executor=counting, progress=False)
        assert counting.surveys == 0
        run(other, catalog=indexed, store=tmp_path / "b.zarr", index=False, progress=False)
        assert_same_store(tmp_path / "a.zarr", tmp_path / "b.zarr")

    def test_fewer_beams_use_the_index_of_all(self, indexed, config, counting, tmp_path):
        source = replace(config.data_source, groups=("gt3r", "gt1l"))
        other = replace(config, data_source=source)
        run(other, catalog=indexed, store=tmp_path / "a.zarr", executor=counting, progress=False)
        assert counting.surveys == 0
        assert len(counting.cells) < len(indexed.cells)
        run(other, catalog=indexed, store=tmp_path / "b.zarr", index="off", progress=False)
        assert_same_store(tmp_path / "a.zarr", tmp_path / "b.zarr")

    def test_fewer_beams_add_granules_to_the_index_with_all_of_theirs(
        self, saved, region, config, counting, tmp_path
    ):
        part = padded(Catalog.from_files(region[:3]))
        part.save(saved.location)
        build_index(part, config, progress=False)
        saved.save(saved.location)
        few = replace(config, data_source=replace(config.data_source, groups=("gt3r",)))
        assert build_index(saved, few, progress=False)["granules_surveyed"] == 3
        run(config, catalog=saved, store=tmp_path / "a.zarr", executor=counting, progress=False)
        assert counting.surveys == 0
        run(config, catalog=saved, store=tmp_path / "b.zarr", index="off", progress=False)
        assert_same_store(tmp_path / "a.zarr", tmp_path / "b.zarr")

    def test_more_beams_make_an_index_of_all_of_them(self, saved, config, tmp_path):
        source = replace(config.data_source, groups=("gt3r",))
        build_index(saved, replace(config, data_source=source), progress=False)
        _, notices = notices_of(
            lambda **options: run(config, catalog=saved, store=tmp_path / "a.zarr", **options)
        )
        assert any("other coordinates, beams" in notice for notice in notices)
        built = build_index(saved, config, progress=False)
        assert built["granules_surveyed"] == 6
        run(config, catalog=saved, store=tmp_path / "b.zarr", progress=False)
        assert_same_store(tmp_path / "a.zarr", tmp_path / "b.zarr")

    def test_another_parent_order_is_not_served(self, indexed, region, config, tmp_path):
        grid = replace(config.output.grid, parent_order=7)
        config = replace(config, output=replace(config.output, grid=grid))
        finer = padded(Catalog.from_files(region, parent_order=7))
        finer.save(indexed.location)
        run_it = lambda **options: run(config, catalog=finer, store=tmp_path / "a.zarr", **options)  # noqa: E731
        _, notices = notices_of(run_it)
        assert any("another parent order" in notice for notice in notices)
        built = build_index(finer, config, progress=False)
        assert built["granules_surveyed"] == 6
        run(config, catalog=finer, store=tmp_path / "b.zarr", progress=False)
        assert_same_store(tmp_path / "a.zarr", tmp_path / "b.zarr")


class TestDamage:
    """Indexes that cannot be used: ignored with a word by a run, an error for a build."""

    def ruin(self, place, how):
        data, lines = Path(place).read_bytes(), index_lines(place)
        if how == "cut":
            Path(place).write_bytes(data[: len(data) // 2])
        elif how == "flipped":
            Path(place).write_bytes(data[:-20] + bytes([data[-20] ^ 255]) + data[-19:])
        elif how == "no gzip":
            Path(place).write_bytes(b"<html>")
        elif how == "empty":
            Path(place).write_bytes(b"")
        elif how == "no json":
            write_lines(place, [lines[0], "{"])
        elif how == "no header":
            write_lines(place, lines[1:])
        elif how == "no sense":
            write_lines(place, [lines[0], lines[1].replace('"lengths":[', '"lengths":[-')])
        elif how == "newer":
            write_lines(place, [lines[0].replace('"magg_index": 1', '"magg_index": 2')])

    @pytest.mark.parametrize(
        "how", ["cut", "flipped", "no gzip", "empty", "no json", "no header", "no sense", "newer"]
    )
    def test_a_run_does_without_and_says_so(self, how, indexed, config, plain, counting, tmp_path):
        place = place_of(indexed.location)
        self.ruin(place, how)
        options = {"catalog": indexed, "executor": counting, "store": tmp_path / "s.zarr"}
        _, notices = notices_of(lambda **more: run(config, **options, **more))
        assert any(place in notice and "--overwrite" in notice for notice in notices)
        assert set(counting.cells) == set(indexed.cells)
        assert_same_store(tmp_path / "s.zarr", plain[0])
        with pytest.raises(CatalogError, match="--overwrite"):
            build_index(indexed, config, progress=False)
        assert "error" in indexed.summary()["index"]
        build_index(indexed, config, progress=False, overwrite=True)
        assert indexed.summary()["index"]["granules"] == 6


@given(data=st.data())
@settings(
    max_examples=8,
    phases=(Phase.explicit, Phase.generate),  # an example takes a second, shrinking an hour
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
def test_any_granules_give_the_same_store(config, tmp_path_factory, data):
    folder, granules = tmp_path_factory.mktemp("any"), []
    for number in range(data.draw(st.integers(1, 3))):
        latitude = data.draw(st.sampled_from([-75.0, 70.0, 87.5, 0.0]))
        longitude = data.draw(st.sampled_from([180.0, -50.0, 0.0]))
        beams = data.draw(st.sets(st.sampled_from(["gt1l", "gt2r", "gt3l"]), min_size=1))
        lengths = {beam: data.draw(st.sampled_from([0, 1, 900])) for beam in beams}
        granules.append(
            simulate_granule(
                folder / f"g{number}.h5",
                Track(latitude, longitude + 0.2 * number, segments=2_000),
                seed=number,
                beams=sorted(beams),
                lengths=lengths if data.draw(st.booleans()) else None,
                paged=data.draw(st.booleans()),
                bad_fraction=data.draw(st.sampled_from([0.0, 0.2, 1.0])),
            )
        )
    # One that has rows for certain, so that there is a catalog.
    granules.append(simulate_granule(folder / "sure.h5", Track(-75.0, 10.0, segments=200)))
    order = data.draw(st.sampled_from([5, 6, 8]))
    grid = replace(config.output.grid, parent_order=order)
    config = replace(config, output=replace(config.output, grid=grid))
    catalog = padded(Catalog.from_files(granules, order), beside=1)
    catalog.save(folder / "catalog.json")
    without = run(config, catalog=catalog, store=folder / "a.zarr", progress=False)
    magg.granules.layout._layouts.clear()
    with_index = run(
        config, catalog=catalog, store=folder / "b.zarr", index="build", progress=False
    )
    assert told(without) == told(with_index)
    assert_same_store(folder / "a.zarr", folder / "b.zarr")


class TestBucket:
    """Catalog, index, granules and store in S3."""

    @pytest.fixture
    def remote(self, uploaded, remote_catalog, s3_bucket, aws_environment, tmp_path):
        aws_environment()
        catalog = padded(remote_catalog)
        s3_bucket.put("catalog.json", catalog.save(tmp_path / "catalog.json"))
        return Catalog.load(s3_bucket.url("catalog.json"))

    def test_the_store_is_the_same_bit_by_bit(self, remote, config, s3_bucket):
        stores = [s3_bucket.url(name) for name in ("off.zarr", "built.zarr", "auto.zarr")]
        for store, index in zip(stores, ("off", "build", "auto"), strict=True):
            magg.granules.layout._layouts.clear()
            run(config, catalog=remote, store=store, index=index, progress=False)
            assert_same_store(stores[0], store)
        assert [key for key in s3_bucket.keys("") if "index" in key] == ["catalog.index.gz"]

    def test_a_granule_that_is_replaced_is_surveyed_again(
        self, remote, config, s3_bucket, uploaded, counting, region
    ):
        build_index(remote, config, progress=False)
        name = Path(region[2]).name
        try:
            uploaded.put(name, Path(region[3]))
            store = s3_bucket.url("auto.zarr")
            run(config, catalog=remote, store=store, executor=counting, progress=False)
            assert counting.surveys == 1
            run(config, catalog=remote, store=s3_bucket.url("off.zarr"), index=0 == 1)
            assert_same_store(store, s3_bucket.url("off.zarr"))
        finally:
            uploaded.put(name, Path(region[2]))

    def test_the_index_takes_one_request(
        self, remote, config, fault_proxy, s3_bucket, aws_environment
    ):
        build_index(remote, config, progress=False)
        proxy = fault_proxy()
        aws_environment(proxy.endpoint)
        assert remote.summary()["index"]["granules"] == 6
        assert len(proxy.requests) == 1


class Web(BaseHTTPRequestHandler):
    """A web server of one folder that nobody may write to."""

    def do_GET(self):
        path = Path(self.server.folder) / self.path.lstrip("/")
        if not path.is_file():
            self.send_error(404)
            return
        data, size = path.read_bytes(), path.stat().st_size
        first, _, last = self.headers["Range"].removeprefix("bytes=").partition("-")
        part = data[int(first) : int(last) + 1]
        self.send_response(206)
        self.send_header("Content-Range", f"bytes {first}-{int(first) + len(part) - 1}/{size}")
        self.send_header("Content-Length", str(len(part)))
        self.send_header("ETag", f'"{size}-{path.stat().st_mtime_ns}"')
        self.send_header("Last-Modified", "Mon, 01 Jan 2024 00:00:00 GMT")
        self.end_headers()
        self.wfile.write(part)

    def log_message(self, *_):
        pass


@pytest.fixture
def web(saved, tmp_path):
    server = ThreadingHTTPServer(("127.0.0.1", 0), Web)
    server.folder, server.daemon_threads = tmp_path, True
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/catalog.json"
    server.shutdown()
    server.server_close()
    thread.join()


def test_a_catalog_on_the_web_has_its_index_there(web, saved, config, counting, plain, tmp_path):
    options = {"catalog": web, "executor": counting}
    _, notices = notices_of(lambda **more: run(config, store=tmp_path / "a", **options, **more))
    assert notices == []  # it may have none
    counting.submitted.clear()
    build_index(saved, config, progress=False)
    _, notices = notices_of(lambda **more: run(config, store=tmp_path / "b", **options, **more))
    assert notices == []
    assert set(counting.cells) == exact(saved)
    Path(place_of(saved.location)).unlink()
    counting.submitted.clear()
    _, notices = notices_of(
        lambda **more: run(config, store=tmp_path / "c", index="build", **options, **more)
    )
    assert any("serves this run alone" in notice for notice in notices)
    assert set(counting.cells) == exact(saved)
    for store in "abc":
        assert_same_store(tmp_path / store, plain[0])


def test_listeners_hear_of_the_survey_before_the_cells(saved, config, tmp_path):
    heard = []
    options = {"store": tmp_path / "s.zarr", "index": True, "progress": heard.append}
    run(config, catalog=saved, **options)
    names = [type(event).__name__ for event in heard]
    assert names.count("GranuleSurveyed") == 6
    assert names.index("IndexFinished") < names.index("RunStarted")
    assert sum(isinstance(event, CellFinished) for event in heard) == len(saved.cells)


def test_contents_tell_stores_apart(plain, config, tmp_path, catalog):
    other = tmp_path / "s.zarr"
    run(config, catalog=catalog, store=other, progress=False)
    assert contents(other) != contents(plain[0])
