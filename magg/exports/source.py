"""What is exported: cells of a store, some thousands at a time."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from magg.errors import require_extra
from magg.grid import Words
from magg.results.axis import (
    Axis,
    Runs,
    axis_of,
    batches,
    choose_order,
    open_root,
    positions_of,
    selector,
)
from magg.results.variables import check_variables, has_value, variables_of
from magg.results.within import runs_within

if TYPE_CHECKING:
    import zarr

CELLS_AT_ONCE = 1 << 16
NOTHING = "no cell that is asked for has a value, so there is nothing to export"


@dataclass(frozen=True)
class Source:
    """Cells of one order of a store.

    Parameters
    ----------
    axis : Axis
    runs : ndarray
        Which parts of the axis are exported.
    arrays : dict of str to zarr.Array
        The variables that are exported.
    """

    axis: Axis
    runs: Runs
    arrays: dict[str, Any]

    @property
    def chunk(self) -> int:
        """Length of the chunks of the arrays."""
        return int(next(iter(self.arrays.values())).chunks[0])

    def read(self, runs: Runs) -> dict[str, tuple[NDArray[Any], NDArray[np.bool_]]]:
        """Return the values of each variable on some runs, and where it has one."""
        where = selector(runs)
        columns = {name: array.oindex[where] for name, array in self.arrays.items()}
        return {name: (v, has_value(v, self.arrays[name])) for name, v in columns.items()}

    def cells(self) -> Iterator[Cells]:
        """Yield the cells that have a value, at most `CELLS_AT_ONCE` or a chunk of them at once."""
        for runs in batches(self.runs, self.chunk, CELLS_AT_ONCE):
            columns = self.read(runs)
            keep = np.flatnonzero(np.logical_or.reduce([has for _, has in columns.values()]))
            if keep.size:
                kept = {name: (v[keep], has[keep]) for name, (v, has) in columns.items()}
                positions = positions_of(runs)[keep]
                yield Cells(self.axis.ids(positions), self.axis.words(positions), kept)


@dataclass(frozen=True)
class Cells:
    """Some cells that have a value of at least one variable.

    Parameters
    ----------
    ids : ndarray of uint64, shape (n,)
        HEALPix NESTED.
    words : ndarray of uint64, shape (n,)
        Morton words.
    columns : dict of str to (ndarray, ndarray of bool), each of shape (n,)
        Values of each variable, and where it has one.
    """

    ids: NDArray[np.uint64]
    words: Words
    columns: dict[str, tuple[NDArray[Any], NDArray[np.bool_]]]


def open_source(
    store: str | os.PathLike[str] | zarr.Group,
    variables: Sequence[str] | None,
    order: int | None,
    within: Any,
    region: str | None,
) -> Source:
    """Open what is exported; the arguments are those of `magg.export`."""
    root = open_root(store, region)
    order = choose_order(root, order)
    axis = axis_of(root, order)
    arrays = dict(root[f"{order}"].arrays())
    names = variables_of(arrays) if variables is None else list(dict.fromkeys(variables))
    check_variables(arrays, names)
    if not names:
        raise ValueError("name at least one variable to export")
    return Source(axis, runs_within(axis, within), {name: arrays[name] for name in names})


def crs_of(crs: Any) -> Any:
    """Return a pyproj CRS.

    Raises
    ------
    ValueError
        If it is none.
    """
    try:
        import pyproj
    except ImportError as error:
        raise require_extra("pyproj", "export") from error
    try:
        return pyproj.CRS.from_user_input(crs)
    except pyproj.exceptions.CRSError as error:
        raise ValueError(
            f"{crs!r} is no coordinate reference system; try one such as 'EPSG:3031' ({error})"
        ) from None
