"""A server of granules by ranges, on loopback, whose answers a test may spoil."""

from __future__ import annotations

import socket
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit


class RangeServer(ThreadingHTTPServer):
    """Serves a folder by ranges; the last part of a URL is the name of a file.

    Attributes
    ----------
    asked : list of (str, int, int)
        The name and range of each GET.
    methods : Counter of str
        How many requests there were.
    paths : list of str
        The path and query of each request, as it came.
    spoil : callable, optional
        May change the status, content and headers of an answer.
    fault : callable, optional
        Given the name, the range and how often that was asked for (from 1), returns what goes
        wrong: ``"drop"`` the connection, ``"cut"`` the body in the middle, or a status.
    """

    daemon_threads = True
    request_queue_size = 256

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.folder = folder
        self.asked: list[tuple[str, int, int]] = []
        self.methods: Counter[str] = Counter()
        self.paths: list[str] = []
        self.attempts: Counter[tuple[str, int, int]] = Counter()
        self.spoil: Any = None
        self.fault: Callable[[str, int, int, int], str | int | None] | None = None
        self.etag: str | None = '"one"'

    def url(self, granule: str, prefix: str = "") -> str:
        return f"http://127.0.0.1:{self.server_port}/{prefix}{Path(granule).name}"

    def handle_error(self, *_: Any) -> None:
        """Stay silent about clients that went away."""


@contextmanager
def serving(folder: Path) -> Iterator[RangeServer]:
    """Serve a folder for the duration of a block."""
    with RangeServer(folder) as running:
        thread = threading.Thread(target=running.serve_forever, args=(0.01,))
        thread.start()
        yield running
        running.shutdown()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: RangeServer

    def do_HEAD(self) -> None:
        self.answer(body=False)

    def do_GET(self) -> None:
        self.answer(body=True)

    def answer(self, *, body: bool) -> None:
        self.server.methods[self.command] += 1
        self.server.paths.append(self.path)
        path = self.server.folder / Path(unquote(urlsplit(self.path).path)).name
        if not path.is_file():
            self.send_error(404)
            return
        size = path.stat().st_size
        start, stop, status = 0, size, 200
        headers = {"Last-Modified": "Sun, 01 Jan 2023 00:00:00 GMT"}
        if self.server.etag:
            headers["ETag"] = self.server.etag
        wanted = self.headers.get("Range")
        fault = None
        if body and wanted:
            start, last = map(int, wanted.removeprefix("bytes=").split("-"))
            stop = min(last + 1, size)
            if start >= size:
                self.send_response(416)
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            asked = (path.name, start, stop)
            self.server.asked.append(asked)
            self.server.attempts[asked] += 1
            if self.server.fault:
                fault = self.server.fault(*asked, self.server.attempts[asked])
            headers["Content-Range"] = f"bytes {start}-{stop - 1}/{size}"
            status = 206
        with path.open("rb") as file:
            file.seek(start)
            content = file.read(stop - start)
        if body and self.server.spoil:
            status, content = self.server.spoil(status, content, headers)
        if fault == "drop":
            self.close_connection = True
            self.connection.shutdown(socket.SHUT_RDWR)
            return
        if isinstance(fault, int):
            status, content = fault, b""
            headers.pop("Content-Range")
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if fault == "cut":
            self.close_connection = True
            content = content[: len(content) // 2]
        if body:
            self.wfile.write(content)

    def log_message(self, *_: Any) -> None:
        """Stay silent."""
