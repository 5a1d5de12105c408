"""Runs one command for as long as its owner lives, and cleans up behind it.

Run as a script by `services.processes`. The owner holds the other end of standard input: when it
closes (the owner is done, or died in whatever way) the command is killed and its files go.
"""

from __future__ import annotations

import json
import os
import select
import shutil
import signal
import subprocess
import sys
from pathlib import Path

LOG = "log.txt"
LOG_BYTES_SHOWN = 4_000
# Forked children of the owner may hold the pipe open after its death, so its pid is watched too.
POLL_SECONDS = 0.2


def main() -> int:
    order = json.loads(sys.argv[1])
    folder = Path(order["folder"])
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    owner, child = os.getppid(), None
    try:
        with (folder / LOG).open("wb") as log:
            child = subprocess.Popen(
                order["command"],
                cwd=folder,
                env=order["environment"],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        while child.poll() is None and os.getppid() == owner:
            if select.select([sys.stdin], [], [], POLL_SECONDS)[0]:
                return 0
        if child.poll() is not None:
            log_end = (folder / LOG).read_bytes()[-LOG_BYTES_SHOWN:].decode(errors="replace")
            sys.stderr.write(f"exited with status {child.returncode}:\n{log_end}")
        return 1
    finally:
        if child is not None:
            child.kill()
            child.wait()
        shutil.rmtree(folder, ignore_errors=True)
        for path in order["litter"]:
            Path(path).unlink(missing_ok=True)


if __name__ == "__main__":
    sys.exit(main())
