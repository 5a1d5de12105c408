"""Server processes that never outlive the tests, and the ports for them."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Self

SUPERVISOR = Path(__file__).with_name("supervisor.py")
STOP_SECONDS = 60.0


class Supervised:
    """A command in a process group of its own that ends when it is stopped or this process dies.

    Parameters
    ----------
    command : sequence of str
    folder : Path
        Its working directory, which is deleted when it ends.
    environment : mapping of str to str
        The whole environment of the command.
    litter : iterable of str
        Files that it leaves elsewhere, to be deleted too.

    Attributes
    ----------
    group : int
        The process group of the command and its supervisor.
    leaves : list of Path
        The folder and the litter: what is deleted.
    """

    def __init__(
        self,
        command: Sequence[str],
        folder: Path,
        environment: Mapping[str, str],
        litter: Iterable[str] = (),
    ) -> None:
        self.leaves = [folder, *map(Path, litter)]
        order = {
            "command": list(command),
            "folder": str(folder),
            "environment": dict(environment),
            "litter": [str(path) for path in self.leaves[1:]],
        }
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-S", str(SUPERVISOR), json.dumps(order)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        self.group = self._process.pid
        self._complaint = ""

    @property
    def running(self) -> bool:
        """Whether the command has not ended yet."""
        return self._process.poll() is None

    def stop(self) -> str:
        """Kill the command, wait until all is gone, and return what it complained of, if it did."""
        if not self._process.stdin.closed:
            try:
                self._complaint = self._process.communicate(timeout=STOP_SECONDS)[1].decode()
            except subprocess.TimeoutExpired:
                with suppress(ProcessLookupError):
                    os.killpg(self.group, signal.SIGKILL)
                self._process.communicate()
        return self._complaint

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.stop()


def free_ports(number: int) -> list[int]:
    """Return ports of the loopback interface that nothing listened on just now, all different."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(number)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]
