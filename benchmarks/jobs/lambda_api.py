"""An Invoke API on loopback that answers every call after a while, and may scale as Lambda does.

    python lambda_api.py DELAY_S [BURST PER_SECOND]

Prints its port, and ends when its standard input does. With a burst and a rate it has so many
environments at once and so many more a second, and refuses what comes faster. ``GET /`` tells what
it saw as JSON.
"""

from __future__ import annotations

import asyncio
import base64
import json
import resource
import sys
import time
from typing import Any

from magg import __version__

REPORT = (
    "REPORT RequestId: 8f507cfc\tDuration: 2000.00 ms\tBilled Duration: 2000 ms\t"
    "Memory Size: 2048 MB\tMax Memory Used: 300 MB\t\n"
)
RESULT = {"magg_call": 1, "version": __version__, "status": 200, "result": 1}
REFUSAL = {
    "Type": "User",
    "Reason": "ConcurrentInvocationLimitExceeded",
    "message": "Rate Exceeded",
}


def response(status: str, body: Any, **headers: str) -> bytes:
    """Return a whole answer."""
    data = json.dumps(body).encode()
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(data)}"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode() + data


ANSWER = response("200 OK", RESULT, X_Amz_Log_Result=base64.b64encode(REPORT.encode()).decode())
REFUSED = response("429 Too Many Requests", REFUSAL, x_amzn_ErrorType="TooManyRequestsException")


class Function:
    """A function that is always busy for the same time.

    Parameters
    ----------
    delay : float
        Seconds.
    burst, per_second : float
        Environments that it may have at once, and further on.
    """

    def __init__(self, delay: float, burst: float, per_second: float) -> None:
        self.delay, self.burst, self.per_second = delay, burst, per_second
        self.startable, self.counted_at = burst, 0.0
        self.requests = self.refused = self.running = self.environments = self.peak = 0

    def admits(self) -> bool:
        """Begin a call, unless there is no environment for it."""
        now = time.monotonic()
        # The first call of all begins the clock.
        passed = now - (self.counted_at or now)
        self.startable = min(self.burst, self.startable + passed * self.per_second)
        self.counted_at = now
        self.requests += 1
        if self.running == self.environments:
            if self.startable < 1.0:
                self.refused += 1
                return False
            self.startable -= 1.0
            self.environments += 1
        self.running += 1
        self.peak = max(self.peak, self.running)
        return True


class Connection(asyncio.Protocol):
    """One connection, with one request at a time."""

    def __init__(self, function: Function) -> None:
        self.function, self.received = function, b""

    def connection_made(self, transport: Any) -> None:
        """Keep the way back."""
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        """Take what there is; a request may come in pieces."""
        self.received += data
        head, found, body = self.received.partition(b"\r\n\r\n")
        if not found:
            return
        _, _, rest = head.lower().partition(b"content-length:")
        if len(body) < int(rest.split(b"\r\n")[0] or 0):
            return
        self.received = b""
        if head.startswith(b"GET"):
            seen = {name: getattr(self.function, name) for name in ("requests", "refused", "peak")}
            self.transport.write(response("200 OK", seen, Connection="close"))
            self.transport.close()
        elif self.function.admits():
            asyncio.get_running_loop().call_later(self.function.delay, self.answer)
        else:
            self.transport.write(REFUSED)

    def answer(self) -> None:
        """End a call."""
        self.function.running -= 1
        if not self.transport.is_closing():
            self.transport.write(ANSWER)


async def serve(function: Function) -> None:
    """Serve until standard input ends."""
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Connection(function), "127.0.0.1", 0, backlog=4096)
    print(server.sockets[0].getsockname()[1], flush=True)
    await loop.run_in_executor(None, sys.stdin.read)
    server.close()


if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
    delay, burst, per_second = (*map(float, sys.argv[1:]), float("inf"), 0.0)[:3]
    asyncio.run(serve(Function(delay, burst, per_second)))
