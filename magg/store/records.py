"""Which cells of a store are done: one small record each, found by one listing.

Under ``{store}/.magg/``:

``cells/{cell}/{digest}.{status}.json``
    The record of a finished cell, written after all of its chunks. The name tells what the cell
    was made from and how it ended, so that finding out costs one listing.
``writing/{cell}``
    Chunks of the cell are being written. Left behind where a worker died at it.
``failed/{cell}.json``
    Why the last attempt at the cell failed; removed by the next that succeeds.

A worker says that it writes, removes older records, writes the chunks, makes sure that nobody
wrote the cell from other inputs meanwhile, and only then writes the record. Equal inputs give
equal bytes, so that two workers at one cell from equal inputs are harmless.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Literal

from magg import __version__, wire
from magg.config import PipelineConfig
from magg.errors import StoreError
from magg.granules import GranuleRead
from magg.grid import Grid
from magg.store.open import local_path, open_objects
from magg.store.schema import LAYOUT_VERSION

if TYPE_CHECKING:
    from obstore.store import ObjectStore

FOLDER = ".magg"
DONE, WRITING, FAILED = f"{FOLDER}/cells", f"{FOLDER}/writing", f"{FOLDER}/failed"
# How often a cell is written again when another run wrote it from other inputs meanwhile.
COLLISIONS_BORNE = 5

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
    for batch in open_objects(path, region).list(prefix=FOLDER):
        for meta in batch:
            kind, _, name = meta["path"].removeprefix(f"{FOLDER}/").partition("/")
            if kind == "cells":
                cell, digest, status = name.removesuffix(".json").replace(".", "/").split("/")
                mark = Mark(digest, status, meta["last_modified"])
                marks.done[cell] = (*marks.done.get(cell, ()), mark)
            elif kind == "writing":
                marks.writing[name] = meta["last_modified"]
            elif kind == "failed":
                marks.failed[name.removesuffix(".json")] = meta["last_modified"]
    return marks


def read_record(path: str, cell: str, region: str | None = None) -> Record | None:
    """Return the record of a cell, or None where it is not done."""
    objects = open_objects(path, region)
    names = _names(objects, cell)
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
        Writes all chunks of the cell; called again where another run got in between.
    region : str, optional
        AWS region of the bucket.

    Raises
    ------
    StoreError
        If other runs keep writing the same cell from other inputs.
    """
    objects = open_objects(path, region)
    writing = f"{WRITING}/{record.cell}"
    for _ in range(COLLISIONS_BORNE):
        objects.put(writing, record.digest.encode())
        _remove(objects, *_names(objects, record.cell))
        write_chunks()
        if _content(objects, writing) == record.digest.encode():
            break
    else:
        raise StoreError(
            f"{path}: other runs keep writing cell {record.cell} from another catalog; "
            "wait for them to end and run again"
        )
    stamped = wire.unstructure(record) | {"time": _now()}
    name = f"{DONE}/{record.cell}/{record.digest}.{record.status}.json"
    objects.put(name, json.dumps(stamped).encode())
    _remove(objects, writing, f"{FAILED}/{record.cell}.json")


def write_failure(
    path: str, cell: str, digest: str, type_: str, message: str, region: str | None = None
) -> None:
    """Note why a cell failed; a later success removes it."""
    note = {"cell": cell, "digest": digest, "type": type_, "message": message, "time": _now()}
    open_objects(path, region).put(f"{FAILED}/{cell}.json", json.dumps(note).encode())


def _names(objects: ObjectStore, cell: str) -> list[str]:
    return [meta["path"] for batch in objects.list(prefix=f"{DONE}/{cell}") for meta in batch]


def _remove(objects: ObjectStore, *names: str) -> None:
    for name in names:
        try:
            objects.delete(name)
        except FileNotFoundError:
            continue


def _content(objects: ObjectStore, name: str) -> bytes | None:
    try:
        return bytes(objects.get(name).bytes())
    except FileNotFoundError:
        return None


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
