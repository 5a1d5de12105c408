"""The chunks that parent cells share: what they hold, and how a cell is taken out of them.

Shared chunks never claim more than the child cells below them. Three things see to that.

- ``.magg/coarse.json``, the *manifest*, names every parent cell whose values the shared chunks may
  hold. It is written before they are, and only consolidation writes them, under a lock.
- Consolidation takes the cells that have a record and that nobody is writing. It looks for those
  who write after it has the lock.
- A worker that is to change a finished cell says that it writes, and *then* looks for the lock. So
  either it is seen, or it waits for consolidation to end. If the manifest then names its cell,
  it deletes the shared chunks, all of them. The next consolidation brings back those of the others.

A run takes the cells that it is to do again out of the shared chunks before it starts
(`magg.store.consolidate`), so that its workers find nothing to delete.
"""

from __future__ import annotations

import json
import time
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from magg import wire
from magg.errors import StoreError
from magg.store import lock
from magg.store.groups import COORDINATES
from magg.store.lock import exclusive, is_stale, read_signature
from magg.store.makings import FOLDER, WRITING
from magg.store.open import object_names, remove_objects, remove_together

if TYPE_CHECKING:
    from obstore.store import ObjectStore

    from magg.store.lock import Hold

MANIFEST = f"{FOLDER}/coarse.json"
# Among the marks of those who write, for whom an overwriting run waits.
LOCK = f"{WRITING}/shared"


@dataclass(frozen=True)
class Manifest:
    """What the shared chunks may hold.

    Parameters
    ----------
    making : str
        Of the store; see `magg.store.makings`.
    orders : tuple of int
        The orders that share chunks.
    cells : dict of str to str
        Decimal Morton ids of parent cells, to the name of the piece that their values are from.
    is_complete : bool
        Whether they hold all of these, and nothing else.
    """

    making: str
    orders: tuple[int, ...]
    cells: dict[str, str] = field(default_factory=dict)
    is_complete: bool = False


def read_manifest(objects: ObjectStore) -> Manifest | None:
    """Return the manifest, or None where no shared chunk holds anything."""
    try:
        return wire.structure(json.loads(bytes(objects.get(MANIFEST).bytes())), Manifest)
    except FileNotFoundError:
        return None


def write_manifest(objects: ObjectStore, manifest: Manifest) -> None:
    """Write the manifest."""
    objects.put(MANIFEST, json.dumps(wire.unstructure(manifest)).encode())


def hold_shared(
    path: str, region: str | None, patience_s: float = lock.STALE_AFTER_S
) -> AbstractContextManager[Hold]:
    """Return the lock of the shared chunks."""
    return exclusive(path, region, name=LOCK, patience_s=patience_s)


def withdraw(path: str, objects: ObjectStore, cell: str, region: str | None = None) -> None:
    """Make sure that no shared chunk holds values of a cell, nor will.

    Whoever calls this has said before that it writes the cell.
    """
    _wait_for_consolidation(path, objects)
    if _names(objects, cell):
        with hold_shared(path, region):
            if _names(objects, cell):
                erase(objects)


def erase(objects: ObjectStore) -> None:
    """Delete all shared chunks, and then the manifest; needs the lock."""
    manifest = read_manifest(objects)
    if manifest is None:
        return
    for order in manifest.orders:
        remove_together(objects, chunk_names(objects, order))
    remove_objects(objects, MANIFEST)


def chunk_names(objects: ObjectStore, order: int) -> list[str]:
    """Return the chunks of all variables of an order."""
    return [
        name
        for name in object_names(objects, str(order))
        if "/c/" in name and name.split("/")[1] not in COORDINATES
    ]


def _names(objects: ObjectStore, cell: str) -> bool:
    manifest = read_manifest(objects)
    return manifest is not None and cell in manifest.cells


def _wait_for_consolidation(path: str, objects: ObjectStore) -> None:
    deadline = time.monotonic() + 2 * lock.STALE_AFTER_S
    while (holder := read_signature(objects, LOCK)) is not None and not is_stale(holder):
        if time.monotonic() > deadline:
            raise StoreError(f"{path}: its coarser orders are being written for too long")
        time.sleep(lock.POLL_S)
