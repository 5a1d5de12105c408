"""Byte ranges and filters: whatever the storage, the values are those that h5py reads."""

from __future__ import annotations

import io
import itertools
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from range_server import RangeServer

from magg.config import Column
from magg.errors import GranuleError
from magg.granules import open_source
from magg.granules.datasets import describe
from magg.granules.filters import fletcher32
from magg.granules.hdf5 import BLOCK, HeldFile
from magg.granules.ranges import LARGEST_SPAN, RangeRead, Want

DTYPES = ("f4", "f8", ">f4", ">f8", "f2", "i1", "u1", "i2", ">i2", "i4", "u8", ">u4")
# How a dataset is stored: what is read directly first, what h5py reads for us after it.
DIRECT = (
    {},
    {"chunks": True},
    {"chunks": True, "compression": "gzip"},
    {"chunks": True, "compression": "gzip", "shuffle": True},
    {"chunks": True, "compression": "gzip", "shuffle": True, "fletcher32": True},
    {"chunks": True, "fletcher32": True},
    {"chunks": True, "shuffle": True},
)
BY_H5PY = (
    {"chunks": True, "compression": "lzf"},
    {"chunks": True, "scaleoffset": 0},
    *([{"chunks": True, "compression": "szip"}] if "szip" in h5py.filters.encode else []),
    "nbit",
    "compact",
)


def read_runs(
    path: Path, name: str, runs: list[tuple[int, int]], place: str | None = None
) -> tuple[np.ndarray, Any]:
    with h5py.File(path) as file:
        layout = describe(file[name], file, Column(name))
    starts, stops = [start for start, _ in runs], [stop for _, stop in runs]
    with open_source(place or str(path)) as source:
        return RangeRead(source, [Want("gt1l", layout, starts, stops)]).finish()[0], layout


def expected(path: Path, name: str, runs: list[tuple[int, int]]) -> np.ndarray:
    with h5py.File(path) as file:
        values = file[name]
        return np.concatenate([values[:0], *(values[start:stop] for start, stop in runs)])


@st.composite
def runs_of(draw: st.DrawFn, rows: int) -> list[tuple[int, int]]:
    edges = draw(st.lists(st.integers(0, rows), max_size=8, unique=True))
    edges = sorted(edges)[: len(edges) // 2 * 2]
    return list(zip(edges[::2], edges[1::2], strict=True))


def create(file: h5py.File, name: str, values: np.ndarray, chunk: int, storage: Any) -> None:
    if storage == "compact":
        plist = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        plist.set_layout(h5py.h5d.COMPACT)
        space = h5py.h5s.create_simple(values.shape)
        kind = h5py.h5t.py_create(values.dtype)
        made = h5py.h5d.create(file.id, name.encode(), kind, space, plist)
        made.write(h5py.h5s.ALL, h5py.h5s.ALL, np.ascontiguousarray(values))
        return
    if storage == "nbit":
        plist = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        plist.set_chunk((chunk,))
        plist.set_filter(h5py.h5z.FILTER_NBIT, 0, ())
        space = h5py.h5s.create_simple(values.shape, (h5py.h5s.UNLIMITED,))
        kind = h5py.h5t.py_create(values.dtype)
        made = h5py.h5d.create(file.id, name.encode(), kind, space, plist)
        made.write(h5py.h5s.ALL, h5py.h5s.ALL, np.ascontiguousarray(values))
        return
    options = dict(storage)
    if "chunks" in options:
        least = 16 if options.get("compression") == "szip" else 1  # pixels of one of its blocks
        options |= {"chunks": (max(chunk, least),), "maxshape": (None,)}
    file.create_dataset(name, data=values, **options)


@settings(
    max_examples=150, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True
)
@given(data=st.data())
def test_any_storage_gives_what_h5py_reads(
    data: st.DataObject, tmp_path: Path, server: RangeServer
) -> None:
    rows, chunk = data.draw(st.integers(0, 300)), data.draw(st.integers(1, 120))
    dtype = np.dtype(data.draw(st.sampled_from(DTYPES)))
    storage = data.draw(st.sampled_from(DIRECT + BY_H5PY))
    if isinstance(storage, dict) and "scaleoffset" in storage and dtype.kind == "f":
        storage = {"chunks": True}
    if storage == "compact" and not rows:
        storage = {}
    values = np.random.default_rng(rows).integers(0, 100, rows).astype(dtype)
    path = tmp_path / f"any-{next(_numbers)}.h5"
    with h5py.File(path, "w") as file:
        create(file, "values", values, chunk, storage)
    runs = data.draw(runs_of(rows))
    found, layout = read_runs(path, "values", runs)
    np.testing.assert_array_equal(found, expected(path, "values", runs))
    assert found.dtype == dtype.newbyteorder("=")
    if storage in BY_H5PY:
        assert not layout.direct
    if data.draw(st.booleans()):
        found, _ = read_runs(path, "values", runs, server.url(str(path)))
        np.testing.assert_array_equal(found, expected(path, "values", runs))


_numbers = itertools.count()


@pytest.mark.parametrize("storage", DIRECT)
def test_common_storage_needs_no_h5py(storage: dict[str, Any], tmp_path: Path) -> None:
    values = np.arange(105_000, dtype="f8")
    with h5py.File(tmp_path / "common.h5", "w") as file:
        create(file, "values", values, 7_000, storage)
    runs = [(0, 3), (6_990, 7_010), (104_999, 105_000)]
    found, layout = read_runs(tmp_path / "common.h5", "values", runs)
    assert layout.direct
    np.testing.assert_array_equal(found, expected(tmp_path / "common.h5", "values", runs))


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
@given(data=st.data())
def test_chunks_never_written_hold_the_fill_value(data: st.DataObject, tmp_path: Path) -> None:
    rows, chunk = data.draw(st.integers(1, 200)), data.draw(st.integers(1, 60))
    written = data.draw(runs_of(rows))
    fill = data.draw(st.sampled_from([None, 0, 7]))
    chunked = data.draw(st.booleans())
    options = {"chunks": (chunk,), "compression": "gzip", "maxshape": (None,)} if chunked else {}
    path = tmp_path / "partly.h5"
    with h5py.File(path, "w") as file:
        made = file.create_dataset("values", (rows,), "f4", fillvalue=fill, **options)
        for start, stop in written:
            made[start:stop] = np.arange(start, stop)
    runs = data.draw(runs_of(rows))
    found, layout = read_runs(path, "values", runs)
    np.testing.assert_array_equal(found, expected(path, "values", runs))
    assert layout.direct


def test_extended_and_shrunk_datasets_read_like_in_h5py(tmp_path: Path) -> None:
    path = tmp_path / "resized.h5"
    with h5py.File(path, "w") as file:
        made = file.create_dataset(
            "values", data=np.arange(95.0), chunks=(10,), maxshape=(None,), compression="gzip"
        )
        made.resize((42,))
        made.resize((120,))
    found, _ = read_runs(path, "values", [(0, 120)])
    np.testing.assert_array_equal(found, expected(path, "values", [(0, 120)]))


@pytest.mark.parametrize("skipped", [0b00, 0b01, 0b10, 0b11])
def test_filters_that_a_chunk_skipped_are_not_undone(skipped: int, tmp_path: Path) -> None:
    import zlib

    values = np.arange(10, dtype="f8")
    data = values.tobytes()
    if not skipped & 1:
        data = np.frombuffer(data, "u1").reshape(10, 8).T.tobytes()
    if not skipped & 2:
        data = zlib.compress(data)
    path = tmp_path / "masked.h5"
    with h5py.File(path, "w") as file:
        made = file.create_dataset(
            "values", (20,), "f8", chunks=(10,), compression="gzip", shuffle=True
        )
        made.id.write_direct_chunk((0,), data, filter_mask=skipped)
        made[10:] = values
    found, layout = read_runs(path, "values", [(0, 20)])
    np.testing.assert_array_equal(found, np.tile(values, 2))
    assert layout.masks[0] == skipped


@pytest.mark.parametrize("version", ["earliest", "v108", "v110", "latest"])
def test_every_kind_of_chunk_index_is_read(version: str, tmp_path: Path) -> None:
    path = tmp_path / "index.h5"
    names = {"one": (50, None), "fixed": (5, None), "growing": (5, (None,)), "plain": (5, (50,))}
    with h5py.File(path, "w", libver=version) as file:
        for name, (chunk, most) in names.items():
            packed = {} if name == "plain" else {"compression": "gzip"}
            file.create_dataset(name, data=np.arange(50), chunks=(chunk,), maxshape=most, **packed)
    for name in names:
        found, _ = read_runs(path, name, [(3, 49)])
        np.testing.assert_array_equal(found, np.arange(3, 49))


def test_unusual_datasets_are_left_to_h5py(tmp_path: Path) -> None:
    path, rows = tmp_path / "unusual.h5", 30
    rng = np.random.default_rng(0)
    with h5py.File(tmp_path / "other.h5", "w") as other:
        other["values"] = np.arange(rows)
    with h5py.File(path, "w") as file:
        file.create_dataset("table", data=rng.random((rows, 3)), chunks=(7, 2))
        file.create_dataset("flags", data=rng.random(rows) < 0.5)
        pairs = np.zeros(rows, dtype=[("a", "i4"), ("b", "f8")])
        file.create_dataset("pairs", data=pairs, chunks=(7,), compression="gzip")
        file.create_dataset("texts", data=[f"t{i}" for i in range(rows)])
        kind = h5py.h5t.IEEE_F32LE.copy()  # 24 bits in four bytes: numpy calls it float32
        kind.set_fields(23, 15, 8, 0, 15)
        kind.set_precision(24)
        space = h5py.h5s.create_simple((rows,))
        short = h5py.h5d.create(file.id, b"short", kind, space)
        short.write(h5py.h5s.ALL, h5py.h5s.ALL, np.arange(rows, dtype="f4"))
        file["linked"] = h5py.ExternalLink("other.h5", "/values")
        outside = [(str(tmp_path / "raw.bin"), 0, h5py.h5f.UNLIMITED)]
        file.create_dataset("outside", data=np.arange(rows), external=outside)
    for name in ("table", "flags", "pairs", "texts", "short", "linked", "outside"):
        found, layout = read_runs(path, name, [(2, 9), (20, 30)])
        np.testing.assert_array_equal(found, expected(path, name, [(2, 9), (20, 30)]))
        assert not layout.direct, name


def test_files_with_a_user_block_are_read_right(tmp_path: Path) -> None:
    path = tmp_path / "block.h5"
    with h5py.File(path, "w", userblock_size=512) as file:
        file.create_dataset("values", data=np.arange(100), chunks=(10,), compression="gzip")
    found, _ = read_runs(path, "values", [(5, 95)])
    np.testing.assert_array_equal(found, np.arange(5, 95))


def test_only_chunks_that_overlap_the_runs_are_fetched(tmp_path: Path) -> None:
    path = tmp_path / "large.h5"
    values = np.random.default_rng(0).random(400_000)
    with h5py.File(path, "w") as file:
        file.create_dataset("values", data=values, chunks=(50_000,), compression="gzip")
        layout = describe(file["values"], file, Column("values"))

    asked = []
    with open_source(str(path)) as source:
        read = source.read
        source.read = lambda start, stop: asked.append(stop - start) or read(start, stop)  # type: ignore[method-assign,func-returns-value]
        want = Want("gt1l", layout, [10, 399_000], [20, 399_999])
        found = RangeRead(source, [want]).finish()[0]
    assert asked == [layout.sizes[0], layout.sizes[-1]]
    np.testing.assert_array_equal(found, np.r_[values[10:20], values[399_000:399_999]])


def test_neighbouring_chunks_are_fetched_together_in_bounded_spans(tmp_path: Path) -> None:
    path = tmp_path / "huge.h5"
    with h5py.File(path, "w") as file:
        file.create_dataset("values", data=np.zeros(2_500_000), chunks=(10_000,))
        layout = describe(file["values"], file, Column("values"))
    asked = []
    with open_source(str(path)) as source:
        read = source.read
        source.read = lambda start, stop: asked.append(stop - start) or read(start, stop)  # type: ignore[method-assign,func-returns-value]
        RangeRead(source, [Want("gt1l", layout, [0], [2_500_000])]).finish()
    assert 3 <= len(asked) <= 4
    assert max(asked) <= LARGEST_SPAN


def test_a_wrong_checksum_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "sum.h5"
    with h5py.File(path, "w") as file:
        made = file.create_dataset("values", data=np.arange(10.0), chunks=(10,), fletcher32=True)
        place = made.id.get_chunk_info(0).byte_offset
    content = bytearray(path.read_bytes())
    content[place + 20] ^= 1
    path.write_bytes(content)
    with pytest.raises(GranuleError, match=r"beam gt1l, dataset values: chunk 0 .*checksum"):
        read_runs(path, "values", [(0, 10)])


@pytest.mark.parametrize("word", [0, 0xFFFF, 0x0100, 0x7FFF])
@pytest.mark.parametrize("dtype", ["u1", "u2", "f8"])
def test_checksums_of_extreme_data_are_those_of_hdf5(word: int, dtype: str, tmp_path: Path) -> None:
    values = np.full(1000 * 8 + 1 * (dtype == "u1"), word, "u2").astype(dtype)
    with h5py.File(tmp_path / "sum.h5", "w") as file:
        file.create_dataset("values", data=values, chunks=values.shape, fletcher32=True)
    found, layout = read_runs(tmp_path / "sum.h5", "values", [(0, len(values))])
    assert layout.direct
    np.testing.assert_array_equal(found, values)


@pytest.mark.parametrize("dtype", ["f8", "f4", "i2", "i1"])
def test_filters_are_undone_in_any_order(dtype: str, tmp_path: Path) -> None:
    values = np.arange(40).astype(dtype)
    plist = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    plist.set_chunk((10,))
    plist.set_fletcher32()  # its four bytes are shuffled and compressed with the data
    plist.set_shuffle()
    plist.set_deflate(4)
    with h5py.File(tmp_path / "order.h5", "w") as file:
        space, kind = h5py.h5s.create_simple((40,)), h5py.h5t.py_create(values.dtype)
        made = h5py.h5d.create(file.id, b"values", kind, space, plist)
        made.write(h5py.h5s.ALL, h5py.h5s.ALL, values)
    found, layout = read_runs(tmp_path / "order.h5", "values", [(3, 38)])
    assert layout.direct
    np.testing.assert_array_equal(found, values[3:38])


def test_a_last_chunk_that_may_be_unfiltered_is_left_to_h5py(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "edge.h5", "w") as file:
        file.create_dataset("values", data=np.arange(25.0), chunks=(10,), shuffle=True)
    found, layout = read_runs(tmp_path / "edge.h5", "values", [(0, 25)])
    assert not layout.direct
    np.testing.assert_array_equal(found, np.arange(25.0))


@given(st.binary(max_size=200))
@settings(max_examples=60, deadline=None, derandomize=True)
def test_fletcher32_follows_its_definition(data: bytes) -> None:
    low = high = 0
    padded = data + b"\0" * (len(data) % 2)
    for i in range(0, len(padded), 2):
        low += padded[i] << 8 | padded[i + 1]
        high += low
    reduced = [value and (value - 1) % 65535 + 1 for value in (low, high)]
    assert list(fletcher32(memoryview(data))) == reduced


@given(
    reads=st.lists(st.tuples(st.integers(0, 5 * BLOCK), st.integers(0, 2 * BLOCK)), max_size=20),
    head=st.integers(0, 3),
    held=st.sets(st.integers(0, 4)),
)
@settings(max_examples=60, deadline=None, derandomize=True)
def test_a_held_file_reads_like_a_file_or_says_what_is_missing(
    reads: list[tuple[int, int]], head: int, held: set[int]
) -> None:
    content = np.random.default_rng(0).bytes(4 * BLOCK + 1000)
    view = memoryview(content)
    blocks = {number: view[number * BLOCK : (number + 1) * BLOCK] for number in held}
    file, plain = HeldFile(len(content), view[: head * BLOCK], blocks), io.BytesIO(content)
    here = held | set(range(head))
    for place, length in reads:
        file.missing.clear()
        assert file.seek(place) == plain.seek(place)
        expected = plain.read(length)
        needed = {(place + at) // BLOCK for at in range(0, len(expected), BLOCK)}
        needed |= {(place + len(expected) - 1) // BLOCK} if expected else set()
        if needed <= here:
            assert file.read(length) == expected
            assert file.tell() == plain.tell()
        else:
            with pytest.raises(OSError, match="not in memory"):
                file.read(length)
        assert file.missing == needed - here
    assert file.seek(-10, io.SEEK_END) == len(content) - 10
