"""Which making of a store this is, so that workers of a former one leave it alone.

A worker may outlive its run: a thread after Ctrl-C, a call that nobody waits for any more. When
the store is overwritten meanwhile, its chunk may be another cell's. So every making of a store has
a token, the object ``.magg/made/{token}``, which is in the name of each record.

Overwriting takes the token away, which makes all records void at once, and *then* looks for marks
of workers that write, and waits for those. A worker puts its mark, and *then* looks for the token.
So either the worker sees that the token is gone, and writes nothing, or it is seen and waited for:
its bytes come before the store is cleared. A record that comes later still has the wrong token.
Only a worker that stood still for so long that it was taken for dead may write chunks into the new
store. It finds its mark gone, and takes away the records of the cell that it wrote over
(`magg.store.records`).
"""

from __future__ import annotations

import time
import uuid
from typing import TYPE_CHECKING

from magg.errors import StoreError
from magg.store import lock
from magg.store.levels import NOTHING, Holdings
from magg.store.open import object_names, remove_objects

if TYPE_CHECKING:
    from obstore.store import ObjectStore

FOLDER = ".magg"
MADE, WRITING = f"{FOLDER}/made", f"{FOLDER}/writing"


def begin(objects: ObjectStore, holdings: Holdings = NOTHING) -> str:
    """Return the token of a store, which is made where there is none.

    Its object also tells what the store holds beside its child cells, so that workers that were
    sent before that was added learn of it where they look for the token.
    """
    found = [name.removeprefix(f"{MADE}/") for name in object_names(objects, MADE)]
    token = min(found) if found else uuid.uuid4().hex[:16]
    content = " ".join([token, *sorted(holdings.extent)])
    if not found or _read(objects, token) != content:
        objects.put(f"{MADE}/{token}", content.encode())
    return token


def require(objects: ObjectStore, path: str, token: str) -> Holdings:
    """Return what a store holds; refuse to go on in one that was made anew.

    Raises
    ------
    StoreError
        If it was.
    """
    content = _read(objects, token)
    if content is None:
        raise StoreError(f"{path}: the store was made anew since this run began; run again")
    return Holdings.from_extent(content.split()[1:])


def current(objects: ObjectStore, path: str) -> str:
    """Return the token of a store.

    Raises
    ------
    StoreError
        If it has none, because it is being made anew.
    """
    found = [name.removeprefix(f"{MADE}/") for name in object_names(objects, MADE)]
    if not found:
        raise StoreError(f"{path}: the store is being made anew; wait for that, and run again")
    return min(found)


def is_current(objects: ObjectStore, token: str) -> bool:
    """Tell whether a store is still the one of a token."""
    return _read(objects, token) is not None


def _read(objects: ObjectStore, token: str) -> str | None:
    try:
        return bytes(objects.get(f"{MADE}/{token}").bytes()).decode()
    except FileNotFoundError:
        return None


def end(objects: ObjectStore) -> None:
    """Make all records of a store void, and wait for the workers that still write chunks.

    One that does not end within five minutes, or whose process is dead, is not waited for.
    """
    remove_objects(objects, *object_names(objects, MADE))
    deadline = time.monotonic() + lock.STALE_AFTER_S
    marks = object_names(objects, WRITING)  # who comes later finds the token gone
    while marks := [mark for mark in marks if not is_dead(objects, mark)]:
        if time.monotonic() > deadline:
            return  # its clock is wrong
        time.sleep(lock.POLL_S)


def is_dead(objects: ObjectStore, mark: str) -> bool:
    """Tell whether the worker of a mark has ended, or must be taken for dead."""
    holder = lock.read_signature(objects, mark)
    return holder is None or lock.is_stale(holder)
