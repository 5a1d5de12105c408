"""An S3-compatible server behind a slow line.

Run as ``shaped_s3.py LATENCY_S CONNECTION_MB_S TOTAL_MB_S [FOLDER]``. Every request waits before it
goes on to the server; answers come no faster than the line allows, a connection for itself and all
connections together. The server is a real one behind a proxy that passes bytes on as they are; or,
given a folder, this process itself, which answers GET and HEAD of its files as S3 does and looks at
no signature, at a fraction of the cost. Prints where the server is as JSON, then answers each line
on standard input with what came since the line before: requests, bytes, connections, and the CPU
time of this process and of the server.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

sys.path.insert(0, str(Path(__file__).parents[2] / "tests"))

from services.s3 import S3Server

PIECE = 64 << 10
METHODS = (b"GET ", b"HEAD", b"PUT ", b"POST", b"DELE")


class Line:
    """A line of so many bytes a second, shared by whoever awaits it."""

    def __init__(self, rate: float) -> None:
        self._rate, self._free = rate, 0.0

    def booked(self, nbytes: int) -> float:
        """Book bytes; return when they are through."""
        self._free = max(self._free, time.perf_counter()) + nbytes / self._rate
        return self._free


class Shaped:
    """Counts, and answers that come slowly."""

    def __init__(self, latency: float, connection: float, total: float) -> None:
        self.latency, self._connection = latency, connection
        self._total = Line(total)
        self.requests = self.nbytes = self.connections = 0

    def line(self) -> Line:
        """Return the line of one more connection."""
        self.connections += 1
        return Line(self._connection)

    async def send(self, writer: asyncio.StreamWriter, line: Line, data: bytes) -> None:
        """Send a piece when the line is free."""
        self.nbytes += len(data)
        until = max(line.booked(len(data)), self._total.booked(len(data)))
        # Sleeping for less than a millisecond costs more than it is worth.
        if (pause := until - time.perf_counter()) > 1e-3:
            await asyncio.sleep(pause)
        writer.write(data)
        await writer.drain()


class Proxy(Shaped):
    """Passes on requests late and answers slowly."""

    def __init__(self, upstream: str, *speeds: float) -> None:
        super().__init__(*speeds)
        self._host, _, port = urlsplit(upstream).netloc.partition(":")
        self._port = int(port)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection."""
        there, back = await asyncio.open_connection(self._host, self._port)
        jobs = [
            asyncio.create_task(self._requests(reader, back)),
            asyncio.create_task(self._answers(there, writer, self.line())),
        ]
        await asyncio.wait(jobs, return_when=asyncio.FIRST_COMPLETED)
        for job in jobs:
            job.cancel()
        for one in (back, writer):
            with suppress(OSError):
                one.close()

    async def _requests(self, reader: asyncio.StreamReader, back: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await reader.read(PIECE):
                if data[:4] in METHODS:
                    self.requests += 1
                    await asyncio.sleep(self.latency)
                back.write(data)
                await back.drain()

    async def _answers(
        self, there: asyncio.StreamReader, writer: asyncio.StreamWriter, line: Line
    ) -> None:
        with suppress(OSError):
            while data := await there.read(PIECE):
                await self.send(writer, line, data)


class Files(Shaped):
    """Answers for the files of a folder, as a bucket would."""

    def __init__(self, folder: Path, *speeds: float) -> None:
        super().__init__(*speeds)
        self._folder = folder

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection."""
        line = self.line()
        with suppress(OSError, asyncio.IncompleteReadError):
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
                self.requests += 1
                await asyncio.sleep(self.latency)
                await self._answer(head, writer, line)

    async def _answer(self, head: str, writer: asyncio.StreamWriter, line: Line) -> None:
        method, target, _ = head.split(" ", 2)
        key = unquote(urlsplit(target).path).split("/", 2)[-1]
        path = self._folder / key
        if not path.is_file():
            writer.write(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")
            return
        size = path.stat().st_size
        lines = head.lower().split("\r\n")
        asked = next((one for one in lines if one.startswith("range:")), "")
        first, _, last = asked.rpartition("=")[2].partition("-")
        start, stop = (int(first), min(int(last) + 1, size)) if asked else (0, size)
        answer = [
            "HTTP/1.1 206 Partial Content" if asked else "HTTP/1.1 200 OK",
            f"Content-Length: {stop - start}",
            f'ETag: "{size:x}"',
            "Accept-Ranges: bytes",
            "Last-Modified: Tue, 02 Apr 2019 07:37:00 GMT",
        ]
        if asked:
            answer.append(f"Content-Range: bytes {start}-{stop - 1}/{size}")
        await self.send(writer, line, "\r\n".join([*answer, "", ""]).encode())
        if method == "HEAD":
            return
        with path.open("rb") as file:
            for place in range(start, stop, PIECE):
                piece = os.pread(file.fileno(), min(PIECE, stop - place), place)
                await self.send(writer, line, piece)


def cpu_of(group: int) -> float:
    """Return the CPU seconds of the processes of a group (0 where there is no /proc)."""
    total = 0.0
    for status in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            fields = status.read_text().rpartition(")")[2].split()
            if int(fields[2]) == group:
                total += (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return total


def answer_lines(shaped: Shaped, group: int | None, loop: asyncio.AbstractEventLoop) -> None:
    """Answer each line with the counts since the line before; stop at the end of them."""
    before = dict.fromkeys(("requests", "bytes", "connections", "proxy_cpu_s", "server_cpu_s"), 0.0)
    for _ in sys.stdin:
        now = {
            "requests": shaped.requests,
            "bytes": shaped.nbytes,
            "connections": shaped.connections,
            "proxy_cpu_s": time.process_time(),
            "server_cpu_s": 0.0 if group is None else cpu_of(group),
        }
        print(json.dumps({name: now[name] - before[name] for name in now}), flush=True)
        before = now
    loop.call_soon_threadsafe(loop.stop)


def main() -> None:
    """Serve until standard input ends."""
    latency, connection, total = map(float, sys.argv[1:4])
    speeds = (latency, connection * 1e6, total * 1e6)
    if len(sys.argv) > 4:
        told = {"software": "files of a folder", "direct": None}
        serve(Files(Path(sys.argv[4]), *speeds), None, told, nobody)
        return
    with S3Server() as server:
        server.bucket("granules")
        told = {"software": server.software, "direct": server.environment()}
        serve(Proxy(server.endpoint, *speeds), server.process.group, told, server.environment)


def serve(
    shaped: Proxy | Files,
    group: int | None,
    told: dict[str, Any],
    environment: Callable[[str], dict[str, str]],
) -> None:
    """Listen, tell where, and serve until standard input ends."""
    loop = asyncio.new_event_loop()
    listening = loop.run_until_complete(asyncio.start_server(shaped.serve, "127.0.0.1", 0))
    port = listening.sockets[0].getsockname()[1]
    print(json.dumps(told | {"environment": environment(f"http://127.0.0.1:{port}")}), flush=True)
    threading.Thread(target=answer_lines, args=(shaped, group, loop), daemon=True).start()
    loop.run_forever()


def nobody(endpoint: str) -> dict[str, str]:
    """Return the variables that lead AWS clients to an endpoint that knows no users."""
    return {
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_ACCESS_KEY_ID": "nobody",
        "AWS_SECRET_ACCESS_KEY": "nothing",
        "AWS_REGION": "us-west-2",
        "AWS_DEFAULT_REGION": "us-west-2",
        "AWS_ALLOW_HTTP": "true",
        "AWS_CONFIG_FILE": os.devnull,
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        "AWS_EC2_METADATA_DISABLED": "true",
    }


if __name__ == "__main__":
    main()
