"""Where the rows of a beam are: located once, and kept in the process for the cells to come.

Reading, inflating and locating the coordinates is most of what a row costs, and every cell that a
granule crosses needs them again. So the words that a layout is made from are kept, 8 bytes a row:
in memory up to 64 MiB (a dozen full-size ATL06 granules), and those longest unused in a temporary
file, of which a cell reads the rows that it needs. Only where the disk has no room either does a
cell read the coordinates of its rows again. Latitudes of remote granules that are read without a
layout are kept in the same way.
"""

from __future__ import annotations

import os
from collections.abc import Hashable, Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from magg.granules.beams import BeamLayout, located
from magg.granules.bytesource import ByteSource, LocalSource
from magg.granules.cache import OnceCache
from magg.granules.pool import shared
from magg.granules.ranges import RangeRead, Want
from magg.granules.spill import Spill
from magg.grid import Words

CACHE_BYTES = 64 << 20
# Of a row: latitude, longitude and word, and about as much for its bytes in the file.
LOCATING_BYTES = 40
LATITUDE_BYTES = 16

_spill = Spill()
_kept: OnceCache[NDArray[Any]] = OnceCache(CACHE_BYTES, leaving=_spill.put)
Kind = Literal["words", "latitude"]


def locate_beams(opened: ByteSource, beams: Sequence[BeamLayout]) -> list[Words]:
    """Return the order-29 words of all rows of beams; 0 where a row has no valid position.

    The coordinates of all beams of a remote granule are fetched together. One beam of a local
    granule is read after the other, in this thread.
    """
    return _all_rows(opened, beams, "words", LOCATING_BYTES)


def read_latitudes(opened: ByteSource, beams: Sequence[BeamLayout]) -> list[NDArray[Any]]:
    """Return the latitudes of all rows of beams, as stored; read as by `locate_beams`."""
    return _all_rows(opened, beams, "latitude", LATITUDE_BYTES)


def kept_rows(
    opened: ByteSource, beam: BeamLayout, starts: Sequence[int], stops: Sequence[int], kind: Kind
) -> NDArray[Any] | None:
    """Return words or latitudes of runs of rows, or None where they are not kept."""
    key = _key(opened, beam, kind)
    values = _kept.peek(key)
    dtype = beam.latitude.dtype.newbyteorder("=") if kind == "latitude" else np.dtype(np.uint64)
    runs: list[NDArray[Any]] = [np.zeros(0, dtype=dtype)]
    for start, stop in zip(starts, stops, strict=True):
        run = _spill.get(key, start, stop) if values is None else values[start:stop]
        if run is None:
            return None
        runs.append(run)
    return np.concatenate(runs) if values is not None or key in _spill else None


def forget_words() -> None:
    """Forget everything that is kept."""
    _kept.clear()
    _spill.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=forget_words)


def _key(opened: ByteSource, beam: BeamLayout, kind: Kind) -> Hashable:
    if kind == "latitude":
        return opened.name, opened.size, opened.etag, beam.latitude.path
    # Which coordinates are missing is a matter of the config, too.
    coordinates = (beam.latitude, beam.longitude)
    meaning = tuple((dataset.path, repr(dataset.missing)) for dataset in coordinates)
    return opened.name, opened.size, opened.etag, meaning


def _all_rows(
    opened: ByteSource, beams: Sequence[BeamLayout], kind: Kind, row_bytes: int
) -> list[NDArray[Any]]:
    """Return what is kept of beams, after having read and kept what is not."""
    known: dict[str, NDArray[Any]] = {}
    for beam in beams:
        key = _key(opened, beam, kind)
        values = _kept.peek(key)
        values = _spill.get(key) if values is None else values
        if values is not None:
            known[beam.name] = values
    unknown = [beam for beam in beams if beam.name not in known]
    if isinstance(opened, LocalSource):
        for beam in unknown:
            known |= _read(opened, [beam], kind)
    elif unknown:
        with shared().coordinates.taken(row_bytes * sum(beam.rows for beam in unknown)):
            known |= _read(opened, unknown, kind)
    return [known[beam.name] for beam in beams]


def _read(opened: ByteSource, beams: Sequence[BeamLayout], kind: Kind) -> dict[str, NDArray[Any]]:
    """Decode the coordinates of beams, and keep what is made of them."""
    wants = []
    for beam in beams:
        datasets = [beam.latitude] + ([beam.longitude] if kind == "words" else [])
        wants += [Want(beam.name, dataset, [0], [beam.rows]) for dataset in datasets]
    read = RangeRead(opened, wants)
    arrays = read.finish() if isinstance(opened, LocalSource) else read.finish_together()
    found = {}
    for beam in beams:
        values = arrays.pop(0)
        if kind == "words":
            values = located(beam, values, arrays.pop(0))
        _kept.put(_key(opened, beam, kind), values)
        found[beam.name] = values
    return found
