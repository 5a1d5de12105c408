"""An S3-compatible server behind a slow line.

Run as ``shaped_s3.py LATENCY_S CONNECTION_MB_S TOTAL_MB_S``. Every request waits before it goes on
to the server; answers come no faster than the line allows, a connection for itself and all
connections together. The proxy passes bytes on as they are and counts them. Prints where the
server is as JSON, then answers each line on standard input with what came since the line before:
requests, bytes, connections, and the CPU time of this process and of the server.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlsplit

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


class Proxy:
    """Passes on requests late and answers slowly."""

    def __init__(self, upstream: str, latency: float, connection: float, total: float) -> None:
        self._host, _, port = urlsplit(upstream).netloc.partition(":")
        self._port = int(port)
        self._latency, self._connection = latency, connection
        self._total = Line(total)
        self.requests = self.nbytes = self.connections = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection."""
        self.connections += 1
        there, back = await asyncio.open_connection(self._host, self._port)
        jobs = [
            asyncio.create_task(self._requests(reader, back)),
            asyncio.create_task(self._answers(there, writer)),
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
                    await asyncio.sleep(self._latency)
                back.write(data)
                await back.drain()

    async def _answers(self, there: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        line = Line(self._connection)
        with suppress(OSError):
            while data := await there.read(PIECE):
                self.nbytes += len(data)
                until = max(line.booked(len(data)), self._total.booked(len(data)))
                # Sleeping for less than a millisecond costs more than it is worth.
                if (pause := until - time.perf_counter()) > 1e-3:
                    await asyncio.sleep(pause)
                writer.write(data)
                await writer.drain()


def cpu_of(group: int) -> float:
    """Return the CPU seconds of the processes of a group (0 where there is no /proc)."""
    total = 0.0
    for status in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            fields = status.read_text().rpartition(")")[2].split()
            if int(fields[2]) == group:
                total += (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return total


def answer_lines(proxy: Proxy, server: S3Server, loop: asyncio.AbstractEventLoop) -> None:
    """Answer each line with the counts since the line before; stop at the end of them."""
    before = dict.fromkeys(("requests", "bytes", "connections", "proxy_cpu_s", "server_cpu_s"), 0.0)
    for _ in sys.stdin:
        now = {
            "requests": proxy.requests,
            "bytes": proxy.nbytes,
            "connections": proxy.connections,
            "proxy_cpu_s": time.process_time(),
            "server_cpu_s": cpu_of(server.process.group),
        }
        print(json.dumps({name: now[name] - before[name] for name in now}), flush=True)
        before = now
    loop.call_soon_threadsafe(loop.stop)


def main() -> None:
    """Serve until standard input ends."""
    latency, connection, total = map(float, sys.argv[1:4])
    with S3Server() as server:
        loop = asyncio.new_event_loop()
        proxy = Proxy(server.endpoint, latency, connection * 1e6, total * 1e6)
        listening = loop.run_until_complete(asyncio.start_server(proxy.serve, "127.0.0.1", 0))
        port = listening.sockets[0].getsockname()[1]
        told = {
            "software": server.software,
            "environment": server.environment(f"http://127.0.0.1:{port}"),
            "direct": server.environment(),
        }
        server.bucket("granules")
        print(json.dumps(told), flush=True)
        threading.Thread(target=answer_lines, args=(proxy, server, loop), daemon=True).start()
        loop.run_forever()


if __name__ == "__main__":
    main()
