"""Statistics of the rows of one parent cell, per child cell."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from magg.errors import StatisticError
from magg.statistics.casting import cast, empty_output
from magg.statistics.declare import Compiled
from magg.statistics.ordering import order_rows
from magg.statistics.segments import Array, Block, Program


def aggregate(
    statistics: Mapping[str, Compiled],
    child: NDArray[np.unsignedinteger],
    columns: Mapping[str, Array],
    children: int,
) -> dict[str, Array]:
    """Compute statistics of rows per child cell.

    Arithmetic is done in float64 whatever the columns are; results are cast to the declared dtypes
    last. Beside the outputs it takes 12 MB at 10 million rows (30 MB if they are shuffled), and
    about 25 bytes a row of the largest child cell where that exceeds a block. Safe to be called
    from several threads.

    Parameters
    ----------
    statistics : mapping of str to Compiled
    child : ndarray of uint16 or uint32, shape (n,)
        Child cell of each row, below ``children``, in any order; fastest in long runs.
    columns : mapping of str to ndarray, shape (n,)
        At least the columns that the statistics use.
    children : int
        Number of child cells.

    Returns
    -------
    dict of str to ndarray, shape (children,)
        In the declared dtypes. Child cells without rows hold the fill value, and 0 for counts.
        Results that an integer dtype cannot hold become the fill value; so does NaN where the
        fill value of a floating-point dtype is finite.

    Raises
    ------
    StatisticError
        If columns and child indices do not fit each other, a registered function fails, or a
        count is too large for its dtype.
    """
    check_rows(statistics, child, columns, children)
    outputs = {key: empty_output(compiled, children) for key, compiled in statistics.items()}
    program = Program([compiled.node for compiled in statistics.values()])
    for segments in order_rows(child).blocks():
        results = program.run(Block(columns, segments.rows, segments.counts))
        for (key, compiled), values in zip(statistics.items(), results, strict=True):
            outputs[key][segments.cells] = cast(compiled, values)
    return outputs


def check_rows(
    statistics: Mapping[str, Compiled],
    child: NDArray[np.unsignedinteger],
    columns: Mapping[str, Array],
    children: int,
) -> None:
    """Refuse rows that do not fit the statistics or each other; see `aggregate`."""
    for key, compiled in statistics.items():
        for name in sorted(compiled.columns):
            if name not in columns:
                raise StatisticError(f"statistic {key!r} needs column {name!r}, which is not given")
            if columns[name].shape != child.shape:
                raise StatisticError(
                    f"column {name!r} has shape {columns[name].shape}, where the child indices "
                    f"have {child.shape}"
                )
    if child.size and int(child.max()) >= children:
        raise StatisticError(f"child index {child.max()} is beyond the {children} child cells")
