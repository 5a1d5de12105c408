from __future__ import annotations

import numpy as np
import pytest
from healpix_geo.nested import lonlat_to_healpix
from hypothesis import given
from hypothesis import strategies as st

from magg import grid
from magg.errors import GridError
from magg.grid import Grid

POINTS = st.lists(
    st.tuples(
        st.one_of(st.sampled_from([-90.0, 90.0, 0.0, -0.0, 41.8103]), st.floats(-90, 90)),
        st.one_of(st.sampled_from([-180.0, 180.0, 0.0, 360.0, 90.0]), st.floats(-180, 360)),
    ),
    min_size=1,
    max_size=50,
)


def everywhere(n, seed=0):
    rng = np.random.default_rng(seed)
    lat = np.degrees(np.arcsin(rng.uniform(-1, 1, n)))
    return lat, rng.uniform(-180, 180, n)


@pytest.mark.parametrize("order", [0, 3, 6, 12, 18])
def test_cells_are_those_of_healpix_on_the_wgs84_ellipsoid(order):
    lat, lon = everywhere(200_000)
    words = grid.locate(lat, lon)
    expected = lonlat_to_healpix(lon, lat, order, ellipsoid="WGS84")
    np.testing.assert_array_equal(grid.nested_ids(words, order), expected)


@given(POINTS)
def test_cells_are_those_of_healpix_at_poles_and_seams_too(points):
    lat, lon = np.array(points).T
    expected = lonlat_to_healpix(lon % 360.0, lat, 12, ellipsoid="WGS84")
    np.testing.assert_array_equal(grid.nested_ids(grid.locate(lat, lon), 12), expected)


@pytest.mark.parametrize(
    ("lat", "lon"),
    [(np.nan, 0), (0, np.nan), (np.inf, 0), (0, -np.inf), (90.001, 0), (-91, 0), (0, 360.1),
     (0, -180.1), (0, 1e300), (1e300, 1e300)],
)  # fmt: skip
def test_points_off_the_earth_are_in_no_cell(lat, lon):
    words = grid.locate([lat, -75.0], [lon, 10.0])
    assert words[0] == 0
    assert words[1] == grid.locate([-75.0], [10.0])[0]


def test_the_two_sides_of_the_antimeridian_are_one_meridian():
    assert grid.locate([-75.0], [180.0]) == grid.locate([-75.0], [-180.0])


@given(POINTS, st.integers(0, 12), st.integers(0, 8))
def test_parent_and_child_of_a_point_agree(points, parent_order, between):
    cells = Grid(parent_order, parent_order + between)
    words = grid.locate(*np.array(points).T)
    parents = grid.nested_ids(words, cells.parent_order)
    index = grid.child_indices(words, cells)
    assert index.max() < cells.children
    np.testing.assert_array_equal(
        parents * np.uint64(cells.children) + index, grid.nested_ids(words, cells.child_order)
    )


def test_child_indices_use_the_smallest_type_that_holds_them():
    words = grid.locate([-75.0], [10.0])
    assert grid.child_indices(words, Grid(6, 14)).dtype == np.uint16
    assert grid.child_indices(words, Grid(6, 15)).dtype == np.uint32


def test_decimal_ids_and_words_are_two_forms_of_one_cell():
    word = grid.from_decimal("-6134114")
    assert grid.to_decimal(word) == "-6134114"
    assert grid.words_of(grid.nested_ids(np.array([word], np.uint64), 6), 6)[0] == word


@pytest.mark.parametrize("cell", ["", "abc", "7134114", "-6134119", "--6134114", "6 134114", "-"])
def test_a_malformed_id_is_an_error_that_shows_a_right_one(cell):
    with pytest.raises(GridError, match="-6134114"):
        grid.from_decimal(cell)


def test_an_id_of_another_order_is_an_error_that_names_both():
    with pytest.raises(GridError, match="order 6, where order 5"):
        grid.from_decimal("-6134114", 5)


@pytest.mark.parametrize(
    ("orders", "word"),
    [((-1, 5), "parent_order"), ((6, 28), "child_order"), ((7, 6), "coarser"), ((0, 12), "raise")],
)
def test_impossible_orders_are_refused(orders, word):
    with pytest.raises(GridError, match=word):
        Grid(*orders)


def test_children_of_parents_are_contiguous_and_complete():
    parents = np.unique(grid.words_of([5, 9, 40_000], 6))
    ids = grid.children_of(parents, Grid(6, 8))
    assert ids.shape == (3 * 16,)
    assert (np.diff(ids) > 0).all()
    np.testing.assert_array_equal(np.unique(ids >> np.uint64(4)), [5, 9, 40_000])


def test_cell_centres_lie_in_their_cells():
    lat, lon = everywhere(2_000, seed=1)
    words = grid.words_of(np.unique(grid.nested_ids(grid.locate(lat, lon), 12)), 12)
    again = grid.locate(*grid.centres(words))
    np.testing.assert_array_equal(grid.prefixes(again, 12), grid.prefixes(words, 12))


def test_separation_is_the_great_circle_angle():
    np.testing.assert_allclose(grid.separation(0, 0, 0, 90), 90)
    np.testing.assert_allclose(grid.separation(90, 17, -90, -33), 180)
    np.testing.assert_allclose(
        grid.separation(-75, 179.9, -75, -179.9), 0.2 * np.cos(np.radians(75)), rtol=1e-5
    )


@given(POINTS, st.integers(0, 27))
def test_the_latitudes_of_a_cell_hold_every_point_in_it(points, order):
    lat, lon = np.array(points).T
    words = grid.words_of(grid.nested_ids(grid.locate(lat, lon), order), order)
    for latitude, word in zip(lat, words, strict=True):
        south, north = grid.latitudes_of(int(word), order)
        assert south <= latitude <= north


def test_the_latitudes_of_a_cell_go_little_beyond_it():
    lat, lon = everywhere(300_000)
    ids = grid.nested_ids(grid.locate(lat, lon), 3)
    words = grid.words_of(ids, 3)
    for word in np.unique(words)[::40]:
        inside = lat[words == word]
        south, north = grid.latitudes_of(int(word), 3)
        assert south < inside.min()
        assert inside.max() < north
        assert north - south < 1.25 * np.ptp(inside) + 0.5
