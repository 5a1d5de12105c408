"""Coarser orders of a store that exists, without its granules."""

from __future__ import annotations

import shutil
from dataclasses import replace

import numpy as np
import pytest
from pyramids import assert_equals_observations, atl06, cells_at, root_of

from magg import Catalog, build_pyramid, load_config, register_statistic, run
from magg.errors import GridError, StoreError, StoreNotFoundError
from magg.statistics import Statistic, unregister_statistic
from magg.store.inspect import describe

COARSER = tuple(range(11, -1, -1))
EXACT = {"count", "h_min", "h_max", "h_mean", "h_sigma", "h_variance"}


def made(catalog, store, **options):
    summary = run(atl06(**options), catalog=catalog, store=store, progress=False)
    assert summary["errors"] == []
    return store


@pytest.fixture(scope="module")
def leaf_only(catalog, tmp_path_factory):
    return made(catalog, tmp_path_factory.mktemp("leaf") / "s.zarr")


@pytest.fixture(scope="module")
def with_state(catalog, tmp_path_factory):
    return made(catalog, tmp_path_factory.mktemp("state") / "s.zarr", state=True)


@pytest.fixture(scope="module")
def with_all(catalog, tmp_path_factory):
    return made(catalog, tmp_path_factory.mktemp("all") / "s.zarr", coarsest_order=0)


@pytest.fixture
def copied(tmp_path):
    def copy(store):
        shutil.copytree(store, tmp_path / "copy.zarr")
        return tmp_path / "copy.zarr"

    return copy


def test_values_alone_give_numbers_of_observations_and_extremes(leaf_only, copied, region):
    store = copied(leaf_only)
    told = build_pyramid(store)
    assert told["orders"] == list(COARSER)
    assert told["cells"] == told["cells_derived"] == len(root_of(store)["parent_cells"][:])
    for order in COARSER:
        assert set(cells_at(store, order)[1]) == {"count", "h_min", "h_max"}
        assert "output.state" in told["absent"][order]["h_q50"]
        assert root_of(store)[str(order)].attrs["made_from"] == "values"
    assert_equals_observations(store, region, (12, *COARSER))


def test_state_gives_everything_that_can_be_merged(with_state, copied, region):
    store = copied(with_state)
    told = build_pyramid(store)
    for order in COARSER[:6]:
        assert set(cells_at(store, order)[1]) == EXACT
        assert "quantiles" in told["absent"][order]["h_q50"]
    # Below the parent cells there are the digests that their workers left.
    assert {"h_q25", "h_q50", "h_q75"} < set(cells_at(store, 3)[1])
    assert 3 not in told["absent"]
    assert_equals_observations(store, region, (12, *COARSER))


def test_orders_below_the_parent_cells_are_had_in_full_from_what_workers_left(
    catalog, with_all, region, tmp_path
):
    store = made(catalog, tmp_path / "s.zarr", coarsest_order=6)
    told = build_pyramid(store)
    assert told["absent"] == {}
    for order in range(13):
        for found, wanted in zip(cells_at(store, order), cells_at(with_all, order), strict=True):
            np.testing.assert_equal(found, wanted)


def test_a_second_call_changes_nothing(leaf_only, copied):
    store = copied(leaf_only)
    build_pyramid(store)
    before = {path: path.read_bytes() for path in store.rglob("*") if path.is_file()}
    assert build_pyramid(store)["cells_derived"] == 0
    assert {path: path.read_bytes() for path in store.rglob("*") if path.is_file()} == before


def test_what_was_lost_is_repaired(with_all, copied, region):
    store = copied(with_all)
    for gone in (*store.glob("7/h_*/c/*"), *store.glob("2/count/c/*")):
        gone.unlink()
    build_pyramid(store)
    assert_equals_observations(store, region, range(13))


def test_a_run_of_the_same_config_after_it_skips_what_is_done(leaf_only, copied, catalog):
    store = copied(leaf_only)
    build_pyramid(store)
    summary = run(load_config("atl06"), catalog=catalog, store=store, progress=False)
    assert summary["cells_skipped"] == summary["total_cells"]


def test_new_cells_of_a_later_run_join_the_orders_that_were_added(catalog, region, tmp_path):
    first = next(iter(catalog.cells))
    store = tmp_path / "s.zarr"
    made(Catalog(6, {first: catalog.cells[first]}), store)
    build_pyramid(store)
    made(catalog, store)
    assert_equals_observations(store, region, range(13))
    assert sum(cells_at(store, 0)[1]["count"]) == sum(cells_at(store, 12)[1]["count"])


def test_a_run_that_asks_for_the_orders_does_cells_again_and_adds_what_was_absent(
    leaf_only, copied, catalog, region
):
    store = copied(leaf_only)
    build_pyramid(store)
    made(catalog, store, coarsest_order=0)
    for order in COARSER:
        assert "h_q50" in cells_at(store, order)[1]
        assert root_of(store)[str(order)].attrs["absent_variables"] == {}
    assert_equals_observations(store, region, range(13))


def test_a_store_without_a_number_of_observations_gives_no_extremes(catalog, tmp_path):
    config = load_config("atl06")
    only = {name: config.statistics[name] for name in ("h_min", "h_mean")}
    config = replace(config, aggregation=replace(config.aggregation, variables=only))
    run(config, catalog=catalog, store=tmp_path / "s.zarr", progress=False)
    told = build_pyramid(tmp_path / "s.zarr", coarsest_order=5)
    # Below the parent cells what workers left would give them; there is none.
    assert all(set(told["absent"][order]) == {"h_min", "h_mean"} for order in range(5, 12))


def test_a_function_of_ones_own_is_absent_below_the_parent_cells_and_the_group_says_why(
    catalog, tmp_path
):
    register_statistic("spread", lambda values: float(np.ptp(values)))
    try:
        config = atl06(coarsest_order=4)
        own = {**config.statistics, "spread": Statistic(function="spread", source="h_li")}
        config = replace(config, aggregation=replace(config.aggregation, variables=own))
        store = tmp_path / "s.zarr"
        assert run(config, catalog=catalog, store=store, progress=False)["errors"] == []
    finally:
        unregister_statistic("spread")
    for order in range(6, 12):
        _, variables = cells_at(store, order)
        full = variables["count"] > 0
        expected = variables["h_max"][full].astype("f8") - variables["h_min"][full]
        np.testing.assert_allclose(variables["spread"][full], expected, rtol=1e-6)
    for order in (4, 5):
        assert "spread" not in cells_at(store, order)[1]
        assert "observations" in root_of(store)[str(order)].attrs["absent_variables"]["spread"]
    assert describe(store)["absent_variables"].keys() == {4, 5}
    # Where the function is not known, all else can still be had.
    assert "spread" in build_pyramid(store)["absent"][0]


@pytest.mark.parametrize("order", [-1, 13])
def test_an_impossible_order_is_refused(leaf_only, copied, order):
    with pytest.raises(GridError, match="between 0 and the child order"):
        build_pyramid(copied(leaf_only), coarsest_order=order)


def test_a_place_without_a_store_is_refused(tmp_path):
    with pytest.raises(StoreNotFoundError):
        build_pyramid(tmp_path / "nothing.zarr")
    (tmp_path / "file").mkdir()
    with pytest.raises(StoreError, match="no Zarr store"):
        build_pyramid(tmp_path / "file")
