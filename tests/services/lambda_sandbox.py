"""Runs one Lambda runtime for as long as its owner lives, and cleans up behind it.

Run as a script by `services.lambda_runtime`. It says on standard output, one JSON object a line,
which process it started and how that ended. The owner holds the other end of standard input: its
first line is the order; bytes after that say if the runtime is busy or idle, is to be killed, or of
no more use; then, or when that end closes because the owner died, its folder goes.
"""

from __future__ import annotations

import json
import os
import re
import select
import shutil
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

LOG = "log.txt"
BUSY, IDLE, KILL, DONE = b"b", b"i", b"k", b"d"
# How often to look at the memory of the runtime, and for the owner: its forked children may hold
# the pipe open after its death.
BUSY_SECONDS = 0.02
IDLE_SECONDS = 0.2


def peak_memory(pid: int) -> int:
    """Return the most bytes that a process has held in memory so far, 0 if it is gone."""
    with suppress(OSError):
        found = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
        return int(found[1]) * 1024 if found else 0
    return 0


def main() -> int:
    with os.fdopen(0, "rb", buffering=0, closefd=False) as orders:  # leaves what comes after
        order = json.loads(orders.readline())
    folder, owner, child = Path(order["folder"]), order["owner"], None
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        (folder / "tmp").mkdir(parents=True)
        with (folder / LOG).open("wb") as log:
            child = subprocess.Popen(
                order["command"],
                cwd=order["working_folder"],
                env=order["environment"],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        _say(pid=child.pid)
        peak, out_of_memory = _watch(child, order["memory_bytes"], owner)
        _kill(child)
        _say(status=child.returncode, peak=peak, out_of_memory=out_of_memory)
        while os.getppid() == owner:  # which may want to read the log
            if select.select([0], [], [], IDLE_SECONDS)[0] and os.read(0, 1) in {DONE, b""}:
                break
        return 0
    finally:
        if child is not None:
            _kill(child)
        shutil.rmtree(folder, ignore_errors=True)


def _watch(child: subprocess.Popen[bytes], memory_bytes: int, owner: int) -> tuple[int, bool]:
    """Wait until the child ends or is to end; return its peak of memory, and if that is why."""
    peak, seconds, watched = 0, BUSY_SECONDS, [0]
    if hasattr(os, "pidfd_open"):
        watched.append(os.pidfd_open(child.pid))  # readable when the child has ended
    while child.poll() is None and os.getppid() == owner:
        if 0 in select.select(watched, [], [], seconds)[0]:
            order = os.read(0, 1)
            if order not in {BUSY, IDLE}:
                break
            seconds = BUSY_SECONDS if order == BUSY else IDLE_SECONDS
        peak = max(peak, peak_memory(child.pid))
        if peak > memory_bytes:
            return peak, True
    return peak, False


def _kill(child: subprocess.Popen[bytes]) -> None:
    with suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)  # whatever it started, too
    child.wait()


def _say(**words: Any) -> None:
    with suppress(BrokenPipeError):
        print(json.dumps(words), flush=True)  # noqa: T201


if __name__ == "__main__":
    sys.exit(main())
