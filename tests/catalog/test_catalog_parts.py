"""Catalogs as files of version 2, and what is cut out of them and put together."""

from __future__ import annotations

import json
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from magg import Catalog
from magg.catalog import GranuleInfo
from magg.errors import CatalogError
from magg.grid import locate, nested_ids, to_decimal, words_of

CELLS = ["-6134111", "-6134112", "-6134113", "-6134114", "1111111"]
HERE, THERE = "s3://bucket/2019/04/16/", "https://data.test/bucket/2019/04/16/"


def granule(number, day=16):
    name = f"{HERE}g{number}.h5"
    times = f"2019-04-{day:02d}T10:00:00Z", f"2019-04-{day:02d}T10:05:00Z"
    return name, GranuleInfo(f"{THERE}g{number}.h5", *times)


def catalog_of(cells, **metadata):
    """Return a catalog of cells with numbered granules; granule n is of day n."""
    info = dict(granule(n, 1 + n) for numbers in cells.values() for n in numbers)
    found = {cell: tuple(granule(n)[0] for n in numbers) for cell, numbers in cells.items()}
    return Catalog(6, found, metadata, info)


catalogs = st.builds(
    catalog_of,
    st.dictionaries(
        st.sampled_from(CELLS),
        st.lists(st.integers(0, 9), min_size=1, max_size=5, unique=True),
        min_size=1,
    ),
    cycle=st.integers(1, 3),
    s3_credentials=st.just({"bucket": {"endpoint": "e"}}),
)


@settings(max_examples=50, deadline=None)
@given(catalogs)
def test_saving_and_loading_keeps_everything(tmp_path_factory, catalog):
    again = Catalog.load(catalog.save(tmp_path_factory.mktemp("catalog") / "c.json"))
    assert again == catalog
    assert again.info == catalog.info
    assert again.digest == catalog.digest


def test_each_granule_is_written_once(tmp_path):
    catalog = catalog_of({cell: range(10) for cell in CELLS})
    text = catalog.save(tmp_path / "c.json").read_text()
    assert text.count("g7.h5") == 1
    assert text.count(HERE) == text.count(THERE) == 1
    document = json.loads(text)
    assert document["version"] == 2
    assert document["catalog"][CELLS[0]] == list(range(10))


def test_links_of_another_shape_and_local_paths_are_kept_as_they_are(tmp_path):
    info = {"s3://b/x.h5": GranuleInfo("https://h/other-name.h5"), "https://h/y.h5": GranuleInfo()}
    names = ("s3://b/x.h5", "https://h/y.h5", "/data/a b.h5", "plain.h5")
    catalog = Catalog(6, {CELLS[0]: names}, {}, {"s3://b/x.h5": info["s3://b/x.h5"]})
    again = Catalog.load(catalog.save(tmp_path / "c.json"))
    assert again.granules == tuple(sorted(names))
    assert again.info == catalog.info


def test_a_catalog_of_a_later_version_is_refused_by_its_version(tmp_path):
    path = tmp_path / "c.json"
    path.write_text(json.dumps({"version": 3, "metadata": {"parent_order": 6}, "catalog": {}}))
    with pytest.raises(CatalogError, match=r"version 3, and this magg reads up to 2; update magg"):
        Catalog.load(path)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"catalog": {CELLS[0]: [99]}}, "names a granule that is not there"),
        ({"catalog": {CELLS[0]: [-1]}}, "names a granule that is not there"),
        ({"catalog": {CELLS[0]: [True]}}, "names a granule that is not there"),
        ({"catalog": {CELLS[0]: ["g1"]}}, "names a granule that is not there"),
        ({"granules": [[0, "a"], [5, "b"]]}, "do not make sense after 1 granules"),
        ({"granules": [["a"]]}, "do not make sense after 0 granules"),
        ({"folders": [["a"]]}, "do not make sense"),
        ({"granules": None}, "do not make sense"),
    ],
)
def test_a_damaged_catalog_is_refused(tmp_path, change, words):
    path = catalog_of({CELLS[0]: [1, 2]}).save(tmp_path / "c.json")
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(CatalogError, match=words):
        Catalog.load(path)


def test_a_hundred_thousand_pairs_load_quickly_and_stay_small(tmp_path):
    cells = [to_decimal(word) for word in words_of(range(40_000, 41_000), 6)]
    names = [f"{HERE}ATL06_20190416093911_{n:04d}0311_007_01.h5" for n in range(4_000)]
    info = {name: GranuleInfo(name.replace(HERE, THERE), "2019-04-16", "x") for name in names}
    found = {cell: tuple(names[n * 7 % 40 :: 40]) for n, cell in enumerate(cells)}
    catalog = Catalog(6, found, {}, info)
    assert catalog.summary()["pairs"] == 100_000
    path = catalog.save(tmp_path / "c.json")
    assert path.stat().st_size < 1_500_000
    began = time.process_time()
    assert len(Catalog.load(path).granules) == 4_000
    assert time.process_time() - began < 5  # a fifth of a second where nothing else runs


@settings(max_examples=50, deadline=None)
@given(catalogs, catalogs, catalogs)
def test_merging_is_associative_commutative_and_idempotent(one, two, three):
    assert one.merge(two).merge(three) == one.merge(two.merge(three)) == one.merge(two, three)
    assert one.merge(two) == two.merge(one)
    assert one.merge(one) == one


def test_merging_names_every_granule_of_both():
    both = catalog_of({CELLS[0]: [1], CELLS[1]: [1, 2]}, cycle=1).merge(
        catalog_of({CELLS[1]: [2, 3]}, cycle=2)
    )
    names = {cell: [name[-4] for name in found] for cell, found in both.cells.items()}
    assert names == {CELLS[0]: ["1"], CELLS[1]: ["1", "2", "3"]}
    assert both.metadata["cycle"] == [1, 2]
    assert set(both.info) == set(both.granules)


def test_catalogs_of_different_orders_are_not_merged():
    with pytest.raises(CatalogError, match="parent orders 6 and 5 cannot be merged"):
        catalog_of({CELLS[0]: [1]}).merge(Catalog(5, {"-613411": ("a",)}))


def test_a_subset_by_cells_keeps_those_alone():
    catalog = catalog_of({CELLS[0]: [1], CELLS[1]: [2]})
    part = catalog.subset(cells=[CELLS[1]])
    assert list(part.cells) == [CELLS[1]]
    assert list(part.info) == [granule(2)[0]]
    with pytest.raises(CatalogError, match="not in the catalog"):
        catalog.subset(cells=["-6134121"])


def test_a_subset_by_polygon_keeps_the_cells_that_it_touches():
    places = locate(np.array([-75.0, -85.0]), np.array([259.0, 10.0]))
    one, two = (to_decimal(word) for word in words_of(nested_ids(places, 6), 6))
    catalog = catalog_of({one: [1], two: [2]})
    ring = [[-102, -76], [-100, -76], [-100, -74], [-102, -74], [-102, -76]]
    assert list(catalog.subset({"type": "Polygon", "coordinates": [ring]}).cells) == [one]
    assert catalog.subset("antarctica") == catalog
    with pytest.raises(CatalogError, match="nothing of the catalog is left"):
        catalog.subset("greenland")


@pytest.mark.parametrize(
    ("dates", "kept"),
    [
        (("2019-04-02", "2019-04-03"), [1, 2]),
        (("2019-04-03T10:04:00Z", "2019-04-03T10:04:30Z"), [2]),
        (("2019-04-03T10:06:00Z", "2019-04-04"), [3]),
    ],
)
def test_a_subset_by_dates_keeps_what_was_measured_then(dates, kept):
    catalog = catalog_of({CELLS[0]: [1, 2, 3], CELLS[1]: [0]})
    part = catalog.subset(dates=dates)
    assert part.granules == tuple(granule(n)[0] for n in kept)
    assert list(part.cells) == [CELLS[0]]


def test_dates_that_a_catalog_does_not_know_are_not_guessed(catalog):
    with pytest.raises(CatalogError, match="does not know when it was measured"):
        catalog.subset(dates=("2019-01-01", "2020-01-01"))


def test_a_summary_counts_and_dates_what_is_there():
    told = catalog_of({CELLS[0]: [1, 2, 3], CELLS[1]: [3]}, short_name="ATL06").summary()
    assert told == {
        "parent_order": 6,
        "cells": 2,
        "granules": 3,
        "pairs": 4,
        "granules_per_cell_min": 1,
        "granules_per_cell_mean": 2.0,
        "granules_per_cell_max": 3,
        "first": "2019-04-02T10:00:00Z",
        "last": "2019-04-04T10:05:00Z",
        "s3_links": 3,
        "https_links": 3,
        "short_name": "ATL06",
    }


def test_a_map_shows_how_many_granules_each_cell_has(tmp_path):
    pytest.importorskip("matplotlib")
    from magg.maps import plot_catalog

    catalog = catalog_of({CELLS[0]: [1, 2, 3], CELLS[1]: [3]}, short_name="ATL06")
    figure = plot_catalog(catalog, tmp_path / "map.png")
    assert (tmp_path / "map.png").stat().st_size > 5_000
    drawn = next(iter(figure.axes[0].collections)).get_array()
    assert sorted(drawn.tolist()) == [1.0, 3.0]
    assert "ATL06 granules per cell of order 6" in [text.get_text() for text in figure.texts]
