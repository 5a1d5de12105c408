"""Statistics as configs declare them, checked and made ready to be computed."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from math import isfinite
from typing import Any

import numpy as np

from magg.errors import StatisticError
from magg.statistics.expressions import compile_expression, reduce_rows, unknown
from magg.statistics.reductions import REDUCTIONS
from magg.statistics.registry import (
    Function,
    call_per_segment,
    find_statistic,
    known_statistics,
)
from magg.statistics.segments import Kind, Node, column, constant, reachable


@dataclass(frozen=True)
class Statistic:
    """One output variable, as a config declares it.

    Parameters
    ----------
    function : str, optional
        Name of a built-in or registered statistic; built-in ones may carry ``np.``.
    expression : str, optional
        An expression with one value per child cell; either this or ``function``.
    source : str, optional
        The column that ``function`` reduces.
    params : dict, optional
        Parameters of ``function``; text is an expression over the observations, such as
        ``weights: "1 / s_li**2"``, or a number.
    dtype : str, optional
        Of the output: any integer or floating-point dtype of at most 64 bits.
    fill_value : number or str, optional
        What empty child cells hold, and results that the dtype cannot hold. By default NaN for
        floating-point dtypes and 0 for integers.
    attrs : dict, optional
        Attributes of the output variable.
    """

    function: str | None = None
    expression: str | None = None
    source: str | None = None
    params: dict[str, str | int | float | bool] = field(default_factory=dict)
    dtype: str = "float32"
    fill_value: int | float | str | None = None
    attrs: dict[str, str | int | float] = field(default_factory=dict)

    @property
    def fill(self) -> np.generic:
        """The fill value as a scalar of the dtype.

        Raises
        ------
        StatisticError
            If an output cannot have the dtype, or the dtype cannot hold the fill value.
        """
        fill: np.generic = _fill(_dtype(self.dtype), self.fill_value)
        return fill


@dataclass(frozen=True, slots=True)
class Compiled:
    """A statistic ready to be computed; see `compile_statistic`.

    Parameters
    ----------
    name : str
    node : Node
        What computes one value per child cell.
    dtype : numpy.dtype
    fill : numpy scalar
        Of that dtype.
    columns : frozenset of str
        The columns that are needed.
    counts : bool
        Whether this is the number of observations, which is 0 where there are none.
    """

    name: str
    node: Node
    dtype: np.dtype[Any]
    fill: np.generic
    columns: frozenset[str]
    counts: bool


def compile_statistic(name: str, statistic: Statistic, columns: Collection[str]) -> Compiled:
    """Check a declared statistic and make it ready to be computed.

    Parameters
    ----------
    name : str
        Name of the output variable.
    statistic : Statistic
    columns : collection of str
        The columns there are.

    Raises
    ------
    StatisticError
        If anything is wrong; its ``field`` says in which key of the declaration.
    """
    if statistic.expression is not None:
        node = _compile_expression(statistic, statistic.expression, columns)
    elif statistic.function is not None:
        node = _compile_function(name, statistic, statistic.function, columns)
    else:
        raise StatisticError("give a function or an expression", field="function")
    parts = reachable(node)
    used = frozenset(part.column for part in parts if part.column is not None)
    counts = node.key == reduce_rows("len", column(""), {}).key
    return Compiled(name, node, _dtype(statistic.dtype), statistic.fill, used, counts)


def _compile_expression(statistic: Statistic, text: str, columns: Collection[str]) -> Node:
    if statistic.function is not None:
        raise StatisticError("give either function or expression, not both", field="expression")
    if statistic.params:
        message = "an expression has no params; write them into the expression"
        raise StatisticError(message, field="params")
    node = _expression(text, columns, "expression")
    if node.kind is not Kind.SEGMENT:
        raise StatisticError(
            f"{text!r} gives {node.kind.words}, not one value per child cell; reduce the "
            "observations, as in np.mean(...)",
            field="expression",
        )
    return node


def _compile_function(
    output: str, statistic: Statistic, name: str, columns: Collection[str]
) -> Node:
    name = name.removeprefix("numpy.").removeprefix("np.")
    own = None if name in REDUCTIONS else _own_function(name)
    if statistic.source is None:
        raise StatisticError(f"{name} needs a source, the column it reduces", field="source")
    if statistic.source not in columns:
        raise StatisticError(unknown("column", statistic.source, columns), field="source")
    rows = column(statistic.source)
    params = {
        key: _expression(value, columns, f"params.{key}") if isinstance(value, str) else value
        for key, value in statistic.params.items()
    }
    if own is not None:
        return call_per_segment(f"statistic {output!r}: {name}", own, rows, params)
    nodes = {}
    for key, value in params.items():
        if isinstance(value, bool):
            raise StatisticError(f"{key} of {name} cannot be {value}", field=f"params.{key}")
        nodes[key] = value if isinstance(value, Node) else constant(value)
    return reduce_rows(name, rows, nodes)


def _own_function(name: str) -> Function:
    if "." in name:
        last = name.rpartition(".")[2]
        raise StatisticError(
            f"functions are not imported by dotted path; register {name!r} with "
            f"magg.register_statistic({last!r}, {name}) and name it {last!r} here",
            field="function",
        )
    try:
        function = find_statistic(name)
    except StatisticError as error:
        raise StatisticError(str(error), field="function") from error
    if function is None:
        names = {*REDUCTIONS, *known_statistics()}
        otherwise = "take a built-in one, or register it with magg.register_statistic"
        raise StatisticError(unknown("function", name, names, otherwise), field="function")
    return function


def _expression(text: str, columns: Collection[str], key: str) -> Node:
    try:
        return compile_expression(text, columns)
    except StatisticError as error:
        raise StatisticError(str(error), field=key) from None


def used_columns(statistics: Mapping[str, Compiled]) -> frozenset[str]:
    """Return the columns that statistics use."""
    return frozenset(column for each in statistics.values() for column in each.columns)


def _dtype(name: str) -> np.dtype[Any]:
    try:
        dtype: np.dtype[Any] | None = np.dtype(name)
    except (TypeError, ValueError, SyntaxError):
        dtype = None
    if dtype is None or dtype.kind not in "iuf" or dtype.itemsize > 8:
        raise StatisticError(
            f"{name!r} is not a dtype of outputs; use float16 to float64, int8 to int64 or uint8 "
            "to uint64",
            field="dtype",
        )
    return dtype


def _fill(dtype: np.dtype[Any], value: int | float | str | None) -> Any:
    if value is None:
        value = "NaN" if dtype.kind == "f" else 0
    held = False
    with suppress(ValueError, OverflowError), np.errstate(over="ignore"):
        # From text too, because that is how Zarr writes NaN and Infinity.
        number = float(value) if dtype.kind == "f" else int(value)
        fill = dtype.type(number)
        if dtype.kind == "f":
            held = bool(np.isfinite(fill)) == isfinite(number)
        else:
            held = fill == number and (isinstance(value, str) or number == value)
    if not held or isinstance(value, bool):
        raise StatisticError(f"{dtype} cannot hold the fill value {value!r}", field="fill_value")
    return fill
