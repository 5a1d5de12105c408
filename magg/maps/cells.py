"""What a map shows: the cells of a store that hold a value."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from magg.grid import Words, prefixes
from magg.projections import Floats
from magg.results.axis import axis_of, choose_order, positions_of, selector
from magg.results.variables import check_variables, has_value, label_of
from magg.results.within import runs_within

if TYPE_CHECKING:
    import zarr


@dataclass(frozen=True, slots=True)
class Variable:
    """One variable of the cells.

    Parameters
    ----------
    name, label : str
        Its name in the store; what it is, with its unit.
    values : ndarray of float64, shape (n,)
        NaN where a cell has none.
    counts : bool
        Whether the store holds integers.
    """

    name: str
    label: str
    values: Floats
    counts: bool


@dataclass(frozen=True, slots=True)
class Cells:
    """The cells that have a value of at least one variable.

    Parameters
    ----------
    order : int
        Their order.
    words : ndarray of uint64, shape (n,)
        Their Morton words.
    variables : list of Variable
    observations : int, optional
        The sum of ``count`` over the store, where it has one.
    """

    order: int
    words: Words
    variables: list[Variable]
    observations: int | None


def coarsened(cells: Cells, order: int) -> Cells:
    """Return cells of a coarser order (or the same), each with the mean of the cells within.

    They are sorted, and each has the word of a cell within it in place of its own.
    """
    _, first, owner = np.unique(
        prefixes(cells.words, order), return_index=True, return_inverse=True
    )
    variables = []
    for variable in cells.variables:
        has = np.isfinite(variable.values)
        total = np.bincount(owner[has], weights=variable.values[has], minlength=first.size)
        with np.errstate(invalid="ignore"):  # 0 / 0 where none has a value
            means = total / np.bincount(owner[has], minlength=first.size)
        variables.append(replace(variable, values=means))
    return replace(cells, order=order, words=cells.words[first], variables=variables)


def read_cells(
    root: zarr.Group, names: Sequence[str], order: int | None = None, within: Any = None
) -> Cells:
    """Read the cells of an order, the finest by default, that have a value of some variable.

    Parameters
    ----------
    root : zarr.Group
    names : sequence of str
    order : int, optional
    within : optional
        A part of the Earth, as `magg.open_results` takes it.

    Raises
    ------
    StoreError
        If the store lacks the order or a variable.
    """
    order = choose_order(root, order)
    axis = axis_of(root, order)
    runs = runs_within(axis, within)
    arrays = dict(root[f"{order}"].arrays())
    check_variables(arrays, names)
    where = selector(runs)
    columns = {name: arrays[name].oindex[where] for name in names}
    filled = {name: has_value(column, arrays[name]) for name, column in columns.items()}
    keep = np.flatnonzero(np.logical_or.reduce(list(filled.values())))
    variables = []
    for name, column in columns.items():
        values = np.where(filled[name], column, np.nan)[keep].astype(np.float64)
        label = label_of(arrays[name], name)
        variables.append(Variable(name, label, values, column.dtype.kind in "iu"))
    counts = columns.get("count")
    if counts is None and "count" in arrays:
        counts = arrays["count"].oindex[where]
    observations = None if counts is None else int(counts[counts > 0].sum())
    return Cells(order, axis.words(positions_of(runs)[keep]), variables, observations)
