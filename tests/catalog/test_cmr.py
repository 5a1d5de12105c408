from __future__ import annotations

import numpy as np
import pytest
from orbits import gpolygon, outline, positions, true_words
from services.earthdata import BUCKET, CMR, DATA, Answer, umm_collection, umm_granule

from magg import Catalog
from magg.catalog.cmr import cycle_dates
from magg.errors import CatalogError, EarthdataError
from magg.grid import from_decimal, prefixes

TRACKS = [(node, 239.5, 260.0) for node in (10.0, -65.0, 140.0, 171.0)]


def name_of(number, cycle=3):
    return f"ATL06_20190416093911_{number:04d}{cycle:02d}11_007_01.h5"


@pytest.fixture
def tracks(earthdata):
    for number, track in enumerate(TRACKS, 1):
        ring = outline(*track, vertices=5)
        earthdata.granules.append(umm_granule(name_of(number), gpolygon(ring)))
    return earthdata


def test_every_cell_that_a_track_crosses_names_its_granule(tracks):
    catalog = Catalog.from_cmr("ATL06", version="007", polygon="antarctica")
    names = {cell: {g.rpartition("/")[2] for g in found} for cell, found in catalog.cells.items()}
    inside = {from_decimal(cell) >> 48: found for cell, found in names.items()}
    everywhere = Catalog.from_cmr("ATL06")
    assert set(everywhere.cells) > set(catalog.cells)
    for number, track in enumerate(TRACKS, 1):
        for prefix in np.unique(prefixes(true_words(*track), 6)).tolist():
            if prefix in inside:
                assert name_of(number) in inside[prefix]


@pytest.mark.parametrize("order", [4, 6])
def test_a_cell_at_the_edge_of_an_area_has_all_granules_that_cross_it(earthdata, order):
    for number in range(1, 60):
        ring = outline(number / 2 - 3, 239.5, 260.0, vertices=9)
        earthdata.granules.append(umm_granule(name_of(number), gpolygon(ring)))
    everywhere = Catalog.from_cmr("ATL06", parent_order=order)
    lat, lon = positions(12.0, np.radians(np.array([250.0])))
    box = (float(lon[0]) - 0.1, float(lat[0]) - 0.05, float(lon[0]) + 0.1, float(lat[0]) + 0.05)
    part = Catalog.from_cmr("ATL06", parent_order=order, bbox=box)
    assert len(part.granules) < 59
    for cell, granules in part.cells.items():
        assert granules == everywhere.cells[cell]


def test_a_granule_keeps_both_links_and_its_time(tracks):
    catalog = Catalog.from_cmr("ATL06")
    granule = f"s3://{BUCKET}/ATLAS/ATL06/007/{name_of(1)}"
    assert granule in catalog.granules
    known = catalog.info[granule]
    assert known.https == f"https://{DATA}/{BUCKET}/ATLAS/ATL06/007/{name_of(1)}"
    assert (known.start, known.end) == ("2019-04-16T09:39:11Z", "2019-04-16T09:44:40Z")
    endpoint = {"endpoint": f"https://{DATA}/s3credentials", "region": "us-west-2"}
    assert catalog.metadata["s3_credentials"] == {BUCKET: endpoint}


def test_a_search_is_paged_to_its_end(earthdata):
    ring = gpolygon(outline(*TRACKS[0], vertices=4))
    earthdata.granules = [umm_granule(f"{n}_{name_of(1)}", ring) for n in range(2_100)]
    assert len(Catalog.from_cmr("ATL06", parent_order=3).granules) == 2_100
    searches = earthdata.requests_to(CMR, "/search/granules")
    pages = [one for one in searches if ("page_size", "2000") in one.query]
    assert ["cmr-search-after" in page.headers for page in pages] == [False, True]


def test_a_cycle_is_searched_by_dates_and_told_by_names(earthdata):
    ring = gpolygon(outline(*TRACKS[0], vertices=4))
    for cycle, day in ((2, "2019-03-28"), (3, "2019-03-30"), (4, "2019-06-28")):
        time = f"{day}T00:10:00.000Z"
        earthdata.granules.append(umm_granule(name_of(9, cycle), ring, start=time, end=time))
    catalog = Catalog.from_cmr("ATL06", cycle=3)
    assert [granule.rpartition("/")[2] for granule in catalog.granules] == [name_of(9, 3)]
    assert catalog.metadata["cycle"] == 3


@pytest.mark.parametrize(
    ("cycle", "day"),  # of real granules: ATL06_20181014001049_0235 01, ...1202203649_1022 05
    [(1, "2018-10-14T00:10"), (5, "2019-12-02T20:36"), (22, "2023-12-18T00:00")],
)
def test_the_dates_of_a_cycle_hold_granules_of_that_cycle(cycle, day):
    first, last = cycle_dates(cycle)
    assert first.isoformat()[:16] < day < last.isoformat()[:16]
    assert (last - first).days < 100


@pytest.mark.filterwarnings("error::FutureWarning")
def test_a_search_warns_of_nothing_that_earthaccess_does_itself(tracks):
    assert Catalog.from_cmr("ATL06", start_date="2018-01-01", end_date="2030-01-01").granules


def test_dates_include_their_last_day(tracks):
    assert len(Catalog.from_cmr("ATL06", start_date="2019-04-16", end_date="2019-04-16")) > 10
    with pytest.raises(CatalogError, match="no granule of ATL06 007 at that time"):
        Catalog.from_cmr("ATL06", start_date="2019-04-17", end_date="2021-01-01")


def test_the_newest_version_is_taken_unless_one_is_named(tracks):
    tracks.collections.insert(0, umm_collection("006", "C1-NSIDC_CPRD"))
    assert Catalog.from_cmr("ATL06").metadata["version"] == "007"
    with pytest.raises(CatalogError, match="no granule of ATL06 006"):
        Catalog.from_cmr("ATL06", version="6")
    with pytest.raises(CatalogError, match="no version '008' of ATL06; there are 006, 007"):
        Catalog.from_cmr("ATL06", version="008")


def test_granules_without_a_polygon_are_kept(earthdata, caplog):
    orbit = {
        "AscendingCrossing": 10.0,
        "StartLatitude": -59.4,
        "StartDirection": "D",
        "EndLatitude": -79.0,
        "EndDirection": "D",
    }
    extent = {"HorizontalSpatialDomain": {"Orbit": orbit}}
    earthdata.granules = [umm_granule(name_of(1), extent), umm_granule(name_of(2))]
    crossing = [{"EquatorCrossingLongitude": 10.0, "OrbitNumber": 3}]
    earthdata.granules.append(umm_granule(name_of(3), OrbitCalculatedSpatialDomains=crossing))
    catalog = Catalog.from_cmr("ATL06", polygon="antarctica")
    assert catalog.metadata["footprints"] == {"orbit": 2, "unplaced": 1}
    assert "1 granules have no footprint" in caplog.text
    cells = {granule.rpartition("/")[2]: 0 for granule in catalog.granules}
    for found in catalog.cells.values():
        for granule in found:
            cells[granule.rpartition("/")[2]] += 1
    assert cells[name_of(2)] == len(catalog) > cells[name_of(3)] > cells[name_of(1)] > 0
    prefix = {from_decimal(cell) >> 48 for cell in catalog.cells}
    true = set(np.unique(prefixes(true_words(10.0, 239.5, 259.0), 6)).tolist())
    here = {
        from_decimal(cell) >> 48
        for cell, found in catalog.cells.items()
        if any(granule.endswith(name_of(1)) for granule in found)
    }
    assert true & prefix <= here


@pytest.mark.parametrize("status", [429, 500, 503])
def test_an_overloaded_cmr_is_asked_again(tracks, status):
    busy = Answer(status, '{"errors": ["busy"]}', {"Retry_After": "0"})
    tracks.instead(CMR, busy, busy)
    assert len(Catalog.from_cmr("ATL06").granules) == 4


def test_a_cmr_that_stays_overloaded_is_given_up(tracks):
    tracks.instead(CMR, *[Answer(503, "overloaded")] * 50)
    with pytest.raises(EarthdataError, match=r"CMR answers 503: overloaded \(asked 5 times\)"):
        Catalog.from_cmr("ATL06")


def test_a_slow_cmr_is_waited_for(tracks):
    tracks.instead(CMR, Answer(0, after_s=0.5))
    assert len(Catalog.from_cmr("ATL06").granules) == 4


def test_what_cmr_refuses_is_not_asked_again(tracks):
    tracks.instead(CMR, Answer(400, '{"errors": ["temporal start must be before end"]}'))
    with pytest.raises(CatalogError, match=r"CMR refuses the search.*temporal start"):
        Catalog.from_cmr("ATL06")
    assert len(tracks.requests_to(CMR)) == 1


def test_an_unknown_product_is_said_to_be(earthdata):
    with pytest.raises(CatalogError, match="no product 'ATL99' in the cloud"):
        Catalog.from_cmr("ATL99")


def test_a_granule_that_has_no_link_is_told_of(tracks, caplog):
    tracks.granules[0]["umm"]["RelatedUrls"] = []
    catalog = Catalog.from_cmr("ATL06")
    assert len(catalog.granules) == 3
    assert catalog.metadata["footprints"]["without_links"] == 1
    assert "1 granules have no link and are left out" in caplog.text


def test_a_malformed_footprint_is_named_and_its_granule_kept(earthdata, caplog):
    extent = {
        "HorizontalSpatialDomain": {"Geometry": {"GPolygons": [{"Boundary": {"Points": [{}]}}]}}
    }
    earthdata.granules = [umm_granule(name_of(1), extent)]
    catalog = Catalog.from_cmr("ATL06", bbox=(0, -80, 10, -75))
    assert catalog.metadata["footprints"] == {"unplaced": 1}
    assert name_of(1) in caplog.text


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"cycle": 0}, "cycle must be"),
        ({"cycle": 3, "start_date": "2019-01-01"}, "dates or a cycle, not both"),
        ({"start_date": "yesterday"}, "start_date must be a date"),
        ({"start_date": "2020-01-01", "end_date": "2019-01-01"}, "is before start_date"),
        ({"polygon": "antarctica", "bbox": (0, 0, 1, 1)}, "not both"),
        ({"parent_order": 99}, "between 0 and 27"),
    ],
)
def test_impossible_wishes_are_refused_before_anybody_is_asked(earthdata, arguments, words):
    with pytest.raises(ValueError, match=words):
        Catalog.from_cmr("ATL06", **arguments)
    assert not earthdata.asked


def test_a_search_asks_nobody_but_cmr(tracks):
    Catalog.from_cmr("ATL06", polygon="antarctica", cycle=3)
    assert {one.host for one in tracks.asked} == {CMR}
    assert not tracks.strangers
