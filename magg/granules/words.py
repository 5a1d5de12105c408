"""Where the rows of a beam are: located once, and kept in the process for the cells to come.

Reading, inflating and locating the coordinates is most of what a row costs, and every cell that a
granule crosses needs them again. So the words that a layout is made from are kept: 8 bytes a row,
up to 256 MiB (about 55 full-size ATL06 granules), those longest unused leaving first. A cell whose
words have left reads the coordinates of its own rows instead.
"""

from __future__ import annotations

import os
from collections.abc import Hashable

from magg.granules.beams import BeamLayout, located
from magg.granules.bytesource import ByteSource
from magg.granules.cache import OnceCache
from magg.granules.ranges import RangeRead, Want
from magg.grid import Words

CACHE_BYTES = 256 << 20

_kept: OnceCache[Words] = OnceCache(CACHE_BYTES)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_kept.clear)


def locate_beam(opened: ByteSource, beam: BeamLayout) -> Words:
    """Return the order-29 words of all rows of a beam; 0 where a row has no valid position."""
    return _kept.get(_key(opened, beam), lambda: _located(opened, beam))


def kept_words(opened: ByteSource, beam: BeamLayout) -> Words | None:
    """Return what `locate_beam` returned, or None where it is no longer kept."""
    return _kept.peek(_key(opened, beam))


def _key(opened: ByteSource, beam: BeamLayout) -> Hashable:
    # Which coordinates are missing is a matter of the config, too.
    coordinates = (beam.latitude, beam.longitude)
    meaning = tuple((dataset.path, repr(dataset.missing)) for dataset in coordinates)
    return opened.name, opened.size, opened.etag, meaning


def _located(opened: ByteSource, beam: BeamLayout) -> Words:
    wants = [
        Want(beam.name, dataset, [0], [beam.rows]) for dataset in (beam.latitude, beam.longitude)
    ]
    latitude, longitude = RangeRead(opened, wants).finish()
    return located(beam, latitude, longitude)
