"""Which statistics of a coarse cell follow from those of its parts, and how.

A *state* is a reduction whose value of a coarse cell follows from its values of finer cells alone:
a count, a sum, an extreme, a sum of squared deviations. A statistic whose every path to the rows
passes through states is computed by its own nodes over merged states, whatever the order is. So
there is no second implementation of any statistic.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from magg.statistics.cells import lengths_of
from magg.statistics.declare import Compiled
from magg.statistics.expressions import reduce_rows
from magg.statistics.segments import Array, Block, Kind, Node, column, is_local

Values = dict[str, Array]
"""Values of nodes, one per cell, by the keys of the nodes."""
Merging = Literal["exact", "approximate", "none"]

COUNT = reduce_rows("len", column(""), {})


def mergeable(statistics: Mapping[str, Compiled]) -> dict[str, Merging]:
    """Tell how statistics of cells can be had from the states of their parts.

    Parameters
    ----------
    statistics : mapping of str to Compiled

    Returns
    -------
    dict of str to {"exact", "approximate", "none"}
        "exact" is up to the rounding of float64; "approximate" means that quantiles come from
        digests; for "none" see `why_not_mergeable`.
    """
    return {name: _merging(compiled.node)[0] for name, compiled in statistics.items()}


def why_not_mergeable(statistics: Mapping[str, Compiled]) -> dict[str, str]:
    """Return the reasons, in words, for the statistics that `mergeable` calls "none"."""
    judged = {name: _merging(compiled.node) for name, compiled in statistics.items()}
    return {name: reason for name, (merging, reason) in judged.items() if merging == "none"}


def is_state(node: Node) -> bool:
    """Tell whether the value of a cell follows from the values of its parts."""
    if node.fold is None:
        return False
    return node.fold.centre is not None or all(is_local(rows) for rows in node.inputs)


def leaves_of(roots: Iterable[Node]) -> list[Node]:
    """Return the states and order statistics that nodes rest on, and what merging these needs."""
    leaves: list[Node] = []
    seen: set[str] = set()
    stack = list(roots)
    while stack:
        node = stack.pop()
        if node.key in seen:
            continue
        seen.add(node.key)
        state = is_state(node)
        stack.extend(_centre(node) if state else node.inputs)
        if state or node.order is not None:
            leaves.append(node)
    return leaves


def states_among(leaves: Iterable[Node]) -> list[Node]:
    """Return the states among `leaves_of` nodes; what others need to be merged comes first."""
    return sorted(filter(is_state, leaves), key=lambda node: len(_centre(node)))


def order_statistics_among(leaves: Iterable[Node]) -> list[Node]:
    """Return the order statistics among `leaves_of` nodes that are of rows as they are."""
    return [node for node in leaves if node.order is not None and is_local(node.inputs[0])]


def centres_of(states: Iterable[Node]) -> list[Node]:
    """Return the numbers and means without which states cannot be merged."""
    return list({node.key: node for state in states for node in _centre(state)}.values())


def merge(states: Iterable[Node], values: Mapping[str, Array], starts: NDArray[np.intp]) -> Values:
    """Merge runs of cells into one coarser cell each.

    Parameters
    ----------
    states : iterable of Node
        As `states_among` orders them.
    values : mapping of str to ndarray, shape (n,)
        Of the states and of their `centres_of`.
    starts : ndarray of int, shape (m,)
        Where the runs start; none is empty.

    Returns
    -------
    dict of str to ndarray, shape (m,)
        Of the states and their centres.
    """
    size = next(iter(values.values())).size if values else 0
    merged: Values = {}
    with np.errstate(all="ignore"):
        for state in states:
            assert state.fold is not None  # noqa: S101 - or it were no state
            parts = values[state.key]
            if state.fold.centre is not None:
                evaluate(state.fold.centre, merged)
                number, mean = (node.key for node in state.fold.centre)
                lengths = lengths_of(starts, size)
                away = values[mean] - np.repeat(merged[mean], lengths)
                # A part without a value has no mean.
                parts = parts + np.where(values[number] > 0, values[number] * away**2, 0.0)
            merged[state.key] = np.asarray(state.fold.ufunc.reduceat(parts, starts))
    return merged


def evaluate(roots: Iterable[Node], values: Values) -> None:
    """Compute values of nodes from those that are known, and add them to these.

    Parameters
    ----------
    roots : iterable of Node
        Nodes of segments that rest on nothing but constants and nodes whose values are known.
    values : dict of str to ndarray
    """
    stack = list(roots)
    with np.errstate(all="ignore"):
        while stack:
            node = stack[-1]
            missing = [source for source in node.inputs if source.key not in values]
            if node.key in values or not missing:
                if node.key not in values:
                    inputs = [values[source.key] for source in node.inputs]
                    values[node.key] = node.compute(_NO_ROWS, *inputs)
                stack.pop()
            else:
                stack.extend(missing)


_NO_ROWS = Block({}, slice(0, 0), np.zeros(0, dtype=np.intp))


def _centre(node: Node) -> tuple[Node, ...]:
    return (node.fold.centre or ()) if node.fold is not None else ()


def _merging(root: Node) -> tuple[Merging, str]:
    result: Merging = "exact"
    stack, seen = [root], set()
    while stack:
        node = stack.pop()
        if node.key in seen or is_state(node):
            continue
        seen.add(node.key)
        if node.order is not None and is_local(node.inputs[0]):
            result = "approximate"
        elif any(source.kind is Kind.ROW for source in node.inputs):
            own = node.fold is None and node.order is None
            return "none", _ALL if own else _AGAIN.format(node.label.split()[0])
        else:
            stack.extend(node.inputs)
    return result, ""


_ALL = "its function needs all observations of a cell at once"
_AGAIN = "{} is taken over values that compare observations with a statistic of their own cell"
