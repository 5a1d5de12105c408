"""Plain data to typed classes and back: what YAML, JSON and payloads all go through.

`structure` is strict where Python is lenient: a number is not text, 12.7 is not a whole number, a
key that the class does not have is an error. It reports every problem at once, each with its path.
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
import types
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Literal, TypeVar, Union, get_args, get_origin

if TYPE_CHECKING:
    from cattrs import Converter

T = TypeVar("T")

# What each plain type is called in a message, and which values it takes (bool is never a number).
_PLAIN: dict[object, tuple[str, tuple[type, ...]]] = {
    str: ("text", (str,)),
    int: ("a whole number", (int,)),
    float: ("a number", (int, float)),
    bool: ("true or false", (bool,)),
    types.NoneType: ("nothing", (types.NoneType,)),
}


class WireError(ValueError):
    """Data do not fit the class they were meant for.

    Parameters
    ----------
    problems : list of (str, str)
        The dotted path of each problem (empty for the whole) and what it is.
    """

    def __init__(self, problems: list[tuple[str, str]]) -> None:
        super().__init__("\n".join(f"{path or 'top level'}: {what}" for path, what in problems))
        self.problems = problems


def structure(data: object, cls: type[T]) -> T:
    """Return an instance of a dataclass made from plain data.

    Raises
    ------
    WireError
        If anything in the data does not fit; lists all problems.
    """
    try:
        return converter().structure(data, cls)
    except Exception as error:  # noqa: BLE001 - whatever a hook raises is a problem to report
        raise WireError(list(_problems(error, ()))) from None


def unstructure(value: object) -> Any:
    """Return the plain data (dicts, lists, text, numbers) of an instance of a dataclass."""
    return converter().unstructure(value)


def suggestion(name: str, known: Iterable[str]) -> str:
    """Return ``"; did you mean 'x'?"``, or what is known where nothing is near."""
    names = sorted(map(str, known))
    near = difflib.get_close_matches(str(name), names, n=1)
    return f"; did you mean {near[0]!r}?" if near else f"; known: {', '.join(names) or 'none'}"


@functools.cache
def converter() -> Converter:
    """Return the one converter that all of magg shares."""
    from cattrs import Converter

    shared = Converter(unstruct_collection_overrides={tuple: list})
    for cls in _PLAIN:
        shared.register_structure_hook(cls, _plain)
    # Named itself, lest the hook of str be found for it.
    shared.register_structure_hook(StrEnum, _member)
    shared.register_structure_hook_func(lambda cls: _origin(cls) is Literal, _literal)
    shared.register_structure_hook_func(_is_union, _union)
    shared.register_structure_hook_func(lambda cls: _origin(cls) is dict, _mapping)
    shared.register_structure_hook_func(_is_sequence, _sequence)
    shared.register_structure_hook_factory(dataclasses.is_dataclass, _dataclass)
    return shared


def _origin(cls: Any) -> Any:
    return get_origin(cls)


def _plain(value: Any, cls: Any) -> Any:
    if not _fits(value, cls):
        raise TypeError(f"must be {_PLAIN[cls][0]}, not {value!r}")
    return value if cls is types.NoneType else cls(value)


def _member(value: Any, cls: Any) -> Any:
    if not isinstance(value, str) or value not in set(cls):
        raise ValueError(f"must be one of {', '.join(map(repr, map(str, cls)))}, not {value!r}")
    return cls(value)


def _literal(value: Any, cls: Any) -> Any:
    if value not in get_args(cls):
        known = ", ".join(map(repr, get_args(cls)))
        raise ValueError(f"must be one of {known}, not {value!r}")
    return value


def _is_union(cls: Any) -> bool:
    return _origin(cls) in (Union, types.UnionType)


def _is_sequence(cls: Any) -> bool:
    return _origin(cls) is list or _origin(cls) is tuple


def _union(value: Any, cls: Any) -> Any:
    members = get_args(cls)
    for member in members:
        if _fits(value, member):
            return converter().structure(value, member)
    kinds = [_kind(member) for member in members if member is not types.NoneType]
    raise TypeError(f"must be {' or '.join(kinds)}, not {value!r}")


def _fits(value: object, cls: Any) -> bool:
    """Tell whether a value has the outer shape of a type; what is inside is checked later."""
    if cls in _PLAIN:
        return isinstance(value, _PLAIN[cls][1]) and (cls is bool or not isinstance(value, bool))
    if _origin(cls) is Literal:
        return value in get_args(cls)
    if dataclasses.is_dataclass(cls) or _origin(cls) is dict:
        return isinstance(value, Mapping)
    return isinstance(value, Sequence) and not isinstance(value, str)


def _kind(cls: Any) -> str:
    if cls in _PLAIN:
        return _PLAIN[cls][0]
    return "a mapping" if dataclasses.is_dataclass(cls) or _origin(cls) is dict else "a list"


def _mapping(value: Any, cls: Any) -> Any:
    if not isinstance(value, Mapping):
        raise TypeError(f"must be a mapping, not {value!r}")
    return dict(_each(value.items(), get_args(cls)[1]))


def _sequence(value: Any, cls: Any) -> Any:
    if not _fits(value, cls):
        raise TypeError(f"must be a list, not {value!r}")
    return _origin(cls)(item for _, item in _each(enumerate(value), get_args(cls)[0]))


def _each(items: Iterable[tuple[Any, Any]], cls: Any) -> list[tuple[Any, Any]]:
    """Structure what a container holds, and collect the problems of all of it."""
    structured: list[tuple[Any, Any]] = []
    problems: list[tuple[str, str]] = []
    for key, inside in items:
        try:
            structured.append((key, converter().structure(inside, cls)))
        except Exception as error:  # noqa: BLE001 - whatever a hook raises is a problem to report
            problems.extend(_problems(error, (str(key),)))
    if problems:
        raise WireError(problems)
    return structured


def _dataclass(cls: Any, shared: Converter) -> Callable[[Any, Any], Any]:
    from cattrs.gen import make_dict_structure_fn

    inner = make_dict_structure_fn(cls, shared, _cattrs_forbid_extra_keys=True)

    def hook(value: Any, _: Any) -> Any:
        if not isinstance(value, Mapping):
            raise TypeError(f"must be a mapping, not {value!r}")
        return inner(value, cls)

    return hook


def _problems(error: BaseException, path: tuple[str, ...]) -> Iterator[tuple[str, str]]:
    """Walk the tree of errors that cattrs raises."""
    from cattrs import ClassValidationError, ForbiddenExtraKeysError

    if isinstance(error, ClassValidationError):
        noted, others = error.group_exceptions()
        for inner, note in noted:
            yield from _problems(inner, (*path, note.name))
        for inner in others:
            yield from _problems(inner, path)
    elif isinstance(error, WireError):
        yield from ((".".join((*path, place)), what) for place, what in error.problems)
    elif isinstance(error, ForbiddenExtraKeysError):
        known = [field.name for field in dataclasses.fields(error.cl)]
        for name in sorted(map(str, error.extra_fields)):
            yield ".".join((*path, name)), f"unknown key{suggestion(name, known)}"
    elif isinstance(error, KeyError):
        yield ".".join(path), "is missing"
    else:
        yield ".".join(path), str(error)
