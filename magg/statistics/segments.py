"""Values over a block of whole segments, and programs that compute them.

In this room a *segment* is the run of rows that one child cell owns once the rows are ordered by
child cell, as in "segment reduction"; it is not the ATL06 segment, which is a row here. A *block*
is a handful of whole segments, small enough to stay in the processor's cache.

What is to be computed is a graph of `Node`. Each node has a kind: one value per row, one value per
segment, or a constant. Equal nodes have equal keys, so a `Program` over all declared statistics
computes what they share (a sum of weights, a sorted column) once per block.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum, IntEnum
from functools import partial
from hashlib import blake2b
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


class Kind(IntEnum):
    """How many values a node has; where kinds meet, the highest wins."""

    CONSTANT = 0
    SEGMENT = 1
    ROW = 2

    @property
    def words(self) -> str:
        """The kind in the words of messages."""
        return ("a constant", "one value per child cell", "one value per observation")[self]


class Form(Enum):
    """What is known of a node's dtype before any row is seen."""

    STORED = "as stored"  # the dtype of a column, whatever it is
    FLOAT = "float64"
    BOOLEAN = "boolean"


@dataclass(frozen=True, slots=True, eq=False)
class Fold:
    """How a reduction of a segment follows from the same reduction of its parts.

    Parameters
    ----------
    ufunc : numpy.ufunc
        Joins the values of two parts.
    centre : tuple of Node, optional
        For sums of squared deviations from a mean, which differs from part to part: the number of
        values and their mean, with which the sums are joined by the formula of Chan, Golub and
        LeVeque (1983).
    """

    ufunc: np.ufunc
    centre: tuple[Node, Node] | None = None


class OrderStatistic(Protocol):
    """A statistic that lies between two neighbours of the ordered values of a segment."""

    @property
    def complete(self) -> bool:
        """Whether it is undefined where there is a NaN; otherwise NaN does not count."""
        ...

    def ranks(self, sizes: NDArray[np.intp]) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
        """Return the ranks of the two neighbours, from 0, among so many values."""
        ...

    def between(self, below: Array, above: Array, sizes: NDArray[np.intp]) -> Array:
        """Return the statistic from the values of these ranks, in float64."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class Node:
    """One value of a program: what it is and how it follows from other nodes.

    Parameters
    ----------
    key : str
        Equal for nodes that compute the same.
    kind : Kind
    form : Form
    compute : callable
        Called with the block and the values of ``inputs``; returns an array of one value per row
        or per segment, by ``kind``.
    inputs : tuple of Node, optional
    column : str, optional
        Name of the column, for the node that reads one.
    value : float, optional
        The value of a constant.
    label : str, optional
        What is computed, in a word.
    fold : Fold, optional
        For reductions that follow from those of parts of a segment.
    order : OrderStatistic, optional
        For order statistics; the first input is the rows, ordered.
    """

    key: str
    kind: Kind
    form: Form
    compute: Callable[..., Any]
    inputs: tuple[Node, ...] = ()
    column: str | None = None
    value: float | None = None
    label: str = ""
    fold: Fold | None = None
    order: OrderStatistic | None = None


class Block:
    """Rows of a few whole segments, one segment after the other.

    Parameters
    ----------
    columns : mapping of str to ndarray, shape (n,)
        All rows, in their original order.
    rows : slice or ndarray of int
        Where the rows of the block are, ordered by segment.
    counts : ndarray of int, shape (s,)
        Number of rows of each segment; none is 0.
    """

    __slots__ = ("columns", "counts", "rows", "starts")

    def __init__(
        self, columns: Mapping[str, Array], rows: slice | NDArray[np.intp], counts: NDArray[np.intp]
    ) -> None:
        self.columns = columns
        self.rows = rows
        self.counts = counts
        self.starts = np.cumsum(counts) - counts


class Program:
    """Nodes in an order in which every node follows its inputs, each of them once.

    A value is let go after its last use, which keeps few rows alive and the cache warm.

    Parameters
    ----------
    roots : sequence of Node
        The nodes whose values are wanted.
    given : sequence of Node, optional
        Nodes that are not computed: their values are handed to `run`.
    """

    def __init__(self, roots: Sequence[Node], given: Sequence[Node] = ()) -> None:
        nodes = _ordered(roots, given)
        slots = {node.key: slot for slot, node in enumerate(nodes)}
        self._roots = [slots[root.key] for root in roots]
        computed = nodes[len(given) :]
        inputs = [[slots[source.key] for source in node.inputs] for node in computed]
        last_use = {source: step for step, sources in enumerate(inputs) for source in sources}
        for root in self._roots:
            last_use.pop(root, None)
        finished: list[list[int]] = [[] for _ in computed]
        for source, step in last_use.items():
            finished[step].append(source)
        self._steps = list(zip([node.compute for node in computed], inputs, finished, strict=True))

    def run(self, block: Block, given: Sequence[Array] = ()) -> list[Array]:
        """Return the values of the roots over a block, silently where they are undefined.

        Parameters
        ----------
        block : Block
        given : sequence of ndarray, optional
            The values of the nodes that are not computed.
        """
        values: list[Any] = [*given, *[None] * len(self._steps)]
        with np.errstate(all="ignore"):
            for slot, (compute, inputs, finished) in enumerate(self._steps, len(given)):
                values[slot] = compute(block, *[values[source] for source in inputs])
                for source in finished:
                    values[source] = None
        return [values[root] for root in self._roots]


def reachable(*roots: Node, given: Sequence[Node] = ()) -> list[Node]:
    """Return nodes and all that they are computed from, each once, inputs first.

    Nodes that are given, and what only they are computed from, are left out.
    """
    return _ordered(roots, given)[len(given) :]


def is_local(node: Node) -> bool:
    """Tell whether a value per row depends on nothing but that row."""
    if node.kind is Kind.ROW:
        return all(is_local(source) for source in node.inputs)
    return node.kind is Kind.CONSTANT


def column(name: str) -> Node:
    """Return the node that gathers the rows of a column."""
    compute = partial(_gather, name)
    return Node(_key("column", name), Kind.ROW, Form.STORED, compute, column=name, label=name)


def constant(value: float) -> Node:
    """Return the node of a number."""
    number = np.float64(value)
    compute = partial(_constant, number)
    return Node(
        _key("constant", repr(float(number))),
        Kind.CONSTANT,
        Form.FLOAT,
        compute,
        value=float(number),
        label=f"{number:g}",
    )


def per_segment(
    operation: str,
    compute: Callable[..., Any],
    *inputs: Node,
    form: Form = Form.FLOAT,
    fold: Fold | None = None,
    order: OrderStatistic | None = None,
) -> Node:
    """Return a node with one value per segment.

    Parameters
    ----------
    operation : str
        Names what is computed, parameters included: part of the node's key.
    compute : callable
        Called with the block and the values of ``inputs``.
    *inputs : Node
    form : Form, optional
    fold : Fold, optional
    order : OrderStatistic, optional
    """
    key = _key(operation, *_keys(inputs))
    return Node(key, Kind.SEGMENT, form, compute, inputs, label=operation, fold=fold, order=order)


def per_row(operation: str, compute: Callable[..., Any], source: Node, form: Form) -> Node:
    """Return a node with one value per row, computed from all rows of a segment together."""
    key = _key(operation, source.key)
    return Node(key, Kind.ROW, form, compute, (source,), label=operation)


def elementwise(
    function: Callable[..., Any], *operands: Node, form: Form = Form.FLOAT, floats: bool = True
) -> Node:
    """Return the node of a function that works on each element.

    Parameters
    ----------
    function : callable
        A numpy function such as ``np.sqrt``; known by its name in the node's key.
    *operands : Node
        Values of segments are broadcast to the rows where they meet rows.
    form : Form, optional
        Of the result.
    floats : bool, optional
        Whether to compute in float64 whatever the operands are stored as.
    """
    inputs = [as_float(operand) if floats else operand for operand in operands]
    kind = max(operand.kind for operand in inputs)
    if kind is Kind.CONSTANT:
        with np.errstate(all="ignore"):
            return constant(float(function(*[np.float64(operand.value) for operand in inputs])))
    if kind is Kind.ROW:
        inputs = [spread(operand) for operand in inputs]
    name = function.__name__
    key = _key(name, *_keys(inputs))
    return Node(key, kind, form, partial(_apply, function), tuple(inputs), label=name)


def as_float(node: Node) -> Node:
    """Return a node in float64, in which all arithmetic is done whatever the columns are."""
    if node.form is Form.FLOAT:
        return node
    key = _key("float64", node.key)
    return Node(key, node.kind, Form.FLOAT, _as_float, (node,), label="float64")


def spread(node: Node) -> Node:
    """Return a node whose value of each segment is repeated for each of its rows."""
    if node.kind is not Kind.SEGMENT:
        return node
    key = _key("spread", node.key)
    return Node(key, Kind.ROW, node.form, _spread, (node,), label="spread")


def _key(*parts: str) -> str:
    # A digest, because written out the key of a nested variance would grow exponentially.
    return blake2b("\0".join(parts).encode(), digest_size=16).hexdigest()


def _keys(nodes: Sequence[Node]) -> list[str]:
    return [node.key for node in nodes]


def _ordered(roots: Sequence[Node], given: Sequence[Node] = ()) -> list[Node]:
    # Depth first without recursion: a node is pushed a second time, to be taken after its inputs.
    nodes = {node.key: node for node in given}
    stack = [(root, False) for root in reversed(roots)]
    while stack:
        node, inputs_done = stack.pop()
        if node.key in nodes:
            continue
        if inputs_done:
            nodes[node.key] = node
        else:
            stack.append((node, True))
            stack.extend((source, False) for source in reversed(node.inputs))
    return list(nodes.values())


def _gather(name: str, block: Block) -> Array:
    values = block.columns[name]
    if isinstance(block.rows, slice):
        return values[block.rows]
    # All are within bounds; take is faster where it need not raise if they are not.
    return values.take(block.rows, mode="wrap")


def _constant(value: np.float64, _: Block) -> np.float64:
    return value


def _apply(function: Callable[..., Any], _: Block, *values: Any) -> Any:
    return function(*values)


def _as_float(_: Block, values: Array) -> Array:
    return values.astype(np.float64, copy=False)


def _spread(block: Block, values: Array) -> Array:
    return np.repeat(values, block.counts)
