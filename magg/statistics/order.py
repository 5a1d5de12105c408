"""Order statistics: the median and quantiles of the rows of each segment.

They work on the values as they are stored and are exact. A statistic tells the ranks between which
it lies, and what it is between the values that have them; where these values come from (a sorted
block, sorted runs of a coarser cell, a digest) is not its affair.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from magg.statistics.segments import (
    Array,
    Block,
    Form,
    Node,
    OrderStatistic,
    per_row,
    per_segment,
)

Indices = NDArray[np.intp]
Mask = NDArray[np.bool_]


def median(rows: Node, *, complete: bool) -> Node:
    """Return the node of the median; if ``complete``, NaN where a row is NaN."""
    return _statistic(f"median {complete}", rows, Median(complete))


def quantile(rows: Node, q: Node, *, complete: bool, whole: float = 1.0) -> Node:
    """Return the node of the quantile ``q / whole``."""
    assert q.value is not None  # noqa: S101 - its parameter is of kind constant
    part = q.value / whole
    return _statistic(f"quantile {part!r} {complete}", rows, Quantile(complete, part))


@dataclass(frozen=True, slots=True)
class Median:
    """The mean of the middle two, as with numpy; the quantile of 0.5 may differ in the last bit."""

    complete: bool

    def ranks(self, sizes: Indices) -> tuple[Indices, Indices]:
        """Return the ranks of the middle two, which are one where the number is odd."""
        return (sizes - 1) // 2, sizes // 2

    def between(self, below: Array, above: Array, sizes: Indices) -> Array:
        """Return their mean."""
        return np.where(sizes % 2 == 1, below, (below + above) / 2)


@dataclass(frozen=True, slots=True)
class Quantile:
    """numpy's "linear" method (type 7 of Hyndman and Fan, 1996)."""

    complete: bool
    q: float

    def ranks(self, sizes: Indices) -> tuple[Indices, Indices]:
        """Return the ranks below and above the position of the quantile."""
        last = sizes - 1
        lower = (last * self.q).astype(np.intp)
        upper: Indices = np.minimum(lower + 1, last)
        return lower, upper

    def between(self, below: Array, above: Array, sizes: Indices) -> Array:
        """Interpolate from the nearer end as numpy does, equal to the last bit."""
        position = (sizes - 1) * self.q
        fraction = position - position.astype(np.intp)
        step = above - below
        near_below, near_above = below + step * fraction, above - step * (1 - fraction)
        result: Array = np.where(fraction < 0.5, near_below, near_above)
        return result


def sort_segments(values: Array, starts: Indices, counts: Indices) -> None:
    """Sort each segment in place, NaN last."""
    keys = sort_keys(values)
    several = counts > 1
    starts, stops = starts[several], (starts + counts)[several]
    for start, stop in zip(starts.tolist(), stops.tolist(), strict=True):
        keys[start:stop].sort()


def _statistic(operation: str, rows: Node, order: OrderStatistic) -> Node:
    # What all order statistics of the same rows share: the rows sorted, how many of them count,
    # and which segments have none because of NaN.
    complete = order.complete
    ordered = per_row("sort", _sort, rows, rows.form)
    sizes = _all_sizes if complete else _valid_sizes
    undefined = _has_nan if complete else _never
    inputs = (
        ordered,
        per_segment(f"sizes {complete}", sizes, ordered, form=Form.STORED),
        per_segment(f"undefined {complete}", undefined, ordered, form=Form.BOOLEAN),
    )
    return per_segment(operation, partial(_order_statistic, order), *inputs, order=order)


def _order_statistic(
    order: OrderStatistic, block: Block, ordered: Array, sizes: Indices, undefined: Mask | None
) -> Array:
    lower, upper = order.ranks(sizes)
    below = ordered.take(block.starts + lower).astype(np.float64)
    above = ordered.take(block.starts + upper).astype(np.float64)
    result: Array = order.between(below, above, sizes)
    if undefined is not None:
        result[undefined] = np.nan
    return result


def _sort(block: Block, values: Array) -> Array:
    ordered = values.copy()
    sort_segments(ordered, block.starts, block.counts)
    return ordered


def sort_keys(values: Array) -> Array:
    """Return a view of values that is fast to sort."""
    # The bits of floats without a sign, NaN included, are in order as integers too, and integers
    # are faster to compare.
    if values.dtype.kind != "f" or values.itemsize < 4 or not values.dtype.isnative:
        return values
    bits = values.view(np.dtype(f"i{values.itemsize}"))
    return bits if bits.min(initial=0) >= 0 else values


def _all_sizes(block: Block, _: Array) -> NDArray[np.intp]:
    return block.counts


def _valid_sizes(block: Block, ordered: Array) -> NDArray[np.intp]:
    # NaN sorts last, so that the others come first. One at least: where there is nothing but NaN,
    # the first of them gives the NaN that is due.
    sizes = block.counts - missing_values(ordered, block.starts, block.counts)
    sizes[sizes == 0] = 1
    return sizes


def missing_values(ordered: Array, starts: Indices, counts: Indices) -> Indices:
    """Return how many values of each sorted segment are NaN."""
    none = np.zeros(starts.size, dtype=np.intp)
    if ordered.dtype.kind != "f":
        return none
    ends = starts + counts
    for index in np.flatnonzero(np.isnan(ordered.take(ends - 1))).tolist():
        segment = ordered[starts[index] : ends[index]]
        none[index] = segment.size - np.searchsorted(segment, np.nan)
    return none


def _has_nan(block: Block, ordered: Array) -> Mask | None:
    if ordered.dtype.kind != "f":
        return None
    nan = np.isnan(ordered.take(block.starts + block.counts - 1))
    return nan if nan.any() else None


def _never(_block: Block, _ordered: Array) -> None:
    return None
