"""Which cells of a store are done: one small record each, found by one listing.

Under ``{store}/.magg/``:

``cells/{cell}/{digest}.{status}.json``
    The record of a finished cell, written after all of its chunks. The name tells what the cell
    was made from and how it ended, so that finding out costs one listing.
``writing/{cell}/{inputs}.{token}.json``
    Somebody writes chunks of the cell, and who. Left behind where a worker died at it.
``failed/{cell}.json``
    Why the last attempt at the cell failed; removed by the next that succeeds.

A worker says that it writes, makes sure that nobody else writes the cell from other inputs (of two
that begin together at least one sees the other, and gives way), removes the records of other
inputs, writes the chunks, and only then the record. Equal inputs give equal bytes, so that two
workers at one cell from equal inputs are harmless, and the record of the first stays.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Literal

from magg import __version__, wire
from magg.config import PipelineConfig
from magg.errors import StoreError
from magg.granules import GranuleRead
from magg.grid import Grid
from magg.store.lock import STALE_AFTER_S, is_stale, read_signature, signed
from magg.store.open import local_path, open_objects, told_of
from magg.store.schema import LAYOUT_VERSION

if TYPE_CHECKING:
    from obstore import ObjectMeta
    from obstore.store import ObjectStore

FOLDER = ".magg"
DONE, WRITING, FAILED = f"{FOLDER}/cells", f"{FOLDER}/writing", f"{FOLDER}/failed"
# How long to wait for another run that writes the same cell from other inputs. Its mark is taken
# for that of a dead worker after as long.
PATIENCE_S = STALE_AFTER_S
GIVE_WAY_S = 0.5

Status = Literal["data", "empty", "partial"]


@dataclass(frozen=True)
class SkippedGranule:
    """A granule that could not be read and was left out because the caller asked for that."""

    granule: str
    error: str


@dataclass(frozen=True)
class Record:
    """What a finished cell was made from.

    Parameters
    ----------
    cell : str
        Decimal Morton id.
    digest : str
        Of the inputs; see `inputs_digest`.
    status : {"data", "empty", "partial"}
        "partial" where granules were skipped.
    chunk, observations, children : int
    granules : tuple of GranuleRead
        The granules that were really read.
    skipped : tuple of SkippedGranule
    time : str
        ISO 8601, UTC.
    magg : str
        Version.
    """

    cell: str
    digest: str
    status: Status
    chunk: int
    observations: int
    children: int
    granules: tuple[GranuleRead, ...] = ()
    skipped: tuple[SkippedGranule, ...] = ()
    time: str = ""
    magg: str = __version__


@dataclass(frozen=True)
class Mark:
    """What the name of a record tells."""

    digest: str
    status: str
    time: datetime

    def satisfies(self, digest: str, *, accept_partial: bool) -> bool:
        """Tell whether a cell with this record need not be done again."""
        return self.digest == digest and (accept_partial or self.status != "partial")


@dataclass(frozen=True)
class Marks:
    """What one listing tells of all cells of a store."""

    done: dict[str, tuple[Mark, ...]]
    writing: dict[str, datetime]
    failed: dict[str, datetime]


def inputs_digest(config: PipelineConfig, grid: Grid, granules: Sequence[str]) -> str:
    """Return 32 hexadecimal digits that stand for all that decides the content of a cell."""
    inputs = [LAYOUT_VERSION, config.digest, grid.parent_order, grid.child_order, sorted(granules)]
    return hashlib.sha256(json.dumps(inputs).encode()).hexdigest()[:32]


def list_marks(path: str, region: str | None = None) -> Marks:
    """List the records of a store; costs one listing, however many cells there are."""
    marks = Marks({}, {}, {})
    local = local_path(path)
    if local is not None and not local.exists():
        return marks
    with told_of(path):
        found = _entries(open_objects(path, region), FOLDER)
    for meta in found:
        kind, _, name = meta["path"].removeprefix(f"{FOLDER}/").partition("/")
        if kind == "cells":
            cell, digest, status = name.removesuffix(".json").replace(".", "/").split("/")
            mark = Mark(digest, status, meta["last_modified"])
            marks.done[cell] = (*marks.done.get(cell, ()), mark)
        elif kind == "writing":
            marks.writing[name.partition("/")[0]] = meta["last_modified"]
        elif kind == "failed":
            marks.failed[name.removesuffix(".json")] = meta["last_modified"]
    return marks


def read_record(path: str, cell: str, region: str | None = None) -> Record | None:
    """Return the record of a cell, or None where it is not done."""
    with told_of(path):
        objects = open_objects(path, region)
        names = _names(objects, f"{DONE}/{cell}")
        if len(names) != 1:
            return None
        return wire.structure(json.loads(bytes(objects.get(names[0]).bytes())), Record)


def write_cell(
    path: str, record: Record, write_chunks: Callable[[], None], region: str | None = None
) -> None:
    """Write the chunks of a cell and then its record.

    Parameters
    ----------
    path : str
        Where the store is.
    record : Record
        Without a time, which is filled in.
    write_chunks : callable
        Writes all chunks of the cell; called again where this worker was taken for dead.
    region : str, optional
        AWS region of the bucket.

    Raises
    ------
    StoreError
        If another run is writing the same cell from other inputs, and does not end, or the store
        cannot be written to.
    """
    objects = open_objects(path, region)
    deadline = time.monotonic() + PATIENCE_S
    while True:
        with told_of(path), signed() as me:
            if _write_alone(objects, record, write_chunks, me):
                return
        if time.monotonic() > deadline:
            raise StoreError(
                f"{path}: another run is writing cell {record.cell} from other granules; "
                "wait for it to end and run again"
            )
        time.sleep(random.uniform(0.0, GIVE_WAY_S))  # noqa: S311 - no secret


def _write_alone(
    objects: ObjectStore, record: Record, write_chunks: Callable[[], None], me: dict[str, Any]
) -> bool:
    """Write a cell unless somebody else writes it from other inputs; tell whether it is done."""
    folder = f"{WRITING}/{record.cell}"
    inputs = f"{folder}/{_bytes_digest(record)}"
    mark = f"{inputs}.{me['token']}.json"
    name = f"{DONE}/{record.cell}/{record.digest}.{record.status}.json"
    try:
        objects.put(mark, json.dumps(me).encode())
        others = [other for other in _names(objects, folder) if other != mark]
        dead = [other for other in others if _is_dead(objects, other)]
        if any(not other.startswith(inputs) for other in others if other not in dead):
            return False
        # The record of a twin stays true, unless granules were skipped, which may be others.
        records = _names(objects, f"{DONE}/{record.cell}")
        _remove(objects, *dead, *(old for old in records if old != name or record.skipped))
        write_chunks()
        if read_signature(objects, mark) is None:
            return False  # taken for dead: somebody else may have been at the chunks
        # Before the record, after which nobody would come back to remove it.
        _remove(objects, f"{FAILED}/{record.cell}.json")
        stamped = wire.unstructure(record) | {"time": _now()}
        objects.put(name, json.dumps(stamped).encode())
    finally:
        # What stopped the writing matters more than a mark that stays.
        with contextlib.suppress(Exception):
            _remove(objects, mark)
    return True


def _bytes_digest(record: Record) -> str:
    """Return what is equal for two workers only if they write equal bytes."""
    skipped = sorted(skipped.granule for skipped in record.skipped)
    return hashlib.sha256(json.dumps([record.digest, skipped]).encode()).hexdigest()[:32]


def _is_dead(objects: ObjectStore, mark: str) -> bool:
    holder = read_signature(objects, mark)
    return holder is None or is_stale(holder)


def write_failure(
    path: str, cell: str, digest: str, type_: str, message: str, region: str | None = None
) -> None:
    """Note why a cell failed, unless a twin succeeded; a later success removes the note."""
    note = {"cell": cell, "digest": digest, "type": type_, "message": message, "time": _now()}
    objects = open_objects(path, region)
    complete = (f"{DONE}/{cell}/{digest}.{status}.json" for status in ("data", "empty"))
    if not set(complete) & set(_names(objects, f"{DONE}/{cell}")):
        objects.put(f"{FAILED}/{cell}.json", json.dumps(note).encode())


def _names(objects: ObjectStore, folder: str) -> list[str]:
    return [meta["path"] for meta in _entries(objects, folder)]


def _entries(objects: ObjectStore, folder: str) -> list[ObjectMeta]:
    return [meta for batch in objects.list(prefix=folder) for meta in batch]


def _remove(objects: ObjectStore, *names: str) -> None:
    for name in names:
        try:
            objects.delete(name)
        except FileNotFoundError:
            continue


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
