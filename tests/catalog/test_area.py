from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from magg.catalog.area import area_of, inside
from magg.errors import CatalogError
from magg.grid import locate, prefixes

SQUARE = [[10, 50], [20, 50], [20, 60], [10, 60], [10, 50]]
HOLE = [[13, 53], [17, 53], [17, 57], [13, 57], [13, 53]]


def polygon(*rings):
    return {"type": "Polygon", "coordinates": list(rings)}


def holds(area, lon, lat, order=6):
    words = locate(np.array([lat], float), np.array([lon], float) % 360)
    return bool(np.isin(prefixes(words, order), prefixes(area.cells(order), order))[0])


def same(one, other, order=6):
    return np.array_equal(one.cells(order), other.cells(order))


def test_the_order_of_a_ring_does_not_matter():
    assert same(area_of(polygon(SQUARE)), area_of(polygon(SQUARE[::-1])))


def test_a_hole_is_left_out_whichever_way_it_turns():
    for hole in (HOLE, HOLE[::-1]):
        area = area_of(polygon(SQUARE, hole))
        assert not holds(area, 15, 55)
        assert holds(area, 11.5, 55)


def test_whatever_wraps_polygons_their_union_is_meant():
    there = [[[lon + 90, lat] for lon, lat in SQUARE]]
    multi = {"type": "MultiPolygon", "coordinates": [[SQUARE], there]}
    features = [
        {"type": "Feature", "properties": {}, "geometry": polygon(SQUARE)},
        {"type": "Feature", "properties": None, "geometry": polygon(*there)},
    ]
    collection = {"type": "FeatureCollection", "features": features}
    geometries = {"type": "GeometryCollection", "geometries": [polygon(SQUARE), polygon(*there)]}
    assert same(area_of(multi), area_of(collection))
    assert same(area_of(multi), area_of(geometries))
    assert same(area_of(features[0]), area_of(polygon(SQUARE)))


def test_a_file_and_an_object_of_another_package_are_understood(tmp_path):
    class Shape:
        __geo_interface__ = polygon(SQUARE)

    path = tmp_path / "area.geojson"
    path.write_text(json.dumps(polygon(SQUARE)))
    assert same(area_of(path), area_of(Shape()))
    assert same(area_of(str(path)), area_of(polygon(SQUARE)))


@pytest.mark.parametrize("order", [2, 5, 7])
def test_a_box_across_the_antimeridian_is_small(order):
    across = area_of(bbox=(170, -20, -170, 20))
    assert same(across, area_of(bbox=(170, -20, 190, 20)), order)
    cut = {
        "type": "MultiPolygon",
        "coordinates": [
            [[[170, -20], [180, -20], [180, 20], [170, 20], [170, -20]]],
            [[[-180, -20], [-170, -20], [-170, 20], [-180, 20], [-180, -20]]],
        ],
    }
    assert same(across, area_of(cut), order)
    jumping = polygon([[170, -20], [-170, -20], [-170, 20], [170, 20], [170, -20]])
    assert same(across, area_of(jumping), order)
    assert holds(across, 180, 0, order)
    assert not holds(across, 0, 0, order)


@pytest.mark.parametrize(
    "area",
    [
        {"bbox": (-180, -90, 180, -60)},
        {"polygon": polygon([[-180, -90], [180, -90], [180, -60], [-180, -60], [-180, -90]])},
        {"polygon": polygon([[-180, -60], [-60, -60], [60, -60], [180, -60]])},
        {"polygon": polygon([[0, -60], [120, -60], [-120, -60], [0, -60]])},
        {"polygon": polygon([[0, -60], [-120, -60], [120, -60], [0, -60]])},
    ],
)
def test_a_whole_pole_is_inside_however_it_is_drawn(area):
    found = area_of(**area)
    expected = 12 * 4**6 * (1 - np.sin(np.radians(60))) / 2
    assert expected <= len(found.cells(6)) < 1.06 * expected
    for lon in range(-180, 180, 30):
        assert holds(found, lon, -89.9)
        assert holds(found, lon, -61)
        assert not holds(found, lon, -57)


@settings(max_examples=60, deadline=None)
@given(
    st.floats(-180, 179),
    st.floats(-88, 80),
    st.floats(0.5, 300),
    st.floats(0.5, 8),
    st.integers(3, 7),
    st.integers(0, 2**32 - 1),
)
def test_every_point_of_a_box_is_in_a_cell_of_it(west, south, width, height, order, seed):
    area = area_of(bbox=(west, south, (west + width + 180) % 360 - 180, south + height))
    rng = np.random.default_rng(seed)
    lon, lat = west + rng.uniform(0, width, 300), south + rng.uniform(0, height, 300)
    words = locate(lat, lon % 360)
    chosen = prefixes(area.cells(order), order)
    found = np.isin(prefixes(words, order), chosen)
    # A corner of a cell, less than a sixteenth of its side, may be missed.
    near = np.isin(prefixes(words[~found], order - 1), np.unique(chosen >> np.uint64(2)))
    assert found.mean() > 0.97
    assert near.all()


def test_boxes_for_a_search_hold_the_area():
    assert area_of("antarctica").boxes() == [(-180.0, -90.0, 180.0, -60.0)]
    ((west, south, east, north),) = area_of(bbox=(175, 60, -175, 70)).boxes(0.5)
    assert (south, north) == (59.5, 70.5)
    assert west == pytest.approx(175 - 0.5 / np.cos(np.radians(70.5)))
    assert east == pytest.approx(-175 + 0.5 / np.cos(np.radians(70.5)))


# Stations and capes on the ice or its coast.
ANTARCTIC = {
    "McMurdo": (166.7, -77.9), "Casey": (110.5, -66.3), "Mawson": (62.9, -67.6),
    "Davis": (78.0, -68.6), "Rothera": (-68.1, -67.6), "Esperanza": (-57.0, -63.4),
    "Halley": (-26.0, -75.6), "Neumayer": (-8.3, -70.7), "Dumont d'Urville": (140.0, -66.7),
    "Mirny": (93.0, -66.6), "Palmer": (-64.1, -64.8), "Cape Adare": (170.2, -71.3),
    "Thurston Island": (-99.0, -72.1), "Charcot Island": (-75.0, -69.8), "Pole": (0.0, -90.0),
    "King George Island": (-58.6, -62.1), "Shackleton Ice Shelf": (97.0, -65.0),
    "Ross Ice Shelf": (-175.0, -78.4), "Larsen C": (-61.0, -67.5), "Syowa": (39.6, -69.0),
}  # fmt: skip
GREENLAND = {
    "Nuuk": (-51.7, 64.2), "Cape Farewell": (-43.9, 59.8), "Tasiilaq": (-37.6, 65.6),
    "Ittoqqortoormiit": (-22.0, 70.5), "Cape Morris Jesup": (-33.4, 83.6),
    "Nordostrundingen": (-11.5, 81.4), "Pituffik": (-68.7, 76.5), "Cape Alexander": (-73.1, 78.2),
    "Qaanaaq": (-69.2, 77.5), "Upernavik": (-56.1, 72.8), "Disko": (-54.9, 69.7),
    "Summit": (-38.5, 72.6), "Danmarkshavn": (-18.7, 76.8), "Hall Land": (-61.0, 81.7),
}  # fmt: skip


@pytest.mark.parametrize(("name", "places"), [("antarctica", ANTARCTIC), ("greenland", GREENLAND)])
def test_named_areas_hold_known_places(name, places):
    area = area_of(name)
    (rings,) = area.polygons
    lon, lat = np.array(list(places.values())).T
    missing = np.array(list(places))[~inside(rings, lon, np.maximum(lat, -89.99))]
    assert not missing.size
    assert not holds(area, -150, 0)
    assert not holds(area, -82, 80)  # Ellesmere Island
    assert not holds(area, -64, -55)  # Tierra del Fuego


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"polygon": "atlantis"}, "no file 'atlantis'; named areas are 'antarctica' and"),
        ({"polygon": {"type": "Point", "coordinates": [0, 0]}}, "not Point"),
        ({"polygon": {"type": "FeatureCollection", "features": []}}, "holds no polygon"),
        ({"polygon": {"type": "Polygon"}}, "not valid GeoJSON"),
        ({"polygon": polygon([[0, 0], [1, 1]])}, "at least three"),
        ({"polygon": polygon([[50, 120], [51, 120], [50, 121]])}, "in this order"),
        ({"polygon": polygon([[0, 0], [1, float("nan")], [1, 0]])}, "at least three"),
        ({"polygon": 3}, "not int"),
        ({"bbox": (0, 10, 10, 0)}, "south must be less than north"),
        ({"bbox": (0, 0, 10)}, "west, south, east, north"),
        ({"bbox": "0,0,1,1"}, "west, south, east, north"),
    ],
)
def test_what_is_no_area_is_refused(arguments, words):
    with pytest.raises(CatalogError, match=words):
        area_of(**arguments)
