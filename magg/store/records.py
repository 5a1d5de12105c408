"""Which cells of a store are done: one small record each, found by one listing.

Under ``{store}/.magg/``:

``made/{making}``
    Stands for the store until it is overwritten; see `magg.store.makings`.
``cells/{cell}/{making}.{digest}.{status}.json``
    The record of a finished cell, written after all of its chunks. The name tells of which making
    of the store it is, what the cell was made from and how it ended, so that finding out costs one
    listing.
``writing/{cell}/{inputs}.{token}.json``
    Somebody writes chunks of the cell, and who. Left behind where a worker died at it.
``coarse/{cell}/...``
    The values of the cell at coarser orders, in stores that have such; see `magg.store.pieces`.
``failed/{cell}.json``
    Why the last attempt at the cell failed; removed by the next that succeeds.

A worker says that it writes, makes sure that the store is the one that it was sent to and that
nobody else writes the cell from other inputs (of two that begin together at least one sees the
other, and gives way), removes the records of other inputs, writes the chunks, and only then the
record. Equal inputs give equal bytes, so that two workers at one cell from equal inputs are
harmless, and the record of the first stays.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import random
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Literal

from magg import __version__, wire
from magg.config import PipelineConfig
from magg.errors import StoreError
from magg.granules import GranuleRead
from magg.grid import Grid
from magg.store import makings
from magg.store.chunks import parent_of
from magg.store.coarse import take_back_all
from magg.store.levels import NOTHING
from magg.store.lock import STALE_AFTER_S, read_signature, signed
from magg.store.makings import FOLDER, WRITING
from magg.store.marks import Mark
from magg.store.open import object_names, open_objects, remove_objects, told_of
from magg.store.schema import LAYOUT_VERSION

if TYPE_CHECKING:
    from obstore.store import ObjectStore

DONE, FAILED = f"{FOLDER}/cells", f"{FOLDER}/failed"
# How long to wait for another run that writes the same cell from other inputs. Its mark is taken
# for that of a dead worker after as long.
PATIENCE_S = STALE_AFTER_S
GIVE_WAY_S = 0.5

Status = Literal["data", "empty", "partial"]
TakeBack = Callable[[tuple[int, ...], bool], None]


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


def inputs_digest(config: PipelineConfig, grid: Grid, granules: Sequence[str]) -> str:
    """Return 32 hexadecimal digits that stand for all that decides the content of a cell."""
    inputs = [LAYOUT_VERSION, config.digest, grid.parent_order, grid.child_order, sorted(granules)]
    return hashlib.sha256(json.dumps(inputs).encode()).hexdigest()[:32]


def read_record(path: str, cell: str, region: str | None = None) -> Record | None:
    """Return the record of a cell, or None where it is not done."""
    with told_of(path):
        objects = open_objects(path, region)
        names = [
            name
            for name in object_names(objects, f"{DONE}/{cell}")
            if makings.is_current(objects, name.rpartition("/")[2].partition(".")[0])
        ]
        if len(names) != 1:
            return None
        return wire.structure(json.loads(bytes(objects.get(names[0]).bytes())), Record)


def write_cell(
    path: str,
    making: str,
    record: Record,
    write_chunks: Callable[[], None],
    region: str | None = None,
    take_back: TakeBack = lambda *_: None,
) -> None:
    """Write the chunks of a cell and then its record.

    Parameters
    ----------
    path : str
        Where the store is.
    making : str
        Which store was there when the cell's chunk was chosen; see `magg.store.makings`.
    record : Record
        Without a time, which is filled in.
    write_chunks : callable
        Writes all chunks of the cell; called again where this worker was taken for dead.
    region : str, optional
        AWS region of the bucket.
    take_back : callable
        Takes the former values of the cell out of the store's coarser orders, which it is told,
        before the first chunk is written. Also told whether the cell was done before.

    Raises
    ------
    StoreError
        If another run is writing the same cell from other inputs, and does not end, or the store
        was made anew or cannot be written to.
    """
    objects = open_objects(path, region)
    writer = _Writer(path, objects, making, record, write_chunks, take_back)
    try:
        _patiently(path, record.cell, writer.write)
    finally:
        if writer.is_late:
            _void(path, objects, record.chunk, region)


def _patiently(path: str, cell: str, attempt: Callable[[dict[str, Any]], bool]) -> None:
    """Try to have a cell for oneself until it succeeds."""
    deadline = time.monotonic() + PATIENCE_S
    while True:
        with told_of(path), signed() as me:
            if attempt(me):
                return
        if time.monotonic() > deadline:
            raise StoreError(
                f"{path}: another run is writing cell {cell} from other granules; "
                "wait for it to end and run again"
            )
        time.sleep(random.uniform(0.0, GIVE_WAY_S))  # noqa: S311 - no secret


@dataclass
class _Writer:
    """Somebody who writes one cell."""

    path: str
    objects: ObjectStore
    making: str
    record: Record
    write_chunks: Callable[[], None]
    take_back: TakeBack
    # Taken for dead, when its chunks may have come over those of somebody else.
    is_late: bool = False

    def write(self, me: dict[str, Any]) -> bool:
        """Write the cell unless somebody else writes it from other inputs; tell whether it did."""
        objects, record = self.objects, self.record
        name = f"{DONE}/{record.cell}/{self.making}.{record.digest}.{record.status}.json"
        with _marked(objects, record.cell, _bytes_digest(record), me) as mark:
            held = makings.require(objects, self.path, self.making)
            if not _is_alone(objects, mark):
                return False
            # The record of a twin stays true, unless granules were skipped, which may be others.
            old = object_names(objects, f"{DONE}/{record.cell}")
            void = [o for o in old if o != name or record.skipped]
            if held != NOTHING and (void or not old):
                self.take_back(held.orders, bool(old))
            remove_objects(objects, *void)
            try:
                self.write_chunks()
            except BaseException:
                with contextlib.suppress(Exception):
                    self.is_late |= read_signature(objects, mark) is None
                raise
            self.is_late = read_signature(objects, mark) is None
            if self.is_late:
                return False
            # Before the record, after which nobody would come back to remove it.
            remove_objects(objects, f"{FAILED}/{record.cell}.json")
            _put(objects, name, wire.unstructure(record) | {"time": _now()})
        return True


def _void(path: str, objects: ObjectStore, chunk: int, region: str | None) -> None:
    """Take away the records of the cell whose chunk was written too late."""
    with told_of(path):
        cell = parent_of(path, chunk, region)
    if cell is None:
        return  # nobody has begun to write it

    def remove_records(me: dict[str, Any]) -> bool:
        with _marked(objects, cell, "void", me) as mark:
            if not _is_alone(objects, mark):
                return False
            take_back_all(path, cell, chunk, region)
            remove_objects(objects, *object_names(objects, f"{DONE}/{cell}"))
        return True

    _patiently(path, cell, remove_records)


@contextlib.contextmanager
def _marked(objects: ObjectStore, cell: str, inputs: str, me: dict[str, Any]) -> Iterator[str]:
    """Say that somebody is at the chunks of a cell, to make it of some inputs."""
    mark = f"{WRITING}/{cell}/{inputs}.{me['token']}.json"
    try:
        objects.put(mark, json.dumps(me).encode())
        yield mark
    finally:
        # What stopped the writing matters more than a mark that stays.
        with contextlib.suppress(Exception):
            remove_objects(objects, mark)


def is_being_written(objects: ObjectStore, cell: str) -> bool:
    """Tell whether anybody alive is at the chunks of a cell."""
    marks = object_names(objects, f"{WRITING}/{cell}")
    return not all(makings.is_dead(objects, mark) for mark in marks)


def is_being_changed(objects: ObjectStore, cell: str, mark: Mark) -> bool:
    """Tell whether anybody alive makes a cell from other inputs than those of its record."""
    marks = object_names(objects, f"{WRITING}/{cell}")
    if mark.status != "partial":  # of which granules were skipped, which may be others
        twins = f"{WRITING}/{cell}/{_equal_bytes(mark.digest, ())}."
        marks = [name for name in marks if not name.startswith(twins)]
    return not all(makings.is_dead(objects, name) for name in marks)


def remove_dead_marks(objects: ObjectStore, cell: str) -> None:
    """Remove what dead workers left that were at the chunks of a cell, which is whole again."""
    marks = object_names(objects, f"{WRITING}/{cell}")
    remove_objects(objects, *(mark for mark in marks if makings.is_dead(objects, mark)))


def _is_alone(objects: ObjectStore, mark: str) -> bool:
    """Tell whether nobody alive is at the cell of a mark with other inputs; remove dead marks."""
    folder, _, name = mark.rpartition("/")
    others = [other for other in object_names(objects, folder) if other != mark]
    dead = [other for other in others if makings.is_dead(objects, other)]
    twins = f"{folder}/{name.partition('.')[0]}."
    if any(not other.startswith(twins) for other in others if other not in dead):
        return False
    remove_objects(objects, *dead)
    return True


def _put(objects: ObjectStore, name: str, content: dict[str, Any]) -> None:
    """Write an object; where the answer got lost, see whether it is there."""
    data = json.dumps(content).encode()
    try:
        objects.put(name, data)
    except Exception:
        with contextlib.suppress(Exception):
            if bytes(objects.get(name).bytes()) == data:
                return
        raise


def _bytes_digest(record: Record) -> str:
    """Return what is equal for two workers only if they write equal bytes."""
    return _equal_bytes(record.digest, [skipped.granule for skipped in record.skipped])


def _equal_bytes(digest: str, skipped: Sequence[str]) -> str:
    return hashlib.sha256(json.dumps([digest, sorted(skipped)]).encode()).hexdigest()[:32]


def write_failure(
    path: str,
    making: str,
    cell: str,
    digest: str,
    type_: str,
    message: str,
    region: str | None = None,
) -> None:
    """Note why a cell failed, unless a twin succeeded; a later success removes the note."""
    note = {"cell": cell, "digest": digest, "type": type_, "message": message, "time": _now()}
    objects, name = open_objects(path, region), f"{FAILED}/{cell}.json"
    complete = (f"{DONE}/{cell}/{making}.{digest}.{status}.json" for status in ("data", "empty"))
    if not set(complete) & set(object_names(objects, f"{DONE}/{cell}")):
        objects.put(name, json.dumps(note).encode())
        if not makings.is_current(objects, making):
            remove_objects(objects, name)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
