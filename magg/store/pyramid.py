"""Coarser orders of a store that exists, without its granules."""

from __future__ import annotations

import functools
from collections.abc import Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from magg.errors import GridError
from magg.statistics import Compiled, mergeable, restorable, why_not_mergeable
from magg.store import groups, lock, makings, records, schema, shared
from magg.store.consolidate import AT_ONCE, consolidate
from magg.store.declared import grid_of_store, parent_cells, statistics_of, variables_of
from magg.store.derive import Leaves
from magg.store.groups import Contents
from magg.store.inspect import open_group
from magg.store.levels import Holdings, Level, levels_of
from magg.store.marks import Marks, list_marks_of
from magg.store.open import DEFAULT_REGION, normalise, open_objects, open_store, told_of
from magg.store.pieces import PieceName

CELLS_A_BLOCK = 64
FROM_STATE, FROM_VALUES = "state", "values"
NOT_MERGEABLE = "cannot be had from the state of child cells: {}"
QUANTILES = "quantiles need the observations of a cell"
NO_STATE = "cannot be had from the values of child cells; a run with output.state: true keeps more"
NOT_REGISTERED = "its function is not registered where build_pyramid() was called"


def build_pyramid(
    store: str | Path, *, coarsest_order: int = 0, region: str | None = DEFAULT_REGION
) -> dict[str, Any]:
    """Add coarser orders to a store, or repair those that it has, without its granules.

    What the cells' workers left for coarser orders is used where there is such. Else values are
    merged from the state of the child cells, where the store keeps it (``output.state: true``),
    exactly but for quantiles and other statistics that cannot be merged; and else from the
    values of the child cells, which gives numbers of observations and extremes. What cannot be
    had exactly is absent from an order, and the attribute ``absent_variables`` of its group says
    why. A run with ``output.grid.orders`` makes these orders with all statistics.

    Safe to be called again, and while runs are at work at the store.

    Parameters
    ----------
    store : str or Path
        A local path or ``s3://bucket/prefix``.
    coarsest_order : int, default 0
        Every order from this one to the child order is made.
    region : str, optional
        AWS region of the store's bucket.

    Returns
    -------
    dict
        ``store``; ``orders``, those that the store now has beside the child order; ``cells``, how
        many parent cells they hold; ``cells_derived``, for how many of these something was
        computed now; and ``absent``, by order, the statistics that it lacks, and why.

    Raises
    ------
    StoreError
        If there is no finished store of magg at this place, or it cannot be written to.
    GridError
        If the order is impossible.

    Examples
    --------
    >>> import magg
    >>> magg.build_pyramid("heights.zarr", coarsest_order=6)  # doctest: +SKIP
    """
    import zarr

    path = normalise(store)
    open_group(path, region)
    with told_of(path):
        root = zarr.open_group(open_store(path, region=region), mode="r+")
        grid = grid_of_store(root)
        if not 0 <= coarsest_order <= grid.child_order:
            raise GridError(
                f"coarsest_order must be between 0 and the child order of the store "
                f"({grid.child_order}), not {coarsest_order}"
            )
        orders = tuple(range(grid.child_order - 1, coarsest_order - 1, -1))
        _add_orders(path, region, orders)
        derived = _derive(path, region)
        cells = consolidate(path, region, anew=True)
        root = zarr.open_group(open_store(path, region=region), mode="r")
    has = Holdings.of(root).orders
    return {
        "store": path,
        "orders": list(has),
        "cells": cells,
        "cells_derived": derived,
        "absent": {
            order: dict(root[f"{order}"].attrs["absent_variables"])
            for order in has
            if root[f"{order}"].attrs["absent_variables"]
        },
    }


def _add_orders(path: str, region: str | None, orders: Collection[int]) -> None:
    """Make the groups of orders that a store lacks."""
    import zarr

    objects = open_objects(path, region)
    with lock.exclusive(path, region):
        root = zarr.open_group(open_store(path, region=region), mode="r+")
        grid, parents, has = grid_of_store(root), parent_cells(root), Holdings.of(root)
        lacking = set(orders) - set(has.orders)
        if not lacking:
            return
        leaf = root[f"{grid.child_order}"]
        sources = _Sources.of(list_marks_of(objects))
        levels, names = levels_of(grid, lacking), variables_of(leaf)
        contents = [_contents(statistics_of(root), names, level, sources) for level in levels]
        groups.add_levels(
            objects,
            zip(levels, contents, strict=True),
            parents,
            parents[:0],
            groups.read_documents(objects, levels[0], [*groups.COORDINATES, *names]),
            dict(leaf.attrs),
        )
        will_have = has.joined(Holdings(tuple(lacking)))
        every = (grid.child_order, *will_have.orders)
        root.attrs.update(schema.pyramid_attributes(every, will_have.state))
        # Before anybody writes a chunk of these orders, workers of others must be able to know.
        makings.begin(objects, will_have)


@dataclass(frozen=True)
class _Sources:
    """What there is of every cell that is done.

    Parameters
    ----------
    nothing, pieces, state : bool
        Whether no cell is done; whether workers left pieces of all; whether the state of the
        child cells was kept of all.
    """

    nothing: bool
    pieces: bool
    state: bool

    @classmethod
    def of(cls, marks: Marks) -> _Sources:
        """Return what a listing tells."""
        found = [_of_rows(marks, cell) for cell in marks.done]
        return cls(
            nothing=not found,
            pieces=all(name is not None for name in found),
            state=all(name is not None and name.has.state for name in found),
        )


def _of_rows(marks: Marks, cell: str) -> PieceName | None:
    """Return the piece of a cell that its worker left, if any."""
    names = [name for name in marks.usable(cell) if name.source == "rows"]
    return max(names, key=lambda name: len(name.has.extent), default=None)


def _contents(
    statistics: Mapping[str, Compiled], variables: list[str], level: Level, sources: _Sources
) -> Contents:
    """Return what the group of an order can hold."""
    if sources.nothing or (sources.pieces and level.is_below):
        contents = groups.from_observations(statistics, level)
    elif sources.state:
        reasons = why_not_mergeable(statistics)
        made = [name for name, how in mergeable(statistics).items() if how == "exact"]
        absent = {
            name: NOT_MERGEABLE.format(reasons.get(name, QUANTILES))
            for name in statistics
            if name not in made
        }
        contents = Contents(FROM_STATE, dict.fromkeys(made, ""), absent)
    else:
        made = restorable(statistics)
        absent = {name: NO_STATE for name in statistics if name not in made}
        contents = Contents(FROM_VALUES, dict.fromkeys(made, ""), absent)
    unknown = {name: NOT_REGISTERED for name in variables if name not in statistics}
    return replace(contents, absent={**contents.absent, **unknown})


def _derive(path: str, region: str | None) -> int:
    """Make pieces of the cells that lack them; return of how many."""
    import zarr

    objects = open_objects(path, region)
    root = zarr.open_group(open_store(path, region=region), mode="r+")
    leaves = Leaves.of(root)
    marks = list_marks_of(objects)
    lacking = [cell for cell in leaves.cells if leaves.lacks(marks, cell)]
    derived = 0
    for start in range(0, len(lacking), CELLS_A_BLOCK):
        # Workers that are to change one of these cells wait, or are seen to be writing.
        with shared.hold_shared(path, region), ThreadPoolExecutor(AT_ONCE) as pool:
            making = makings.current(objects, path)
            marks = list_marks_of(objects)
            cells = [
                cell
                for cell in lacking[start : start + CELLS_A_BLOCK]
                if leaves.lacks(marks, cell) and not records.is_being_written(objects, cell)
            ]
            derive = functools.partial(leaves.derive, objects, marks, making)
            for cell, _ in zip(cells, pool.map(derive, cells), strict=True):
                records.remove_dead_marks(objects, cell)
                derived += 1
    return derived
