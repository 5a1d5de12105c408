"""A beam of a granule: its datasets, and what is wrong with those that cannot be used."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from magg.config import Column, DataSource
from magg.errors import GranuleError
from magg.granules.datasets import DatasetLayout, describe
from magg.grid import Words, locate


@dataclass(frozen=True, slots=True, eq=False)
class BeamLayout:
    """One beam of a granule.

    Parameters
    ----------
    name : str
    rows : int
    latitude, longitude : DatasetLayout
    quality : DatasetLayout or None
        None where the config has no quality filter, or `problems` says why.
    datasets : dict of str to DatasetLayout
        By the config's column names.
    problems : dict of str to str
        By path, what is wrong with a dataset: an error only for those who need it.
    cells : ndarray of uint64, shape (runs,)
        Morton words at the parent order, ascending; a cell may have several runs.
    starts, stops : ndarray of int64, shape (runs,)
        Rows of each run. Between the first and the last row of a run may be rows of other cells
        (fewer than 4,096 in a row) and rows without a position; a run begins and ends in its cell.
    """

    name: str
    rows: int
    latitude: DatasetLayout
    longitude: DatasetLayout
    quality: DatasetLayout | None
    datasets: Mapping[str, DatasetLayout]
    problems: Mapping[str, str]
    cells: NDArray[np.uint64]
    starts: NDArray[np.int64]
    stops: NDArray[np.int64]

    def runs(self, cell: int) -> tuple[list[int], list[int]]:
        """Return the starts and stops of the runs that hold all rows of a parent cell."""
        word = np.uint64(cell)
        first, last = np.searchsorted(self.cells, word), np.searchsorted(self.cells, word, "right")
        return self.starts[first:last].tolist(), self.stops[first:last].tolist()

    def all_datasets(self) -> Iterator[DatasetLayout]:
        """Yield all datasets of the beam."""
        yield self.latitude
        yield self.longitude
        if self.quality is not None:
            yield self.quality
        yield from self.datasets.values()


def find_beam(file: Any, name: str, source: DataSource, granule: str) -> BeamLayout | None:
    """Return a beam without its runs, or None if it is not in the file."""
    if _is_absent(file, source.coordinates.latitude, name):
        return None
    problems: dict[str, str] = {}

    def layout(column: Column, rows: int | None = None) -> DatasetLayout | None:
        path = column.path.replace("{group}", name)
        found = _layout_or_problem(file, replace(column, path=path), rows)
        if isinstance(found, str):
            problems[path] = found
            return None
        return found

    latitude = layout(Column(source.coordinates.latitude))
    rows = None if latitude is None else latitude.rows
    longitude = layout(Column(source.coordinates.longitude), rows)
    for coordinate in (latitude, longitude):
        if coordinate is not None and not coordinate.numeric:
            problems[coordinate.path] = "a coordinate must be one number a row"
    if problems or latitude is None or longitude is None:
        raise dataset_error(granule, name, *next(iter(problems.items())))
    quality = None
    if source.quality_filter is not None:
        quality = layout(Column(source.quality_filter.dataset), rows)
    if quality is not None and not quality.numeric:
        problems[quality.path] = "the quality filter needs one number a row"
    datasets = {key: layout(column, rows) for key, column in source.columns.items()}
    none = np.zeros(0, dtype=np.int64)
    return BeamLayout(
        name=name,
        rows=latitude.rows,
        latitude=latitude,
        longitude=longitude,
        quality=quality,
        datasets={key: found for key, found in datasets.items() if found is not None},
        problems=problems,
        cells=none.astype(np.uint64),
        starts=none,
        stops=none,
    )


def located(beam: BeamLayout, latitude: NDArray[Any], longitude: NDArray[Any]) -> Words:
    """Return the order-29 Morton words of rows of a beam, 0 where there is no valid position.

    Parameters
    ----------
    beam : BeamLayout
    latitude, longitude : ndarray, shape (n,)
        As stored. A fill value is no position, even where it is a possible number of degrees.
    """
    words = locate(latitude, longitude)
    for layout, values in ((beam.latitude, latitude), (beam.longitude, longitude)):
        for fill in layout.missing:
            words[values == fill] = 0
    return words


def dataset_error(granule: str, beam: str, path: str, problem: str) -> GranuleError:
    """Return the error about a dataset that is needed and cannot be had."""
    return GranuleError(
        f"{granule}: beam {beam}, dataset {path}: {problem}; correct the path in the config, or "
        "leave this granule out of the catalog",
        granule=granule,
    )


def _is_absent(file: Any, template: str, name: str) -> bool:
    """Tell whether a beam is not in the file: neither it nor the group of its latitude.

    ATL06 writes a beam's ``land_ice_segments`` only where it has segments, so the beam may be
    there without it. A group with nearly that name, however, is a slip of the config: it would
    otherwise make every granule look empty.
    """
    group = template.replace("{group}", name).strip("/").rpartition("/")[0]
    if not group or group in file:
        return False
    expected = "{group}" not in template or name in file
    return not (expected and _near_names(file, group))


def _layout_or_problem(file: Any, column: Column, rows: int | None) -> DatasetLayout | str:
    import h5py

    path = column.path
    if path not in file:
        near = _near_names(file, path)
        return "is not there" + (f" (did you mean {' or '.join(near)}?)" if near else "")
    dataset = file[path]
    if not isinstance(dataset, h5py.Dataset):
        return "is a group, not a dataset"
    if not dataset.shape:
        return "is a single value, not one value a row"
    if rows is not None and dataset.shape[0] != rows:
        return f"has {dataset.shape[0]} rows where the latitude has {rows}"
    return describe(dataset, file, column)


def _near_names(file: Any, path: str) -> list[str]:
    """Return names like the first part of a path that is not in the file."""
    group = file
    for part in path.strip("/").split("/"):
        if not hasattr(group, "keys"):
            return []
        if part not in group:
            return difflib.get_close_matches(part, list(group.keys()), n=2, cutoff=0.75)
        group = group[part]
    return []
