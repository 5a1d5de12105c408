"""Digests of all values of a cell, small and mergeable, from which quantiles are had.

A digest is a t-digest (Dunning and Ertl, 2019) with centroids of equal size: at most `CENTROIDS`
values in ascending order, each with the number of observations it stands for, as an array of shape
(CENTROIDS, 2) that ends in zeros. Two things differ from the usual: a centroid's value is that of
the observation in its middle, not a mean, so that it is a value that was observed; and equal values
are one centroid, whatever their number, so that data of few distinct values stay exact. The lowest
and the highest value are always centroids of their own.
"""

from __future__ import annotations

from bisect import bisect_right

import numpy as np
from numpy.typing import NDArray

from magg.statistics.segments import Array, OrderStatistic

CENTROIDS = 1536
# Most of all observations that centroids of several values may stand for: two neighbours stand for
# more than that together, so that there are never more than twice as many, and one or two ends.
_LIMIT = 2 / (CENTROIDS - 4)

# Of more values than this a digest is not more accurate.
_MOST_POINTS = 32 * CENTROIDS

Floats = NDArray[np.float64]


def empty(cells: int) -> Floats:
    """Return digests of so many cells without values."""
    return np.zeros((cells, CENTROIDS, 2))


def digest_of_sample(points: Array, number: int, ends: Array | None = None) -> Floats:
    """Return the digest of values.

    Parameters
    ----------
    points : ndarray, shape (s,)
        All values or a regular sample of them, ascending, without NaN.
    number : int
        How many values there are.
    ends : ndarray, optional
        Values with the lowest and the highest of all among them; by default these are in the
        sample.

    Returns
    -------
    ndarray of float64, shape (CENTROIDS, 2)
        Values and weights.
    """
    if points.size == number <= CENTROIDS:
        return _digest(points.astype(np.float64), np.ones(number))
    ends = points[[0, -1]] if ends is None else ends
    thinned = max(1, points.size // _MOST_POINTS)
    values = points[thinned // 2 :: thinned].astype(np.float64)
    # The extremes stand for themselves.
    shares = np.arange(values.size + 1) * (number - 2) // max(values.size, 1)
    values = np.concatenate(([ends.min()], values, [ends.max()]))
    weights = np.concatenate(([1.0], np.diff(shares), [1.0]))
    values, weights = values[weights > 0], weights[weights > 0]
    return _digest(values, weights)


def merge(digests: Floats, starts: NDArray[np.intp]) -> Floats:
    """Merge runs of digests into one each.

    Parameters
    ----------
    digests : ndarray, shape (n, CENTROIDS, 2)
    starts : ndarray of int, shape (m,)
        Where the runs start.
    """
    merged = empty(starts.size)
    stops = np.append(starts[1:], len(digests))
    for index, (start, stop) in enumerate(zip(starts.tolist(), stops.tolist(), strict=True)):
        parts = digests[start:stop].reshape(-1, 2)
        parts = parts[parts[:, 1] > 0]
        parts = parts[np.argsort(parts[:, 0], kind="stable")]
        merged[index] = _digest(parts[:, 0], parts[:, 1])
    return merged


def order_statistic(order: OrderStatistic, digests: Floats, rows: NDArray[np.int64]) -> Floats:
    """Return an order statistic of each cell.

    Parameters
    ----------
    order : OrderStatistic
    digests : ndarray, shape (n, CENTROIDS, 2)
    rows : ndarray of int, shape (n,)
        Number of rows of each cell, NaN included.

    Returns
    -------
    ndarray of float64, shape (n,)
        NaN for cells without values, and for those with NaN where that is due.
    """
    result = np.full(rows.size, np.nan)
    sizes = np.rint(digests[:, :, 1].sum(axis=1)).astype(np.intp)
    defined = (sizes == rows) if order.complete else (sizes > 0)
    for index in np.flatnonzero(defined & (sizes > 0)).tolist():
        size = sizes[index : index + 1]
        ranks = np.concatenate(order.ranks(size)).astype(np.float64)
        values = at_ranks(digests[index], ranks)
        result[index] = order.between(values[:1], values[1:], size)[0]
    return result


def at_ranks(digest: Floats, ranks: Floats) -> Floats:
    """Return the values that have ranks, from 0 on, in a digest that is not empty."""
    used = int(np.count_nonzero(digest[:, 1]))
    values, weights = digest[:used, 0], digest[:used, 1]
    last = np.cumsum(weights) - 1
    first = last - weights + 1
    middle = (first + last) / 2
    # Heavier than centroids of several values are: one value, which all these ranks have.
    heavy = weights > _LIMIT * (last[-1] + 1)
    places = np.stack([np.where(heavy, first, middle), np.where(heavy, last, middle)], axis=1)
    with np.errstate(invalid="ignore"):
        return np.interp(ranks, places.ravel(), np.repeat(values, 2))


def _digest(values: Floats, weights: Floats) -> Floats:
    # Of values in ascending order.
    result = np.zeros((CENTROIDS, 2))
    if values.size:
        values, weights = _joined(*_distinct(values, weights))
        result[: values.size, 0] = values
        result[: values.size, 1] = weights
    return result


def _distinct(values: Floats, weights: Floats) -> tuple[Floats, Floats]:
    firsts = np.flatnonzero(np.concatenate(([True], values[1:] != values[:-1])))
    return values[firsts], np.add.reduceat(weights, firsts)


def _joined(values: Floats, weights: Floats) -> tuple[Floats, Floats]:
    # As many neighbours as the limit allows become one centroid; the ends stay alone.
    if values.size <= CENTROIDS:
        return values, weights
    sums = np.cumsum(weights)
    last, most = values.size - 1, _LIMIT * float(sums[-1])
    largest = float(weights[1:-1].max())
    if largest <= most / 2:
        # Cut where a share is exceeded, which no value on a cut can make too much.
        shares = np.arange(weights[0], sums[-2], most - largest)
        firsts = np.append(np.searchsorted(sums, shares, side="right"), last)
        firsts = np.concatenate(([0], firsts[np.append(True, firsts[1:] > firsts[:-1])]))
    else:
        ends = sums.tolist()
        starts, start = [0], 1
        while start < last:
            starts.append(start)
            start = min(max(start + 1, bisect_right(ends, ends[start - 1] + most)), last)
        firsts = np.array([*starts, last])
    joined = np.add.reduceat(weights, firsts)
    middle = sums[firsts] - weights[firsts] + joined / 2
    # Of two observations in the middle the lower one and the upper one in turn, so that values do
    # not drift when digests are merged many times.
    middles = np.searchsorted(sums, middle, side="left")
    middles[1::2] = np.searchsorted(sums, middle[1::2], side="right")
    return values[np.minimum(middles, last)], joined
