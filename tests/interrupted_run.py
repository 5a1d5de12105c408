"""A program whose run is slow after some quick cells, and that tells on stdout what happens.

It ends, and its workers with it, when whoever holds the other end of its standard input dies.
"""

from __future__ import annotations

import functools
import json
import os
import signal
import sys
import tempfile
import threading
import time

import magg.cell
from magg import Catalog, load_config, run
from magg.events import CellFinished, Notice, RunFinished, RunStarted
from magg.executors import base


def tell(kind, **about):
    sys.stdout.write(json.dumps({"kind": kind} | about) + "\n")
    sys.stdout.flush()


def end_with_owner():
    def wait():
        os.read(0, 1)  # sys.stdin would hold a lock that the end of Python waits for
        os.killpg(0, signal.SIGKILL)

    threading.Thread(target=wait, daemon=True).start()


def listen(event):
    if isinstance(event, RunStarted):
        tell("started", cells=event.cells)
    elif isinstance(event, CellFinished):
        tell("cell", cell=event.cell, status=event.status)
    elif isinstance(event, Notice):
        tell("notice", message=event.message)
    elif isinstance(event, RunFinished):
        tell("finished", done=event.summary["cells_with_data"])


def slow_threads(quick, wait, patch=setattr):
    """Have all cells wait but the first so many."""
    read_rows, left, lock = magg.cell.read_rows, [quick], threading.Lock()

    def slow(*arguments, **options):
        with lock:
            left[0] -= 1
            is_slow = left[0] < 0
        if is_slow:
            wait()
        return read_rows(*arguments, **options)

    patch(magg.cell, "read_rows", slow)


def slow_processes(cells, seconds, folder):
    from cell_faults import FaultyPool, Script

    script = Script(folder, dict.fromkeys(cells, (f"sleep:{seconds}",) * 9))

    def make(max_workers=None, **_):
        return FaultyPool(script, max_workers or 2)

    base.BACKENDS["processes"] = make


def main():
    from cell_faults import small_orders

    end_with_owner()
    store, path, backend, seconds, folder, is_bar = sys.argv[1:]
    catalog = Catalog.load(path)
    in_order = sorted(catalog.cells, key=lambda cell: -len(catalog.cells[cell]))
    if backend == "local":

        def wait():
            os.close(tempfile.mkstemp(dir=folder)[0])  # as a script marks an attempt
            time.sleep(float(seconds))

        slow_threads(3, wait)
    else:
        slow_processes(in_order[3:], float(seconds), folder)
    start = functools.partial(run, small_orders(load_config("atl06")), catalog=catalog)
    # Runs before the end of Python waits for threads, as those of concurrent.futures do.
    threading._register_atexit(tell, "ending")
    tell("ready", pid=os.getpid())
    try:
        start(store=store, backend=backend, max_workers=2, progress=is_bar == "bar" or listen)
    except KeyboardInterrupt:
        tell("control")
        raise SystemExit(130) from None
    tell("end")


if __name__ == "__main__":
    main()
