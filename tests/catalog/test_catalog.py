from __future__ import annotations

import json

import h5py
import numpy as np
import pytest
from healpix_geo.nested import lonlat_to_healpix

from magg import Catalog
from magg.errors import CatalogError, GranuleError, UnknownCellError
from magg.grid import nested_ids
from magg.testing import Track, simulate_granule

# As the first version of magg wrote them.
FIRST_VERSION = {
    "metadata": {"parent_order": 6, "total_cells": 2, "short_name": "ATL06", "cycle": 22},
    "catalog": {
        "-6134114": ["s3://bucket/a.h5", "s3://bucket/b.h5"],
        "-6134113": ["s3://bucket/b.h5"],
    },
}


def write(tmp_path, document):
    path = tmp_path / "catalog.json"
    path.write_text(document if isinstance(document, str) else json.dumps(document))
    return path


def cells_by_healpix(granules, order):
    found = {}
    for granule in granules:
        with h5py.File(granule) as file:
            for beam in file:
                if f"{beam}/land_ice_segments/latitude" not in file:
                    continue
                group = file[f"{beam}/land_ice_segments"]
                ids = lonlat_to_healpix(
                    group["longitude"][:], group["latitude"][:], order, ellipsoid="WGS84"
                )
                for cell in np.unique(ids):
                    found.setdefault(int(cell), set()).add(str(granule))
    return found


def by_id(catalog):
    ids = nested_ids(catalog.words, catalog.parent_order)
    return {int(i): set(g) for i, g in zip(ids, catalog.cells.values(), strict=True)}


def test_a_catalog_of_the_first_version_loads(tmp_path):
    catalog = Catalog.load(write(tmp_path, FIRST_VERSION))
    assert catalog.parent_order == 6
    assert list(catalog.cells) == ["-6134113", "-6134114"]
    assert catalog.granules == ("s3://bucket/a.h5", "s3://bucket/b.h5")
    assert catalog.metadata["cycle"] == 22


@pytest.mark.parametrize("order", [4, 6, 8])
def test_files_are_cataloged_by_where_their_rows_are(region, order):
    catalog = Catalog.from_files(region, parent_order=order)
    assert by_id(catalog) == cells_by_healpix(region, order)


def test_real_files_are_cataloged_by_where_their_rows_are(real_granules):
    assert by_id(Catalog.from_files(real_granules)) == cells_by_healpix(real_granules, 6)


def test_a_folder_stands_for_its_granules(region):
    assert Catalog.from_files(region[0].parent).cells == Catalog.from_files(region).cells


def test_saving_and_loading_gives_the_same_catalog(catalog, tmp_path):
    again = Catalog.load(catalog.save(tmp_path / "new" / "catalog.json"))
    assert again == catalog
    assert again.digest == catalog.digest


def test_cells_stand_in_morton_order_whatever_the_order_in_the_file(catalog):
    backwards = dict(reversed([(c, tuple(reversed(g))) for c, g in catalog.cells.items()]))
    again = Catalog(catalog.parent_order, backwards)
    assert list(again.cells.items()) == list(catalog.cells.items())
    assert again.digest == catalog.digest
    assert (np.diff(again.words) > 0).all()


def test_units_of_the_source_are_kept(catalog):
    assert catalog.metadata["variables"]["h_li"]["units"] == "meters"


@pytest.mark.parametrize(
    ("document", "words"),
    [
        ("not json {", "is not JSON"),
        ([1, 2], "'metadata' and 'catalog'"),
        ({"catalog": {"-6134114": ["a"]}}, "'metadata' is missing"),
        ({"metadata": {"parent_order": 6}}, "'catalog' is missing"),
        ({"metadata": {}, "catalog": {"-6134114": ["a"]}}, "parent_order is missing"),
        ({"metadata": {"parent_order": "6"}, "catalog": {}}, "parent_order is missing or not"),
        ({"metadata": {"parent_order": 99}, "catalog": {}}, "between 0 and 27"),
        ({"metadata": {"parent_order": 6}, "catalog": {}}, "holds no cell"),
        (
            {"metadata": {"parent_order": 6}, "catalog": {"-613411": ["a"]}},
            "order 5, where order 6",
        ),
        (
            {"metadata": {"parent_order": 6}, "catalog": {"9134114": ["a"]}},
            "not a decimal Morton id",
        ),
        ({"metadata": {"parent_order": 6}, "catalog": {"-6134114": []}}, "has no granule"),
        ({"metadata": {"parent_order": 6}, "catalog": {"-6134114": "a"}}, "must be a list"),
        ({"metadata": {"parent_order": 6}, "catalog": {"-6134114": [3]}}, "path or URL"),
        (
            {"metadata": {"parent_order": 6}, "catalog": {"-6134114": ["a", "b", "a"]}},
            "names granule a twice",
        ),
        (
            {"metadata": {"parent_order": 6, "total_cells": 7}, "catalog": {"-6134114": ["a"]}},
            "total_cells is 7, but there are 1",
        ),
        (
            '{"metadata": {"parent_order": 6}, "catalog": {"-6134114": ["a"], "-6134114": ["b"]}}',
            "'-6134114' stands twice",
        ),
    ],
)
def test_a_wrong_catalog_is_refused_by_name(tmp_path, document, words):
    path = write(tmp_path, document)
    with pytest.raises(CatalogError, match=r"catalog\.json") as caught:
        Catalog.load(path)
    assert words in str(caught.value)


def test_all_problems_of_a_catalog_are_listed_together():
    with pytest.raises(CatalogError) as caught:
        Catalog(6, {"abc": ("a",), "-6134114": ("a", "a"), "-6134113": ()})
    assert str(caught.value).count("\n") == 3


def test_a_missing_catalog_is_a_file_not_found(tmp_path):
    with pytest.raises(FileNotFoundError, match="no catalog at"):
        Catalog.load(tmp_path / "none.json")


def test_an_unknown_cell_names_near_ones():
    catalog = Catalog(6, {"-6134114": ("a",), "-6134113": ("a",), "1111111": ("a",)})
    with pytest.raises(UnknownCellError, match=r"the nearest are -613411[34] \(\d+ km\)"):
        catalog.select("-6134112")


def test_an_impossible_cell_says_what_a_cell_looks_like(catalog):
    with pytest.raises(UnknownCellError, match="order 5, where order 6"):
        catalog.select("-613411")


def test_no_granule_is_an_error(tmp_path):
    with pytest.raises(CatalogError, match="no granule was given"):
        Catalog.from_files(tmp_path)


def test_a_granule_given_twice_is_an_error(region):
    with pytest.raises(CatalogError, match="given twice"):
        Catalog.from_files([region[0], region[0]])


def test_an_unreadable_granule_is_named(region, tmp_path):
    bad = tmp_path / "bad.h5"
    bad.write_bytes(region[0].read_bytes()[:5_000])
    with pytest.raises(GranuleError, match=r"bad\.h5"):
        Catalog.from_files([region[0], bad])


def test_granules_without_any_row_are_an_error_together_and_noted_beside_others(region, tmp_path):
    empty = tmp_path / "empty.h5"
    simulate_granule(empty, Track(-75.5, -101.0, segments=0), beams=["gt1l"])
    with pytest.raises(CatalogError, match="none of the 1 granules"):
        Catalog.from_files([empty])
    both = Catalog.from_files([region[0], empty])
    assert both.metadata["granules_without_rows"] == [str(empty)]
