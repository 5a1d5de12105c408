from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import zarr

from magg import load_config
from magg.errors import StoreError, StoreMismatchError, StoreNotFoundError
from magg.grid import Grid, children_of, words_of
from magg.statistics import Statistic
from magg.store import open_store, template
from magg.store.chunks import write_chunks
from magg.store.inspect import describe, parent_cells

GRID = Grid(6, 9)


def words(*ids):
    return np.unique(words_of(list(ids), GRID.parent_order))


@pytest.fixture
def config():
    whole = load_config("atl06")
    return replace(
        whole, output=replace(whole.output, grid=replace(whole.output.grid, child_order=9))
    )


@pytest.fixture
def path(tmp_path):
    return str(tmp_path / "out.zarr")


def group_of(path):
    return zarr.open_group(path, mode="r")["9"]


def test_coordinates_are_complete_as_soon_as_the_template_exists(path, config):
    parents = words(7, 3, 40_000)
    chunks = template.prepare(path, config, GRID, parents)
    group = group_of(path)
    ids = group["cell_ids"][:]
    np.testing.assert_array_equal(ids, children_of(parents, GRID))
    assert (np.diff(ids.astype(np.int64)) > 0).all()
    np.testing.assert_array_equal(group["morton"][:], words_of(ids, 9))
    assert list(chunks.of) == parents.tolist()


def test_every_array_has_one_chunk_per_parent_cell_and_is_compressed(path, config):
    template.prepare(path, config, GRID, words(3, 7))
    for name, array in group_of(path).arrays():
        assert array.chunks == (GRID.children,), name
        assert array.shape == (2 * GRID.children,), name
        assert array.metadata.dimension_names == ("cells",), name
        assert array.compressors, name


def test_types_and_fill_values_are_those_declared(path, config):
    template.prepare(path, config, GRID, words(3))
    group = group_of(path)
    assert group["count"].dtype == np.int32
    assert group["count"].fill_value == 0
    assert group["h_mean"].dtype == np.float32
    assert np.isnan(group["h_mean"].fill_value)
    assert (group["count"][:] == 0).all()
    assert np.isnan(group["h_mean"][:]).all()


def test_attributes_follow_the_dggs_convention_and_tell_where_the_store_is_from(path, config):
    template.prepare(path, config, GRID, words(3), catalog_digest="abc")
    attributes = dict(group_of(path).attrs)
    assert attributes["zarr_conventions"][0]["name"] == "dggs"
    assert attributes["dggs"]["refinement_level"] == 9
    assert attributes["dggs"]["indexing_scheme"] == "nested"
    made = attributes["magg"]
    assert made["config_digest"] == config.digest
    assert made["catalog_digest"] == "abc"
    assert made["latitude_convention"] == "authalic"
    assert {"magg", "numpy", "mortie", "zarr", "h5py"} <= set(made["versions"])


def test_units_come_from_the_config_else_from_the_source(path, config):
    bare = {
        "mean": Statistic(function="mean", source="h_li"),
        "spread": Statistic(function="var", source="h_li"),
        "named": Statistic(function="max", source="h_li", attrs={"units": "m"}),
    }
    config = replace(config, aggregation=replace(config.aggregation, variables=bare))
    template.prepare(path, config, GRID, words(3), sources={"h_li": {"units": "meters"}})
    group = group_of(path)
    assert group["mean"].attrs["units"] == "meters"
    assert group["mean"].attrs["cell_methods"] == "cells: mean"
    assert "units" not in group["spread"].attrs
    assert group["named"].attrs["units"] == "m"


def test_preparing_again_changes_nothing(path, config):
    first = template.prepare(path, config, GRID, words(3, 7))
    write_chunks(path, 9, 1, {"count": np.full(GRID.children, 5, np.int32)}, version="1")
    assert template.prepare(path, config, GRID, words(3, 7)) == first
    assert (group_of(path)["count"][GRID.children :] == 5).all()


def test_new_parent_cells_are_appended_and_none_moves(path, config):
    before = template.prepare(path, config, GRID, words(3, 9))
    write_chunks(path, 9, 1, {"count": np.full(GRID.children, 5, np.int32)}, version="1")
    after = template.prepare(path, config, GRID, words(1, 5, 9))
    assert len(after.of) == 4
    assert all(after.of[word] == chunk for word, chunk in before.of.items())
    group = group_of(path)
    expected = np.concatenate([children_of(words(3, 9), GRID), children_of(words(1, 5), GRID)])
    np.testing.assert_array_equal(group["cell_ids"][:], expected)
    np.testing.assert_array_equal(group["morton"][:], words_of(expected, 9))
    assert (group["count"][GRID.children : 2 * GRID.children] == 5).all()
    assert (group["count"][2 * GRID.children :] == 0).all()
    assert len(parent_cells(zarr.open_group(path, mode="r"))) == 4


def test_a_smaller_catalog_leaves_the_other_cells_where_they_are(path, config):
    template.prepare(path, config, GRID, words(3, 9))
    assert len(template.prepare(path, config, GRID, words(9)).of) == 2


def test_growth_that_was_cut_short_is_completed(path, config):
    template.prepare(path, config, GRID, words(3))
    group = zarr.open_group(path, mode="r+")["9"]
    group["count"].resize((2 * GRID.children,))
    template.prepare(path, config, GRID, words(3, 4))
    shapes = {array.shape for _, array in group_of(path).arrays()}
    assert shapes == {(2 * GRID.children,)}


def test_a_template_that_was_cut_short_is_made_again(path, config):
    template.prepare(path, config, GRID, words(3))
    group = zarr.open_group(path, mode="r+")["9"]
    attributes = dict(group.attrs)
    del attributes["magg"]
    group.attrs.put(attributes)
    chunks = template.prepare(path, config, GRID, words(8))
    assert list(chunks.of) == words(8).tolist()


@pytest.mark.parametrize(
    ("change", "words_told"),
    [
        (lambda s: replace(s, params={"weights": "s_li"}), "statistics.h_mean.params.weights"),
        (lambda s: replace(s, dtype="float64"), "statistics.h_mean.dtype"),
        (lambda s: replace(s, fill_value=-9999), "statistics.h_mean.fill_value"),
    ],
)
def test_a_store_of_another_config_is_refused_with_what_differs(path, config, change, words_told):
    template.prepare(path, config, GRID, words(3))
    variables = config.statistics | {"h_mean": change(config.statistics["h_mean"])}
    other = replace(config, aggregation=replace(config.aggregation, variables=variables))
    with pytest.raises(StoreMismatchError) as caught:
        template.prepare(path, other, GRID, words(3))
    assert words_told in str(caught.value)
    assert "overwrite=True" in str(caught.value)


def test_a_store_of_another_grid_is_refused(path, config):
    template.prepare(path, config, GRID, words(3))
    with pytest.raises(StoreMismatchError, match="child order 9, where this run makes 8"):
        template.check(path, config, Grid(6, 8))
    with pytest.raises(StoreMismatchError, match="parent_order: the store has 6, this run 5"):
        template.check(path, config, Grid(5, 9))


def test_overwriting_starts_again(path, config):
    template.prepare(path, config, GRID, words(3, 9))
    write_chunks(path, 9, 1, {"count": np.full(GRID.children, 5, np.int32)}, version="1")
    template.prepare(path, config, GRID, words(9), overwrite=True)
    assert (group_of(path)["count"][:] == 0).all()


@pytest.mark.parametrize("overwrite", [False, True])
def test_what_is_no_store_of_magg_is_never_touched(tmp_path, config, overwrite):
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(StoreError, match="no store of magg"):
        template.prepare(str(tmp_path), config, GRID, words(3), overwrite=overwrite)
    assert (tmp_path / "thesis.txt").read_text() == "years of work"


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_zarr_store_of_another_program_is_never_touched(path, config, overwrite):
    zarr.open_group(path, mode="w").create_array("x", shape=(3,), dtype="f4")[:] = 1.0
    with pytest.raises(StoreError, match="no store of magg"):
        template.prepare(path, config, GRID, words(3), overwrite=overwrite)
    assert (zarr.open_group(path, mode="r")["x"][:] == 1.0).all()


def test_a_chunk_that_becomes_empty_again_reads_as_empty(path, config):
    template.prepare(path, config, GRID, words(3))
    for value in (5, 0):
        write_chunks(path, 9, 0, {"count": np.full(GRID.children, value, np.int32)}, version="1")
    assert (group_of(path)["count"][:] == 0).all()


def test_opening_a_store_that_is_not_there_for_reading_is_an_error(path):
    with pytest.raises(StoreNotFoundError, match="no store at"):
        open_store(path, read_only=True)


def test_opening_a_file_as_a_store_is_an_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="is a file"):
        open_store(tmp_path / "file")


@pytest.mark.parametrize("url", ["gs://bucket/x", "https://host/x", "s3://bucket", "s3://bucket/"])
def test_a_url_that_is_no_place_for_a_store_is_refused(url):
    with pytest.raises(StoreError, match="s3://bucket/prefix"):
        open_store(url)


def test_describing_a_store_tells_what_it_holds(path, config):
    template.prepare(path, config, GRID, words(3, 9))
    write_chunks(path, 9, 1, {"count": np.full(GRID.children, 5, np.int32)}, version="1")
    told = describe(path)
    assert told["parent_cells"] == 2
    assert told["child_cells"] == 2 * GRID.children
    assert told["variables"]["count"]["chunks_written"] == 1
    json.dumps(told)


def test_describing_something_else_is_an_error(tmp_path, path):
    with pytest.raises(StoreError, match="no Zarr store"):
        describe(tmp_path)
    zarr.open_group(path, mode="w")
    with pytest.raises(StoreError, match="none of magg"):
        describe(path)
