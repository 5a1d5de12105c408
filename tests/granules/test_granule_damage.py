"""Files that are no granule, or no longer one: an error that says so, never a wrong result."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from granule_files import BEAMS, GRID, data_source, track, write_granule

from magg.errors import GranuleError, GranuleNotFoundError
from magg.granules import granule_layout, layout, open_source, read_rows
from magg.granules.bytesource import LocalSource

USED = ("h_li", "s_li")


def read_everything(granule: str) -> list[Any]:
    found: list[Any] = []
    for cell in map(int, granule_layout(granule, data_source(), 6).cells()):
        rows, reads = read_rows([granule], cell, GRID, data_source(), USED)
        found.append((rows.child.tolist(), [v.tolist() for v in rows.columns.values()], reads))
    return found


def small_granule(path: Path, **options: Any) -> str:
    beams = {beam: track(3000, seed) for seed, beam in enumerate(BEAMS[:3])}
    options = options or {"chunks": (700,), "compression": "gzip", "shuffle": True}
    return write_granule(path, beams, **options)


def test_a_missing_file_is_not_found(tmp_path: Path) -> None:
    with pytest.raises(GranuleNotFoundError, match=r"nowhere\.h5: there is no such file") as caught:
        read_everything(str(tmp_path / "nowhere.h5"))
    assert isinstance(caught.value, FileNotFoundError)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is not an HDF5 file"),
        (b"<html>Please log in</html>", "saved login or error page.*download it again"),
        (b"\x89HDF\r\n\x1a\n", "damaged or incomplete; download it again"),
        (b"\x89HDF\r\n\x1a\n" + bytes(5000), "damaged or incomplete; download it again"),
    ],
)
def test_what_is_not_hdf5_is_told_so(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "a.h5"
    path.write_bytes(content)
    with pytest.raises(GranuleError, match=message) as caught:
        read_everything(str(path))
    assert caught.value.granule == str(path)


def test_folders_and_pipes_are_no_granules(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for place in (tmp_path, tmp_path / "pipe"):
        with pytest.raises(GranuleError, match="is not a regular file"):
            read_everything(str(place))


def test_unknown_kinds_of_urls_and_impossible_paths_are_told_so(tmp_path: Path) -> None:
    with pytest.raises(GranuleError, match="begin with s3://, https:// or http://"):
        open_source("ftp://somewhere/a.h5")
    with pytest.raises(GranuleError, match="cannot be opened"):
        open_source("a\0b.h5")


def test_a_file_that_may_not_be_read_is_told_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    granule = small_granule(tmp_path / "a.h5")

    def refused(*_: object) -> int:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "open", refused)
    with pytest.raises(GranuleError, match=r"a\.h5: may not be read.*permissions"):
        granule_layout(granule, data_source(), 6)


@pytest.mark.parametrize(
    "options", [{}, {"chunks": (700,)}, {"chunks": (700,), "fletcher32": True}]
)
def test_a_file_cut_anywhere_is_an_error_or_right(tmp_path: Path, options: dict[str, Any]) -> None:
    whole = read_everything(small_granule(tmp_path / "a.h5", **options))
    content = (tmp_path / "a.h5").read_bytes()
    cut = tmp_path / "cut.h5"
    for length in np.linspace(0, len(content) - 1, 40).astype(int):
        cut.write_bytes(content[:length])
        with pytest.raises(GranuleError, match="download it again"):
            read_everything(str(cut))
    cut.write_bytes(content)
    assert [found[:2] for found in read_everything(str(cut))] == [found[:2] for found in whole]


def test_a_file_cut_after_it_was_laid_out_is_an_error(tmp_path: Path) -> None:
    granule = small_granule(tmp_path / "a.h5")
    known = granule_layout(granule, data_source(), 6)
    content = Path(granule).read_bytes()
    for length in np.linspace(0, len(content) - 1, 20).astype(int):
        Path(granule).write_bytes(content[:length])
        # As if the cut had not been noticed: the ranges themselves must notice.
        with open_source(granule) as opened:
            as_known = replace(known, size=opened.size, etag=opened.etag)
        layout._layouts.put(layout._key(granule, data_source(), 6), as_known)
        with pytest.raises(GranuleError, match=r"ends early.*download it again"):
            read_everything(granule)


def test_a_file_written_to_while_its_rows_are_read_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    granule = small_granule(tmp_path / "a.h5")
    cell = int(granule_layout(granule, data_source(), 6).cells()[0])
    read = LocalSource.read

    def touching(source: LocalSource, start: int, stop: int) -> memoryview:
        os.utime(granule, ns=(0, 0))
        return read(source, start, stop)

    monkeypatch.setattr(LocalSource, "read", touching)
    with pytest.raises(GranuleError, match="changed while it was being read; run again"):
        read_rows([granule], cell, GRID, data_source(), USED)


@pytest.mark.parametrize("name", ["latitude", "h_li", "atl06_quality_summary"])
def test_damaged_chunks_are_errors_that_name_their_place(tmp_path: Path, name: str) -> None:
    granule = small_granule(tmp_path / "a.h5")
    path = f"gt1r/land_ice_segments/{name}"
    with h5py.File(granule) as file:
        chunk = file[path].id.get_chunk_info(1)
    content = Path(granule).read_bytes()
    rng = np.random.default_rng(0)
    for _ in range(25):
        damaged = bytearray(content)
        place = chunk.byte_offset + int(rng.integers(2, chunk.size))
        damaged[place] ^= int(rng.integers(1, 256))
        Path(granule).write_bytes(damaged)
        message = (
            rf"a\.h5: beam gt1r, dataset /{path}: chunk 1 \(bytes {chunk.byte_offset} to \d+\) "
            "cannot be decoded.*download it again"
        )
        with pytest.raises(GranuleError, match=message):
            read_everything(granule)


def test_damage_that_only_h5py_can_see_is_translated(tmp_path: Path) -> None:
    granule = small_granule(tmp_path / "a.h5", chunks=(700,), compression="lzf")
    with h5py.File(granule) as file:
        chunk = file["gt1l/land_ice_segments/h_li"].id.get_chunk_info(0)
    content = bytearray(Path(granule).read_bytes())
    content[chunk.byte_offset : chunk.byte_offset + chunk.size] = b"\xff" * chunk.size
    Path(granule).write_bytes(content)
    with pytest.raises(GranuleError, match=r"beam gt1l, dataset .*h_li: h5py cannot read it"):
        read_everything(granule)


def test_damaged_metadata_never_leak_other_errors(tmp_path: Path) -> None:
    """Bytes of headers and indexes are turned over one at a time (data are checksummed)."""
    granule = small_granule(tmp_path / "a.h5")
    content = Path(granule).read_bytes()
    used = np.zeros(len(content), dtype=bool)
    with h5py.File(granule) as file:
        for beam in BEAMS[:3]:
            for dataset in file[beam]["land_ice_segments"].values():
                for i in range(dataset.id.get_num_chunks()):
                    chunk = dataset.id.get_chunk_info(i)
                    used[chunk.byte_offset : chunk.byte_offset + chunk.size] = True
    places = np.flatnonzero(~used & (np.frombuffer(content, "u1") != 0))
    for place in np.random.default_rng(1).choice(places, 60, replace=False):
        damaged = bytearray(content)
        damaged[place] ^= 0xFF
        Path(granule).write_bytes(damaged)
        try:
            granule_layout(granule, data_source(), 6)
        except GranuleError as error:
            assert error.granule == granule  # noqa: PT017 - an error is allowed, not required
