"""The granules of one parent cell, opened, planned and read in order.

Local granules are read one after the other. Remote ones are opened ahead of their turn and their
ranges are fetched together, as far as the memory of the process allows.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from magg.config import Column, DataSource
from magg.errors import GranuleChangedError, GranuleError
from magg.granules.beams import BeamLayout, dataset_error, located
from magg.granules.bytesource import ByteSource
from magg.granules.datasets import DatasetLayout
from magg.granules.layout import (
    NO_ORDER,
    GranuleLayout,
    known_layout,
    layout_of,
    runs_between,
    valid_latitudes,
)
from magg.granules.pool import GRANULE_THREADS, give_up, results, shared
from magg.granules.ranges import RangeRead, Want
from magg.granules.sources import is_remote, open_source
from magg.granules.words import kept_rows, read_latitudes
from magg.grid import Grid, Words, latitudes_of

# Granules that are opened before it is their turn.
LOOK_AHEAD = 2 * GRANULE_THREADS


@dataclass(frozen=True, eq=False)
class Request:
    """What is wanted of every granule: see `magg.granules.read_rows`."""

    cell: int
    grid: Grid
    source: DataSource
    columns: Mapping[str, Column]
    layouts: Mapping[str, GranuleLayout]


@dataclass(frozen=True, eq=False)
class Plan:
    """What is read of a beam.

    Parameters
    ----------
    beam : BeamLayout
    paths : list of str
        Of the datasets that are wanted, in order.
    words, latitude : ndarray or None
        Of the rows in question, where they are kept in this process.
    """

    beam: BeamLayout
    paths: list[str]
    words: Words | None
    latitude: NDArray[Any] | None


@dataclass(eq=False)
class Visit:
    """One open granule and what the cell needs of it.

    Parameters
    ----------
    granule : str
    opened : ByteSource
    layout : GranuleLayout
    assumed : bool
        Whether the layout was taken as known; the first answer tells if it still holds.
    stale : bool
        Whether a layout was given that did not.
    wants : list of Want
    plan : list of Plan
        One for each beam.
    arrays : list of ndarray
        One for each want, once they are read.
    unlocated : int
        Rows without a valid position, when all beams were taken. Where only the latitudes of the
        whole granule were read, rows without a longitude count if their latitude is the cell's.
    """

    granule: str
    opened: ByteSource
    layout: GranuleLayout
    assumed: bool
    stale: bool
    wants: list[Want]
    plan: list[Plan]
    arrays: list[NDArray[Any]] = field(default_factory=list)
    unlocated: int = 0

    @property
    def nbytes(self) -> int:
        """What the arrays and their bytes in the file take, at most."""
        return 2 * sum(
            (sum(want.stops) - sum(want.starts)) * want.dataset.row_bytes for want in self.wants
        )

    def beams(self) -> Iterator[tuple[BeamLayout, dict[str, NDArray[Any]], Words]]:
        """Yield each beam with the values of its datasets by path, and the words of its rows."""
        arrays, self.unlocated = iter(self.arrays), self.layout.unlocated
        for plan in self.plan:
            values = {path: next(arrays) for path in plan.paths}
            beam, words = plan.beam, plan.words
            if words is None:
                kept = plan.latitude
                latitude = values[beam.latitude.path] if kept is None else kept
                words = located(beam, latitude, values[beam.longitude.path])
                if self.layout.parent_order == NO_ORDER:
                    lost = (words == 0) & valid_latitudes(beam, latitude)
                    self.unlocated += int(np.count_nonzero(lost))
            yield beam, values, words


def visits(granules: Sequence[str], request: Request) -> Iterator[Visit]:
    """Yield the granules in order, read; the arrays of each are good until the next is taken."""
    if any(is_remote(granule) for granule in granules):
        yield from _together(granules, request)
        return
    for granule in granules:
        visit = _visit(granule, request)
        try:
            _read(visit)
        except GranuleChangedError:
            if not visit.assumed:
                raise
            visit = _visit(granule, request, anew=True)
            _read(visit)
        yield visit


def _read(visit: Visit) -> None:
    """Read a local granule, in this thread."""
    with visit.opened:
        visit.arrays = RangeRead(visit.opened, visit.wants).finish()
        visit.opened.check_unchanged()


def _together(granules: Sequence[str], request: Request) -> Iterator[Visit]:
    """Read the ranges of many granules at once, so that their latencies overlap."""
    pool, coming = shared(), iter(granules)
    planned: deque[Future[Visit]] = deque()
    reading: deque[_Reading] = deque()
    try:
        while True:
            for granule in coming:
                planned.append(pool.granules.submit(_visit, granule, request))
                if len(planned) >= LOOK_AHEAD:
                    break
            if not planned:
                break
            visit = planned[0].result()
            while not pool.rows.try_take(visit.nbytes):
                # Nobody may wait for memory while he holds some: see `magg.granules.pool.Budget`.
                if not reading:
                    pool.rows.take(visit.nbytes)
                    break
                yield reading[0].finished(request)
                reading.popleft().end()
            reading.append(_Reading(visit, visit.nbytes))
            planned.popleft()
            reading[-1].start()
        while reading:
            yield reading[0].finished(request)
            reading.popleft().end()
    finally:
        for one in reading:
            one.end()
        give_up(planned)
        for plan in planned:
            if not plan.cancelled() and plan.exception() is None:
                plan.result().opened.close()


class _Reading:
    """A granule whose ranges are on their way, and the memory that was taken for them."""

    def __init__(self, visit: Visit, nbytes: int) -> None:
        self._visit, self._nbytes = visit, nbytes
        self._jobs: list[Future[None]] = []

    def start(self) -> None:
        """Ask for all ranges."""
        opened = self._visit.opened
        read = RangeRead(opened, self._visit.wants)
        self._visit.arrays = read.arrays
        jobs = read.jobs or ([opened.ask_unchanged] if self._visit.assumed else [])
        self._jobs = [shared().ranges.submit(job) for job in jobs]

    def finished(self, request: Request) -> Visit:
        """Wait for the ranges; read anew if the granule is not what its layout says."""
        try:
            results(self._jobs)
            self._visit.opened.check_unchanged()
        except GranuleChangedError:
            if not self._visit.assumed:
                raise
            self._visit.opened.close()
            self._visit = _visit(self._visit.granule, request, anew=True)
            self._visit.arrays = RangeRead(self._visit.opened, self._visit.wants).finish_together()
            self._visit.opened.check_unchanged()
        return self._visit

    def end(self) -> None:
        """Let go of everything."""
        give_up(self._jobs)
        self._visit.opened.close()
        self._visit.arrays = []
        shared().rows.give(self._nbytes)


def _visit(granule: str, request: Request, *, anew: bool = False) -> Visit:
    """Open a granule and plan what to read of it.

    With ``anew``, nothing is taken as known.
    """
    given = request.layouts.get(granule)
    layout = None if anew else given or _known(granule, request)
    try:
        opened = open_source(granule, (layout.size, layout.etag) if layout else None)
    except GranuleChangedError:
        return _visit(granule, request, anew=True)
    try:
        # One cell does not need the longitudes of a whole remote granule.
        order = NO_ORDER if is_remote(granule) else request.grid.parent_order
        found = layout_of(opened, request.source, order) if layout is None else layout
        wants: list[Want] = []
        plans = []
        for beam in found.beams:
            starts, stops = _runs(opened, found, beam, request)
            words = kept_rows(opened, beam, starts, stops, "words")
            latitude = None
            if words is None and found.parent_order == NO_ORDER:
                latitude = kept_rows(opened, beam, starts, stops, "latitude")
            datasets = _needed(opened.name, beam, request)
            if words is None:
                datasets[beam.longitude.path] = beam.longitude
                if latitude is None:
                    datasets[beam.latitude.path] = beam.latitude
            plans.append(Plan(beam, list(datasets), words, latitude))
            coordinates = (beam.latitude.path, beam.longitude.path)
            wants += [
                Want(beam.name, dataset, starts, stops, coordinate=path in coordinates)
                for path, dataset in datasets.items()
            ]
        stale = anew and given is not None
        return Visit(granule, opened, found, layout is not None, stale, wants, plans)
    except BaseException as error:
        opened.close()
        if isinstance(error, GranuleError):
            error.granule = granule  # messages name it without a signature
        raise


def _known(granule: str, request: Request) -> GranuleLayout | None:
    """Return what this process knows of a remote granule; a local one is looked at instead."""
    if not is_remote(granule):
        return None
    known = known_layout(granule, request.source, request.grid.parent_order)
    return known or known_layout(granule, request.source, NO_ORDER)


def _runs(
    opened: ByteSource, layout: GranuleLayout, beam: BeamLayout, request: Request
) -> tuple[list[int], list[int]]:
    """Return runs of rows of a beam that hold all of the cell's."""
    if layout.parent_order != NO_ORDER:
        return beam.runs(request.cell)
    (latitude,) = read_latitudes(opened, [beam])
    return runs_between(beam, latitude, *latitudes_of(request.cell, request.grid.parent_order))


def _needed(name: str, beam: BeamLayout, request: Request) -> dict[str, DatasetLayout]:
    """Return the datasets to read beside the coordinates, by path: columns may share one."""
    wanted = [column.path for column in request.columns.values()]
    if request.source.quality_filter:
        wanted.append(request.source.quality_filter.dataset)
    for path in (template.replace("{group}", beam.name) for template in wanted):
        if path in beam.problems:
            raise dataset_error(name, beam.name, path, beam.problems[path])
    datasets = [beam.datasets[column] for column in request.columns]
    if beam.quality is not None:
        datasets.append(beam.quality)
    return {dataset.path: dataset for dataset in datasets}
