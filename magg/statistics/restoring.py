"""States had back from the statistics themselves, where these are states."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from magg.statistics.declare import Compiled
from magg.statistics.merging import COUNT, is_state
from magg.statistics.segments import Array, Node
from magg.statistics.states import Kept

_EXTREMES = (np.minimum, np.maximum, np.fmin, np.fmax)


def restorable(statistics: Mapping[str, Compiled]) -> list[str]:
    """Return the statistics whose values of coarser cells follow from their own values, exactly.

    These are numbers of observations and extremes. Sums do not, because they are rounded to their
    dtypes. Without a number of observations nothing does, for who could tell which cells are empty.

    Parameters
    ----------
    statistics : mapping of str to Compiled
    """
    if not any(compiled.counts for compiled in statistics.values()):
        return []
    return [
        name
        for name, compiled in statistics.items()
        if compiled.counts or _is_extreme(compiled.node)
    ]


def state_of_values(
    statistics: Mapping[str, Compiled], values: Mapping[str, Array]
) -> dict[str, Array]:
    """Return the states that follow from the values of statistics.

    Parameters
    ----------
    statistics : mapping of str to Compiled
    values : mapping of str to ndarray, shape (n,)
        Of the statistics that are `restorable`, as `magg.statistics.aggregate` returns them.

    Returns
    -------
    dict of str to ndarray, shape (n,)
        By the names of `magg.statistics.state_specs`. An extreme is left out if the value of a
        cell with observations is its fill value, which may stand for another.
    """
    names = restorable(statistics)
    if not names:
        return {}
    rows = next(values[name] for name in names if statistics[name].counts).astype(np.int64)
    there = rows > 0
    kept = Kept({name: statistics[name] for name in names})
    found: dict[str, Array] = {COUNT.key: rows}
    for name in names:
        compiled = statistics[name]
        hidden = values[name] == compiled.fill  # never true of NaN, which says what it is
        if not compiled.counts and not (hidden & there).any():
            found[compiled.node.key] = values[name]
    nodes = [node for node in kept.states if node.key in found]
    states = kept.arrays(found, nodes)
    neutral = {spec.name: spec.neutral for spec in kept.specs()}
    return {
        name: np.where(there, array, np.asarray(neutral[name], dtype=array.dtype))
        for name, array in states.items()
    }


def _is_extreme(node: Node) -> bool:
    return is_state(node) and node.fold is not None and node.fold.ufunc in _EXTREMES
