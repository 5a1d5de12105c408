"""One run makes every coarser order, and each equals what the observations give."""

from __future__ import annotations

import numpy as np
import pytest
from pyramids import assert_equals_observations, atl06, cells_at, root_of

from magg import Catalog, load_config, run
from magg.cli import main
from magg.grid import centres, words_of
from magg.store.inspect import child_orders

ALL = tuple(range(12, -1, -1))


@pytest.fixture(scope="module")
def pyramid(catalog, tmp_path_factory):
    store = tmp_path_factory.mktemp("pyramid") / "s.zarr"
    summary = run(atl06(coarsest_order=0, state=True), catalog=catalog, store=store, progress=False)
    assert summary["errors"] == []
    return store


def test_every_order_equals_what_the_observations_give(pyramid, region):
    assert_equals_observations(pyramid, region, ALL)


def test_every_order_of_real_granules_equals_what_the_observations_give(real_granules, tmp_path):
    store, catalog = tmp_path / "s.zarr", Catalog.from_files(real_granules)
    summary = run(atl06(coarsest_order=0), catalog=catalog, store=store, progress=False)
    assert summary["errors"] == []
    assert_equals_observations(store, real_granules, ALL)


@pytest.mark.parametrize("order", ALL)
def test_coordinates_of_every_order_are_complete(pyramid, catalog, order):
    group = root_of(pyramid)[str(order)]
    ids = group["cell_ids"][:]
    np.testing.assert_array_equal(group["morton"][:], words_of(ids, order))
    leaves = root_of(pyramid)["12"]["cell_ids"][:]
    assert set(ids.tolist()) == set((leaves >> np.uint64(2 * (12 - order))).tolist())
    assert np.all(np.diff(ids.astype(np.int64)) > 0)


@pytest.mark.parametrize("order", [12, 11, 6, 5, 0])
def test_every_order_opens_in_xarray_and_xdggs(pyramid, order):
    xr, xdggs = pytest.importorskip("xarray"), pytest.importorskip("xdggs")
    dataset = xr.open_zarr(pyramid, group=str(order), consolidated=False)
    assert set(dataset.sizes) == {"cells"}
    assert "rows" not in dataset  # the state is elsewhere
    centre = xdggs.decode(dataset).dggs.cell_centers()
    lat, lon = centres(words_of(dataset.cell_ids.values, order))
    np.testing.assert_allclose(centre.latitude.values, lat, atol=1e-8)
    away = (centre.longitude.values - lon + 180.0) % 360.0 - 180.0
    np.testing.assert_allclose(away, 0.0, atol=1e-8)


def test_the_root_lists_all_orders_by_the_multiscales_convention(pyramid):
    attributes = dict(root_of(pyramid).attrs)
    assert attributes["zarr_conventions"][0]["name"] == "multiscales"
    layout = attributes["multiscales"]["layout"]
    assert layout == [{"asset": str(order)} for order in ALL]


def test_some_orders_alone_can_be_asked_for(pyramid, catalog, tmp_path):
    store = tmp_path / "s.zarr"
    config = atl06(orders=(12, 9, 6, 2))
    run(config, catalog=catalog, store=store, progress=False)
    assert child_orders(root_of(store)) == [2, 6, 9, 12]
    assert not (store / "10").exists()
    for order in (12, 9, 6, 2):
        assert_same(store, pyramid, order)


def test_quantiles_below_the_parent_cells_say_how_good_they_are(pyramid):
    root = root_of(pyramid)
    assert "0.2 %" in root["5"]["h_q50"].attrs["accuracy"]
    assert set(root["5"].attrs["approximate_variables"]) == {"h_q25", "h_q50", "h_q75"}
    assert "accuracy" not in root["6"]["h_q50"].attrs
    assert "accuracy" not in root["5"]["h_mean"].attrs


def test_a_dry_run_counts_the_cells_of_all_orders(catalog, tmp_path):
    store = tmp_path / "s.zarr"
    options = {"catalog": catalog, "store": store, "dry_run": True, "progress": False}
    alone = run(atl06(), **options)["output_bytes"]
    every = run(atl06(coarsest_order=0), **options)
    assert every["coarser_orders"] == list(ALL[1:])
    assert 1.333 * alone < every["output_bytes"] < 1.34 * alone
    assert run(atl06(state=True), **options)["output_bytes"] > 1.5 * alone
    assert not store.exists()


def test_info_and_plots_know_of_the_orders(pyramid, tmp_path, capsys):
    assert main(["info", str(pyramid)]) == 0
    told = " ".join(capsys.readouterr().out.split())
    assert "coarser orders 11 to 0" in told
    picture = tmp_path / "map.png"
    assert main(["plot", str(pyramid), "-o", str(picture), "--order", "6"]) == 0
    assert picture.stat().st_size > 10_000


def test_appended_cells_are_in_every_order(pyramid, catalog, region, tmp_path):
    store, first = tmp_path / "s.zarr", list(catalog.cells)[-1]
    config = atl06(coarsest_order=0)
    part = Catalog(6, {first: catalog.cells[first]}, catalog.metadata)
    run(config, catalog=part, store=store, progress=False)
    before = {order: cells_at(store, order)[0] for order in ALL}
    run(config, catalog=catalog, store=store, progress=False)
    assert_equals_observations(store, region, ALL)
    for order in ALL:
        ids = cells_at(store, order)[0]
        np.testing.assert_array_equal(ids[: before[order].size], before[order])
        assert set(ids.tolist()) == set(cells_at(pyramid, order)[0].tolist())


def test_a_cell_without_observations_is_empty_at_every_order(pyramid, catalog, tmp_path):
    far, store = "1111111", tmp_path / "s.zarr"
    assert far not in catalog.cells
    cells = {**catalog.cells, far: next(iter(catalog.cells.values()))[:1]}
    config = atl06(coarsest_order=0)
    summary = run(config, catalog=Catalog(6, cells), store=store, progress=False)
    assert summary["cells_empty"] == 1
    for order in ALL:
        counts = cells_at(store, order)[1]["count"]
        assert counts.sum() == cells_at(pyramid, order)[1]["count"].sum()
        assert (counts == 0).sum() >= 1


def test_overwriting_with_fewer_orders_leaves_none_of_the_others(catalog, tmp_path):
    store = tmp_path / "s.zarr"
    run(atl06(coarsest_order=8), catalog=catalog, store=store, progress=False)
    run(atl06(), catalog=catalog, store=store, overwrite=True, progress=False)
    assert child_orders(root_of(store)) == [12]
    assert not any((store / str(order) / "zarr.json").exists() for order in range(12))


def test_orders_asked_for_later_are_added_with_everything(pyramid, catalog, tmp_path):
    store = tmp_path / "s.zarr"
    run(atl06(), catalog=catalog, store=store, progress=False)
    summary = run(atl06(coarsest_order=0), catalog=catalog, store=store, progress=False)
    assert summary["cells_skipped"] == 0
    for order in ALL:
        assert_same(store, pyramid, order)
    again = run(atl06(), catalog=catalog, store=store, progress=False)
    assert again["cells_skipped"] == again["total_cells"]


def test_a_skipped_granule_is_missing_from_every_order_until_it_is_read(region, tmp_path):
    store, granules = tmp_path / "s.zarr", [tmp_path / path.name for path in region]
    for path, copy in zip(region, granules, strict=True):
        copy.write_bytes(path.read_bytes())
    whole, copied = granules[2].read_bytes(), Catalog.from_files(granules)
    granules[2].write_bytes(whole[:1000])
    config = atl06(coarsest_order=0)
    options = {"catalog": copied, "store": store, "progress": False}
    assert run(config, on_granule_error="skip", **options)["granules_skipped"]
    assert_equals_observations(store, [*granules[:2], *granules[3:]], ALL)
    granules[2].write_bytes(whole)
    assert run(config, **options)["errors"] == []
    assert_equals_observations(store, granules, ALL)


def assert_same(store, expected, order):
    for found, wanted in zip(cells_at(store, order), cells_at(expected, order), strict=True):
        np.testing.assert_equal(found, wanted)


def test_chunks_are_never_tiny(pyramid):
    root = root_of(pyramid)
    lengths = {order: root[str(order)]["count"].chunks[0] for order in ALL}
    assert min(lengths.values()) >= 4096
    assert max(lengths.values()) <= 65_536


def test_the_child_order_is_the_same_with_and_without_others(pyramid, catalog, tmp_path):
    run(load_config("atl06"), catalog=catalog, store=tmp_path / "leaf.zarr", progress=False)
    ids, alone = cells_at(tmp_path / "leaf.zarr", 12)
    found_ids, found = cells_at(pyramid, 12)
    np.testing.assert_array_equal(found_ids, ids)
    assert found.keys() == alone.keys()
    for name, values in alone.items():
        np.testing.assert_array_equal(found[name], values)
