"""Granules behind HTTP: the same rows as from disk, and every kind of bad answer noticed."""

from __future__ import annotations

import gc
import itertools
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np
import pytest
from granule_files import BEAMS, CHUNKED, GRID, data_source, track, write_granule

from magg.errors import GranuleError, GranuleNotFoundError
from magg.granules import forget_sources, granule_layout, open_source, read_rows
from magg.granules.hdf5 import HeldFile, read_hdf5
from magg.granules.pool import shared

USED = ("h_li", "s_li")


class Server(ThreadingHTTPServer):
    """Serves a folder by ranges; ``spoil`` may change a response before it is sent."""

    daemon_threads = True

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.folder = folder
        self.asked: list[tuple[str, int, int]] = []
        self.spoil: Any = None

    def url(self, granule: str) -> str:
        return f"http://127.0.0.1:{self.server_port}/{Path(granule).name}"


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Server

    def do_HEAD(self) -> None:
        self.answer(body=False)

    def do_GET(self) -> None:
        self.answer(body=True)

    def answer(self, *, body: bool) -> None:
        path = self.server.folder / unquote(self.path.lstrip("/"))
        if not path.is_file():
            self.send_error(404)
            return
        content, headers, status = path.read_bytes(), {}, 200
        headers = {"ETag": '"one"', "Last-Modified": "Sun, 01 Jan 2023 00:00:00 GMT"}
        wanted = self.headers.get("Range")
        if body and wanted:
            start, last = map(int, wanted.removeprefix("bytes=").split("-"))
            last = min(last, len(content) - 1)
            self.server.asked.append((path.name, start, last + 1))
            headers["Content-Range"] = f"bytes {start}-{last}/{len(content)}"
            content, status = content[start : last + 1], 206
        if body and self.server.spoil:
            status, content = self.server.spoil(status, content, headers)
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if body:
            self.wfile.write(content)

    def log_message(self, *_: Any) -> None:
        """Stay silent."""


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    with Server(tmp_path) as running:
        thread = threading.Thread(target=running.serve_forever, args=(0.01,))
        thread.start()
        yield running
        running.shutdown()
        thread.join()


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


def test_remote_rows_equal_local_ones(server: Server, tmp_path: Path) -> None:
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


def test_a_known_granule_costs_only_the_ranges_of_the_cell(server: Server, tmp_path: Path) -> None:
    granule = write_granule(tmp_path / "a.h5", {"gt1l": track(60_000)}, **CHUNKED)
    url = server.url(granule)
    cells = granule_layout(url, data_source(), 8).cells()
    server.asked.clear()
    read_rows([url], int(cells[0]), type(GRID)(8, 12), data_source(), USED)
    moved = sum(stop - start for _, start, stop in server.asked)
    assert 0 < moved < Path(granule).stat().st_size / 4


def test_forgotten_sources_are_opened_anew(server: Server, tmp_path: Path) -> None:
    url = server.url(write_granule(tmp_path / "a.h5", {"gt1l": track(30)}))
    with open_source(url) as first, open_source(url) as second:
        assert first._store is second._store
    forget_sources()
    with open_source(url) as third:
        assert third._store is not first._store


def test_a_missing_object_is_not_found(server: Server) -> None:
    with pytest.raises(GranuleNotFoundError, match=r"nowhere\.h5: there is no such object"):
        granule_layout(server.url("nowhere.h5"), data_source(), 6)


@pytest.mark.parametrize("number", [0, 1])
def test_one_bad_granule_of_several_fails_the_read_and_leaves_nothing_open(
    server: Server, tmp_path: Path, number: int
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
def test_bad_answers_are_errors(server: Server, tmp_path: Path, spoil: Any, message: str) -> None:
    url = server.url(write_granule(tmp_path / "a.h5", {"gt1l": track(3000)}, **CHUNKED))
    cell = int(granule_layout(url, data_source(), 6).cells()[0])
    server.spoil = spoil
    with pytest.raises(GranuleError, match=message) as caught:
        read_rows([url], cell, GRID, data_source(), USED)
    assert caught.value.granule == url


def test_refusals_during_the_metadata_pass_are_told_as_such(server: Server, tmp_path: Path) -> None:
    url = server.url(write_granule(tmp_path / "a.h5", {"gt1l": track(3000)}, **CHUNKED))
    server.spoil = refused
    with pytest.raises(GranuleError, match="access denied; check the credentials"):
        granule_layout(url, data_source(), 6)
    # What outlives its error inside h5py crashes the interpreter when it ends.
    gc.collect()
    assert not [one for one in gc.get_objects() if type(one) is HeldFile]


def test_h5py_reads_metadata_through_ranges(server: Server, tmp_path: Path) -> None:
    granule = write_granule(tmp_path / "a.h5", {"gt1l": track(3000)}, **CHUNKED)
    with open_source(server.url(granule)) as source:
        shape = read_hdf5(source, lambda file, _: file["gt1l/land_ice_segments/h_li"].shape)
    assert shape == (3000,)
    (tmp_path / "page.h5").write_text("<html>")
    with pytest.raises(GranuleError, match="is not an HDF5 file"):
        granule_layout(server.url("page.h5"), data_source(), 6)
