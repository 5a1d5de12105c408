"""Runs one Lambda runtime for as long as its owner lives, and cleans up behind it.

Run as a script by `services.lambda_runtime`. It says on standard output, one JSON object a line,
which process it started and how that ended. The owner holds the other end of standard input: its
first line is the order; a byte after that asks to kill the runtime; when it closes (the owner is
done, or died in whatever way) the runtime is killed and its folder goes.
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
# Forked children of the owner may hold the pipe open after its death, so its pid is watched too.
POLL_SECONDS = 0.02


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
            if select.select([0], [], [], POLL_SECONDS)[0] and not os.read(0, 1):
                break
        return 0
    finally:
        if child is not None:
            _kill(child)
        shutil.rmtree(folder, ignore_errors=True)


def _watch(child: subprocess.Popen[bytes], memory_bytes: int, owner: int) -> tuple[int, bool]:
    """Wait until the child ends or is to end; return its peak of memory, and if that is why."""
    peak = 0
    while child.poll() is None and os.getppid() == owner:
        if select.select([0], [], [], POLL_SECONDS)[0]:
            os.read(0, 1)
            break
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
