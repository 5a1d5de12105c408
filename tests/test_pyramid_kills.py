"""kill -9 of a run that makes coarser orders: they never claim more than the finished leaves."""

from __future__ import annotations

import shutil
from random import Random

import pytest
from cell_faults import assert_complete
from obstore.store import LocalStore
from pyramid_faults import make_pyramid, values_of
from test_kills import KILLED, WHEN, Forks

from magg import Catalog, build_pyramid
from magg.store.shared import read_manifest

SITUATIONS = {
    # what is there, the catalog of the call that is killed, and its options
    "new": (None, "all", {}),
    "growth": ("half.zarr", "all", {}),
    "newer granules": ("older.zarr", "all", {}),
    "overwrite": ("all.zarr", "older", {"overwrite": True}),
}


@pytest.fixture(scope="module")
def pyramid(tmp_path_factory):
    return make_pyramid(tmp_path_factory.mktemp("pyramid"))


@pytest.fixture(scope="module")
def forks(tmp_path_factory):
    forks = Forks(tmp_path_factory.mktemp("forks"))
    yield forks
    forks.close()


@pytest.fixture(scope="module")
def place(pyramid, tmp_path_factory):
    folder, small = tmp_path_factory.mktemp("kills"), pyramid.small
    for name, catalog in pyramid.catalogs.items():
        catalog.save(folder / f"{name}.json")
        small.run(folder / f"{name}.zarr", catalog=catalog)
    small.run(folder / "half.zarr", catalog=small.part(*range(0, len(small.cells), 2)))
    return folder


def begin(place, store, name):
    shutil.rmtree(store, ignore_errors=True)
    before, catalog, options = SITUATIONS[name]
    if before is not None:
        shutil.copytree(place / before, store)
    return place / f"{catalog}.json", options


def moments(forks, place, store, name):
    catalog, options = begin(place, store, name)
    code, operations = forks.run(store, catalog, pyramid=True, **options)
    assert code == 0
    return [(number, when) for number in range(1, operations + 1) for when in WHEN]


def cells_before(place, name):
    """Return the cells that shared chunks hold before the call that is killed."""
    before = SITUATIONS[name][0]
    manifest = None if before is None else read_manifest(LocalStore(place / before))
    return manifest.cells if manifest and name == "growth" else ()


def check_a_kill(forks, pyramid, place, store, name, number, when):
    catalog, options = begin(place, store, name)
    code, _ = forks.run(store, catalog, number, when, pyramid=True, **options)
    assert code in (0, KILLED)
    pyramid.assert_claims_nothing_false(store, cells_before(place, name))
    if name != "overwrite" and (store / ".magg" / "coarse.json").exists():
        build_pyramid(store)
        pyramid.assert_claims_nothing_false(store)
    then = {} if name != "overwrite" else {"overwrite": True}
    assert pyramid.small.run(store, **then)["cells_error"] == 0
    assert_complete(store, pyramid.small.cells)
    pyramid.assert_claims_nothing_false(store)
    return code == KILLED


def assert_like_undisturbed(pyramid, place, store, name):
    """Compare all coarser orders to the bit; appended cells stand elsewhere."""
    if name != "growth":
        assert values_of(store) == values_of(place / "all.zarr")


@pytest.mark.parametrize("name", SITUATIONS)
def test_after_a_kill_at_some_moments_no_order_claims_more_than_its_leaves(
    forks, pyramid, place, tmp_path, name
):
    store, rng = tmp_path / "s.zarr", Random(name)
    everywhere = moments(forks, place, store, name)
    # Cells are done and consolidated in the last part of a run.
    late = everywhere[len(everywhere) // 2 :]
    for moment in [*rng.sample(everywhere, 2), *rng.sample(late, 3)]:
        check_a_kill(forks, pyramid, place, store, name, *moment)
        assert_like_undisturbed(pyramid, place, store, name)


@pytest.mark.slow
@pytest.mark.parametrize("name", SITUATIONS)
def test_after_a_kill_at_any_moment_no_order_claims_more_than_its_leaves(
    forks, pyramid, place, tmp_path, name, record_property
):
    store = tmp_path / "s.zarr"
    everywhere = moments(forks, place, store, name)
    chosen = Random(name).sample(everywhere, 40) + everywhere[-90::2]
    kills = 0
    for moment in chosen:
        kills += check_a_kill(forks, pyramid, place, store, name, *moment)
        assert_like_undisturbed(pyramid, place, store, name)
    record_property("kills", kills)


@pytest.mark.parametrize("seed", range(2))
def test_a_run_that_is_killed_again_and_again_ends_in_the_undisturbed_store(
    forks, pyramid, place, tmp_path, seed
):
    store, rng = tmp_path / "s.zarr", Random(seed)
    code, kills = KILLED, 0
    while code != 0:
        moment = rng.randint(60, 400), rng.choice(WHEN)
        catalog = place / rng.choice(["older.json", "all.json"])
        code, _ = forks.run(store, catalog, *moment, pyramid=True)
        pyramid.assert_claims_nothing_false(store)
        kills += code == KILLED
        assert kills < 60
    assert pyramid.small.run(store)["cells_error"] == 0
    assert Catalog.load(place / "all.json").cells.keys() == pyramid.finished(store).keys()
    assert values_of(store) == values_of(place / "all.zarr")
