"""What a granule holds and where: its beams, their datasets, and which rows lie in which cell.

A layout needs one pass over the coordinates of a granule. It is kept in the process, so that a
run over many cells goes through the coordinates of each granule once and reads, per cell, only
the chunks that hold its rows.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Hashable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from magg.config import DataSource
from magg.errors import GranuleChangedError, GranuleError
from magg.granules.beams import BeamLayout, find_beam
from magg.granules.bytesource import ByteSource
from magg.granules.cache import OnceCache
from magg.granules.hdf5 import HDF5_ERRORS, HeldFile, read_hdf5
from magg.granules.sources import open_source
from magg.granules.words import locate_beams, read_latitudes
from magg.grid import Words, nested_ids, prefixes, words_of

# Runs of one cell closer than this are one run: the rows between cost less than another range.
LARGEST_ROW_GAP = 4096
# Layouts kept in a process. One of a full-size ATL06 granule takes about 60 KB.
CACHE_BYTES = 128 << 20
# What a dataset's layout takes beside its arrays.
DATASET_BYTES = 1800
# The order of a layout without runs, for which no longitudes were read.
NO_ORDER = -1


@dataclass(frozen=True, slots=True, eq=False)
class GranuleLayout:
    """One granule.

    Parameters
    ----------
    granule : str
        Path or URL.
    size : int
        Bytes.
    etag : str
        ETag, or for a file the time of its modification (ns) and its inode.
    parent_order : int
        Order of the cells of the beams' runs.
    beams : tuple of BeamLayout
        Those that are in the file, in the config's order.
    unlocated : int
        Rows of all beams without a valid position (missing, not finite or out of range).
    """

    granule: str
    size: int
    etag: str
    parent_order: int
    beams: tuple[BeamLayout, ...]
    unlocated: int

    def cells(self) -> Words:
        """Return the parent cells that hold at least one row: sorted, unique Morton words."""
        words = [beam.cells for beam in self.beams]
        return np.unique(np.concatenate([np.zeros(0, dtype=np.uint64), *words]))

    @property
    def nbytes(self) -> int:
        """Memory, about."""
        total = 0
        for beam in self.beams:
            total += beam.cells.nbytes + beam.starts.nbytes + beam.stops.nbytes
            for dataset in beam.all_datasets():
                arrays = dataset.offsets.nbytes + dataset.sizes.nbytes + dataset.masks.nbytes
                total += DATASET_BYTES + arrays
        return total


def granule_layout(granule: str, source: DataSource, parent_order: int) -> GranuleLayout:
    """Return the layout of a granule, computing it at most once in this process.

    The coordinates of all beams are read and located. Layouts are kept up to 128 MiB in all (one
    of a full-size ATL06 granule takes about 60 KB), those longest unused leaving first; a file
    that was replaced or written to is read anew. Threads may call this together: one
    computes, the others wait. While one is computed, it takes 50 bytes a row of its longest beam.

    Parameters
    ----------
    granule : str
        Path or URL.
    source : DataSource
    parent_order : int

    Raises
    ------
    GranuleNotFoundError
        If there is no such granule.
    GranuleError
        If it cannot be read, or a beam lacks its coordinates.
    """
    known = known_layout(granule, source, parent_order)
    if known is not None:
        try:
            with open_source(granule, (known.size, known.etag)) as opened:
                opened.ask_unchanged()
            return known
        except GranuleChangedError:
            forget_layout(granule, source, parent_order)
    with open_source(granule) as opened:
        return layout_of(opened, source, parent_order)


def layout_of(opened: ByteSource, source: DataSource, parent_order: int) -> GranuleLayout:
    """Return the layout of an open granule: `granule_layout` for those who go on reading it.

    With `NO_ORDER`, only the latitudes are read: the beams have no runs, and rows without a valid
    longitude are not counted.
    """
    key, version = _key(opened.granule, source, parent_order), (opened.size, opened.etag)
    known = _layouts.peek(key)
    if known is not None and (known.size, known.etag) != version:
        _layouts.discard(key)
    found = _layouts.get(key, lambda: _computed(opened, source, parent_order))
    if (found.size, found.etag) != version:  # another thread opened another version
        found = _computed(opened, source, parent_order)
    opened.drop_head()
    return found


def known_layout(granule: str, source: DataSource, parent_order: int) -> GranuleLayout | None:
    """Return the layout that a granule had when this process last derived it, or None."""
    return _layouts.peek(_key(granule, source, parent_order))


def forget_layout(granule: str, source: DataSource, parent_order: int) -> None:
    """Forget a layout that a granule no longer has."""
    _layouts.discard(_key(granule, source, parent_order))


def _key(granule: str, source: DataSource, parent_order: int) -> Hashable:
    return granule, _digest(source), parent_order


_layouts: OnceCache[GranuleLayout] = OnceCache(CACHE_BYTES)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_layouts.clear)


def _digest(source: DataSource) -> bytes:
    """Return a digest of the part of the config that a layout depends on."""
    quality = source.quality_filter.dataset if source.quality_filter else None
    columns = sorted(source.columns.items())
    relevant = (source.groups, source.coordinates, columns, quality)
    return hashlib.sha256(repr(relevant).encode()).digest()


def _computed(opened: ByteSource, source: DataSource, parent_order: int) -> GranuleLayout:
    beams = read_hdf5(opened, lambda file, held: find_beams(file, held, source, opened.name))
    opened.drop_head()
    unlocated = 0
    if parent_order == NO_ORDER:
        for beam, values in zip(beams, read_latitudes(opened, beams), strict=True):
            unlocated += len(values) - int(np.count_nonzero(valid_latitudes(beam, values)))
    else:
        words = locate_beams(opened, beams)
        unlocated = sum(int(np.count_nonzero(found == 0)) for found in words)
        beams = [
            _with_runs(beam, found, parent_order) for beam, found in zip(beams, words, strict=True)
        ]
    opened.check_unchanged()  # h5py opened the file by its path, a second time
    return GranuleLayout(
        granule=opened.name,
        size=opened.size,
        etag=opened.etag,
        parent_order=parent_order,
        beams=tuple(beams),
        unlocated=unlocated,
    )


def valid_latitudes(beam: BeamLayout, latitude: NDArray[Any]) -> NDArray[np.bool_]:
    """Tell which latitudes of a beam, as stored, are those of a place."""
    valid = np.abs(latitude) <= 90.0
    for fill in beam.latitude.missing:
        valid &= latitude != fill
    return np.asarray(valid)


def runs_between(
    beam: BeamLayout, latitude: NDArray[Any], south: float, north: float
) -> tuple[list[int], list[int]]:
    """Return the starts and stops of the runs that hold all rows between two latitudes."""
    inside = (latitude >= south) & (latitude <= north) & valid_latitudes(beam, latitude)
    rows = np.flatnonzero(inside)
    if not rows.size:
        return [], []
    apart = np.flatnonzero(np.diff(rows) > LARGEST_ROW_GAP)
    firsts, lasts = np.append(0, apart + 1), np.append(apart, rows.size - 1)
    return rows[firsts].tolist(), (rows[lasts] + 1).tolist()


def find_beams(
    file: Any, held: HeldFile | None, source: DataSource, granule: str
) -> list[BeamLayout]:
    """Return the beams of a file; where bytes are missing, go on, so that all that miss show."""
    found = []
    for name in source.groups:
        try:
            found.append(find_beam(file, name, source, granule))
        except (*HDF5_ERRORS, GranuleError):
            if held is None or not held.missing:
                raise
    return [beam for beam in found if beam is not None]


def _with_runs(beam: BeamLayout, words: Words, order: int) -> BeamLayout:
    cells, starts, stops = runs_of_cells(words, order)
    return replace(beam, cells=cells, starts=starts, stops=stops)


def runs_of_cells(
    words: Words, order: int, gap: int = LARGEST_ROW_GAP
) -> tuple[Words, NDArray[np.int64], NDArray[np.int64]]:
    """Return the runs of rows of each cell.

    Parameters
    ----------
    words : ndarray of uint64, shape (rows,)
        Order-29 Morton words, 0 for rows in no cell.
    order : int
        Order of the cells.
    gap : int
        Runs of one cell with fewer rows between them are joined, so that a cell has at most
        ``rows / gap + 1`` runs, whatever the order of the rows.

    Returns
    -------
    cells : ndarray of uint64, shape (runs,)
        Morton words at ``order``, ascending.
    starts, stops : ndarray of int64, shape (runs,)
        Ascending within a cell.
    """
    cell = prefixes(words, order)
    edges = np.flatnonzero(cell[1:] != cell[:-1]) + 1
    starts = np.concatenate([[0], edges]).astype(np.int64)
    stops = np.append(edges, len(cell)).astype(np.int64)
    known = np.flatnonzero(cell[starts] != 0) if len(cell) else starts[:0]
    by_cell = known[np.argsort(cell[starts[known]], kind="stable")]
    starts, stops = starts[by_cell], stops[by_cell]
    cell = cell[starts]
    apart = (cell[1:] != cell[:-1]) | (starts[1:] - stops[:-1] >= gap)
    edge = np.ones(min(1, len(cell)), dtype=bool)
    first, last = np.append(edge, apart), np.append(apart, edge)
    starts, stops = starts[first], stops[last]
    return words_of(nested_ids(words[starts], order), order), starts, stops
