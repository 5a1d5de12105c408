"""A loopback proxy before an S3 server that breaks requests by script and records them all.

Requests are passed on as they came, with the Host header of the proxy, so that their signatures
hold. The script is a list of faults; a request that none of them matches passes untouched.
"""

from __future__ import annotations

import http.client
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self
from urllib.parse import unquote, urlsplit
from xml.sax.saxutils import escape

import pytest

from services.faults import ANSWERS, Fault, Script
from services.http_server import read_body
from services.s3 import S3Server

NOT_PASSED_ON = {"connection", "keep-alive", "expect", "transfer-encoding"}
UPSTREAM_SECONDS = 120.0


@dataclass(frozen=True)
class Request:
    """What was asked and what came of it.

    Parameters
    ----------
    method, bucket, key, query : str
    range : str
        The Range header as it came, such as ``bytes=0-99``, or "".
    attempt : int
        Its number among the requests of the same method for the same key, from 1.
    faults : tuple of str
        The kinds that struck it.
    status : int or None
        What the client was answered, None if the connection closed instead.
    sent, received : int
        Bytes of the body of the answer that went out, and of the request.
    """

    method: str
    bucket: str
    key: str
    query: str
    range: str
    attempt: int
    faults: tuple[str, ...]
    status: int | None
    sent: int
    received: int


class FaultProxy:
    """A proxy that runs in threads of this process; a context manager.

    Parameters
    ----------
    upstream : str
        The endpoint of the server.
    *faults : Fault
        Of several that match, every latency is waited for and the first other one strikes.

    Attributes
    ----------
    endpoint : str
        To be used in place of the server's.
    script : Script
    """

    def __init__(self, upstream: str, *faults: Fault) -> None:
        self.upstream = urlsplit(upstream).netloc
        self.stopping = threading.Event()
        self._lock = threading.Lock()
        self.follow(*faults)
        self._server = _Server(self)
        self.endpoint = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(0.01,), name="fault-proxy", daemon=True
        )
        self._thread.start()

    def follow(self, *faults: Fault) -> None:
        """Follow these faults from now on, and forget all requests and counts."""
        with self._lock:
            self._requests: list[Request] = []
            self.script = Script(faults)

    @property
    def requests(self) -> list[Request]:
        """All requests so far; each is here before its client has the whole answer."""
        with self._lock:
            return list(self._requests)

    def attempts(self, method: str = "*", key: str = "*") -> int:
        """Return how many requests came, answered or not, of a method for a key (patterns)."""
        return self.script.attempts(method, key)

    def record(self, request: Request) -> None:
        """Keep a request."""
        with self._lock:
            self._requests.append(request)

    def stop(self) -> None:
        """Close all connections and wait for all threads; may be called twice."""
        self.stopping.set()
        self._server.shutdown()
        self._server.close_connections()
        self._server.server_close()
        self._thread.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.stop()


@pytest.fixture
def fault_proxy(s3_server: S3Server) -> Iterator[Callable[..., FaultProxy]]:
    """Return a function that takes faults and returns a running proxy before the S3 server."""
    running: list[FaultProxy] = []

    def start(*faults: Fault) -> FaultProxy:
        running.append(FaultProxy(s3_server.endpoint, *faults))
        return running[-1]

    yield start
    for proxy in running:
        proxy.stop()


@dataclass
class Answer:
    """What is sent to the client."""

    status: int
    headers: list[tuple[str, str]]
    body: bytes


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    # Header and body are written apart, and must not wait for the client's acknowledgement.
    disable_nagle_algorithm = True
    server: _Server

    def setup(self) -> None:
        super().setup()
        self.server.opened(self.connection)

    def finish(self) -> None:
        self.server.closed(self.connection)
        super().finish()

    def _do(self) -> None:
        proxy = self.server.proxy
        path, _, query = self.path.partition("?")
        bucket, _, key = unquote(path).lstrip("/").partition("/")
        range_ = self.headers.get("Range", "")
        body = read_body(self)
        attempt, strikes = proxy.script.arrived(self.command, key, query, range_)
        if any(proxy.stopping.wait(s.seconds) for s in strikes if s.kind == "latency"):
            self.close_connection = True
            return
        kind = next((s.kind for s in strikes if s.kind != "latency"), None)
        answer = self._answer(kind, body)
        status, content = (answer.status, answer.body) if answer else (None, b"")
        if kind == "truncate":
            content = content[: len(content) // 2]
        kinds = tuple(s.kind for s in strikes)
        # Recorded first, so that it is there when the client has the answer.
        proxy.record(
            Request(
                self.command,
                bucket,
                key,
                query,
                range_,
                attempt,
                kinds,
                status,
                len(content),
                len(body),
            )
        )
        self.close_connection |= answer is None or kind == "truncate"
        if answer:
            self.send_response_only(answer.status)
            for name, value in answer.headers:
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(content)

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = _do  # noqa: N815

    def _answer(self, kind: str | None, body: bytes) -> Answer | None:
        if kind == "drop":
            return None
        if kind in ANSWERS:
            return self._error(*ANSWERS[kind])
        try:
            answer = self._passed_on(body)
        except (OSError, http.client.HTTPException) as error:
            return self._error(502, "BadGateway", repr(error))
        return None if kind == "drop-answer" else answer

    def _error(self, status: int, code: str, message: str) -> Answer:
        text = (
            '<?xml version="1.0" encoding="UTF-8"?>\n'
            f"<Error><Code>{code}</Code><Message>{escape(message)}</Message>"
            f"<Resource>{escape(self.path)}</Resource><RequestId>fault</RequestId></Error>"
        ).encode()
        length = ("Content-Length", str(len(text)))
        body = b"" if self.command == "HEAD" else text
        return Answer(status, [("Content-Type", "application/xml"), length], body)

    def _passed_on(self, body: bytes) -> Answer:
        upstream = http.client.HTTPConnection(self.server.proxy.upstream, timeout=UPSTREAM_SECONDS)
        try:
            upstream.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
            for name, value in self.headers.items():
                if name.lower() not in NOT_PASSED_ON | {"content-length"}:
                    upstream.putheader(name, value)
            if body or "Content-Length" in self.headers:
                upstream.putheader("Content-Length", str(len(body)))
            upstream.endheaders(body or None)
            response = upstream.getresponse()
            content = response.read()
        finally:
            upstream.close()
        headers = [(n, v) for n, v in response.getheaders() if n.lower() not in NOT_PASSED_ON]
        if response.chunked:
            headers.append(("Content-Length", str(len(content))))
        return Answer(response.status, headers, content)

    def log_message(self, *_: Any) -> None:
        """Stay silent."""


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 256

    def __init__(self, proxy: FaultProxy) -> None:
        self.proxy = proxy
        self._open: dict[socket.socket, threading.Thread] = {}
        self._lock = threading.Lock()
        super().__init__(("127.0.0.1", 0), _Handler)

    def opened(self, connection: socket.socket) -> None:
        with self._lock:
            self._open[connection] = threading.current_thread()
            if self.proxy.stopping.is_set():
                _hang_up(connection)

    def closed(self, connection: socket.socket) -> None:
        with self._lock:
            self._open.pop(connection, None)

    def close_connections(self) -> None:
        """Wake up the threads that wait for a further request, and wait until all have ended."""
        with self._lock:
            waiting = dict(self._open)
            for connection in waiting:
                _hang_up(connection)
        for thread in waiting.values():
            thread.join()

    def handle_error(self, *_: Any) -> None:
        """Stay silent about clients that went away."""


def _hang_up(connection: socket.socket) -> None:
    with suppress(OSError):  # the client may have been first
        connection.shutdown(socket.SHUT_RDWR)
