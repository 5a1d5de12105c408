"""Statistics of the rows of one parent cell, per child cell and for every coarser order."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from magg.errors import StatisticError
from magg.statistics import digests
from magg.statistics.aggregate import aggregate
from magg.statistics.declare import Compiled
from magg.statistics.ordering import blocks
from magg.statistics.segments import Array, Block, Program
from magg.statistics.states import Kept


@dataclass(frozen=True, slots=True)
class Level:
    """Statistics of all cells of one order within a parent cell.

    Parameters
    ----------
    values : dict of str to ndarray, shape (cells,)
        By the names of the statistics, in the declared dtypes; cells without rows hold the fill
        value, and 0 for counts.
    state : dict of str to ndarray, shape (cells, ...)
        By the names of `magg.statistics.state_specs`; empty unless it was asked for. Digests are
        among them at the coarsest level only.
    """

    values: dict[str, Array]
    state: dict[str, Array] = field(default_factory=dict)


def aggregate_levels(
    statistics: Mapping[str, Compiled],
    child: NDArray[np.unsignedinteger],
    columns: Mapping[str, Array],
    children: int,
    levels: int,
    *,
    state: bool = False,
) -> list[Level]:
    """Compute statistics of rows per child cell and for coarser orders.

    Parameters
    ----------
    statistics : mapping of str to Compiled
    child : ndarray of uint16 or uint32, shape (n,)
        Child cell of each row, below ``children``, in nested order.
    columns : mapping of str to ndarray, shape (n,)
        At least the columns that the statistics use.
    children : int
        Number of child cells, a multiple of ``4**levels``.
    levels : int
        How many coarser orders to compute.
    state : bool, optional
        Whether to return what coarser cells can be made of, too.

    Returns
    -------
    list of Level
        The first is what `aggregate` returns. Level k has ``children / 4**k`` cells, of which cell
        i consists of the cells 4i to 4i+3 of the level before.

    Raises
    ------
    StatisticError
        As `aggregate` does, and if ``children`` is no multiple of ``4**levels``.
    """
    if levels < 0 or children % 4**levels:
        raise StatisticError(f"{children} child cells cannot be merged over {levels} orders")
    kept = Kept(statistics)
    results = []
    for level in range(levels + 1):
        cells = child >> np.asarray(2 * level, dtype=child.dtype)
        values = aggregate(statistics, cells, columns, children >> 2 * level)
        results.append(Level(values))
    if state:
        _add_states(kept, results, child, columns, children)
    return results


def _add_states(
    kept: Kept,
    results: list[Level],
    child: NDArray[np.unsignedinteger],
    columns: Mapping[str, Array],
    children: int,
) -> None:
    program = Program([*kept.states, *kept.ordered])
    for level, result in enumerate(results):
        coarsest = level == len(results) - 1
        for spec in kept.specs():
            if coarsest or not spec.is_digest:
                result.state[spec.name] = spec.empty(children >> 2 * level)
        for segments in blocks(child >> np.asarray(2 * level, dtype=child.dtype)):
            block = Block(columns, segments.rows, segments.counts)
            values = program.run(block)
            known = dict(zip([node.key for node in kept.states], values, strict=False))
            for name, array in kept.arrays(known, kept.states).items():
                result.state[name][segments.cells] = array
            if coarsest:
                ordered = dict(zip(kept.digest_names(), values[len(kept.states) :], strict=True))
                for name, array in ordered.items():
                    parts = np.split(array, block.starts[1:])
                    result.state[name][segments.cells] = [
                        digests.digest(part[~np.isnan(part)]) for part in parts
                    ]
