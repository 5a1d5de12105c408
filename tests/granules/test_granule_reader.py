"""Which rows of a granule are observations, and what the counts say about the others."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from granule_files import (
    CHUNKED,
    FILL,
    GRID,
    SEGMENTS,
    assert_same,
    data_source,
    plain_read,
    track,
    write_granule,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from magg.config import Column, Coordinates, QualityFilter
from magg.errors import ConfigError, GranuleError, GridError
from magg.granules import granule_layout, read_rows
from magg.grid import Grid, locate, nested_ids, words_of

USED = ("h_li", "s_li")


def cell_of(latitude: float, longitude: float, order: int = 6) -> int:
    words = locate([latitude], [longitude])
    return int(words_of(nested_ids(words, order), order)[0])


def few(rows: int, **changes: Any) -> dict[str, np.ndarray]:
    """Rows that are all observations of the cell of 70 N, 50 W."""
    return {
        "latitude": np.full(rows, 70.0),
        "longitude": np.full(rows, -50.0),
        "h_li": np.arange(rows, dtype="f4"),
        "h_li_sigma": np.ones(rows, dtype="f4"),
        "atl06_quality_summary": np.zeros(rows, dtype="i1"),
        **{name: np.asarray(values) for name, values in changes.items()},
    }


HERE = cell_of(70.0, -50.0)


def heights(granule: str, source: Any = None, columns: Any = ("h_li",), cell: int = HERE) -> Any:
    rows, (read,) = read_rows([granule], cell, GRID, source or data_source(), columns)
    return rows.columns["h_li"].tolist(), read


def test_rows_of_beams_come_in_the_order_of_the_config(tmp_path: Path) -> None:
    beams = {beam: track(3000, seed) for seed, beam in enumerate(("gt3r", "gt1l", "gt2l"))}
    granule = write_granule(tmp_path / "a.h5", beams, **CHUNKED)
    cells = granule_layout(granule, data_source(), 6).cells()
    assert len(cells) >= 2
    for cell in map(int, cells):
        rows, (read,) = read_rows([granule], cell, GRID, data_source(), USED)
        assert_same(rows, plain_read([granule], cell, GRID, USED))
        assert [beam for beam in ("gt1l", "gt2l", "gt3r") if beam in read.beams] == [*read.beams]
    turned = data_source(groups=("gt3r", "gt2l", "gt1l"))
    first, _ = heights(granule, turned, cell=cell)
    assert first[:50] != heights(granule, cell=cell)[0][:50]


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
@given(
    seed=st.integers(0, 99), rows=st.integers(0, 100), order=st.integers(1, 12), jump=st.booleans()
)
def test_any_path_over_the_globe_gives_the_rows_of_a_plain_reading(
    tmp_path: Path, seed: int, rows: int, order: int, jump: bool
) -> None:
    rng = np.random.default_rng(seed)
    data = track(rows, seed)
    if jump:
        data["latitude"], data["longitude"] = (
            rng.uniform(-90, 90, rows),
            rng.uniform(-180, 180, rows),
        )
    else:
        data["latitude"] = 89.9 * np.sin(np.linspace(0, 9, rows))
        data["longitude"] = np.linspace(-180, 360, rows)
    odd = rng.random(rows) < 0.1
    data["latitude"][odd] = rng.choice([np.nan, np.inf, -90.01, 1e300, 90.0, -90.0], odd.sum())
    granule = write_granule(tmp_path / f"{seed}.h5", {"gt1r": data}, **CHUNKED_SMALL)
    grid = Grid(order, order + 3)
    layout = granule_layout(granule, data_source(), order)
    read_in_all = layout.unlocated
    for cell in map(int, layout.cells()):
        found, (read,) = read_rows([granule], cell, grid, data_source(), USED)
        assert_same(found, plain_read([granule], cell, grid, USED))
        assert read.rows_read > 0
        read_in_all += read.rows_read
    assert read_in_all == rows


CHUNKED_SMALL = {"chunks": True, "compression": "gzip", "shuffle": True}


def test_rows_without_a_position_are_in_no_cell_and_counted(tmp_path: Path) -> None:
    latitude = [70, np.nan, np.inf, -np.inf, 91, -90.5, 70, 70, 70, 70]
    longitude = [-50, -50, -50, -50, -50, -50, np.nan, 361, -180.1, -50]
    beam = few(10, latitude=np.array(latitude), longitude=np.array(longitude))
    granule = write_granule(tmp_path / "a.h5", {"gt1l": beam})
    found, read = heights(granule)
    assert found == [0, 9]
    assert (read.rows_unlocated, read.rows_read, read.rows_used) == (8, 2, 2)


def test_a_fill_value_is_no_position_even_where_it_is_a_possible_one(tmp_path: Path) -> None:
    beam = few(3, latitude=np.array([70.0, 0.0, 70.0]))
    granule = write_granule(tmp_path / "a.h5", {"gt1l": beam}, {"latitude": {"_FillValue": 0.0}})
    layout = granule_layout(granule, data_source(), 6)
    assert layout.unlocated == 1
    assert layout.cells().tolist() == [HERE]


@pytest.mark.parametrize(
    ("latitude", "longitude", "same"),
    [(70.0, 180.0, -180.0), (-70.0, -50.0, 310.0), (90.0, 10.0, 200.0), (-90.0, 0.0, 77.0)],
)
def test_both_names_of_a_meridian_and_all_of_a_pole_are_one_place(
    tmp_path: Path, latitude: float, longitude: float, same: float
) -> None:
    beam = few(2, latitude=np.full(2, latitude), longitude=np.array([longitude, same]))
    granule = write_granule(tmp_path / "a.h5", {"gt1l": beam})
    words = locate([latitude] * 2, [longitude, same])
    cells = granule_layout(granule, data_source(), 6).cells()
    expected = set(words_of(nested_ids(words, 6), 6).tolist())
    assert set(cells.tolist()) == expected
    if abs(latitude) < 90:
        assert len(cells) == 1


def test_float32_coordinates_are_located_as_what_they_are(tmp_path: Path) -> None:
    data = track(2000)
    for name in ("latitude", "longitude"):
        data[name] = data[name].astype("f4")
    granule = write_granule(tmp_path / "a.h5", {"gt1l": data}, **CHUNKED)
    for cell in map(int, granule_layout(granule, data_source(), 6).cells()):
        rows, _ = read_rows([granule], cell, GRID, data_source(), USED)
        assert_same(rows, plain_read([granule], cell, GRID, USED))


def test_a_dropped_row_is_counted_once_quality_first(tmp_path: Path) -> None:
    beam = few(
        6,
        atl06_quality_summary=np.array([0, 1, 1, 0, 0, 0], "i1"),
        h_li=np.array([0, 1, FILL, FILL, FILL, 5], "f4"),
        h_li_sigma=np.array([1, 1, 1, 1, FILL, np.nan], "f4"),
    )
    granule = write_granule(tmp_path / "a.h5", {"gt1l": beam})
    found, read = heights(granule, columns=USED)
    assert found == [0]
    assert read.rows_dropped == {"quality": 2, "missing": 3}
    assert (read.rows_read, read.rows_used) == (6, 1)


def test_unused_columns_neither_drop_rows_nor_need_to_exist(tmp_path: Path) -> None:
    beam = few(3, h_li_sigma=np.array([1, FILL, np.nan], "f4"))
    granule = write_granule(tmp_path / "a.h5", {"gt1l": beam})
    assert heights(granule)[0] == [0, 1, 2]
    del beam["h_li_sigma"]
    other = write_granule(tmp_path / "b.h5", {"gt1l": beam})
    assert heights(other)[0] == [0, 1, 2]
    with pytest.raises(GranuleError, match="h_li_sigma: is not there"):
        heights(other, columns=USED)


@pytest.mark.parametrize(("value", "kept"), [(0, [0, 3]), ((0, 2), [0, 2, 3]), (7, [])])
def test_quality_may_have_several_accepted_values(
    tmp_path: Path, value: Any, kept: list[int]
) -> None:
    beam = few(4, atl06_quality_summary=np.array([0, 1, 2, 0], "i1"))
    granule = write_granule(tmp_path / "a.h5", {"gt1l": beam})
    quality = QualityFilter(SEGMENTS + "atl06_quality_summary", value)
    found, read = heights(granule, data_source(quality_filter=quality))
    assert found == kept
    assert read.rows_dropped == {"quality": 4 - len(kept), "missing": 0}
    assert heights(granule, data_source(quality_filter=None))[0] == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("attributes", "column", "kept"),
    [
        ({}, {}, [1, 2, 3, 4, 5]),
        ({"_FillValue": np.float32(3)}, {}, [1, 2, 4, 5]),
        ({"_FillValue": np.float64(3)}, {}, [1, 2, 4, 5]),
        ({"_FillValue": np.float32(3), "missing_value": np.float32([1, 2])}, {}, [4, 5]),
        ({"_FillValue": "none"}, {}, [1, 2, 3, 4, 5]),
        ({"_FillValue": np.float32(3)}, {"fill_value": 4.0}, [1, 2, 3, 5]),
        ({"valid_min": np.float32(2), "valid_max": np.float32(4)}, {}, [2, 3, 4]),
        ({"valid_range": np.float32([2, 4])}, {}, [2, 3, 4]),
        ({"valid_range": np.float32([2, 4])}, {"valid_max": 3.0}, [2, 3]),
        ({"valid_min": np.float32(2)}, {"valid_min": 4.0}, [4, 5]),
        ({}, {"valid_max": 1e300}, [1, 2, 3, 4, 5]),
    ],
)
def test_missing_values_follow_the_attributes_and_first_the_config(
    tmp_path: Path, attributes: dict[str, Any], column: dict[str, Any], kept: list[int]
) -> None:
    beam = few(7, h_li=np.array([1, 2, 3, 4, 5, np.nan, np.inf], "f4"))
    granule = write_granule(tmp_path / "a.h5", {"gt1l": beam}, {"h_li": attributes})
    source = data_source(variables={"h_li": Column(SEGMENTS + "h_li", **column)})
    assert heights(granule, source)[0] == kept


def test_hdf5_fill_counts_only_where_it_was_chosen_and_is_not_zero(tmp_path: Path) -> None:
    granule = str(tmp_path / "a.h5")
    with h5py.File(granule, "w") as file:
        group = file.create_group("gt1l/land_ice_segments")
        for name, values in few(3).items():
            fill = {"h_li": 2, "h_li_sigma": 0}.get(name)
            group.create_dataset(name, data=values, fillvalue=fill)
        group["h_li_sigma"][:] = 0
    assert heights(granule, columns=USED)[0] == [0, 1]


@pytest.mark.parametrize(
    ("dtype", "fill", "given"),
    [
        ("i4", -9999, None),
        ("i8", 2**63 - 1, None),
        ("i8", 2**63 - 1, float(2**63 - 1)),
        ("u1", 255, 255.0),
        (">i2", -1, None),
    ],
)
def test_integer_fill_values_are_compared_exactly(
    tmp_path: Path, dtype: str, fill: int, given: float | None
) -> None:
    values = np.array([1, fill, 2], dtype)
    attributes = {} if given is not None else {"_FillValue": values[1]}
    granule = write_granule(
        tmp_path / "a.h5", {"gt1l": few(3, segment=values)}, {"segment": attributes}
    )
    column = Column(SEGMENTS + "segment", fill_value=given)
    rows, _ = read_rows([granule], HERE, GRID, data_source(variables={"n": column}), ["n"])
    assert rows.columns["n"].tolist() == [1, 2]
    assert rows.columns["n"].dtype == np.dtype(dtype).newbyteorder("=")
    kept = data_source(variables={"n": Column(SEGMENTS + "segment", given, missing="keep")})
    rows, (read,) = read_rows([granule], HERE, GRID, kept, ["n"])
    np.testing.assert_array_equal(rows.columns["n"], [1.0, np.nan, 2.0])
    assert rows.columns["n"].dtype == np.float64
    assert read.rows_dropped["missing"] == 0


def test_kept_missing_floats_become_nan_beside_columns_that_drop(tmp_path: Path) -> None:
    beam = few(
        4,
        h_li=np.array([0, FILL, np.inf, 3], "f4"),
        h_li_sigma=np.array([FILL, 1, 1, 1], "f4"),
    )
    granule = write_granule(tmp_path / "a.h5", {"gt1l": beam})
    path = SEGMENTS + "h_li"
    variables = {"h_li": Column(path, missing="keep"), "s_li": SEGMENTS + "h_li_sigma"}
    rows, _ = read_rows([granule], HERE, GRID, data_source(variables=variables), USED)
    np.testing.assert_array_equal(rows.columns["h_li"], np.array([np.nan, np.nan, 3], "f4"))
    assert rows.columns["h_li"].dtype == np.float32


def test_columns_may_share_a_dataset_and_be_named_like_a_role(tmp_path: Path) -> None:
    beam = few(3, h_li=np.array([0, FILL, 2], "f4"))
    granule = write_granule(tmp_path / "a.h5", {"gt1l": beam})
    variables = {
        "quality": Column(SEGMENTS + "h_li", missing="keep"),
        "latitude": Column(SEGMENTS + "h_li", valid_max=1.0, missing="keep"),
        "h_li": SEGMENTS + "latitude",
    }
    rows, _ = read_rows([granule], HERE, GRID, data_source(variables=variables), list(variables))
    np.testing.assert_array_equal(rows.columns["quality"], [0, np.nan, 2])
    np.testing.assert_array_equal(rows.columns["latitude"], [0, np.nan, np.nan])
    np.testing.assert_array_equal(rows.columns["h_li"], [70, 70, 70])


def test_absent_and_empty_beams_are_normal(tmp_path: Path) -> None:
    granule = write_granule(tmp_path / "a.h5", {"gt1r": few(0), "gt2l": few(2)}, **CHUNKED_SMALL)
    with h5py.File(granule, "r+") as file:
        file.create_group("gt3l/segment_quality")  # a beam that found no land ice
    found, read = heights(granule)
    assert found == [0, 1]
    assert read.beams == ("gt2l",)
    layout = granule_layout(granule, data_source(), 6)
    assert [beam.name for beam in layout.beams] == ["gt1r", "gt2l"]


def test_a_granule_without_beams_gives_no_rows(tmp_path: Path) -> None:
    granule = write_granule(tmp_path / "a.h5", {})
    found, read = heights(granule)
    assert (found, read.rows_read, read.beams) == ([], 0, ())
    assert granule_layout(granule, data_source(), 6).cells().dtype == np.uint64
    rows, reads = read_rows([], HERE, GRID, data_source(), USED)
    assert (len(rows.child), rows.child.dtype, reads) == (0, np.uint16, [])


def test_a_cell_that_the_granule_does_not_cross_gives_no_rows(tmp_path: Path) -> None:
    granule = write_granule(tmp_path / "a.h5", {"gt1l": few(3)})
    rows, (read,) = read_rows([granule], cell_of(-70, 0), GRID, data_source(), ["h_li"])
    assert (read.rows_read, len(rows.child)) == (0, 0)
    assert rows.columns["h_li"].dtype == np.float32


@pytest.mark.parametrize(
    ("lacking", "given", "message"),
    [
        ("h_li", "h_lii", r"gt2r, dataset /gt2r/land_ice_segments/h_li: is not .*mean h_lii"),
        ("latitude", "lattitude", r"gt2r, dataset /gt2r/.*/latitude: .*mean lattitude"),
        ("longitude", "lon", r"gt2r, dataset /gt2r/land_ice_segments/longitude: is not there;"),
        ("atl06_quality_summary", "atl06_quality", r"atl06_quality_summary: .*mean atl06_quality"),
    ],
)
def test_a_missing_dataset_is_named_with_names_like_it(
    tmp_path: Path, lacking: str, given: str, message: str
) -> None:
    beam = few(3)
    beam[given] = beam.pop(lacking)
    granule = write_granule(tmp_path / "a.h5", {"gt1l": few(2), "gt2r": beam})
    with pytest.raises(GranuleError, match=message) as caught:
        heights(granule)
    assert str(caught.value).startswith(granule)
    assert caught.value.granule == granule


def test_a_slip_in_the_name_of_the_group_does_not_make_granules_look_empty(tmp_path: Path) -> None:
    granule = write_granule(tmp_path / "a.h5", {"gt1l": few(2)})
    wrong = Coordinates("/{group}/land_ice_segment/latitude", SEGMENTS + "longitude")
    with pytest.raises(GranuleError, match="did you mean land_ice_segments"):
        heights(granule, data_source(coordinates=wrong))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"h_li": np.zeros(5, "f4")}, "h_li: has 5 rows where the latitude has 3"),
        ({"longitude": np.zeros(2)}, "longitude: has 2 rows where the latitude has 3"),
        ({"h_li": np.float32(1)}, "h_li: is a single value"),
        ({"latitude": np.zeros((3, 2))}, "latitude: a coordinate must be one number a row"),
        ({"latitude": np.array([b"a", b"b", b"c"])}, "latitude: a coordinate must be"),
        ({"atl06_quality_summary": np.zeros((3, 2), "i1")}, "needs one number a row"),
    ],
)
def test_datasets_that_do_not_fit_are_errors(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    granule = write_granule(tmp_path / "a.h5", {"gt1l": few(3, **changes)}, {})
    with pytest.raises(GranuleError, match=message):
        heights(granule)


def test_a_dataset_where_a_beam_should_be_is_no_beam(tmp_path: Path) -> None:
    granule = write_granule(tmp_path / "a.h5", {"gt1r": few(2)})
    with h5py.File(granule, "r+") as file:
        file["gt1l"] = np.zeros(3)
    assert heights(granule)[0] == [0, 1]


def test_a_group_where_a_dataset_should_be_is_an_error(tmp_path: Path) -> None:
    granule = write_granule(tmp_path / "a.h5", {"gt1l": few(3)})
    source = data_source(variables={"h_li": Column("/{group}/land_ice_segments")})
    with pytest.raises(GranuleError, match="is a group, not a dataset"):
        heights(granule, source)


def test_braces_in_paths_are_plain_text(tmp_path: Path) -> None:
    granule = write_granule(tmp_path / "a.h5", {"gt1l": few(2, **{"{0.__class__}": np.ones(2)})})
    source = data_source(variables={"h_li": Column(SEGMENTS + "{0.__class__}")})
    assert heights(granule, source)[0] == [1, 1]


def test_unknown_columns_and_cells_of_another_order_are_refused(tmp_path: Path) -> None:
    granule = write_granule(tmp_path / "a.h5", {"gt1l": few(2)})
    with pytest.raises(ConfigError, match=r"no such column.*h_lo; there are h_li, s_li"):
        heights(granule, columns=["h_lo"])
    for cell in (cell_of(70, -50, order=5), 12345, 0):
        with pytest.raises(GridError, match="order 6"):
            heights(granule, cell=cell)


def test_wide_grids_number_children_with_32_bits(tmp_path: Path) -> None:
    granule, grid = write_granule(tmp_path / "a.h5", {"gt1l": track(500)}), Grid(3, 12)
    cell = int(granule_layout(granule, data_source(), 3).cells()[0])
    rows, _ = read_rows([granule], cell, grid, data_source(), USED)
    assert rows.child.dtype == np.uint32
    assert_same(rows, plain_read([granule], cell, grid, USED))


def test_a_given_layout_is_used_and_a_stale_one_is_derived_anew(tmp_path: Path) -> None:
    granule = write_granule(tmp_path / "a.h5", {"gt1l": few(4)})
    given = {granule: granule_layout(granule, data_source(), 6)}
    rows, (read,) = read_rows([granule], HERE, GRID, data_source(), ["h_li"], layouts=given)
    assert (rows.columns["h_li"].tolist(), read.stale) == ([0, 1, 2, 3], False)
    write_granule(tmp_path / "a.h5", {"gt1l": few(3)})
    rows, (read,) = read_rows([granule], HERE, GRID, data_source(), ["h_li"], layouts=given)
    assert (rows.columns["h_li"].tolist(), read.stale) == ([0, 1, 2], True)
