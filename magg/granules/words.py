"""Where the rows of a beam are: located once, and kept in the process for the cells to come.

Reading, inflating and locating the coordinates is most of what a row costs, and every cell that a
granule crosses needs them again. So the words that a layout is made from are kept, 8 bytes a row:
in memory up to 64 MiB (a dozen full-size ATL06 granules), and those longest unused in a temporary
file, of which a cell reads the rows that it needs. Only where the disk has no room either does a
cell read the coordinates of its rows again.
"""

from __future__ import annotations

import os
from collections.abc import Hashable, Sequence

import numpy as np

from magg.granules.beams import BeamLayout, located
from magg.granules.bytesource import ByteSource, LocalSource
from magg.granules.cache import OnceCache
from magg.granules.pool import shared
from magg.granules.ranges import RangeRead, Want
from magg.granules.spill import Spill
from magg.grid import Words

CACHE_BYTES = 64 << 20
# A row's latitude, longitude and word, and about as much for its bytes in the file.
LOCATING_BYTES = 40

_spill = Spill()
_kept: OnceCache[Words] = OnceCache(CACHE_BYTES, leaving=_spill.put)


def locate_beams(opened: ByteSource, beams: Sequence[BeamLayout]) -> list[Words]:
    """Return the order-29 words of all rows of beams; 0 where a row has no valid position.

    The coordinates of all beams of a remote granule are fetched together. One beam of a local
    granule is read after the other, in this thread.
    """
    known = {beam.name: _known(_key(opened, beam)) for beam in beams}
    unknown = [beam for beam in beams if known[beam.name] is None]
    if isinstance(opened, LocalSource):
        for beam in unknown:
            known |= _located(opened, [beam])
    elif unknown:
        nbytes = LOCATING_BYTES * sum(beam.rows for beam in unknown)
        with shared().coordinates.taken(nbytes):
            known |= _located(opened, unknown)
    return [words for words in (known[beam.name] for beam in beams) if words is not None]


def kept_words(
    opened: ByteSource, beam: BeamLayout, starts: Sequence[int], stops: Sequence[int]
) -> Words | None:
    """Return what `locate_beams` returned, of runs of rows, or None where it is not kept."""
    key, none = _key(opened, beam), np.zeros(0, dtype=np.uint64)
    words = _kept.peek(key)
    runs: list[Words] = [none]
    for start, stop in zip(starts, stops, strict=True):
        run = _spill.get(key, start, stop) if words is None else words[start:stop]
        if run is None:
            return None
        runs.append(run)
    return np.concatenate(runs) if words is not None or key in _spill else None


def forget_words() -> None:
    """Forget everything that is kept."""
    _kept.clear()
    _spill.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=forget_words)


def _known(key: Hashable) -> Words | None:
    words = _kept.peek(key)
    return _spill.get(key) if words is None else words


def _key(opened: ByteSource, beam: BeamLayout) -> Hashable:
    # Which coordinates are missing is a matter of the config, too.
    coordinates = (beam.latitude, beam.longitude)
    meaning = tuple((dataset.path, repr(dataset.missing)) for dataset in coordinates)
    return opened.name, opened.size, opened.etag, meaning


def _located(opened: ByteSource, beams: Sequence[BeamLayout]) -> dict[str, Words]:
    """Decode and locate the coordinates of beams, and keep the words."""
    wants = [
        Want(beam.name, dataset, [0], [beam.rows])
        for beam in beams
        for dataset in (beam.latitude, beam.longitude)
    ]
    read = RangeRead(opened, wants)
    arrays = read.finish() if isinstance(opened, LocalSource) else read.finish_together()
    found = {}
    for beam in beams:
        latitude, longitude = arrays.pop(0), arrays.pop(0)
        found[beam.name] = words = located(beam, latitude, longitude)
        _kept.put(_key(opened, beam), words)
    return found
