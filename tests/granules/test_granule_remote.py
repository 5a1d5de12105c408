"""Granules behind HTTP: the same rows as from disk, and every kind of bad answer noticed."""

from __future__ import annotations

import gc
import itertools
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from granule_files import (
    BEAMS,
    CHUNKED,
    GRID,
    assert_same,
    data_source,
    plain_read,
    track,
    write_granule,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from range_server import RangeServer

from magg.config import Column
from magg.errors import GranuleError, GranuleNotFoundError
from magg.granules import forget_sources, granule_layout, open_source, read_rows
from magg.granules.hdf5 import HeldFile, read_hdf5
from magg.granules.pool import shared
from magg.grid import Grid, locate, nested_ids, words_of

USED = ("h_li", "s_li")


def granules_of(folder: Path) -> list[str]:
    return [
        write_granule(
            folder / f"{name}.h5",
            {beam: track(4000, seed + n) for seed, beam in enumerate(BEAMS[:4])},
            **options,
        )
        for n, (name, options) in enumerate(
            [("chunks", CHUNKED), ("lzf here", {"compression": "lzf"}), ("plain", {})]
        )
    ]


def test_remote_rows_equal_local_ones(server: RangeServer, tmp_path: Path) -> None:
    local = granules_of(tmp_path)
    remote = [server.url(granule).replace(" ", "%20") for granule in local]
    for here, there in zip(local, remote, strict=True):
        expected, found = (granule_layout(name, data_source(), 6) for name in (here, there))
        np.testing.assert_array_equal(found.cells(), expected.cells())
        assert found.etag == '"one"'
    cells = {int(c) for granule in local for c in granule_layout(granule, data_source(), 6).cells()}
    for cell in cells:
        expected_rows, expected_reads = read_rows(local, cell, GRID, data_source(), USED)
        mixed = [remote[0], local[1], remote[2]]
        for names in (remote, mixed):
            rows, reads = read_rows(names, cell, GRID, data_source(), USED)
            np.testing.assert_array_equal(rows.child, expected_rows.child)
            for name in USED:
                np.testing.assert_array_equal(rows.columns[name], expected_rows.columns[name])
            assert [read.granule for read in reads] == names
            assert [read.rows_used for read in reads] == [r.rows_used for r in expected_reads]


def test_a_known_granule_costs_only_the_ranges_of_the_cell(
    server: RangeServer, tmp_path: Path
) -> None:
    granule = write_granule(tmp_path / "a.h5", {"gt1l": track(60_000)}, **CHUNKED)
    url = server.url(granule)
    cells = granule_layout(url, data_source(), 8).cells()
    server.asked.clear()
    read_rows([url], int(cells[0]), type(GRID)(8, 12), data_source(), USED)
    moved = sum(stop - start for _, start, stop in server.asked)
    assert 0 < moved < Path(granule).stat().st_size / 4


def test_forgotten_sources_are_opened_anew(server: RangeServer, tmp_path: Path) -> None:
    url = server.url(write_granule(tmp_path / "a.h5", {"gt1l": track(30)}))
    with open_source(url) as first, open_source(url) as second:
        assert first._store is second._store
    forget_sources()
    with open_source(url) as third:
        assert third._store is not first._store


def test_a_missing_object_is_not_found(server: RangeServer) -> None:
    with pytest.raises(GranuleNotFoundError, match=r"nowhere\.h5: there is no such object"):
        granule_layout(server.url("nowhere.h5"), data_source(), 6)


@pytest.mark.parametrize("number", [0, 1])
def test_one_bad_granule_of_several_fails_the_read_and_leaves_nothing_open(
    server: RangeServer, tmp_path: Path, number: int
) -> None:
    names = [server.url(name) for name in granules_of(tmp_path)]
    cell = int(granule_layout(names[0], data_source(), 6).cells()[0])
    names[number] = server.url("nowhere.h5")
    with pytest.raises(GranuleNotFoundError):
        read_rows(names, cell, GRID, data_source(), USED)
    assert shared().rows.held == shared().coordinates.held == 0
    assert shared().ranges._work_queue.qsize() == 0


def restless(status: int, content: bytes, headers: dict[str, str]) -> tuple[int, bytes]:
    headers["ETag"] = f'"{next(_numbers)}"'
    return status, content


_numbers = itertools.count()


def other_size(status: int, content: bytes, headers: dict[str, str]) -> tuple[int, bytes]:
    headers["Content-Range"] = headers["Content-Range"].rpartition("/")[0] + "/99999999"
    return status, content


def shorter(status: int, content: bytes, headers: dict[str, str]) -> tuple[int, bytes]:
    start = int(headers["Content-Range"].removeprefix("bytes ").partition("-")[0])
    size = headers["Content-Range"].rpartition("/")[2]
    headers["Content-Range"] = f"bytes {start}-{start + len(content) - 2}/{size}"
    return status, content[:-1]


def refused(status: int, content: bytes, headers: dict[str, str]) -> tuple[int, bytes]:
    return 403, b""


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (restless, "changed while it was being read"),
        (other_size, "changed while|cannot be read"),
        (shorter, "ends early|cannot be read"),
        (refused, "access denied; check the credentials"),
    ],
)
def test_bad_answers_are_errors(
    server: RangeServer, tmp_path: Path, spoil: Any, message: str
) -> None:
    url = server.url(write_granule(tmp_path / "a.h5", {"gt1l": track(3000)}, **CHUNKED))
    cell = int(granule_layout(url, data_source(), 6).cells()[0])
    server.spoil = spoil
    with pytest.raises(GranuleError, match=message) as caught:
        read_rows([url], cell, GRID, data_source(), USED)
    assert caught.value.granule == url


def test_refusals_during_the_metadata_pass_are_told_as_such(
    server: RangeServer, tmp_path: Path
) -> None:
    url = server.url(write_granule(tmp_path / "a.h5", {"gt1l": track(3000)}, **CHUNKED))
    server.spoil = refused
    with pytest.raises(GranuleError, match="access denied; check the credentials"):
        granule_layout(url, data_source(), 6)
    # What outlives its error inside h5py crashes the interpreter when it ends.
    gc.collect()
    assert not [one for one in gc.get_objects() if type(one) is HeldFile]


def test_h5py_reads_metadata_through_ranges(server: RangeServer, tmp_path: Path) -> None:
    granule = write_granule(tmp_path / "a.h5", {"gt1l": track(3000)}, **CHUNKED)
    with open_source(server.url(granule)) as source:
        shape = read_hdf5(source, lambda file, _: file["gt1l/land_ice_segments/h_li"].shape)
    assert shape == (3000,)
    (tmp_path / "page.h5").write_text("<html>")
    with pytest.raises(GranuleError, match="is not an HDF5 file"):
        granule_layout(server.url("page.h5"), data_source(), 6)


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
@given(
    seed=st.integers(0, 99), rows=st.integers(0, 100), order=st.integers(1, 12), jump=st.booleans()
)
def test_any_path_over_the_globe_gives_the_rows_of_a_plain_reading(
    server: RangeServer, tmp_path: Path, seed: int, rows: int, order: int, jump: bool
) -> None:
    """Only latitudes are read whole here, and they must not hide a row from its cell."""
    rng = np.random.default_rng(seed)
    data = track(rows, seed)
    if jump:
        data["latitude"] = rng.uniform(-90, 90, rows)
        data["longitude"] = rng.uniform(-180, 180, rows)
    else:
        data["latitude"] = 89.9 * np.sin(np.linspace(0, 9, rows))
        data["longitude"] = np.linspace(-180, 360, rows)
    odd = rng.random(rows) < 0.1
    data["latitude"][odd] = rng.choice([np.nan, np.inf, -90.01, 1e300, 90.0, -90.0], odd.sum())
    number = next(_numbers)
    granule = write_granule(tmp_path / f"{number}.h5", {"gt1r": data}, chunks=True)
    url, grid = server.url(granule), Grid(order, order + 3)
    layout = granule_layout(granule, data_source(), order)
    for cell in map(int, layout.cells()):
        found, (read,) = read_rows([url], cell, grid, data_source(), USED)
        assert_same(found, plain_read([granule], cell, grid, USED))
        assert read.rows_read > 0
        assert read.rows_unlocated == layout.unlocated


def test_a_row_without_longitude_counts_where_its_latitude_is_the_cells(
    server: RangeServer, tmp_path: Path
) -> None:
    data = track(2000)
    data["longitude"][[3, 5]] = np.nan
    data["latitude"][7] = 91.0
    granule = write_granule(tmp_path / "a.h5", {"gt1l": data}, **CHUNKED)
    cell = int(locate(data["latitude"][:1], data["longitude"][:1])[0])
    cell = int(words_of(nested_ids(np.array([cell], "u8"), 6), 6)[0])
    rows, (read,) = read_rows([server.url(granule)], cell, GRID, data_source(), USED)
    assert read.rows_unlocated == 3
    assert_same(rows, plain_read([granule], cell, GRID, USED))


def test_the_next_cell_needs_neither_metadata_nor_latitudes_again(
    server: RangeServer, tmp_path: Path
) -> None:
    granule = write_granule(tmp_path / "a.h5", {"gt1l": track(30_000)}, **CHUNKED)
    url = server.url(granule)
    first, second = map(int, granule_layout(granule, data_source(), 6).cells()[:2])
    read_rows([url], first, GRID, data_source(), USED)
    with h5py.File(granule) as file:
        latitude = file["gt1l/land_ice_segments/latitude"].id.get_chunk_info(0).byte_offset
    assert server.asked[0][1] == 0
    server.asked.clear()
    rows, _ = read_rows([url], second, GRID, data_source(), USED)
    assert_same(rows, plain_read([granule], second, GRID, USED))
    assert server.asked
    assert all(start > 0 and not start <= latitude < stop for _, start, stop in server.asked)


@pytest.mark.parametrize(
    "options",
    [
        {"chunks": (500,), "compression": "lzf", "shuffle": True},
        {"chunks": (500,), "scaleoffset": 0},
        {"chunks": (500,), "compression": "szip"},
    ],
)
def test_filters_that_only_h5py_knows_are_read_from_fetched_bytes(
    server: RangeServer, tmp_path: Path, options: dict[str, Any]
) -> None:
    if options.get("compression") == "szip" and not h5py.h5z.filter_avail(h5py.h5z.FILTER_SZIP):
        pytest.skip("this h5py cannot write szip")
    path = tmp_path / "a.h5"
    values = np.random.default_rng(0).integers(0, 1000, 20_000).astype("i4")
    data = track(20_000)
    with h5py.File(path, "w") as file:
        group = file.create_group("gt1l/land_ice_segments")
        for name, column in data.items():
            group[name] = column
        group.create_dataset("segment_id", data=values, **options)
    source = data_source(variables={"n": Column("/{group}/land_ice_segments/segment_id")})
    for cell in map(int, granule_layout(str(path), source, 6).cells()):
        here, _ = read_rows([str(path)], cell, GRID, source, ["n"])
        there, _ = read_rows([server.url(str(path))], cell, GRID, source, ["n"])
        np.testing.assert_array_equal(there.columns["n"], here.columns["n"])
