"""Entries of a granule index: what they keep, how they travel, and what they refuse."""

from __future__ import annotations

import base64
import copy
import json
import zlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from granule_files import FILL, GRID, SEGMENTS, data_source, track, write_granule
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from magg.config import Column, QualityFilter
from magg.granules import GranuleRead, granule_layout, read_rows
from magg.granules.entries import describe_datasets, paths_of, survey
from magg.granules.entrytext import EntryError, from_plain, to_text
from magg.granules.packing import is_without_rows, pack, unpack
from magg.grid import Grid, locate, nested_ids, words_of

USED = ("h_li", "s_li")
# A dataset that may grow may be shorter than a chunk.
GROWING = {"maxshape": (None,)}
CHUNKED = {"chunks": (1000,), "compression": "gzip", **GROWING}
STORAGE = [
    {},
    CHUNKED,
    {"chunks": (700,), **GROWING},
    {"chunks": (257,), "compression": "gzip", "shuffle": True, "fletcher32": True, **GROWING},
    {"chunks": (999,), "compression": "lzf", **GROWING},
]


def cell_of(latitude: float, longitude: float, order: int = 6) -> int:
    words = locate([latitude], [longitude])
    return int(words_of(nested_ids(words, order), order)[0])


FAR_AWAY = cell_of(-45.0, 100.0)


def through_text(entry: Any, order: int = 6) -> Any:
    return from_plain(json.loads(to_text(entry, order)), order)


def known(granules: Any, cell: int, source: Any, order: int = 6, columns: Any = USED) -> Any:
    """Return what a worker is told of granules: through the index, and through a task."""
    entries = [through_text(survey(granule, source, order), order) for granule in granules]
    text = pack(entries, cell, source, columns)
    return unpack(text, granules, cell, order, source, columns)


def read_with_index(granules: Any, cell: int, grid: Grid, source: Any, columns: Any = USED) -> Any:
    told = known(granules, cell, source, grid.parent_order, columns)
    left = [granule for granule in granules if granule not in told.empty]
    rows, reads = read_rows(left, cell, grid, source, columns, layouts=told.layouts)
    every = dict(zip(left, reads, strict=True)) | told.reads_without_rows()
    return rows, [every[granule] for granule in granules], told


def assert_same_read(one: Any, other: Any) -> None:
    assert one[1] == other[1]
    np.testing.assert_array_equal(one[0].child, other[0].child)
    for name, values in one[0].columns.items():
        np.testing.assert_array_equal(values, other[0].columns[name])
        assert len(values) == 0 or values.dtype == other[0].columns[name].dtype


@given(data=st.data())
@settings(
    max_examples=40,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
def test_what_an_entry_tells_of_a_cell_gives_the_rows_that_the_file_gives(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    folder, granules = tmp_path_factory.mktemp("generated"), []
    for number in range(data.draw(st.integers(1, 3))):
        beams = {}
        for beam in data.draw(st.sets(st.sampled_from(["gt1l", "gt2r", "gt3l"]))):
            rows = data.draw(st.sampled_from([0, 1, 40, 6_000, 15_000]))
            made = track(rows, seed=data.draw(st.integers(0, 9)))
            if rows and data.draw(st.booleans()):
                made["latitude"][rows // 3 :] -= 3.0  # elsewhere, and back again
                made["latitude"][rows // 2 :] += 3.0
            if rows and data.draw(st.booleans()):
                made["longitude"][:: data.draw(st.integers(2, 50))] = np.nan
            if data.draw(st.booleans()):
                made["h_li"] = made["h_li"].astype(data.draw(st.sampled_from([">f4", "f8"])))
            beams[beam] = made
        options = data.draw(st.sampled_from(STORAGE))
        granules.append(write_granule(folder / f"{number}.h5", beams, **options))
    source = data_source(
        variables={
            "h_li": Column(
                SEGMENTS + "h_li",
                fill_value=data.draw(st.sampled_from([None, 1000.0])),
                valid_max=data.draw(st.sampled_from([None, 1030.0])),
                missing=data.draw(st.sampled_from(["drop", "keep"])),
            ),
            "s_li": SEGMENTS + "h_li_sigma",
        }
    )
    order = data.draw(st.sampled_from([4, 6, 9]))
    cells = {int(c) for granule in granules for c in granule_layout(granule, source, order).cells()}
    for cell in [*sorted(cells)[:4], cell_of(-45.0, 100.0, order)]:
        grid = Grid(order, order + 3)
        with_index = read_with_index(granules, cell, grid, source)
        assert_same_read(read_rows(granules, cell, grid, source, USED), with_index)
        assert with_index[2].layouts.keys() | with_index[2].empty.keys() == set(granules)


def test_a_granule_without_rows_in_the_cell_is_known_not_to_have_any(tmp_path: Path) -> None:
    beams = {"gt1l": track(2000)}
    beams["gt1l"]["latitude"][:7] = np.nan
    granule = write_granule(tmp_path / "a.h5", beams, **CHUNKED)
    told = known([granule], FAR_AWAY, data_source())
    assert told.layouts == {}
    assert told.reads_without_rows() == {
        granule: GranuleRead(granule, 0, 0, {"quality": 0, "missing": 0}, 7, ())
    }
    entry = survey(granule, data_source(), 6)
    assert is_without_rows(entry, FAR_AWAY, data_source(), USED)
    assert not is_without_rows(entry, cell_of(70.0, -50.0), data_source(), USED)
    assert not is_without_rows(None, FAR_AWAY, data_source(), USED)


def test_rows_without_a_position_are_counted_for_the_beams_of_the_config(tmp_path: Path) -> None:
    beams = {"gt1l": track(500), "gt2l": track(500)}
    beams["gt1l"]["latitude"][:5] = np.nan
    beams["gt2l"]["latitude"][:11] = np.nan
    granule = write_granule(tmp_path / "a.h5", beams, **CHUNKED)
    entry = survey(granule, data_source(), 6)
    for groups, unlocated in ((("gt1l",), 5), (("gt2l",), 11), (("gt1l", "gt2l"), 16)):
        source = data_source(groups=groups)
        text = pack([entry], FAR_AWAY, source, USED)
        assert unpack(text, [granule], FAR_AWAY, 6, source, USED).empty == {granule: unlocated}


def test_beams_that_a_config_does_not_name_are_not_told_of(tmp_path: Path) -> None:
    granule = write_granule(tmp_path / "a.h5", {"gt1l": track(500), "gt3r": track(500)}, **CHUNKED)
    here = cell_of(70.0, -50.0)
    entry, fewer = survey(granule, data_source(), 6), data_source(groups=("gt3r", "gt2l"))
    told = unpack(pack([entry], here, fewer, USED), [granule], here, 6, fewer, USED)
    assert [beam.name for beam in told.layouts[granule].beams] == ["gt3r"]


def test_a_beam_that_comes_back_to_a_cell_has_the_chunks_of_both_visits(tmp_path: Path) -> None:
    beam = track(15_000)
    beam["latitude"] = np.where(np.arange(15_000) // 5_000 == 1, 60.0, 70.0)
    granule = write_granule(tmp_path / "a.h5", {"gt1l": beam}, **CHUNKED)
    here = cell_of(70.0, -50.0)
    with_index = read_with_index([granule], here, GRID, data_source())
    (layout,) = with_index[2].layouts.values()
    assert len(layout.beams[0].starts) == 2
    assert (layout.beams[0].latitude.offsets >= 0).tolist() == [True] * 5 + [False] * 5 + [True] * 5
    assert_same_read(read_rows([granule], here, GRID, data_source(), USED), with_index)


def test_what_the_config_says_of_values_is_not_in_the_entry(tmp_path: Path) -> None:
    granule = write_granule(tmp_path / "a.h5", {"gt1l": track(3000)}, **CHUNKED)
    columns = {"h_li": Column(SEGMENTS + "h_li", fill_value=5.0), "s_li": SEGMENTS + "h_li_sigma"}
    one = to_text(survey(granule, data_source(), 6), 6)
    assert to_text(survey(granule, data_source(variables=columns), 6), 6) == one


def test_datasets_are_added_without_reading_coordinates(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    beams = {"gt1l": track(3000), "gt2l": track(100)}
    granule = write_granule(tmp_path / "a.h5", beams, **CHUNKED)
    small = data_source(variables={"h_li": SEGMENTS + "h_li"}, quality_filter=None)
    full = data_source()
    whole, entry = survey(granule, full, 6), survey(granule, small, 6)
    missing = entry.lacks(paths_of(full))
    assert missing == {SEGMENTS + "h_li_sigma", SEGMENTS + "atl06_quality_summary"}

    def refused(*_: Any, **__: Any) -> None:
        raise AssertionError("coordinates were read")

    monkeypatch.setattr("magg.granules.layout.locate_beams", refused)
    more = describe_datasets(granule, full, missing)
    monkeypatch.undo()
    completed = through_text(entry.with_datasets(more))
    assert completed.lacks(paths_of(full)) == set()
    here = cell_of(70.0, -50.0)
    for entries in ([completed], [whole]):
        told = unpack(pack(entries, here, full, USED), [granule], here, 6, full, USED)
        assert told.layouts.keys() == {granule}
        rows, reads = read_rows([granule], here, GRID, full, USED, layouts=told.layouts)
        assert_same_read(read_rows([granule], here, GRID, full, USED), (rows, reads))


@pytest.mark.parametrize("broken", ["h_li", "atl06_quality_summary"])
def test_a_granule_with_a_dataset_at_fault_is_left_to_the_reader(
    tmp_path: Path, broken: str
) -> None:
    beams = {"gt1l": track(500)}
    del beams["gt1l"][broken]
    granule = write_granule(tmp_path / "a.h5", beams, **CHUNKED)
    for cell in (cell_of(70.0, -50.0), FAR_AWAY):
        told = known([granule], cell, data_source())
        assert (told.layouts, told.empty) == ({}, {})


def test_a_quality_that_is_no_number_is_left_to_the_reader(tmp_path: Path) -> None:
    beams = {"gt1l": track(500)}
    granule = write_granule(tmp_path / "a.h5", beams, **CHUNKED)
    with h5py.File(granule, "a") as file:
        file["gt1l/land_ice_segments/flags"] = np.zeros((500, 2), "i1")
    source = data_source(quality_filter=QualityFilter(SEGMENTS + "flags", 0))
    told = known([granule], cell_of(70.0, -50.0), source)
    assert (told.layouts, told.empty) == ({}, {})


@pytest.mark.parametrize("kind", ["text", "compound"])
def test_a_column_that_an_index_cannot_hold_is_left_to_the_reader(
    tmp_path: Path, kind: str
) -> None:
    granule = write_granule(tmp_path / "a.h5", {"gt1l": track(500)}, **CHUNKED)
    values = {
        "text": np.array([b"abc"] * 500),
        "compound": np.zeros(500, [("a", "f4"), ("b", "i4")]),
    }
    with h5py.File(granule, "a") as file:
        file["gt1l/land_ice_segments/odd"] = values[kind]
    source = data_source(variables={"h_li": SEGMENTS + "h_li", "odd": SEGMENTS + "odd"})
    entry = through_text(survey(granule, source, 6))
    assert entry.lacks(paths_of(source)) == set()  # so that nobody surveys it again for that
    here, columns = cell_of(70.0, -50.0), ("h_li", "odd")
    assert pack([entry], here, source, columns) == ""
    assert pack([entry], here, source, ("h_li",)) != ""
    # Where it has no row all the same, nobody needs to open it.
    told = unpack(pack([entry], FAR_AWAY, source, columns), [granule], FAR_AWAY, 6, source, columns)
    assert told.empty == {granule: 0}


def test_numbers_that_json_has_not_come_back(tmp_path: Path) -> None:
    attributes = {"h_li": {"valid_max": np.inf, "valid_min": -np.inf, "_FillValue": FILL}}
    granule = write_granule(tmp_path / "a.h5", {"gt1l": track(300)}, attributes, **CHUNKED)
    with h5py.File(granule, "a") as file:
        group = file["gt1l/land_ice_segments"]
        group.create_dataset("n", data=np.full(300, 2**63, "u8"), fillvalue=2**64 - 1, chunks=(9,))
        group.create_dataset("nan", shape=(300,), dtype="f4", fillvalue=np.nan, chunks=(50,))
    paths = {name: SEGMENTS + name for name in ("h_li", "n", "nan")}
    source = data_source(variables=paths)
    text = to_text(survey(granule, source, 6), 6)
    assert "NaN" not in text
    assert "Infinity" not in text
    models = {k.path: k.model for k in from_plain(json.loads(text), 6).beams[0].kinds}
    assert models[paths["h_li"]].valid == (-np.inf, np.inf)
    assert models[paths["n"]].missing.tolist() == [2**64 - 1]
    assert np.isnan(models[paths["nan"]].fill)


@pytest.fixture(scope="module")
def line(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    granule = tmp_path_factory.mktemp("one") / "a.h5"
    beams = {"gt1l": track(3000), "gt2l": track(2000, 1)}
    write_granule(granule, beams, **CHUNKED)
    return json.loads(to_text(survey(str(granule), data_source(), 6), 6))


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (("size",), -1),
        (("size",), 10),
        (("size",), True),
        (("etag",), 5),
        (("granule",), None),
        (("kinds", 0, "dtype"), "O"),
        (("kinds", 0, "dtype"), "V8"),
        (("kinds", 0, "dtype"), "<f16"),
        (("kinds", 0, "storage"), "elsewhere"),
        (("kinds", 0, "chunk_rows"), 0),
        (("kinds", 0, "chunk_rows"), 7),
        (("kinds", 0, "filters"), [32015]),
        (("kinds", 0, "shape"), [3]),
        (("kinds", 2, "missing"), ["often"]),
        (("kinds", 2, "valid"), [1]),
        (("beams", 0, "rows"), 2**70),
        (("beams", 0, "rows"), 1),
        (("beams", 0, "kinds"), [0, 99]),
        (("beams", 0, "kinds"), []),
        (("beams", 0, "cells"), [12 * 4**6]),
        (("beams", 0, "cells"), ["1"]),
        (("beams", 0, "starts"), []),
        (("beams", 0, "lengths"), [0]),
        (("beams", 0, "lengths"), [10**9]),
        (("beams", 0, "gaps", 0), -10),
        (("beams", 0, "sizes", 0), -5),
        (("beams", 0, "sizes", 0), 2**61),
        (("beams", 0, "sizes"), 5),
        (("beams", 0, "masks"), [1]),
        (("beams", 0, "problems"), {"path": 1}),
        (("beams",), 5),
        (("kinds",), {}),
    ],
    ids=str,
)
def test_an_entry_that_makes_no_sense_is_refused(
    line: dict[str, Any], place: tuple[Any, ...], value: Any
) -> None:
    assert from_plain(copy.deepcopy(line), 6).granule
    broken = copy.deepcopy(line)
    inside = broken
    for key in place[:-1]:
        inside = inside[key]
    inside[place[-1]] = value
    with pytest.raises(EntryError):
        from_plain(broken, 6)


def packed(document: Any) -> str:
    return base64.b64encode(zlib.compress(json.dumps(document).encode())).decode()


@pytest.fixture(scope="module")
def payload(line: dict[str, Any]) -> Any:
    here = cell_of(70.0, -50.0)
    text = pack([from_plain(line, 6)], here, data_source(), USED)
    return json.loads(zlib.decompress(base64.b64decode(text)))


def opened(text: str, granules: Any = ("a.h5",)) -> Any:
    return unpack(text, list(granules), cell_of(70.0, -50.0), 6, data_source(), USED)


@pytest.mark.parametrize(
    ("place", "value"),
    [
        ((0,), 99),
        ((1, 0, "dtype"), "O"),
        ((1,), []),
        ((2,), []),
        ((2, 0, 0), -4),
        ((2, 0, 1), 4),
        ((2, 0, 2), "many"),
        ((2, 0), -3),
        ((2, 0, 3, 0, 0), 17),
        ((2, 0, 3, 0, 0), -1),
        ((2, 0, 3, 0, 1), 2**61),
        ((2, 0, 3, 0, 2), []),
        ((2, 0, 3, 0, 3), [2**61]),
        ((2, 0, 3, 0, 4), [0]),
        ((2, 0, 3, 0, 5, 0), -7),
        ((2, 0, 3, 0, 6), [1]),
        ((2, 0, 3, 0, 7), [1]),
        ((2, 0, 3), [[]]),
    ],
    ids=str,
)
def test_a_payload_that_makes_no_sense_is_refused(
    payload: Any, place: tuple[Any, ...], value: Any
) -> None:
    assert opened(packed(payload)).layouts.keys() == {"a.h5"}
    broken = copy.deepcopy(payload)
    inside = broken
    for key in place[:-1]:
        inside = inside[key]
    inside[place[-1]] = value
    with pytest.raises(EntryError, match="make no sense"):
        opened(packed(broken))


@pytest.mark.parametrize(
    "text",
    ["%%%", "AAAA", base64.b64encode(zlib.compress(b"[" * 100_000)).decode(), packed([1, 2])],
    ids=["no base 64", "no deflate", "deep", "short"],
)
def test_a_payload_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(EntryError, match="make no sense"):
        opened(text)


def test_a_payload_that_is_cut_off_is_refused(payload: Any) -> None:
    data = base64.b64decode(packed(payload))
    with pytest.raises(EntryError, match="cut off"):
        opened(base64.b64encode(data[:-9]).decode())


def test_a_payload_that_would_fill_the_memory_is_refused(payload: Any) -> None:
    bomb = base64.b64encode(zlib.compress(b" " * (65 << 20), 9)).decode()
    with pytest.raises(EntryError, match="too long"):
        opened(bomb)
    many = copy.deepcopy(payload)
    for kind in many[1]:
        kind["chunk_rows"] = 1
    many[2][0][3][0][1] = 1 << 20
    many[2] = many[2] * 40
    with pytest.raises(EntryError):
        opened(packed(many), [f"{number}.h5" for number in range(len(many[2]))])


@given(data=st.data())
@settings(max_examples=150, deadline=None, derandomize=True)
def test_whatever_a_payload_says_it_names_numbers_alone(payload: Any, data: st.DataObject) -> None:
    broken = copy.deepcopy(payload)
    for _ in range(data.draw(st.integers(1, 3))):
        inside: Any = broken
        while isinstance(inside, list | dict) and inside:
            keys = list(inside) if isinstance(inside, dict) else range(len(inside))
            key = data.draw(st.sampled_from(list(keys)))
            if not isinstance(inside[key], list | dict) or data.draw(st.integers(0, 5)) == 0:
                inside[key] = data.draw(
                    st.sampled_from([0, -1, 1, 2**40, 1.5, "x", None, [], {}, True, "<f4"])
                )
                break
            inside = inside[key]
    try:
        told = opened(packed(broken))
    except EntryError:
        return
    for layout in told.layouts.values():
        for beam in layout.beams:
            paths = {dataset.path for dataset in beam.all_datasets()}
            assert paths <= {path.replace("{group}", beam.name) for path in paths_of(data_source())}
            for dataset in beam.all_datasets():
                stored = dataset.offsets >= 0
                assert (dataset.offsets + dataset.sizes)[stored].max(initial=0) <= layout.size


def test_reading_where_the_cell_has_no_rows_fails_rather_than_inventing_some(
    tmp_path: Path,
) -> None:
    beams = {"gt1l": track(30_000)}  # five degrees of latitude
    granule = write_granule(tmp_path / "a.h5", beams, **CHUNKED)
    here = cell_of(70.0, -50.0)
    layout = known([granule], here, data_source()).layouts[granule]
    (beam,) = layout.beams
    beyond = replace(beam, starts=np.array([29_000]), stops=np.array([30_000]))
    wrong = replace(layout, beams=(beyond,))
    with pytest.raises(Exception, match=r"a\.h5"):
        read_rows([granule], here, GRID, data_source(), USED, layouts={granule: wrong})
