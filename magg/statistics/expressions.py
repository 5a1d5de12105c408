"""Expressions such as ``1 / np.sqrt(np.sum(1 / s_li**2))``, compiled to nodes.

An expression is parsed with `ast` and never executed by Python. What is not on the lists of
`magg.statistics.allowed` is refused when it is compiled, and its size is limited, so that a config
from a stranger can compute and do nothing else.

Reductions turn one value per observation into one per child cell; where both meet, the value of
the child cell stands for each of its observations, as in ``np.max(np.abs(h - np.median(h)))``.
"""

from __future__ import annotations

import ast
import threading
from collections.abc import Collection, Iterable, Mapping
from difflib import get_close_matches
from math import isfinite

import numpy as np

from magg.errors import StatisticError
from magg.statistics.allowed import (
    COMPARISONS,
    CONSTANTS,
    ELEMENTWISE,
    FUNCTIONS,
    LOGIC,
    OPERATORS,
    REFUSED,
)
from magg.statistics.reductions import REDUCTIONS, Parameter
from magg.statistics.segments import Form, Kind, Node, as_float, column, constant, elementwise

LONGEST_TEXT = 1000
MOST_PARTS = 200
LARGEST_EXPONENT = 64
LARGEST_INTEGER = 2**53  # beyond it integers are not exact in float64


def compile_expression(text: str, columns: Collection[str]) -> Node:
    """Compile the text of an expression.

    Parameters
    ----------
    text : str
        In Python's syntax; functions may carry the prefix ``np.`` or ``numpy.``.
    columns : collection of str
        The names that it may use.

    Returns
    -------
    Node
        Of any kind; which kind is right is for the caller to judge.

    Raises
    ------
    StatisticError
        If the text cannot be parsed, is too large, or uses anything that is not allowed.
    """
    text = " ".join(text.split())  # YAML may fold an expression over lines
    if len(text) > LONGEST_TEXT:
        raise StatisticError(f"{len(text)} characters; an expression may have {LONGEST_TEXT}")
    try:
        tree = _parsed(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        reason = getattr(error, "msg", error)
        raise StatisticError(f"{_short(text)} cannot be parsed: {reason}") from None
    parts = sum(isinstance(part, ast.expr) for part in ast.walk(tree))
    if parts > MOST_PARTS:
        raise StatisticError(f"{parts} parts; an expression may have {MOST_PARTS}")
    return _Compiler({name: column(name) for name in columns}).node(tree)


def reduce_rows(name: str, rows: Node, params: Mapping[str, Node]) -> Node:
    """Return the node of a built-in reduction over rows.

    Parameters
    ----------
    name : str
        A key of `REDUCTIONS`.
    rows : Node
        What is reduced.
    params : mapping of str to Node

    Raises
    ------
    StatisticError
        If ``rows`` is not one value per observation, or a parameter is unknown, missing or wrong.
    """
    if name == "average" and not params:
        name = "mean"
    reduction = REDUCTIONS[name]
    if rows.kind is not Kind.ROW:
        raise StatisticError(f"{name} needs one value per observation, not {rows.kind.words}")
    for key, node in params.items():
        if key not in reduction.parameters:
            takes = ", ".join(reduction.parameters) or "no parameters"
            raise StatisticError(f"{name} takes {takes}, not {key!r}", field=f"params.{key}")
        _check_parameter(f"{key} of {name}", reduction.parameters[key], node, f"params.{key}")
    given = dict(params)
    for key, parameter in reduction.parameters.items():
        if key not in given:
            if parameter.default is None:
                message = f"{name} needs {key}: {parameter.words}"
                raise StatisticError(message, field=f"params.{key}")
            given[key] = constant(parameter.default)
    if callable(reduction.definition):
        return reduction.definition(rows, **given)
    return _Compiler({"x": rows, **given}).node(_parsed(reduction.definition))


# Python up to 3.12 keeps how deep the tree is for all threads together, so that two that parse at
# once fail with "AST constructor recursion depth mismatch" (python/cpython#106905).
_parsing = threading.Lock()


def _parsed(text: str) -> ast.expr:
    with _parsing:
        return ast.parse(text, mode="eval").body


def unknown(what: str, name: str, options: Iterable[str], otherwise: str = "") -> str:
    """Return the message that something has no such name, with the likeliest name if there is one.

    Parameters
    ----------
    what : str
        What was looked for, such as ``"column"``.
    name : str
    options : iterable of str
        The names there are.
    otherwise : str, optional
        What to say where no name is close; by default the names there are.
    """
    names = sorted(options)
    close = get_close_matches(name, names, n=1)
    if close:
        return f"unknown {what} {name!r}; did you mean {close[0]!r}?"
    return f"unknown {what} {name!r}; {otherwise or f'the {what}s are ' + ', '.join(names)}"


class _Compiler:
    """Turns syntax trees into nodes; what it has no case for is refused."""

    def __init__(self, names: Mapping[str, Node]) -> None:
        self._names = names

    def node(self, tree: ast.expr) -> Node:
        match tree:
            case ast.Constant():
                return _literal(tree)
            case ast.Name():
                if tree.id not in self._names:
                    raise StatisticError(unknown("column", tree.id, self._names))
                return self._names[tree.id]
            case ast.Attribute():
                if not _is_numpy(tree.value):
                    raise _refusal(tree, "an attribute")
                if tree.attr not in CONSTANTS:
                    raise StatisticError(unknown("constant of numpy", tree.attr, CONSTANTS))
                return constant(CONSTANTS[tree.attr])
            case ast.UnaryOp():
                return _operation(tree, tree.op, self.node(tree.operand))
            case ast.BinOp():
                return _operation(tree, tree.op, self.node(tree.left), self.node(tree.right))
            case ast.Compare():
                return self._comparison(tree)
            case ast.Call():
                return self._call(tree)
        raise _refusal(tree, REFUSED.get(type(tree), type(tree).__name__))

    def _comparison(self, tree: ast.Compare) -> Node:
        values = [self.node(part) for part in (tree.left, *tree.comparators)]
        links = []
        for operator, left, right in zip(tree.ops, values[:-1], values[1:], strict=True):
            if type(operator) not in COMPARISONS:
                raise _refusal(tree, f"{type(operator).__name__!r}")
            ufunc = COMPARISONS[type(operator)]
            links.append(elementwise(ufunc, left, right, form=Form.BOOLEAN))
        result = links[0]
        for link in links[1:]:
            result = _operation(tree, ast.BitAnd(), result, link)
        return result

    def _call(self, tree: ast.Call) -> Node:
        name = _function_name(tree.func)
        if name not in FUNCTIONS:
            otherwise = "the documentation lists what there is"
            raise StatisticError(unknown("function", name, FUNCTIONS, otherwise))
        arguments = [self.node(argument) for argument in tree.args]
        keywords: dict[str, Node] = {}
        if name in REDUCTIONS:
            parameters = REDUCTIONS[name].parameters
            positional = [key for key, value in parameters.items() if value.positional]
            _check_number(name, arguments, 1, 1 + len(positional))
            keywords.update(zip(positional, arguments[1:], strict=False))
        for keyword in tree.keywords:
            if keyword.arg is None:
                raise _refusal(tree, "unpacking")
            if keyword.arg in keywords:
                raise StatisticError(f"{name} is given {keyword.arg} twice")
            keywords[keyword.arg] = self.node(keyword.value)
        if name in REDUCTIONS:
            return reduce_rows(name, arguments[0], keywords)
        if keywords:
            raise StatisticError(f"{name} takes no {next(iter(keywords))!r} here")
        function, number = ELEMENTWISE[name]
        _check_number(name, arguments, number, number)
        match name:
            case "power":
                return _operation(tree, ast.Pow(), *arguments)
            case "where":
                condition, *values = arguments
                if condition.form is not Form.BOOLEAN:
                    condition = _nonzero(condition)
                return elementwise(np.where, condition, *map(as_float, values), floats=False)
            case "isnan" | "isfinite" | "isinf":
                return elementwise(function, *arguments, form=Form.BOOLEAN)
        return elementwise(function, *arguments)


def _literal(tree: ast.Constant) -> Node:
    value = tree.value
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise _refusal(tree, "a literal other than a number")
    if isinstance(value, int) and abs(value) > LARGEST_INTEGER:
        raise _refusal(tree, f"an integer beyond 2**53 ({LARGEST_INTEGER})")
    return constant(value)


def _operation(tree: ast.expr, operator: ast.operator | ast.unaryop, *operands: Node) -> Node:
    if type(operator) in OPERATORS:
        return elementwise(OPERATORS[type(operator)], *operands)
    if type(operator) in LOGIC:
        if any(operand.form is not Form.BOOLEAN for operand in operands):
            what = "&, |, ^ or ~ of numbers (they join comparisons, as in (h > 0) & (s < 1))"
            raise _refusal(tree, what)
        ufunc = LOGIC[type(operator)]
        return elementwise(ufunc, *operands, form=Form.BOOLEAN, floats=False)
    if not isinstance(operator, ast.Pow):
        raise _refusal(tree, REFUSED.get(type(operator), f"operator {type(operator).__name__}"))
    base, exponent = operands
    if exponent.value is not None and not abs(exponent.value) <= LARGEST_EXPONENT:
        raise _refusal(tree, f"an exponent beyond {LARGEST_EXPONENT}")
    if exponent.value == 2:
        return elementwise(np.square, base)  # as numpy does for **, many times faster
    return elementwise(np.power, base, exponent)


def _nonzero(node: Node) -> Node:
    return elementwise(np.not_equal, node, constant(0.0), form=Form.BOOLEAN)


def _check_parameter(label: str, parameter: Parameter, node: Node, key: str) -> None:
    if parameter.kind is not node.kind:
        found = node.kind.words
    elif node.value is None or (isfinite(node.value) and 0 <= node.value <= parameter.high):
        return
    else:
        found = f"{node.value:g}"
    raise StatisticError(f"{label} must be {parameter.words}, not {found}", field=key)


def _check_number(name: str, arguments: list[Node], least: int, most: int) -> None:
    if not least <= len(arguments) <= most:
        hint = {"min": "; use np.minimum", "max": "; use np.maximum"}.get(name, "")
        wanted = str(least) if least == most else f"{least} or {most}"
        raise StatisticError(f"{name} takes {wanted} argument(s), not {len(arguments)}{hint}")


def _function_name(tree: ast.expr) -> str:
    if isinstance(tree, ast.Name):
        return tree.id
    if isinstance(tree, ast.Attribute) and _is_numpy(tree.value):
        return tree.attr
    what = (
        "calling anything but np.<function> (write np.mean(h), not h.mean(); register functions "
        "of your own with magg.register_statistic)"
    )
    raise _refusal(tree, what)


def _is_numpy(tree: ast.expr) -> bool:
    return isinstance(tree, ast.Name) and tree.id in ("np", "numpy")


def _refusal(tree: ast.expr, what: str) -> StatisticError:
    return StatisticError(f"{_short(ast.unparse(tree))}: {what} is not allowed in an expression")


def _short(text: str) -> str:
    return repr(text if len(text) <= 80 else text[:77] + "...")
