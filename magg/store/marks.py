"""What one listing tells of all cells of a store (see `magg.store.records`)."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING

from magg.store import makings
from magg.store.levels import NOTHING, Holdings
from magg.store.makings import FOLDER
from magg.store.open import local_path, open_objects, told_of
from magg.store.pieces import PieceName

if TYPE_CHECKING:
    from obstore.store import ObjectStore


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
    pieces: dict[str, tuple[PieceName, ...]] = field(default_factory=dict)

    def is_done(
        self,
        cell: str,
        digest: str,
        *,
        accept_partial: bool,
        wanted: Holdings = NOTHING,
    ) -> bool:
        """Tell whether a cell need not be done again, with what is wanted beside its children."""
        return any(
            mark.satisfies(digest, accept_partial=accept_partial)
            for mark in self.done.get(cell, ())
        ) and (wanted == NOTHING or self._has_piece(cell, digest, wanted))

    def usable(self, cell: str) -> list[PieceName]:
        """Return the pieces of a cell that is surely done; none where it is not."""
        done = self.done.get(cell, ())
        if len(done) != 1:
            return []
        return [name for name in self.pieces.get(cell, ()) if name.digest == done[0].digest]

    def _has_piece(self, cell: str, digest: str, wanted: Holdings) -> bool:
        # A twin that died may have left the cell without its chunks at coarser orders.
        return cell not in self.writing and any(
            piece.digest == digest and piece.source == "rows" and wanted.extent <= piece.has.extent
            for piece in self.pieces.get(cell, ())
        )


def list_marks(path: str, region: str | None = None) -> Marks:
    """List the records of a store; costs one listing, however many cells there are."""
    local = local_path(path)
    if local is not None and not local.exists():
        return Marks({}, {}, {})
    with told_of(path):
        return list_marks_of(open_objects(path, region))


def list_marks_of(objects: ObjectStore) -> Marks:
    """List the records of a store that is open."""
    marks = Marks({}, {}, {})
    found = [meta for batch in objects.list(prefix=FOLDER) for meta in batch]
    current = {
        meta["path"].rpartition("/")[2]
        for meta in found
        if meta["path"].startswith(f"{makings.MADE}/")
    }
    for meta in found:
        kind, _, name = meta["path"].removeprefix(f"{FOLDER}/").partition("/")
        if kind == "cells":
            cell, making, *told = name.removesuffix(".json").replace(".", "/").split("/")
            if making in current:
                digest, status = told
                mark = Mark(digest, status, meta["last_modified"])
                marks.done[cell] = (*marks.done.get(cell, ()), mark)
        elif kind == "coarse":
            piece = PieceName.parse(name)
            if piece.making in current:
                marks.pieces[piece.cell] = (*marks.pieces.get(piece.cell, ()), piece)
        elif kind == "writing" and "/" in name:
            marks.writing[name.partition("/")[0]] = meta["last_modified"]
        elif kind == "failed":
            marks.failed[name.removesuffix(".json")] = meta["last_modified"]
    return marks
