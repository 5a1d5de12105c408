"""What a map shows: the cells of a store that hold a value."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from magg.errors import StoreError, StoreNotFoundError
from magg.grid import Words, prefixes
from magg.projections import Floats
from magg.store.inspect import child_orders

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


def open_root(store: str | os.PathLike[str] | zarr.Group) -> zarr.Group:
    """Return the root group of a store that is given by its place, or is open."""
    import zarr

    from magg.store import open_store

    if isinstance(store, zarr.Group):
        return store
    place = os.fspath(store)
    try:
        return zarr.open_group(open_store(place, read_only=True), mode="r")
    except FileNotFoundError as error:
        raise StoreNotFoundError(f"there is no store at {place}") from error


def read_cells(root: zarr.Group, names: Sequence[str], order: int | None = None) -> Cells:
    """Read the cells of an order, the finest by default, that have a value of some variable.

    Raises
    ------
    StoreError
        If the store lacks the order or a variable.
    """
    orders = child_orders(root)
    if not orders or order not in (None, *orders):
        raise StoreError(f"the store has no cells of order {order}; it has the orders {orders}")
    order = orders[-1] if order is None else order
    arrays: dict[str, Any] = dict(root[f"{order}"].arrays())
    shown = sorted(arrays.keys() - {"cell_ids", "morton"})
    if missing := [name for name in names if name not in shown]:
        raise StoreError(f"the store has no variable {', '.join(missing)}; it has {shown}")

    columns = {name: arrays[name][:] for name in names}
    filled = {
        name: np.isfinite(column) & (column != arrays[name].fill_value)
        for name, column in columns.items()
    }
    keep = np.flatnonzero(np.logical_or.reduce(list(filled.values())))
    variables = []
    for name, column in columns.items():
        values = np.where(filled[name], column, np.nan)[keep].astype(np.float64)
        attributes = arrays[name].attrs
        label, units = attributes.get("long_name", name), attributes.get("units", "1")
        label = label[:1].upper() + label[1:] + (f" ({units})" if units != "1" else "")
        variables.append(Variable(name, label, values, column.dtype.kind in "iu"))
    counts = columns.get("count", arrays["count"][:] if "count" in arrays else None)
    observations = None if counts is None else int(counts[counts > 0].sum())
    return Cells(order, arrays["morton"][:][keep], variables, observations)
