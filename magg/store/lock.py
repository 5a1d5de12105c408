"""One at a time: who makes or grows a store, lest two runs give one chunk to two cells."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import time
import uuid
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from magg.errors import StoreError
from magg.store.open import open_objects

if TYPE_CHECKING:
    from obstore.store import ObjectStore

NAME = ".magg/lock"
# Making a template takes seconds, on slow networks a minute or so.
STALE_AFTER_S = 300.0
POLL_S = 0.2


@contextlib.contextmanager
def exclusive(path: str, region: str | None = None) -> Iterator[None]:
    """Hold the lock of a store; wait while somebody else does.

    The lock is an object that is created only where there is none. One whose process has died on
    this machine, or that is five minutes old, is taken over.

    Raises
    ------
    StoreError
        If the lock cannot be had within five minutes.
    """
    objects = open_objects(path, region)
    token = uuid.uuid4().hex
    mine = {"token": token, "host": socket.gethostname(), "pid": os.getpid(), "time": time.time()}
    deadline = time.monotonic() + STALE_AFTER_S
    while not _create(objects, mine):
        holder = _holder(objects)
        if holder is not None and _is_stale(holder):
            _delete(objects)
        elif time.monotonic() > deadline:
            raise StoreError(f"{path}: another run has been preparing this store for too long")
        else:
            time.sleep(POLL_S)
    try:
        yield
    finally:
        if (_holder(objects) or {}).get("token") == token:
            _delete(objects)


def _create(objects: ObjectStore, mine: dict[str, Any]) -> bool:
    from obstore.exceptions import AlreadyExistsError

    try:
        objects.put(NAME, json.dumps(mine).encode(), mode="create")
    except AlreadyExistsError:
        return False
    return True


def _holder(objects: ObjectStore) -> dict[str, Any] | None:
    try:
        return dict(json.loads(bytes(objects.get(NAME).bytes())))
    except FileNotFoundError:
        return None


def _is_stale(holder: dict[str, Any]) -> bool:
    if holder["host"] == socket.gethostname() and not _is_alive(int(holder["pid"])):
        return True
    return time.time() - float(holder["time"]) > STALE_AFTER_S


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _delete(objects: ObjectStore) -> None:
    with contextlib.suppress(FileNotFoundError):
        objects.delete(NAME)
