"""States that are kept: what statistics of coarser cells can be made of without the rows.

All states of all statistics together are a few arrays with one row per cell; statistics share them
(a count, a sum of weights). They are merged and turned into values by the nodes of the statistics
themselves.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from magg.statistics import digests
from magg.statistics.casting import cast, empty_output
from magg.statistics.declare import Compiled
from magg.statistics.merging import (
    COUNT,
    Values,
    centres_of,
    evaluate,
    leaves_of,
    merge,
    mergeable,
    order_statistics_among,
    states_among,
)
from magg.statistics.segments import Array, Form, Kind, Node, OrderStatistic, reachable

LONGEST_WORDS = 200
_NEUTRAL: dict[Callable[..., Any], float] = {
    np.add: 0.0,
    np.multiply: 1.0,
    np.minimum: np.inf,
    np.maximum: -np.inf,
    np.fmin: np.nan,  # which they ignore, while cells with nothing but NaN keep it
    np.fmax: np.nan,
    np.logical_or: 0.0,
    np.logical_and: 1.0,
}


@dataclass(frozen=True, slots=True)
class StateSpec:
    """One array of states.

    Parameters
    ----------
    name : str
        Letters, digits and underscores; the same in every process and for every declaration that
        rests on the same state.
    dtype : numpy.dtype
        float64, or int64 for numbers of rows and truths.
    shape : tuple of int
        Of one cell: () for a number, (k, 2) for a digest.
    neutral : float
        What cells without rows hold.
    words : str
        What it is, as in "sum of multiply(h_li, ...)".
    """

    name: str
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    neutral: float
    words: str

    @property
    def is_digest(self) -> bool:
        """Whether it is a digest of all values, which only the coarsest level has."""
        return bool(self.shape)

    def empty(self, cells: int) -> Array:
        """Return the states of so many cells without rows."""
        return np.full((cells, *self.shape), self.neutral, dtype=self.dtype)


def state_specs(statistics: Mapping[str, Compiled]) -> list[StateSpec]:
    """Return the arrays that hold the mergeable state of statistics.

    Parameters
    ----------
    statistics : mapping of str to Compiled

    Returns
    -------
    list of StateSpec
        In the order of their names; the number of rows is always among them.
    """
    return Kept(statistics).specs()


def merge_states(
    statistics: Mapping[str, Compiled], state: Mapping[str, Array], starts: NDArray[np.intp]
) -> dict[str, Array]:
    """Merge runs of cells into one coarser cell each.

    Parameters
    ----------
    statistics : mapping of str to Compiled
    state : mapping of str to ndarray, shape (n, ...)
        By the names of `state_specs`. Where some are missing, the others are merged.
    starts : ndarray of int, shape (m,)
        Where the runs start, ascending; none is empty. Cells without rows may be among them.

    Returns
    -------
    dict of str to ndarray, shape (m, ...)
        Sums are within the rounding of float64, whatever the order and grouping in which cells
        are merged; numbers of rows and extremes are exact.
    """
    kept = Kept(statistics)
    starts = np.asarray(starts, dtype=np.intp)
    values, states = kept.known(state)
    evaluate(centres_of(states), values)
    merged = merge(states, values, starts)
    result = kept.arrays(merged, states)
    for name in kept.digests:
        if name in state:
            result[name] = digests.merge(state[name], starts)
    return result


def from_state(statistics: Mapping[str, Compiled], state: Mapping[str, Array]) -> dict[str, Array]:
    """Return the values of every statistic that can be had from states.

    Parameters
    ----------
    statistics : mapping of str to Compiled
    state : mapping of str to ndarray, shape (n, ...)
        By the names of `state_specs`; the number of rows must be among them.

    Returns
    -------
    dict of str to ndarray, shape (n,)
        In the declared dtypes, with fill values in cells without rows. Statistics that cannot be
        merged, or whose states are not given, are absent.
    """
    kept = Kept(statistics)
    values, _ = kept.known(state)
    there = values[COUNT.key] > 0
    values = {key: array[there] for key, array in values.items()}
    for name, node in kept.digests.items():
        if name in state:
            digest = state[name][there]
            for key, order in kept.orders(node):
                values[key] = digests.order_statistic(order, digest, values[COUNT.key])
    results = {}
    for name, compiled in kept.statistics.items():
        if all(node.key in values for node in leaves_of([compiled.node])):
            evaluate([compiled.node], values)
            results[name] = empty_output(compiled, there.size)
            results[name][there] = cast(compiled, values[compiled.node.key])
    return results


class Kept:
    """What is kept of statistics: those that can be merged, their states, and what is ordered.

    Parameters
    ----------
    statistics : mapping of str to Compiled
    """

    def __init__(self, statistics: Mapping[str, Compiled]) -> None:
        how = mergeable(statistics)
        self.statistics = {
            name: compiled for name, compiled in statistics.items() if how[name] != "none"
        }
        roots = [compiled.node for compiled in self.statistics.values()]
        leaves = leaves_of([COUNT, *roots])
        self.states = states_among(leaves)
        self._order_statistics = order_statistics_among(leaves)
        ordered = {node.inputs[0].key: node.inputs[0] for node in self._order_statistics}
        self.digests = {_name("digest", node): node for node in ordered.values()}
        """What is ordered, by the names of the digests of it."""
        self._specs = {node.key: _spec(node) for node in self.states}

    def specs(self) -> list[StateSpec]:
        """Return the arrays that hold the states, in the order of their names."""
        digest_specs = [_digest_spec(name, node) for name, node in self.digests.items()]
        return sorted([*self._specs.values(), *digest_specs], key=lambda spec: spec.name)

    def orders(self, ordered: Node) -> list[tuple[str, OrderStatistic]]:
        """Return the keys and the statistics of what lies between ordered rows."""
        nodes = [node for node in self._order_statistics if node.inputs[0].key == ordered.key]
        return [(node.key, node.order) for node in nodes if node.order is not None]

    def known(self, state: Mapping[str, Array]) -> tuple[Values, list[Node]]:
        """Return the given states as values of nodes, and the nodes that can be merged."""
        names = {key: spec.name for key, spec in self._specs.items()}
        given = [node for node in self.states if names[node.key] in state]
        values: Values = {
            node.key: np.asarray(state[names[node.key]]).astype(_working(node), copy=False)
            for node in given
        }
        complete = [node for node in given if all(leaf.key in values for leaf in leaves_of([node]))]
        return values, complete

    def arrays(self, values: Mapping[str, Array], states: list[Node]) -> dict[str, Array]:
        """Return values of nodes as arrays of states."""
        specs = {node.key: self._specs[node.key] for node in states}
        return {
            spec.name: values[key].astype(spec.dtype, copy=False) for key, spec in specs.items()
        }


def _working(node: Node) -> type:
    if node.form is Form.BOOLEAN:
        return np.bool_
    return np.int64 if node.key == COUNT.key else np.float64


def _spec(node: Node) -> StateSpec:
    assert node.fold is not None  # noqa: S101 - or it were no state
    whole = node.form is Form.BOOLEAN or node.key == COUNT.key
    centred = node.fold.centre is not None
    rows = node.inputs[0] if node.inputs else None
    if rows is None:
        name, words = "rows", "number of rows"
    else:
        name = _name("deviations" if centred else node.label, node)
        words = f"{node.label} of {_words(rows)}"
    return StateSpec(
        name=name,
        dtype=np.dtype(np.int64 if whole else np.float64),
        shape=(),
        neutral=_NEUTRAL[node.fold.ufunc],
        words=words,
    )


def _digest_spec(name: str, ordered: Node) -> StateSpec:
    return StateSpec(
        name=name,
        dtype=np.dtype(np.float64),
        shape=(digests.CENTROIDS, 2),
        neutral=0.0,
        words=f"digest of {_words(ordered)}: values and weights, ascending",
    )


def _name(what: str, node: Node) -> str:
    # Readable where the rows are those of a column; else with a digest of what they are.
    rows = [part for part in reachable(node) if part.kind is Kind.ROW]
    columns = sorted({part.column for part in rows if part.column is not None})
    plain = all(part.column is not None or part.label in ("float64", "sort") for part in rows)
    text = "_".join([what, *columns])
    name = re.sub(r"[^0-9A-Za-z_]", "_", text)[:60]
    return name if plain and name == text else f"{name}_{node.key[:8]}"


def _words(node: Node) -> str:
    text = _written(node)
    return text if len(text) <= LONGEST_WORDS else text[: LONGEST_WORDS - 3] + "..."


def _written(node: Node, depth: int = 12) -> str:
    # What only converts or repeats values is not worth a word.
    if node.label in ("float64", "sort", "spread") and node.inputs:
        return _written(node.inputs[0], depth)
    if depth == 0:
        return "..."
    inside = ", ".join(_written(source, depth - 1) for source in node.inputs)
    return f"{node.label}({inside})" if inside else node.label
