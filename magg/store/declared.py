"""What a store says that it was made with."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any

import numpy as np

from magg import wire
from magg.config import Column
from magg.errors import StatisticError
from magg.grid import Grid, Words
from magg.statistics import Compiled, Statistic, compile_statistic
from magg.store.groups import COORDINATES
from magg.store.schema import PARENTS, PROVENANCE

if TYPE_CHECKING:
    import zarr


def parent_cells(root: zarr.Group) -> Words:
    """Return the Morton words of the parent cells of a store, in the order of its chunks."""
    parents = np.asarray(root[PARENTS][:], dtype=np.uint64)
    # A run that died while it grew the store may have left room that no cell took.
    return parents[parents > 0]


def grid_of_store(root: zarr.Group) -> Grid:
    """Return the grid of a store."""
    made = _provenance(root)
    return Grid(made["parent_order"], made["child_order"])


def variables_of(group: zarr.Group) -> list[str]:
    """Return the names of the variables of a group."""
    return [name for name in group.array_keys() if name not in COORDINATES]


def statistics_of(root: zarr.Group) -> dict[str, Compiled]:
    """Return the statistics of a store, but for functions that are not registered here."""
    config = _provenance(root)["config"]
    columns = wire.structure(config["data_source"]["variables"], dict[str, Column])
    declared = wire.structure(config["statistics"], dict[str, Statistic])
    compiled = {}
    for name, statistic in declared.items():
        with suppress(StatisticError):
            compiled[name] = compile_statistic(name, statistic, columns)
    return compiled


def _provenance(root: zarr.Group) -> dict[str, Any]:
    child = max(root.attrs[PROVENANCE]["orders"])
    return dict(root[f"{child}"].attrs[PROVENANCE])
