"""One run makes every coarser order, and each equals what the observations give."""

from __future__ import annotations

import numpy as np
import pytest
from pyramids import assert_equals_observations, atl06, cells_at, root_of

from magg import Catalog, load_config, run
from magg.grid import words_of

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
