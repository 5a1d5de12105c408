"""Every operation that changes a local store, or reads a granule, goes through a hook.

Run as a program, it makes one run after the other, each in a fork, as lines of JSON on stdin say,
and kills each with SIGKILL at the operation asked for. Forks are quick: hundreds of kills a minute.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import zarr.storage
import zarr.storage._local as zarr_files
from obstore.store import LocalStore as ObstoreLocal

import magg.cell
from magg import Catalog, load_config, run

HANGS_AFTER_S = 120
# A hook is called with what kind of operation it is, what it is about, and the operation itself.
Hook = Callable[[str, str, Callable[[], object]], object]


@contextlib.contextmanager
def hooked(hook: Hook) -> Iterator[None]:
    """Have every storage operation of this process go through a hook."""
    write, put, delete = zarr_files._put, ObstoreLocal.put, ObstoreLocal.delete
    get = ObstoreLocal.get
    listing, read_rows = ObstoreLocal.list, magg.cell.read_rows
    zarr_delete = zarr.storage.LocalStore.delete

    def hooked_write(path, value, *args, **kwargs):
        return hook("chunk", str(path), lambda: write(path, value, *args, **kwargs))

    def hooked_put(self, path, *args, **kwargs):
        return hook("put", path, lambda: put(self, path, *args, **kwargs))

    def hooked_get(self, path, *args, **kwargs):
        return hook("get", path, lambda: get(self, path, *args, **kwargs))

    def hooked_delete(self, paths, *args, **kwargs):
        for path in [paths] if isinstance(paths, str) else paths:
            hook("delete", path, lambda path=path: delete(self, path, *args, **kwargs))

    def hooked_list(self, *args, **kwargs):
        return hook("list", str(kwargs.get("prefix")), lambda: listing(self, *args, **kwargs))

    async def hooked_zarr_delete(self, key):
        hook("delete", key, lambda: None)
        return await zarr_delete(self, key)

    def hooked_read(granules, word, *args, **kwargs):
        return hook("read", str(word), lambda: read_rows(granules, word, *args, **kwargs))

    with _set(
        (zarr_files, "_put", hooked_write),
        (ObstoreLocal, "put", hooked_put),
        (ObstoreLocal, "get", hooked_get),
        (ObstoreLocal, "delete", hooked_delete),
        (ObstoreLocal, "list", hooked_list),
        (zarr.storage.LocalStore, "delete", hooked_zarr_delete),
        (magg.cell, "read_rows", hooked_read),
    ):
        yield


@contextlib.contextmanager
def _set(*places):
    kept = [(owner, name, owner.__dict__.get(name)) for owner, name, _ in places]
    for owner, name, value in places:
        setattr(owner, name, value)
    try:
        yield
    finally:
        for owner, name, value in kept:
            if value is None:
                delattr(owner, name)  # it was inherited
            else:
                setattr(owner, name, value)


def killing_hook(number: int, when: str) -> tuple[Hook, SimpleNamespace]:
    """Return a hook that kills the process before, after or in the middle of an operation."""
    count, lock, seen = itertools.count(1), threading.Lock(), SimpleNamespace(operations=0)

    def die():
        os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(60)

    def hook(kind, about, operation):
        if kind in ("list", "get", "read"):
            return operation()
        with lock:
            seen.operations = mine = next(count)
        if mine == number and when == "before":
            die()
        if mine == number and when == "during" and kind == "chunk":
            path = Path(about)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.with_suffix(".0123456789abcdef.partial").write_bytes(b"half")  # as zarr would
            die()
        try:
            return operation()
        finally:  # some fail as expected, such as making a group that is there
            if mine == number:
                die()

    return hook, seen


def _scenario(order: dict) -> None:
    from cell_faults import small_orders
    from pyramid_faults import pyramid_config

    config = pyramid_config() if order.get("pyramid") else small_orders(load_config("atl06"))
    hook, seen = killing_hook(order.get("kill", 0), order.get("when", "before"))
    with hooked(hook):
        summary = run(
            config,
            catalog=Catalog.load(order["catalog"]),
            store=order["store"],
            progress=False,
            **order.get("options", {}),
        )
    status = {"operations": seen.operations, "errors": summary["errors"]}
    Path(order["status"]).write_text(json.dumps(status))


def main() -> None:
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            code = 1
            signal.alarm(HANGS_AFTER_S)  # whoever asked for it may be dead
            try:
                _scenario(json.loads(line))
                code = 0
            finally:
                sys.stderr.flush()
                os._exit(code)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        sys.stdout.write(f"{status}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
