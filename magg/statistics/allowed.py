"""What expressions may use: the whole list, so that it can be reviewed in one place.

To these come literal numbers, the columns, parentheses, and the reductions of
`magg.statistics.reductions`.
"""

from __future__ import annotations

import ast
from collections.abc import Callable
from typing import Any

import numpy as np

from magg.statistics.reductions import REDUCTIONS

OPERATORS: dict[type[ast.AST], np.ufunc] = {
    ast.Add: np.add,
    ast.Sub: np.subtract,
    ast.Mult: np.multiply,
    ast.Div: np.divide,
    ast.FloorDiv: np.floor_divide,
    ast.Mod: np.remainder,
    ast.USub: np.negative,
    ast.UAdd: np.positive,
}
LOGIC: dict[type[ast.AST], np.ufunc] = {
    ast.BitAnd: np.logical_and,
    ast.BitOr: np.logical_or,
    ast.BitXor: np.logical_xor,
    ast.Invert: np.logical_not,
}
COMPARISONS: dict[type[ast.AST], np.ufunc] = {
    ast.Lt: np.less,
    ast.LtE: np.less_equal,
    ast.Gt: np.greater,
    ast.GtE: np.greater_equal,
    ast.Eq: np.equal,
    ast.NotEq: np.not_equal,
}
CONSTANTS = {"pi": np.pi, "e": np.e, "nan": np.nan, "inf": np.inf}
# fmt: off
_UFUNCS = (
    np.sqrt, np.square, np.exp, np.expm1, np.log, np.log10, np.log2, np.log1p, np.sin, np.cos,
    np.tan, np.arcsin, np.arccos, np.arctan, np.arctan2, np.sinh, np.cosh, np.tanh, np.hypot,
    np.degrees, np.radians, np.absolute, np.fabs, np.sign, np.floor, np.ceil, np.trunc, np.rint,
    np.minimum, np.maximum, np.fmin, np.fmax, np.power, np.isnan, np.isfinite, np.isinf,
)
# fmt: on
# Functions of each element and their numbers of arguments, by the names in expressions.
ELEMENTWISE: dict[str, tuple[Callable[..., Any], int]] = {
    **{ufunc.__name__: (ufunc, ufunc.nin) for ufunc in _UFUNCS},
    "abs": (np.absolute, 1),
    "clip": (np.clip, 3),
    "where": (np.where, 3),
}
FUNCTIONS = frozenset(REDUCTIONS) | frozenset(ELEMENTWISE)

# How messages call what is refused; other syntax is called by its name in `ast`.
REFUSED: dict[type[ast.AST], str] = {
    ast.BoolOp: "'and' or 'or' (use & and | between comparisons in parentheses)",
    ast.Not: "'not' (use ~ before a comparison in parentheses)",
    ast.IfExp: "'if' (use np.where)",
    ast.Subscript: "indexing (use np.where)",
    ast.NamedExpr: "assignment",
    ast.Lambda: "'lambda'",
    **dict.fromkeys((ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp), "a comprehension"),
    **dict.fromkeys((ast.List, ast.Tuple, ast.Set, ast.Dict), "a list, tuple, set or dict"),
    **dict.fromkeys((ast.JoinedStr, ast.FormattedValue), "text"),
}
