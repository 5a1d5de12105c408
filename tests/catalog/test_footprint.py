from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from orbits import gpolygon, outline, positions, simplified, true_words

from magg.catalog.footprint import footprints
from magg.grid import locate, prefixes
from magg.testing import Track
from magg.testing.tracks import ground_track

# Degrees along the orbit at which ATL06's fourteen regions begin and end.
EDGES = (0, 27, 59.5, 80, 100, 120.5, 153, 180, 207, 239.5, 260, 280, 300.5, 333, 360)


def cells(extent, order=6, **options):
    (found,) = footprints([extent], order, **options)
    return np.unique(prefixes(found.words, order)), found


@settings(max_examples=40, deadline=None)
@given(
    node=st.floats(-180, 180),
    region=st.integers(0, 13),
    vertices=st.sampled_from([2, 3, 5, 12, 0.02, 0.1, 0.5]),
    order=st.sampled_from([5, 6, 8]),
    representation=st.sampled_from(["GEODETIC", "CARTESIAN", ""]),
    turned=st.booleans(),
)
def test_no_cell_that_a_track_crosses_is_missed(
    node, region, vertices, order, representation, turned
):
    first, last = EDGES[region : region + 2]
    if vertices < 1:  # degrees by which vertices left out may be off the line
        ring = simplified(outline(node, first, last, 300), vertices)
    else:
        ring = outline(node, first, last, vertices)
    extent = gpolygon(ring[::-1] if turned else ring)
    found, footprint = cells(extent, order, representation=representation)
    true = np.unique(prefixes(true_words(node, first, last), order))
    assert footprint.kind == "polygon"
    assert not np.setdiff1d(true, found).size


@settings(max_examples=40, deadline=None)
@given(node=st.floats(-180, 180), region=st.integers(0, 13), model=st.booleans())
def test_no_cell_is_missed_where_only_the_orbit_is_known(node, region, model):
    first, last = EDGES[region : region + 2]
    ends = [float(positions(node, np.radians([u]))[0][0]) for u in (first, last)]
    ways = ["A" if u % 360 < 90 or u % 360 >= 270 else "D" for u in (first + 0.01, last - 0.01)]
    names = ("StartLatitude", "EndLatitude", "StartDirection", "EndDirection")
    orbit = {"AscendingCrossing": node, **dict(zip(names, [*ends, *ways], strict=True))}
    extent = {"HorizontalSpatialDomain": {"Orbit": orbit}}
    if model:
        extent = {"OrbitCalculatedSpatialDomains": [{"EquatorCrossingLongitude": node}]}
    found, footprint = cells(extent, short_name="ATL06")
    true = np.unique(prefixes(true_words(node, first, last), 6))
    assert footprint.kind == "orbit"
    assert not np.setdiff1d(true, found).size


@pytest.mark.parametrize("latitude", [-86.0, -70.0, 5.0, 88.0])
def test_no_cell_of_a_simulated_track_is_missed(latitude):
    track = Track(latitude, 177.0)
    along = np.linspace(-1e6, 1e6, 4_000)
    sides = [
        ground_track(track, along, np.full(along.size, across))[:2] for across in (-3345, 3345)
    ]
    true = np.unique(prefixes(np.concatenate([locate(*side) for side in sides]), 6))
    lat, lon = (np.r_[sides[0][n][::1333], sides[1][n][::1333][::-1]] for n in (0, 1))
    ring = np.column_stack([lon, lat])
    found, _ = cells(gpolygon(np.concatenate([ring, ring[:1]])))
    assert not np.setdiff1d(true, found).size


def test_what_lies_within_eight_kilometres_of_an_outline_is_in_a_cell():
    u = np.radians(np.arange(240, 260, 0.005))
    for node in (0.0, 75.0, 150.0):
        extent = gpolygon(outline(node, 240, 260, 200, half_km=0.1))
        found, _ = cells(extent, 9, representation="GEODETIC")
        for across in (-7.9, 7.9):
            words = locate(*positions(node, u, across))
            assert np.isin(prefixes(words, 9), found).all()


def test_a_track_that_bends_away_from_four_corners_is_not_missed():
    for node in range(-180, 180, 12):
        for first, last in ((27, 59.5), (120.5, 153), (207, 239.5)):
            extent = gpolygon(outline(node, first, last, 2))
            found, _ = cells(extent, 9, representation="GEODETIC")
            assert np.isin(prefixes(true_words(node, first, last), 9), found).all()


def test_few_cells_are_named_that_a_track_does_not_cross():
    rng, ratios = np.random.default_rng(0), []
    for _ in range(40):
        node, region = rng.uniform(-180, 180), rng.integers(14)
        first, last = EDGES[region : region + 2]
        true = np.unique(prefixes(true_words(node, first, last), 6))
        found, _ = cells(gpolygon(outline(node, first, last, 6)), representation="GEODETIC")
        ratios.append(found.size / true.size)
    assert np.mean(ratios) < 1.45
    assert np.max(ratios) < 1.7


def test_a_ring_that_is_not_closed_is_the_same_as_a_closed_one():
    ring = outline(30.0, 239.5, 260.0, 4)
    np.testing.assert_array_equal(cells(gpolygon(ring))[0], cells(gpolygon(ring[:-1]))[0])


def test_the_inside_of_a_wide_polygon_is_filled_but_not_its_holes():
    def boundary(west, south, east, north):
        corners = [(west, south), (east, south), (east, north), (west, north), (west, south)]
        return {"Points": [{"Longitude": lon, "Latitude": lat} for lon, lat in corners]}

    polygon = {
        "Boundary": boundary(0, 0, 30, 30),
        "ExclusiveZone": {"Boundaries": [boundary(10, 10, 20, 20)]},
    }
    extent = {"HorizontalSpatialDomain": {"Geometry": {"GPolygons": [polygon]}}}
    for representation in ("GEODETIC", "CARTESIAN"):
        found, _ = cells(extent, representation=representation)
        points = locate(np.array([5.0, 25.0, 15.0, 40.0]), np.array([5.0, 25.0, 15.0, 15.0]))
        assert np.isin(prefixes(points, 6), found).tolist() == [True, True, False, False]


@pytest.mark.parametrize("west", [-180, 0, 175])
def test_a_rectangle_follows_its_parallels(west):
    edges = {"West": west, "South": -88, "East": (west + 359.9 + 180) % 360 - 180, "North": -60}
    box = {f"{side}BoundingCoordinate": edge for side, edge in edges.items()}
    extent = {"HorizontalSpatialDomain": {"Geometry": {"BoundingRectangles": [box]}}}
    found, _ = cells(extent)
    lon = np.arange(0.0, 360.0, 1.0)
    for lat in (-60.0, -75.0, -87.9):
        assert np.isin(prefixes(locate(np.full(lon.size, lat), lon), 6), found).all()
    assert not np.isin(prefixes(locate(np.full(lon.size, -58.0), lon), 6), found).any()


def test_lines_and_points_are_padded_too():
    points = [{"Longitude": 10.0, "Latitude": 20.0}, {"Longitude": 11.0, "Latitude": 30.0}]
    line = {"HorizontalSpatialDomain": {"Geometry": {"Lines": [{"Points": points}]}}}
    dots = {"HorizontalSpatialDomain": {"Geometry": {"Points": points}}}
    of_line, of_dots = cells(line)[0], cells(dots)[0]
    assert 2 <= of_dots.size < of_line.size
    assert not np.setdiff1d(of_dots, of_line).size


@pytest.mark.parametrize(
    "extent",
    [
        None,
        {},
        {"HorizontalSpatialDomain": {}},
        {"HorizontalSpatialDomain": {"Geometry": {}}},
        {"HorizontalSpatialDomain": None, "OrbitCalculatedSpatialDomains": None},
    ],
)
def test_a_granule_of_which_nothing_is_known_says_so(extent):
    found = cells(extent, short_name="ATL06")[1]
    assert (found.kind, found.words.size, found.problem) == ("none", 0, "")


@pytest.mark.parametrize(
    "geometry",
    [
        {"GPolygons": [{}]},
        {"GPolygons": [{"Boundary": {"Points": []}}]},
        {"GPolygons": [{"Boundary": {"Points": [{"Longitude": "x", "Latitude": 0}] * 4}}]},
        {"GPolygons": [{"Boundary": {"Points": [{"Longitude": 0, "Latitude": 99}] * 4}}]},
        {"BoundingRectangles": [{"WestBoundingCoordinate": 0}]},
        {"GPolygons": "what"},
    ],
)
def test_a_malformed_footprint_is_said_to_be_one(geometry):
    found = cells({"HorizontalSpatialDomain": {"Geometry": geometry}})[1]
    assert found.kind == "none"
    assert "cannot be understood" in found.problem


def test_an_orbit_is_not_guessed_for_other_missions():
    orbit = {"OrbitCalculatedSpatialDomains": [{"EquatorCrossingLongitude": 0.0}]}
    assert cells(orbit, short_name="GLAH06")[1].kind == "none"


def test_granules_are_the_same_together_as_alone():
    extents = [gpolygon(outline(node, 100, 120, 4)) for node in (0.0, 50.0, 100.0)]
    extents.insert(1, None)
    together = footprints(extents, 6)
    for extent, found in zip(extents, together, strict=True):
        np.testing.assert_array_equal(found.words, footprints([extent], 6)[0].words)


@pytest.mark.parametrize("order", [0, 1, 11])
def test_any_order_of_cells_may_be_asked_for(order):
    ring = outline(30.0, 240, 241, 4)
    found, _ = cells(gpolygon(ring), order)
    assert np.isin(prefixes(true_words(30.0, 240, 241), order), found).all()
