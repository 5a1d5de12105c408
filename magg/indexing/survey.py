"""Granules on their way into an index: compared, surveyed and completed by any executor.

An entry is true as long as its granule has the size and ETag that it had. So before entries are
used all of them are compared with their granules, by workers, which reach these as cells would.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from magg.access import Reach
from magg.catalog import surveying
from magg.catalog.index import GranuleIndex, IndexFile
from magg.catalog.surveying import Surveyed, SurveyTask, Version, look_at_granules, survey_granule
from magg.config import DataSource
from magg.credentials import Access, redact
from magg.drain import Drain, Pool
from magg.errors import CatalogError
from magg.events import GranuleSurveyed, IndexFinished, IndexStarted, Listener, Notice
from magg.executors.cloud import as_cloud
from magg.executors.retry import Policy
from magg.granules.entries import GranuleEntry, paths_of

# Granules that one task compares with their entries.
LOOKED_AT_TOGETHER = 200


@dataclass
class Survey:
    """Granules on their way into an index.

    Parameters
    ----------
    index : GranuleIndex
        What is known; changed in place.
    source : DataSource
    pool : Pool
    in_flight : int
    reach : Reach, optional
        How granules of Earthdata are reached.
    file : IndexFile, optional
        Where what is finished is kept.
    listen : callable
        Hears what happens.
    backend : str
    policy : Policy
    """

    index: GranuleIndex
    source: DataSource
    pool: Pool
    in_flight: int
    reach: Reach | None
    file: IndexFile | None
    listen: Listener
    backend: str
    policy: Policy = field(default_factory=Policy)
    known: int = 0
    surveyed: int = 0
    completed: int = 0
    errors: list[dict[str, str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        # Of all beams that the index is of, whichever of them this config names.
        self.source = replace(self.source, groups=self.index.key.groups)
        self._dropped = 0
        # Granules that cannot be looked at just now: their entries are kept, and not used.
        self.unseen: set[str] = set()

    @property
    def has_changed(self) -> bool:
        """Whether the index is not what it was."""
        return bool(self.surveyed or self.completed or self._dropped)

    def told(self) -> dict[str, Any]:
        """Return what was done, as plain data."""
        return {
            "granules_known": self.known,
            "granules_surveyed": self.surveyed,
            "granules_completed": self.completed,
            "errors": self.errors,
        }

    def bring_up_to_date(self, granules: Sequence[str]) -> None:
        """Have a true and complete entry of each granule that can be surveyed."""
        entries = self.index.entries
        self.errors += [_signed(granule) for granule in granules if redact(granule) != granule]
        granules = [granule for granule in granules if redact(granule) == granule]
        self._drop_stale([granule for granule in granules if granule in entries])
        needed = paths_of(self.source)
        true = entries.keys() - self.unseen
        new = [granule for granule in granules if granule not in true]
        lacking = {
            granule: tuple(sorted(missing))
            for granule in granules
            if granule in true and (missing := entries[granule].lacks(needed))
        }
        self.known = len(granules) - len(new) - len(lacking)
        if not new and not lacking:
            return
        self.listen(IndexStarted(len(new) + len(lacking), self.known, self.backend))
        try:
            self._survey(new, lacking)
        finally:
            if self.file is not None:
                with contextlib.suppress(CatalogError):  # `finish` tells of it
                    self.file.flush()
            self.listen(IndexFinished())

    def _drop_stale(self, granules: Sequence[str]) -> None:
        """Forget entries of granules that are not what they were."""
        step = LOOKED_AT_TOGETHER
        units = {
            f"granules from {first}": tuple(granules[first : first + step])
            for first in range(0, len(granules), step)
        }
        for result in self._drained(look_at_granules, units):
            answers = result.answers or ("unseen",) * len(units[result.cell])
            for granule, answer in zip(units[result.cell], answers, strict=True):
                if answer == "changed":
                    del self.index.entries[granule]
                    self._dropped += 1
                elif answer != "same":
                    self.unseen.add(granule)

    def _survey(self, new: Iterable[str], lacking: dict[str, tuple[str, ...]]) -> None:
        units: dict[str, tuple[str, ...]] = {granule: (granule,) for granule in (*new, *lacking)}
        for result in self._drained(survey_granule, units, lacking):
            granule, problem = result.cell, None
            try:
                if result.error is None:
                    self._keep(granule, result, lacking)
                else:
                    problem = result.error.type, result.error.message
            except (ValueError, OSError) as error:
                problem = type(error).__name__, str(error)
            if problem is not None:
                self.errors.append({"granule": granule, "type": problem[0], "message": problem[1]})
            text = None if problem is None else ": ".join(problem)
            self.listen(GranuleSurveyed(granule, text))

    def _keep(self, granule: str, result: Surveyed, lacking: Collection[str]) -> None:
        entry = surveying.unpacked(result.answers[0], self.index.key.parent_order)
        entry = replace(entry, granule=granule)
        if granule in lacking:
            entry = _completed(self.index.entries[granule], entry)
            self.completed += 1
        else:
            self.surveyed += 1
            self.unseen.discard(granule)
        self.index.entries[granule] = entry
        if self.file is not None:
            self.file.add(entry)

    def _drained(
        self,
        function: Callable[[SurveyTask], Surveyed],
        units: dict[str, tuple[str, ...]],
        lacking: dict[str, tuple[str, ...]] | None = None,
    ) -> Iterator[Surveyed]:
        """Map a function over units of granules."""

        def task(unit: str) -> SurveyTask:
            urls, access = units[unit], Access()
            if self.reach is not None:
                urls, access = self.reach.to(unit, urls)
            return SurveyTask(
                unit=unit,
                granules=urls,
                source=self.source,
                parent_order=self.index.key.parent_order,
                paths=(lacking or {}).get(unit, ()),
                versions=tuple(
                    Version(entry.size, entry.etag)
                    for granule in units[unit]
                    if (entry := self.index.entries.get(granule)) is not None
                ),
                access=access,
            )

        drain: Drain[Surveyed] = Drain(
            self.pool,
            units,
            task,
            self.in_flight,
            self.policy,
            notify=lambda message: self.listen(Notice(message)),
            function=function,
            fail=surveying.failed,
        )
        if self.reach is not None:
            drain.on_refused = self.reach.refuse
        as_cloud(self.pool.executor).notify = drain.tell
        with contextlib.closing(drain.results()) as results:
            yield from results


def _signed(granule: str) -> dict[str, str]:
    """Return why a granule is in no index: signatures are not written down."""
    message = "its URL is signed; name granules by links that last"
    return {"granule": redact(granule), "type": "CatalogError", "message": message}


def _completed(known: GranuleEntry, more: GranuleEntry) -> GranuleEntry:
    if (known.size, known.etag) != (more.size, more.etag):
        raise CatalogError(f"{known.granule}: changed while it was being surveyed; run again")
    return known.with_datasets(more)
