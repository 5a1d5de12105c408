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

from magg.statistics.order import median, quantile
from magg.statistics.segments import (
    Array,
    Block,
    Fold,
    Form,
    Kind,
    Node,
    as_float,
    constant,
    elementwise,
    is_local,
    per_segment,
)


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
    return per_segment("len", _counts, form=Form.STORED, fold=Fold(np.add))


def _sum(rows: Node) -> Node:
    return _arithmetic(np.add, rows, "sum", _centre(rows))


def _arithmetic(
    ufunc: np.ufunc, rows: Node, label: str, centre: tuple[Node, Node] | None = None
) -> Node:
    compute = partial(_reduceat, ufunc)
    return per_segment(label, compute, as_float(rows), fold=Fold(ufunc, centre))


def _extreme(ufunc: np.ufunc, label: str, rows: Node) -> Node:
    compute = partial(_reduceat, ufunc)
    return per_segment(label, compute, rows, form=rows.form, fold=Fold(ufunc))


def _truth(ufunc: np.ufunc, label: str, rows: Node) -> Node:
    compute = partial(_reduceat, ufunc)
    return per_segment(label, compute, rows, form=Form.BOOLEAN, fold=Fold(ufunc))


def _centre(rows: Node) -> tuple[Node, Node] | None:
    """Return number and mean if the rows are squared deviations from just that mean.

    Only of rows that are the same in every cell; NaN may be left out.
    """
    if rows.label != "square" or not rows.inputs[0].inputs:
        return None
    deviation = rows.inputs[0]
    if deviation.label == "subtract":
        values = deviation.inputs[0]
        number = as_float(_count(values))
        mean = elementwise(np.divide, _sum(values), number)
        expected = elementwise(np.subtract, values, mean)
    elif deviation.label == "where" and deviation.inputs[2].label == "subtract":
        values = deviation.inputs[2].inputs[0]
        zero = constant(0.0)
        missing = elementwise(np.isnan, values, form=Form.BOOLEAN)
        there = elementwise(np.logical_not, missing, form=Form.BOOLEAN, floats=False)
        number = _sum(there)
        total = _sum(elementwise(np.where, missing, zero, values, floats=False))
        mean = elementwise(np.divide, total, number)
        difference = elementwise(np.subtract, values, mean)
        expected = elementwise(np.where, missing, zero, difference, floats=False)
    else:
        return None
    same = expected.key == deviation.key
    return (number, mean) if same and is_local(values) else None


# What they compute ------------------------------------------------------------------------------


def _counts(block: Block) -> NDArray[np.intp]:
    return block.counts


def _reduceat(ufunc: np.ufunc, block: Block, values: Array) -> Array:
    # All segments have rows and follow each other without a gap, as reduceat wants them. It sums
    # in pairs (pairwise summation), so that errors stay small in long segments too.
    return np.asarray(ufunc.reduceat(values, block.starts))


# The list ---------------------------------------------------------------------------------------

_WEIGHTS = {"weights": Parameter(Kind.ROW)}
_DDOF = {"ddof": Parameter(Kind.CONSTANT, default=0.0)}
_Q = {"q": Parameter(Kind.CONSTANT, high=1.0, positional=True)}
_PERCENT = {"q": Parameter(Kind.CONSTANT, high=100.0, positional=True)}

REDUCTIONS: Mapping[str, Reduction] = {
    "len": Reduction(_count),
    "count": Reduction(_count),
    "count_nonzero": Reduction("sum(x != 0)"),
    "any": Reduction(partial(_truth, np.logical_or, "any")),
    "all": Reduction(partial(_truth, np.logical_and, "all")),
    "sum": Reduction(_sum),
    "prod": Reduction(partial(_arithmetic, np.multiply, label="prod")),
    "min": Reduction(partial(_extreme, np.minimum, "min")),
    "max": Reduction(partial(_extreme, np.maximum, "max")),
    "amin": Reduction("min(x)"),
    "amax": Reduction("max(x)"),
    "ptp": Reduction("max(x) - min(x)"),
    "mean": Reduction("sum(x) / len(x)"),
    "average": Reduction("sum(x * weights) / sum(weights)", _WEIGHTS),
    # In two passes: the formula with one pass loses all digits where the mean is large.
    "var": Reduction("sum((x - mean(x))**2) / maximum(len(x) - ddof, 0)", _DDOF),
    "std": Reduction("sqrt(var(x, ddof=ddof))", _DDOF),
    "median": Reduction(partial(median, complete=True)),
    "quantile": Reduction(partial(quantile, complete=True), _Q),
    "percentile": Reduction(partial(quantile, complete=True, whole=100.0), _PERCENT),
    # The same without NaN. Like numpy's, nansum gives 0 where all are NaN, the others NaN.
    "nansum": Reduction("sum(where(isnan(x), 0, x))"),
    "nanmin": Reduction(partial(_extreme, np.fmin, "nanmin")),
    "nanmax": Reduction(partial(_extreme, np.fmax, "nanmax")),
    "nanmean": Reduction("nansum(x) / sum(~isnan(x))"),
    "nanvar": Reduction(
        "where(sum(~isnan(x)) > ddof, "
        "sum(where(isnan(x), 0, x - nanmean(x))**2) / (sum(~isnan(x)) - ddof), np.nan)",
        _DDOF,
    ),
    "nanstd": Reduction("sqrt(nanvar(x, ddof=ddof))", _DDOF),
    "nanmedian": Reduction(partial(median, complete=False)),
    "nanquantile": Reduction(partial(quantile, complete=False), _Q),
    "nanpercentile": Reduction(partial(quantile, complete=False, whole=100.0), _PERCENT),
}
