"""A store as a Dataset: what it holds, what a part of it holds, and what is read for that."""

from __future__ import annotations

import subprocess
import sys
import warnings

import numpy as np
import pytest
import xarray as xr
import zarr
from result_stores import GRID, counted, height_of

import magg
from magg.errors import MissingExtraError, StoreError, StoreNotFoundError
from magg.grid import centres, locate, nested_ids, words_of
from magg.results import orders


@pytest.fixture(autouse=True)
def _others_may_warn():
    """Leave warnings of xarray and xdggs to their authors."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def at(place, order=GRID.child_order):
    """Return the id of the cell at a (latitude, longitude)."""
    return int(nested_ids(locate([place[0]], [place[1]]), order)[0])


def positions(made):
    lat, lon = centres(words_of(made.ids, GRID.child_order))
    return lat, lon


# --- the whole store -------------------------------------------------------------------------


def test_the_dataset_holds_every_cell_with_its_values_and_is_decoded(antarctic_store):
    results = magg.open_results(antarctic_store.path)
    np.testing.assert_array_equal(results["cell_ids"], antarctic_store.ids)
    np.testing.assert_array_equal(results["count"], antarctic_store.count)
    np.testing.assert_array_equal(results["h_mean"], antarctic_store.h_mean)
    stored = zarr.open_group(antarctic_store.path, mode="r")["9"]
    np.testing.assert_array_equal(results["cell_ids"], stored["cell_ids"][:])
    np.testing.assert_array_equal(results["morton"], stored["morton"][:])
    assert results.dggs.grid_info.level == 9
    assert results.dggs.grid_info.indexing_scheme == "nested"


def test_xdggs_places_every_cell_where_magg_does(antarctic_store):
    found = magg.open_results(antarctic_store.path).dggs.cell_centers()
    lat, lon = positions(antarctic_store)
    np.testing.assert_allclose(found["latitude"], lat, atol=1e-7)
    np.testing.assert_allclose((found["longitude"] - lon + 180) % 360 - 180, 0, atol=1e-7)


def test_the_index_of_xdggs_finds_a_place(antarctic_store):
    results = magg.open_results(antarctic_store.path)
    place = (-75.21, -101.02)
    found = results["h_mean"].dggs.sel_latlon([place[0]], [place[1]])
    expected = height_of(np.array([at(place)], dtype=np.uint64))
    np.testing.assert_array_equal(found.values, expected)


def test_cells_without_observations_are_masked_and_count_nothing(antarctic_store):
    results = magg.open_results(antarctic_store.path)
    without = antarctic_store.count == 0
    assert without[-GRID.children :].all()  # the parent cell that was never written
    for name in ("h_mean", "h_low", "beams"):
        np.testing.assert_array_equal(np.isnan(results[name].values), without)
    assert results["count"].dtype == np.int32
    assert (results["count"].values[without] == 0).all()


def test_variables_carry_cf_attributes(antarctic_store):
    results = magg.open_results(antarctic_store.path)
    assert results.attrs["Conventions"].startswith("CF-")
    assert results["h_mean"].attrs["units"] == "m"
    assert results["h_mean"].attrs["long_name"]
    assert results["h_low"].attrs["cell_methods"] == "cells: minimum"


def test_an_open_group_may_be_given(antarctic_store):
    root = zarr.open_group(antarctic_store.path, mode="r")
    assert magg.open_results(root).sizes == {"cells": antarctic_store.ids.size}


def test_the_store_opens_with_zarr_alone(antarctic_store):
    script = (
        "import sys, zarr; group = zarr.open_group(sys.argv[1], mode='r')['9']\n"
        "print(int(group['count'][:].sum()), *{'xarray', 'xdggs', 'magg'} & set(sys.modules))"
    )
    told = subprocess.run(
        [sys.executable, "-c", script, antarctic_store.path], capture_output=True, text=True
    )
    assert told.stdout.split() == [str(antarctic_store.count.sum())], told.stderr


def test_the_store_opens_with_plain_xarray(antarctic_store):
    plain = xr.open_zarr(antarctic_store.path, group="9", chunks=None, consolidated=False)
    np.testing.assert_array_equal(plain["cell_ids"], antarctic_store.ids)
    np.testing.assert_array_equal(plain["h_mean"], antarctic_store.h_mean)
    assert np.isnan(plain["h_low"].values[antarctic_store.count == 0]).all()


# --- parts -----------------------------------------------------------------------------------


def test_a_box_has_the_cells_that_it_touches(antarctic_store):
    west, south, east, north = -101.6, -75.6, -100.4, -74.9
    results = magg.open_results(antarctic_store.path, within=(west, south, east, north))
    lat, lon = positions(antarctic_store)
    centred = (lon > west) & (lon < east) & (lat > south) & (lat < north)
    chosen = np.isin(antarctic_store.ids, results["cell_ids"])
    assert centred.any()
    assert (chosen | ~centred).all()
    # Those on the edge reach in by their corners alone: no farther off than a cell is wide.
    apart = np.hypot(
        np.maximum(np.maximum(west - lon, lon - east), 0) * np.cos(np.radians(lat)),
        np.maximum(np.maximum(south - lat, lat - north), 0),
    )
    assert (apart[chosen] * 111.2 < 12.0).all()
    np.testing.assert_array_equal(results["h_mean"], antarctic_store.h_mean[chosen])


def test_a_small_box_has_the_cell_around_it(antarctic_store):
    results = magg.open_results(antarctic_store.path, within=(-101.001, -75.201, -101.0, -75.2))
    assert at((-75.2005, -101.0005)) in results["cell_ids"].values.tolist()
    assert results.sizes["cells"] <= 4


@pytest.mark.parametrize("west", [179.5, -180.5 + 360])
def test_a_box_across_the_antimeridian_has_both_sides(fiji_store, west):
    results = magg.open_results(fiji_store.path, within=(west, -18.0, -179.5, -17.0))
    lat, lon = positions(fiji_store)
    centred = ((lon > 179.5) | (lon < -179.5)) & (lat > -18) & (lat < -17)
    assert (lon[centred] > 0).any()
    assert (lon[centred] < 0).any()
    assert set(fiji_store.ids[centred]) <= set(results["cell_ids"].values)
    assert results.sizes["cells"] < 2 * centred.sum()


@pytest.mark.parametrize(("south", "north"), [(89.5, 90.0), (-90.0, -89.5)])
def test_a_box_around_a_pole_has_all_cells_there(polar_store, south, north):
    results = magg.open_results(polar_store.path, within=(-180, south, 180, north))
    lat, _ = positions(polar_store)
    centred = (lat > south) & (lat < north)
    chosen = np.isin(polar_store.ids, results["cell_ids"])
    assert (chosen | ~centred).all()
    assert (np.abs(lat[chosen]) > 89.2).all()


def test_a_polygon_may_have_a_hole_and_be_geojson_or_shapely(antarctic_store):
    import shapely

    outer = shapely.box(-103.0, -76.0, -99.0, -74.5)
    polygon = outer - shapely.box(-101.6, -75.6, -100.4, -74.9)
    results = magg.open_results(antarctic_store.path, within=polygon)
    mapping = magg.open_results(antarctic_store.path, within=shapely.geometry.mapping(polygon))
    assert results["cell_ids"].equals(mapping["cell_ids"])
    lat, lon = positions(antarctic_store)
    chosen = np.isin(antarctic_store.ids, results["cell_ids"])
    assert chosen[shapely.contains_xy(polygon, lon, lat)].all()
    hole = (lon > -101.3) & (lon < -100.7) & (lat > -75.4) & (lat < -75.1)
    assert hole.any()
    assert not chosen[hole].any()


def test_a_cell_has_those_within_it_or_the_one_around_it(antarctic_store):
    parent = antarctic_store.cells[1]
    inside = slice(GRID.children, 2 * GRID.children)
    for cell, expected in [
        (parent, antarctic_store.ids[inside]),
        (int(parent), antarctic_store.ids[inside]),
        (parent + "2", antarctic_store.ids[inside][16:32]),
        (parent + "23", antarctic_store.ids[inside][24:28]),
        (parent + "2343", antarctic_store.ids[inside][27:28]),
    ]:
        results = magg.open_results(antarctic_store.path, within=cell)
        np.testing.assert_array_equal(results["cell_ids"], expected)


def test_cells_may_be_several_and_coarser_than_parents(antarctic_store):
    coarse = {cell[:4] for cell in antarctic_store.cells}
    results = magg.open_results(antarctic_store.path, within=sorted(coarse))
    np.testing.assert_array_equal(results["cell_ids"], antarctic_store.ids)


def test_a_part_that_holds_nothing_is_empty(antarctic_store):
    results = magg.open_results(antarctic_store.path, within="greenland")
    assert results.sizes == {"cells": 0}
    assert results["h_mean"].values.size == 0


@pytest.mark.parametrize(
    "within", [(1, 2, 3), (10, 80, 20, 70), {"type": "Point"}, "nowhere.json", ["-51x"], 5.5]
)
def test_what_is_no_part_of_the_earth_is_an_error(antarctic_store, within):
    with pytest.raises(ValueError, match="within"):
        magg.open_results(antarctic_store.path, within=within)


def test_the_region_is_that_of_the_bucket_and_an_area_there_is_an_error(antarctic_store):
    magg.open_results(antarctic_store.path, None, "eu-west-1")
    with pytest.raises(TypeError, match="within="):
        magg.open_results(antarctic_store.path, region=(-105, -76, -95, -74))


# --- what is read ----------------------------------------------------------------------------


@pytest.mark.parametrize("chunks", ["auto", None])
def test_opening_reads_nothing_but_the_list_of_parent_cells(antarctic_store, chunks):
    root, read = counted(antarctic_store.path)
    magg.open_results(root, chunks=chunks, within=(-101.6, -75.6, -100.4, -74.9))
    assert read == ["parent_cells/c/0"]


@pytest.mark.parametrize("chunks", ["auto", None])
def test_a_part_reads_the_chunks_that_it_needs_and_each_once(antarctic_store, chunks):
    root, read = counted(antarctic_store.path)
    results = magg.open_results(root, chunks=chunks, within=antarctic_store.cells[2])
    read.clear()
    results["h_mean"].load()
    assert read == ["9/h_mean/c/2"]


def test_tasks_of_dask_share_no_chunk(antarctic_store):
    pytest.importorskip("dask")
    root, read = counted(antarctic_store.path)
    results = magg.open_results(root, chunks=10, within=(-104, -77, -99, -74.5))
    touched = np.isin(antarctic_store.ids, results["cell_ids"]).reshape(-1, GRID.children)
    touched = np.flatnonzero(touched.any(axis=1))
    assert len(results.chunks["cells"]) == touched.size > 1
    read.clear()
    assert float(results["count"].sum()) > 0
    assert sorted(read) == [f"9/count/c/{chunk}" for chunk in touched]


def test_dask_is_used_where_it_is_installed_and_can_be_left_out(antarctic_store, monkeypatch):
    pytest.importorskip("dask")
    assert magg.open_results(antarctic_store.path)["h_mean"].chunks
    assert magg.open_results(antarctic_store.path, chunks=None)["h_mean"].chunks is None
    monkeypatch.setattr("magg.results.opening._has_dask", lambda: False)
    results = magg.open_results(antarctic_store.path)
    assert results["h_mean"].chunks is None
    np.testing.assert_array_equal(results["h_mean"], antarctic_store.h_mean)


# --- orders, errors, buckets -----------------------------------------------------------------


def coarser(made, tmp_path, order):
    """Return a copy of a store with one more order: sums of the counts."""
    import shutil

    path = shutil.copytree(made.path, tmp_path / "orders.zarr")
    root = zarr.open_group(path, mode="r+")
    mark = root.attrs["magg"]
    root.attrs["magg"] = mark | {"orders": [order, 9]}
    within = made.ids >> np.uint64(2 * (9 - order))
    _, first = np.unique(within, return_index=True)
    ids = within[np.sort(first)]
    group = root.create_group(str(order))
    sums = np.array([made.count[within == i].sum() for i in ids])
    attributes = dict(root["9"].attrs)
    attributes["dggs"] = attributes["dggs"] | {"refinement_level": order}
    group.attrs.update(attributes)
    columns = {"cell_ids": ids, "morton": words_of(ids, order), "count": sums}
    for name, values in columns.items():
        array = group.create_array(
            name, shape=values.shape, dtype=values.dtype, chunks=(64,), dimension_names=("cells",)
        )
        array[:] = values
        array.attrs.update(root[f"9/{name}"].attrs)
    group["cell_ids"].attrs.update({"level": order})
    return str(path)


@pytest.mark.parametrize("order", [7, 6, 4])
def test_each_order_opens_whole_and_in_parts(antarctic_store, tmp_path, order):
    path = coarser(antarctic_store, tmp_path, order)
    assert orders(path) == [order, 9]
    assert magg.open_results(path).dggs.grid_info.level == 9
    results = magg.open_results(path, order)
    assert results.dggs.grid_info.level == order
    assert int(results["count"].sum()) == antarctic_store.count.sum()
    box = (-101.6, -75.6, -100.4, -74.9)
    part = magg.open_results(path, order=order, within=box)
    assert at((-75.2, -101.0), order) in part["cell_ids"].values
    assert part.sizes["cells"] < results.sizes["cells"]


def test_an_order_that_the_store_lacks_is_named_beside_those_it_has(antarctic_store):
    with pytest.raises(StoreError, match=r"no cells of order 11; it has the orders \[9\]"):
        magg.open_results(antarctic_store.path, order=11)


def test_a_missing_store_is_an_error(tmp_path):
    with pytest.raises(StoreNotFoundError, match="no store at"):
        magg.open_results(tmp_path / "nothing.zarr")


def test_without_xdggs_the_error_names_the_extra(antarctic_store, monkeypatch):
    monkeypatch.setitem(sys.modules, "xdggs", None)
    with pytest.raises(MissingExtraError, match=r"magg-healpix\[results\]"):
        magg.open_results(antarctic_store.path)


def test_a_store_in_a_bucket_opens_in_part(antarctic_store, s3_bucket, aws_environment):
    from pathlib import Path

    from services.s3 import REGION

    aws_environment()
    for file in Path(antarctic_store.path).rglob("*"):
        if file.is_file():
            s3_bucket.put(f"some/s.zarr/{file.relative_to(antarctic_store.path)}", file)
    place = s3_bucket.url("some/s.zarr")
    results = magg.open_results(place, region=REGION, within=antarctic_store.cells[0])
    np.testing.assert_array_equal(results["h_mean"], antarctic_store.h_mean[: GRID.children])
    with pytest.raises(StoreNotFoundError, match="no store at s3://"):
        magg.open_results(s3_bucket.url("some/other.zarr"), region=REGION)


def test_explore_makes_an_interactive_map_of_the_cells(antarctic_store):
    pytest.importorskip("lonboard")
    results = magg.open_results(antarctic_store.path, within=antarctic_store.cells[0])
    widget = results["h_mean"].compute().dggs.explore()
    layers = getattr(widget, "layers", None) or widget.map.layers
    assert layers[0].table.num_rows == GRID.children
