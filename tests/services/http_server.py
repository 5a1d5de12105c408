"""HTTP servers on loopback that run in threads of this process, for services to build on."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterable
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class LoopbackServer(ThreadingHTTPServer):
    """A server on a free port of the loopback interface, with a thread for each connection.

    Parameters
    ----------
    handler : subclass of LoopbackHandler
    owner : object
        What the handlers find as ``self.server.owner``.
    """

    daemon_threads = True
    request_queue_size = 256

    def __init__(self, handler: type[LoopbackHandler], owner: Any) -> None:
        self.owner = owner
        self._stopping = threading.Event()
        self._open: dict[socket.socket, threading.Thread] = {}
        self._lock = threading.Lock()
        super().__init__(("127.0.0.1", 0), handler)
        self._thread = threading.Thread(target=self._serve, name="loopback-server", daemon=True)
        self._thread.start()

    @property
    def address(self) -> str:
        """Host and port, such as ``127.0.0.1:34567``."""
        return f"127.0.0.1:{self.server_port}"

    def hang_up(self) -> None:
        """Take no further connection, and close those that are open; may be called twice."""
        if not self._stopping.is_set():
            self._stopping.set()
            with suppress(OSError), socket.create_connection(("127.0.0.1", self.server_port)):
                pass  # wakes the thread that waits for a connection
            self._thread.join()
            self.server_close()
        with self._lock:
            for connection in self._open:
                _shut(connection)

    def join(self) -> None:
        """Wait until the threads of all connections have ended."""
        with self._lock:
            threads = set(self._open.values()) - {threading.current_thread()}
        for thread in threads:
            thread.join()

    def opened(self, connection: socket.socket) -> None:
        """Keep in mind a connection that the current thread serves."""
        with self._lock:
            self._open[connection] = threading.current_thread()
            if self._stopping.is_set():
                _shut(connection)

    def closed(self, connection: socket.socket) -> None:
        """Forget a connection."""
        with self._lock:
            self._open.pop(connection, None)

    def handle_error(self, *_: Any) -> None:
        """Stay silent about clients that went away."""

    def _serve(self) -> None:
        # Unlike serve_forever, this does not wake up several times a second to see whether to stop.
        while not self._stopping.is_set():
            self.handle_request()


class LoopbackHandler(BaseHTTPRequestHandler):
    """One connection, which serves many requests."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1  # head and body of an answer leave together
    server: LoopbackServer

    def setup(self) -> None:
        """Begin with a connection."""
        super().setup()
        self.server.opened(self.connection)

    def finish(self) -> None:
        """End with a connection."""
        self.server.closed(self.connection)
        with suppress(OSError):
            super().finish()

    def body(self) -> bytes:
        """Read the body of the request."""
        return read_body(self)

    def answer(self, status: int, body: bytes, headers: Iterable[tuple[str, str]] = ()) -> None:
        """Answer the request."""
        self.send_response_only(status)
        for name, value in headers:
            self.send_header(name, value)
        if status != 204:
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def drop(self) -> None:
        """Close the connection without an answer."""
        self.close_connection = True
        _shut(self.connection)

    def log_message(self, *_: Any) -> None:
        """Stay silent."""


def _shut(connection: socket.socket) -> None:
    with suppress(OSError):  # the client may have been first
        connection.shutdown(socket.SHUT_RDWR)


def read_body(handler: BaseHTTPRequestHandler) -> bytes:
    """Read the body of a request, in whatever way it is sent."""
    if "chunked" not in handler.headers.get("Transfer-Encoding", "").lower():
        return handler.rfile.read(int(handler.headers.get("Content-Length", 0)))
    parts = []
    while size := int(handler.rfile.readline().partition(b";")[0], 16):
        parts.append(handler.rfile.read(size))
        handler.rfile.readline()
    while handler.rfile.readline().strip():  # trailers
        pass
    return b"".join(parts)
