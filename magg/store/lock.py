"""One at a time: who makes or grows a store, lest two runs give one chunk to two cells.

Another lock is for the chunks that parent cells share (`magg.store.shared`).
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from magg.errors import StoreError
from magg.store.open import open_objects

if TYPE_CHECKING:
    from obstore.store import ObjectStore

NAME = ".magg/lock"
# Making a template takes seconds, on slow networks a minute or so.
STALE_AFTER_S = 300.0
POLL_S = 0.2
RENEW_AFTER_S = STALE_AFTER_S / 5


@dataclass
class Hold:
    """A lock that is held; has to be renewed before it is five minutes old."""

    objects: ObjectStore
    name: str
    me: dict[str, Any]

    def is_mine(self) -> bool:
        """Tell whether nobody has taken the lock over; renew it where that is due."""
        if (read_signature(self.objects, self.name) or {}).get("token") != self.me["token"]:
            return False
        if time.time() - float(self.me["time"]) > RENEW_AFTER_S:
            self.me["time"] = time.time()
            self.objects.put(self.name, json.dumps(self.me).encode())
        return True


@contextlib.contextmanager
def exclusive(
    path: str,
    region: str | None = None,
    *,
    name: str = NAME,
    patience_s: float = STALE_AFTER_S,
) -> Iterator[Hold]:
    """Hold a lock of a store; wait while somebody else does.

    The lock is an object that is created only where there is none. One whose process has died on
    this machine, or that is five minutes old, is taken over.

    Raises
    ------
    StoreError
        If the lock cannot be had within ``patience_s``.
    """
    objects = open_objects(path, region)
    deadline = time.monotonic() + patience_s
    with signed() as me:
        try:
            while not _create(objects, name, me):
                holder = read_signature(objects, name)
                if holder is not None and is_stale(holder):
                    _take_away(objects, holder, me, name)
                elif time.monotonic() > deadline:
                    raise StoreError(
                        f"{path}: another run has been preparing this store for too long"
                    )
                else:
                    time.sleep(POLL_S)
            yield Hold(objects, name, me)
        finally:
            # Also where making it failed, for only the answer may have been lost. What goes wrong
            # here matters less than what was done, and leaves a lock that is stale.
            with contextlib.suppress(Exception):
                _delete_if_of(objects, name, me)


# Tokens of those in this process who are at work; whatever else it signed was left behind.
_at_work: set[str] = set()


@contextlib.contextmanager
def signed() -> Iterator[dict[str, Any]]:
    """Yield a signature, plain data that `is_stale` can judge; it is stale afterwards."""
    me: dict[str, Any] = {
        "token": uuid.uuid4().hex,
        "host": socket.gethostname(),
        "pids": _pid_namespace(),
        "pid": os.getpid(),
        "time": time.time(),
    }
    _at_work.add(me["token"])
    try:
        yield me
    finally:
        _at_work.discard(me["token"])


def read_signature(objects: ObjectStore, name: str) -> dict[str, Any] | None:
    """Return the signature that an object holds, or None where it is gone."""
    try:
        return dict(json.loads(bytes(objects.get(name).bytes())))
    except FileNotFoundError:
        return None


def is_stale(holder: dict[str, Any]) -> bool:
    """Tell whether who signed is at an end on this machine, or signed five minutes ago."""
    if (holder["host"], holder["pids"]) == (socket.gethostname(), _pid_namespace()):
        if holder["pid"] == os.getpid():
            return holder["token"] not in _at_work
        if not _is_alive(int(holder["pid"])):
            return True
    return time.time() - float(holder["time"]) > STALE_AFTER_S


def _create(objects: ObjectStore, name: str, me: dict[str, Any]) -> bool:
    from obstore.exceptions import AlreadyExistsError

    try:
        objects.put(name, json.dumps(me).encode(), mode="create")
    except AlreadyExistsError:
        # Of an earlier attempt, perhaps, whose answer got lost, so that obstore tried again.
        return bool((read_signature(objects, name) or {}).get("token") == me["token"])
    return True


def _take_away(
    objects: ObjectStore, holder: dict[str, Any], me: dict[str, Any], name: str = NAME
) -> None:
    """Delete a stale lock, but never the one that somebody else has put in its place since."""
    claim = f"{name}-{holder['token']}"
    if _create(objects, claim, me):
        _delete_if_of(objects, name, holder)
        _delete(objects, claim)
        return
    claimant = read_signature(objects, claim)
    if claimant is not None and is_stale(claimant):
        _delete(objects, claim)
    else:
        time.sleep(POLL_S)


def _delete_if_of(objects: ObjectStore, name: str, holder: dict[str, Any]) -> None:
    if (read_signature(objects, name) or {}).get("token") == holder["token"]:
        _delete(objects, name)


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _pid_namespace() -> str:
    """Return what tells containers apart that share the name of their host, where there is one."""
    try:
        return str(Path("/proc/self/ns/pid").readlink())
    except OSError:
        return ""


def _delete(objects: ObjectStore, name: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        objects.delete(name)
