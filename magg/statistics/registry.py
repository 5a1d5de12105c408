"""Statistics of users' own: registered here, or installed under an entry point.

A config names a function; it never names a module to import. A function of somebody's own is
either registered in the program that runs magg, or shipped by an installed package under the
entry-point group ``magg.statistics``.
"""

from __future__ import annotations

import inspect
import keyword
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from numbers import Real
from typing import Any, TypeVar, overload

import numpy as np

from magg.errors import StatisticError
from magg.statistics.allowed import FUNCTIONS
from magg.statistics.segments import Array, Block, Node, as_float, per_segment, spread

ENTRY_POINTS = "magg.statistics"

Function = Callable[..., Any]
F = TypeVar("F", bound=Function)

_registered: dict[str, Function] = {}


@overload
def register_statistic(name: str, function: F) -> F: ...
@overload
def register_statistic(name: str, function: None = None) -> Callable[[F], F]: ...
def register_statistic(name: str, function: Function | None = None) -> Function:
    """Register a function as a statistic that configs can name.

    Registration holds for this process; workers of other processes must register it as well, or
    have it installed under the entry-point group ``magg.statistics``. Registering a name again
    replaces the function.

    Parameters
    ----------
    name : str
        An identifier that is not the name of a built-in function.
    function : callable, optional
        Called once per non-empty child cell as ``function(values, **params)``: ``values`` are the
        cell's values of the source column as a float64 array of shape (n,), a parameter that is an
        expression is such an array as well, numbers are passed as they are. Returns a number.
        The arrays are the function's own to change. If left out, a decorator is returned.

    Returns
    -------
    callable
        The function itself, or a decorator for it.

    Raises
    ------
    StatisticError
        If the name cannot be used, or the function cannot be called.

    Examples
    --------
    >>> @register_statistic("spread")
    ... def spread(values, factor=1.0):
    ...     return factor * (values.max() - values.min())
    """
    if not name.isidentifier() or keyword.iskeyword(name):
        raise StatisticError(f"a statistic cannot be called {name!r}: that is not an identifier")
    if name in FUNCTIONS:
        raise StatisticError(f"a statistic cannot be called {name!r}: that is a built-in function")
    if function is None:

        def decorate(decorated: F) -> F:
            register_statistic(name, decorated)
            return decorated

        return decorate
    if not callable(function):
        raise StatisticError(f"statistic {name!r} must be a function, not {function!r}")
    _registered[name] = function
    return function


def unregister_statistic(name: str) -> None:
    """Forget a registered statistic.

    Raises
    ------
    StatisticError
        If no statistic of that name is registered.
    """
    if _registered.pop(name, None) is None:
        raise StatisticError(f"no statistic {name!r} is registered")


def find_statistic(name: str) -> Function | None:
    """Return the function registered or installed under a name, or None if there is none.

    Raises
    ------
    StatisticError
        If an installed function cannot be loaded.
    """
    if name in _registered:
        return _registered[name]
    for point in _entry_points():
        if point.name == name:
            try:
                function: Function = point.load()
            except Exception as error:
                raise StatisticError(
                    f"statistic {name!r} is installed as {point.value} but cannot be loaded: "
                    f"{type(error).__name__}: {error}"
                ) from error
            return function
    return None


def known_statistics() -> list[str]:
    """Return the names that are registered or installed."""
    return sorted({*_registered, *(point.name for point in _entry_points())})


def call_per_segment(
    label: str, function: Function, rows: Node, params: Mapping[str, Node | int | float | bool]
) -> Node:
    """Return the node of a user's own function, which is called once per segment.

    Parameters
    ----------
    label : str
        Names output and function in messages.
    function : callable
        See `register_statistic`.
    rows : Node
        What is reduced.
    params : mapping
        Nodes become an array for each segment, or a number if they are constants.

    Raises
    ------
    StatisticError
        If the function does not take these parameters; when computed, if it raises or returns
        something else than a number.
    """
    arrays = {
        key: as_float(spread(value))
        for key, value in params.items()
        if isinstance(value, Node) and value.value is None
    }
    numbers = {
        key: value.value if isinstance(value, Node) else value
        for key, value in params.items()
        if key not in arrays
    }
    try:
        inspect.signature(function).bind(None, **params)
    except TypeError as error:
        raise StatisticError(f"{label} cannot be called so: {error}", field="params") from None
    except ValueError:
        pass  # some functions written in C have no signature
    operation = f"{label} {id(function)} {numbers} {list(arrays)}"
    compute = partial(_call, label, function, list(arrays), numbers)
    return per_segment(operation, compute, as_float(rows), *arrays.values())


def _call(
    label: str,
    function: Function,
    keys: Sequence[str],
    numbers: Mapping[str, Any],
    block: Block,
    values: Array,
    *arrays: Array,
) -> Array:
    results = np.empty(block.counts.size)
    for segment, start in enumerate(block.starts.tolist()):
        part = slice(start, start + int(block.counts[segment]))
        # Copies, so that a function that works in place changes nobody else's values.
        own = {key: array[part].copy() for key, array in zip(keys, arrays, strict=True)}
        try:
            result = function(values[part].copy(), **own, **numbers)
        except Exception as error:
            raise StatisticError(f"{label} raised {type(error).__name__}: {error}") from error
        if isinstance(result, np.ndarray) and result.ndim == 0:
            result = result[()]
        if not isinstance(result, Real | np.bool_):
            raise StatisticError(f"{label} must return a number, not {result!r:.80}")
        results[segment] = result
    return results


def _entry_points() -> Iterable[Any]:
    from importlib.metadata import entry_points  # costs more than the rest of the package

    return entry_points(group=ENTRY_POINTS)
