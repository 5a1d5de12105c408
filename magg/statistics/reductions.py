"""The statistics that magg brings: functions that reduce the rows of each segment to one value.

Each means what the NumPy function of its name means for a 1-D float64 array. Few are computed
directly; the others are defined by expressions in terms of those, so that what several have in
common is computed once. Minima, maxima and order statistics work on the values as they are stored
and are exact.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial

import numpy as np
from numpy.typing import NDArray

from magg.statistics.segments import (
    Array,
    Block,
    Form,
    Kind,
    Node,
    as_float,
    per_row,
    per_segment,
)

Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Parameter:
    """A parameter of a reduction: one value per observation, or a number within limits.

    Parameters
    ----------
    kind : Kind
        ``Kind.ROW`` or ``Kind.CONSTANT``.
    high : float, optional
        Largest number; the smallest is 0.
    default : float, optional
        If left out, a number must be given.
    positional : bool, optional
        Whether an expression may give it without its name, as with NumPy.
    """

    kind: Kind
    high: float = np.inf
    default: float | None = None
    positional: bool = False

    @property
    def words(self) -> str:
        """What is wanted, in the words of messages."""
        if self.kind is Kind.ROW:
            return self.kind.words
        return f"a number from 0 to {self.high:g}" if self.high < np.inf else "a number from 0 on"


@dataclass(frozen=True)
class Reduction:
    """A function from rows to one value per segment.

    Parameters
    ----------
    definition : callable or str
        Takes the node of the rows, and those of the parameters by name, and returns the node of
        the result; or an expression in which ``x`` are the rows.
    parameters : mapping of str to Parameter, optional
    """

    definition: Callable[..., Node] | str
    parameters: Mapping[str, Parameter] = field(default_factory=dict)


# Nodes of what is computed directly -------------------------------------------------------------


def _count(_: Node) -> Node:
    return per_segment("count", _counts, form=Form.STORED)


def _arithmetic(ufunc: np.ufunc, rows: Node) -> Node:
    return per_segment(ufunc.__name__, partial(_reduceat, ufunc), as_float(rows))


def _extreme(ufunc: np.ufunc, rows: Node) -> Node:
    return per_segment(ufunc.__name__, partial(_reduceat, ufunc), rows, form=rows.form)


def _truth(ufunc: np.ufunc, rows: Node) -> Node:
    return per_segment(ufunc.__name__, partial(_reduceat, ufunc), rows, form=Form.BOOLEAN)


def _median(rows: Node, *, complete: bool) -> Node:
    return per_segment(f"median {complete}", _median_of, *_in_order(rows, complete=complete))


def _quantile(rows: Node, q: Node, *, complete: bool, whole: float = 1.0) -> Node:
    assert q.value is not None  # noqa: S101 - its parameter is of kind constant
    part = q.value / whole
    compute = partial(_quantile_of, part)
    return per_segment(
        f"quantile {part!r} {complete}", compute, *_in_order(rows, complete=complete)
    )


def _in_order(rows: Node, *, complete: bool) -> tuple[Node, Node, Node]:
    # What all order statistics of the same rows share: the rows sorted, how many of them count,
    # and which segments have none because of NaN.
    ordered = per_row("sort", _sort, rows, rows.form)
    sizes = _all_sizes if complete else _valid_sizes
    undefined = _has_nan if complete else _never
    return (
        ordered,
        per_segment(f"sizes {complete}", sizes, ordered, form=Form.STORED),
        per_segment(f"undefined {complete}", undefined, ordered, form=Form.BOOLEAN),
    )


# What they compute ------------------------------------------------------------------------------


def _counts(block: Block) -> NDArray[np.intp]:
    return block.counts


def _reduceat(ufunc: np.ufunc, block: Block, values: Array) -> Array:
    # All segments have rows and follow each other without a gap, as reduceat wants them. It sums
    # in pairs (pairwise summation), so that errors stay small in long segments too.
    return np.asarray(ufunc.reduceat(values, block.starts))


def _sort(block: Block, values: Array) -> Array:
    ordered = values.copy()
    keys = _sort_keys(ordered)
    several = block.counts > 1
    starts, counts = block.starts[several], block.counts[several]
    for start, stop in zip(starts.tolist(), (starts + counts).tolist(), strict=True):
        keys[start:stop].sort()
    return ordered


def _sort_keys(values: Array) -> Array:
    # The bits of floats without a sign, NaN included, are in order as integers too, and integers
    # are faster to compare.
    if values.dtype.kind != "f" or values.itemsize < 4:
        return values
    bits = values.view(np.dtype(f"i{values.itemsize}"))
    return bits if bits.min() >= 0 else values


def _quantile_of(
    q: float, block: Block, ordered: Array, sizes: NDArray[np.intp], undefined: Mask | None
) -> Array:
    # numpy's "linear" method (type 7 of Hyndman and Fan, 1996), interpolated from the nearer end
    # as numpy does, so that the results are equal to the last bit.
    last = sizes - 1
    position = last * q
    lower = position.astype(np.intp)
    fraction = position - lower
    above = ordered.take(np.minimum(lower + 1, last) + block.starts).astype(np.float64)
    lower += block.starts
    below = ordered.take(lower).astype(np.float64)
    step = above - below
    result = np.where(fraction < 0.5, below + step * fraction, above - step * (1 - fraction))
    return _masked(result, undefined)


def _median_of(
    block: Block, ordered: Array, sizes: NDArray[np.intp], undefined: Mask | None
) -> Array:
    # The mean of the middle two as with numpy; the quantile of 0.5 may differ in the last bit.
    lower = ordered.take(block.starts + (sizes - 1) // 2).astype(np.float64)
    upper = ordered.take(block.starts + sizes // 2 - (sizes == 1)).astype(np.float64)
    return _masked(np.where(sizes % 2 == 1, lower, (lower + upper) / 2), undefined)


def _all_sizes(block: Block, _: Array) -> NDArray[np.intp]:
    return block.counts


def _valid_sizes(block: Block, ordered: Array) -> NDArray[np.intp]:
    # NaN sorts last, so that the others come first. One at least: where there is nothing but NaN,
    # the first of them gives the NaN that is due.
    if ordered.dtype.kind != "f":
        return block.counts
    missing = np.add.reduceat(np.isnan(ordered), block.starts, dtype=np.intp)
    return np.maximum(block.counts - missing, 1)


def _has_nan(block: Block, ordered: Array) -> Mask | None:
    if ordered.dtype.kind != "f":
        return None
    nan = np.isnan(ordered.take(block.starts + block.counts - 1))
    return nan if nan.any() else None


def _never(_block: Block, _ordered: Array) -> None:
    return None


def _masked(result: Array, undefined: Mask | None) -> Array:
    if undefined is not None:
        result[undefined] = np.nan
    return result


# The list ---------------------------------------------------------------------------------------

_WEIGHTS = {"weights": Parameter(Kind.ROW)}
_DDOF = {"ddof": Parameter(Kind.CONSTANT, default=0.0)}
_Q = {"q": Parameter(Kind.CONSTANT, high=1.0, positional=True)}
_PERCENT = {"q": Parameter(Kind.CONSTANT, high=100.0, positional=True)}

REDUCTIONS: Mapping[str, Reduction] = {
    "len": Reduction(_count),
    "count": Reduction(_count),
    "count_nonzero": Reduction("sum(x != 0)"),
    "any": Reduction(partial(_truth, np.logical_or)),
    "all": Reduction(partial(_truth, np.logical_and)),
    "sum": Reduction(partial(_arithmetic, np.add)),
    "prod": Reduction(partial(_arithmetic, np.multiply)),
    "min": Reduction(partial(_extreme, np.minimum)),
    "max": Reduction(partial(_extreme, np.maximum)),
    "amin": Reduction("min(x)"),
    "amax": Reduction("max(x)"),
    "ptp": Reduction("max(x) - min(x)"),
    "mean": Reduction("sum(x) / len(x)"),
    "average": Reduction("sum(x * weights) / sum(weights)", _WEIGHTS),
    # In two passes: the formula with one pass loses all digits where the mean is large.
    "var": Reduction("sum((x - mean(x))**2) / maximum(len(x) - ddof, 0)", _DDOF),
    "std": Reduction("sqrt(var(x, ddof=ddof))", _DDOF),
    "median": Reduction(partial(_median, complete=True)),
    "quantile": Reduction(partial(_quantile, complete=True), _Q),
    "percentile": Reduction(partial(_quantile, complete=True, whole=100.0), _PERCENT),
    # The same without NaN. Like numpy's, nansum gives 0 where all are NaN, the others NaN.
    "nansum": Reduction("sum(where(isnan(x), 0, x))"),
    "nanmin": Reduction(partial(_extreme, np.fmin)),
    "nanmax": Reduction(partial(_extreme, np.fmax)),
    "nanmean": Reduction("nansum(x) / sum(~isnan(x))"),
    "nanvar": Reduction(
        "where(sum(~isnan(x)) > ddof, "
        "sum(where(isnan(x), 0, x - nanmean(x))**2) / (sum(~isnan(x)) - ddof), np.nan)",
        _DDOF,
    ),
    "nanstd": Reduction("sqrt(nanvar(x, ddof=ddof))", _DDOF),
    "nanmedian": Reduction(partial(_median, complete=False)),
    "nanquantile": Reduction(partial(_quantile, complete=False), _Q),
    "nanpercentile": Reduction(partial(_quantile, complete=False, whole=100.0), _PERCENT),
}
