"""Results in the dtypes that are declared, with fill values where there are none."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from magg.errors import StatisticError
from magg.statistics.declare import Compiled
from magg.statistics.segments import Array


def empty_output(compiled: Compiled, cells: int) -> Array:
    """Return the values of so many cells without rows."""
    return np.full(cells, 0 if compiled.counts else compiled.fill, dtype=compiled.dtype)


def cast(compiled: Compiled, values: Array) -> Array:
    """Return results in the declared dtype, and the fill value for those it cannot hold.

    Raises
    ------
    StatisticError
        If a number of observations is too large for its dtype.
    """
    dtype = compiled.dtype
    with np.errstate(over="ignore", invalid="ignore"):
        result = values.astype(dtype)
    if dtype.kind == "f":
        if np.isfinite(compiled.fill):
            result[np.isnan(result)] = compiled.fill
        return result
    fits = _fits(values, np.iinfo(dtype))
    if compiled.counts and not fits.all():
        raise StatisticError(
            f"statistic {compiled.name!r}: a child cell has {values.max()} observations, more "
            f"than {dtype} can hold; declare a larger dtype"
        )
    result[~fits] = compiled.fill
    return result


def _fits(values: Array, limits: np.iinfo[np.integer]) -> NDArray[np.bool_]:
    if values.dtype.kind == "f":
        # Not the upper limit itself, which may be no float64, but the power of two above it.
        whole = np.trunc(values)
        return (whole >= float(limits.min)) & (whole < float(limits.max + 1))
    if values.dtype.kind == "b":
        return np.ones(values.shape, dtype=bool)
    stored = np.iinfo(values.dtype)
    return (values >= max(limits.min, stored.min)) & (values <= min(limits.max, stored.max))
