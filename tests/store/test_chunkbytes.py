"""Chunks that are written without zarr are those that zarr would write."""

from __future__ import annotations

import numpy as np
import pytest
import zarr

from magg.store.chunkbytes import compressor, encode, in_chunks, is_fill


def written_by_zarr(folder, values, length, fill):
    array = zarr.create_array(
        folder / "a.zarr",
        shape=values.shape,
        chunks=(length,),
        dtype=values.dtype,
        fill_value=fill,
        compressors=compressor(),
    )
    array[:] = values
    return {int(path.name): path.read_bytes() for path in (folder / "a.zarr" / "c").iterdir()}


@pytest.mark.parametrize("dtype", ["f4", "f8", "i2", "i4", "u8", "u1"])
@pytest.mark.parametrize("cells", [1, 100, 128, 1000])
def test_the_bytes_are_those_of_zarr(dtype, cells, tmp_path):
    values = (np.random.default_rng(cells).random(cells) * 100).astype(dtype)
    fill = np.nan if dtype[0] == "f" else 0
    expected = written_by_zarr(tmp_path, values, 128, fill)
    chunks = list(in_chunks(values, 128, fill))
    assert {n: encode(chunk) for n, chunk in enumerate(chunks) if not is_fill(chunk, fill)} == (
        expected
    )


def test_bytes_are_little_endian_whatever_the_values_are():
    values = np.arange(10.0)
    assert encode(values.astype(">f8")) == encode(values.astype("<f8"))


@pytest.mark.parametrize(
    ("values", "fill", "nothing"),
    [
        ([0, 0], 0, True),
        ([0, 1], 0, False),
        ([np.nan, np.nan], np.nan, True),
        ([np.nan, 0.0], np.nan, False),
        ([-9999.0, -9999.0], -9999.0, True),
        ([np.nan, -9999.0], -9999.0, False),
    ],
)
def test_a_chunk_of_fill_values_is_told_apart(values, fill, nothing):
    assert is_fill(np.array(values), fill) is nothing
