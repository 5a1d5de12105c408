"""What a granule index holds of one granule: what the file says, whatever a config makes of it.

A config names datasets and may say which of their values are missing. An entry knows them by their
paths and holds the file's own word, so that later runs with other statistics share it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from magg.config import Column, Coordinates, DataSource
from magg.granules.datasets import DatasetLayout
from magg.granules.hdf5 import read_hdf5
from magg.granules.layout import GranuleLayout, find_beams, granule_layout
from magg.granules.sources import open_source
from magg.grid import Words


@dataclass(frozen=True, slots=True, eq=False)
class Kind:
    """What datasets of one path have in common, over beams and granules.

    Parameters
    ----------
    path : str
        With ``{group}`` for the beam, as a config writes it.
    model : DatasetLayout or None
        A layout without rows and chunks; None where an index cannot hold such a dataset.
    """

    path: str
    model: DatasetLayout | None

    def chunks(self, rows: int) -> int:
        """Return how many chunks the table of a dataset of so many rows has."""
        if self.model is None or not self.model.direct:
            return 0
        return -(-rows // self.model.chunk_rows)


@dataclass(frozen=True, slots=True, eq=False)
class BeamEntry:
    """One beam.

    Parameters
    ----------
    name : str
    rows, unlocated : int
        All rows, and those without a valid position.
    kinds : tuple of Kind
        Of the datasets, in the order of their chunk tables.
    problems : dict of str to str
        By path (with ``{group}``), why a dataset cannot be used.
    cells : ndarray of uint64, shape (runs,)
    starts, stops : ndarray of int64, shape (runs,)
        As in `magg.granules.beams.BeamLayout`.
    offsets, sizes, masks : ndarray of int64, shape (chunks,)
        As in `DatasetLayout`, one table after the other.
    """

    name: str
    rows: int
    unlocated: int
    kinds: tuple[Kind, ...]
    problems: Mapping[str, str]
    cells: Words
    starts: NDArray[np.int64]
    stops: NDArray[np.int64]
    offsets: NDArray[np.int64]
    sizes: NDArray[np.int64]
    masks: NDArray[np.int64]

    def tables(self) -> Iterator[tuple[Kind, slice]]:
        """Yield the kind of each dataset, and where its chunks are in the table."""
        at = 0
        for kind in self.kinds:
            chunks = slice(at, at + kind.chunks(self.rows))
            yield kind, chunks
            at = chunks.stop

    def runs(self, cell: int) -> slice:
        """Return which runs are those of a parent cell."""
        word = np.uint64(cell)
        first, last = np.searchsorted(self.cells, word), np.searchsorted(self.cells, word, "right")
        return slice(int(first), int(last))

    def with_datasets(self, other: BeamEntry) -> BeamEntry:
        """Return the beam with the datasets and problems that another entry has beside."""
        known = {kind.path for kind in self.kinds}
        new = [(kind, chunks) for kind, chunks in other.tables() if kind.path not in known]

        def joined(name: str) -> NDArray[np.int64]:
            theirs = getattr(other, name)
            return np.concatenate([getattr(self, name), *(theirs[chunks] for _, chunks in new)])

        return replace(
            self,
            kinds=(*self.kinds, *(kind for kind, _ in new)),
            problems={**self.problems, **other.problems},
            offsets=joined("offsets"),
            sizes=joined("sizes"),
            masks=joined("masks"),
        )


@dataclass(frozen=True, slots=True, eq=False)
class GranuleEntry:
    """One granule: ``granule`` is its path or URL, the beams are those that are in the file."""

    granule: str
    size: int
    etag: str
    beams: tuple[BeamEntry, ...]

    def lacks(self, paths: Collection[str]) -> set[str]:
        """Return those of some paths (with ``{group}``) that the entry knows nothing of."""
        lacking: set[str] = set()
        for beam in self.beams:
            lacking |= set(paths) - {kind.path for kind in beam.kinds} - beam.problems.keys()
        return lacking

    def with_datasets(self, other: GranuleEntry) -> GranuleEntry:
        """Return the entry with the datasets that another of the same granule has beside."""
        theirs = {beam.name: beam for beam in other.beams}
        beams = tuple(
            beam.with_datasets(theirs[beam.name]) if beam.name in theirs else beam
            for beam in self.beams
        )
        return replace(self, beams=beams)


def paths_of(source: DataSource, columns: Collection[str] | None = None) -> list[str]:
    """Return the datasets that a config needs, each once: coordinates, quality, then columns.

    Parameters
    ----------
    source : DataSource
    columns : collection of str, optional
        The columns that are used; all where left out.
    """
    paths = [source.coordinates.latitude, source.coordinates.longitude]
    if source.quality_filter is not None:
        paths.append(source.quality_filter.dataset)
    used = source.columns if columns is None else sorted(columns)
    return list(dict.fromkeys([*paths, *(source.columns[name].path for name in used)]))


def survey(granule: str, source: DataSource, parent_order: int) -> GranuleEntry:
    """Return the entry of a granule; reads all of its coordinates.

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
    plain = _as_the_file_says(source.groups, source.coordinates, paths_of(source))
    layout = granule_layout(granule, plain, parent_order)
    unlocated = {beam.name: 0 for beam in layout.beams}
    if layout.unlocated:
        for name in unlocated:  # one beam at a time, of rows that are located already
            alone = replace(plain, groups=(name,))
            unlocated[name] = granule_layout(granule, alone, parent_order).unlocated
    return _entry(layout, plain, unlocated)


def describe_datasets(granule: str, source: DataSource, paths: Collection[str]) -> GranuleEntry:
    """Return an entry of some datasets of a granule without its runs; reads no coordinates.

    Takes and raises what `survey` does, and ``paths`` with ``{group}`` for the beam.
    """
    plain = _as_the_file_says(source.groups, source.coordinates, paths)
    with open_source(granule) as opened:
        found = read_hdf5(opened, lambda file, held: find_beams(file, held, plain, opened.name))
        opened.check_unchanged()  # h5py opened the file by its path, a second time
    layout = GranuleLayout(granule, opened.size, opened.etag, 0, tuple(found), 0)
    return _entry(layout, plain, {})


def _as_the_file_says(
    groups: Sequence[str], coordinates: Coordinates, paths: Collection[str]
) -> DataSource:
    """Return a source of datasets by their paths, of which nothing is said but where they are."""
    own = (coordinates.latitude, coordinates.longitude)
    columns: dict[str, str | Column] = {path: path for path in paths if path not in own}
    return DataSource(tuple(groups), coordinates, columns)


def _entry(layout: GranuleLayout, source: DataSource, unlocated: Mapping[str, int]) -> GranuleEntry:
    beams = []
    for beam in layout.beams:
        coordinates = source.coordinates
        datasets = {coordinates.latitude: beam.latitude, coordinates.longitude: beam.longitude}
        datasets |= beam.datasets
        problems = {
            path: beam.problems[place]
            for path in source.variables
            if (place := path.replace("{group}", beam.name)) in beam.problems
        }
        kinds, tables = [], []
        for path, dataset in datasets.items():
            kinds.append(Kind(path, _model(path, dataset)))
            if kinds[-1].model is not None:
                tables.append(dataset)
        beams.append(
            BeamEntry(
                name=beam.name,
                rows=beam.rows,
                unlocated=unlocated.get(beam.name, 0),
                kinds=tuple(kinds),
                problems=problems,
                cells=beam.cells,
                starts=beam.starts,
                stops=beam.stops,
                offsets=_joined([table.offsets for table in tables]),
                sizes=_joined([table.sizes for table in tables]),
                masks=_joined([table.masks for table in tables]),
            )
        )
    return GranuleEntry(layout.granule, layout.size, layout.etag, tuple(beams))


def _joined(arrays: Sequence[NDArray[Any]]) -> NDArray[np.int64]:
    return np.concatenate([np.zeros(0, dtype=np.int64), *arrays]).astype(np.int64)


def _model(path: str, dataset: DatasetLayout) -> DatasetLayout | None:
    """Return what all datasets like this one share, or None if an index cannot hold it."""
    if dataset.dtype.kind not in "iufb" or dataset.dtype.itemsize > 8:
        return None
    none = np.zeros(0, dtype=np.int64)
    return replace(
        dataset,
        path=path,
        shape=(0, *dataset.shape[1:]),
        offsets=none,
        sizes=none,
        masks=none.astype(np.uint32),
        attributes={},
    )
