"""Typed calls as plain data: what travels to a deployed function, and what comes back.

A call names a function and holds its arguments as JSON, structured by the function's own
annotations on the other side, which looks the name up in a list of its own. Nothing is imported
by name and nothing is unpickled, unless both sides have switched pickling on.
"""

from __future__ import annotations

import base64
import inspect
import math
import re
import traceback
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from magg import __version__, wire
from magg.credentials import redact
from magg.errors import BackendError, PayloadError, RemoteError, VersionMismatchError

FORMAT = 1
TRACEBACK_CHARACTERS = 8_000
OK, MALFORMED, CONFLICT, RAISED = 200, 400, 409, 500
# JSON has no such numbers, and services refuse what Python writes for them.
NON_FINITE = "$number"
_VERSION = re.compile(r"\d[\w.+]{0,40}")
FIRST_FORMAT = {"chunk_idx", "parent_morton", "granule_urls", "store_path", "s3_credentials"}

Functions = Mapping[str, Callable[..., Any]]
Codec = Literal["json", "pickle"]


@dataclass(frozen=True)
class Calls:
    """How calls of functions become plain data and back; both sides make the same one.

    Parameters
    ----------
    functions : mapping of str to callable
        The functions that may be called, by the names that travel. Their annotations say how
        arguments and results are structured; what has none stays plain JSON.
    codec : {"json", "pickle"}
        "pickle" takes any function and argument; whoever may call the deployed function then may
        run any code in it.
    """

    functions: Functions = field(default_factory=dict)
    codec: Codec = "json"

    def __post_init__(self) -> None:
        if self.codec not in typing.get_args(Codec):
            raise BackendError(f"codec must be 'json' or 'pickle', not {self.codec!r}")

    def check(self, function: Callable[..., Any]) -> None:
        """Raise `BackendError` for a function that the other side would not know."""
        if self.codec == "json":
            self._name(function)
            _annotations(function)

    def request(
        self, function: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> dict[str, Any]:
        """Return a call as plain data."""
        call: dict[str, Any] = {"magg_call": FORMAT, "version": __version__, "codec": self.codec}
        if self.codec == "pickle":
            return call | {"pickled": _pickle((function, args, dict(kwargs)))}
        return call | {
            "function": self._name(function),
            "arguments": [_to_plain(value) for value in args],
            "keywords": {name: _to_plain(value) for name, value in kwargs.items()},
        }

    def answer(self, event: object) -> dict[str, Any]:
        """Do what a call asks for; never raises.

        Returns
        -------
        dict
            ``status`` 200 with the ``result``, 400 or 409 with an ``error`` where the call is
            malformed or of another version, 500 with the ``error`` that the function raised.
        """
        answer: dict[str, Any] = {"magg_call": FORMAT, "version": __version__}
        try:
            function, args, kwargs = self._parse(event)
        except VersionMismatchError as error:
            return answer | {"status": CONFLICT, "error": describe(error)}
        except PayloadError as error:
            return answer | {"status": MALFORMED, "error": describe(error)}
        except RecursionError:
            deep = PayloadError("the call is nested too deeply")
            return answer | {"status": MALFORMED, "error": describe(deep)}
        try:
            result = function(*args, **kwargs)
            # Not in a tuple of both: the value must not outlive its own encoding.
            encoded = _pickle(result) if self.codec == "pickle" else _to_plain(result)
        except BaseException as error:  # noqa: BLE001 - whatever it is, the caller is told
            described = describe(error)
            if self.codec == "pickle":
                described["pickled"] = _pickled_error(error)
            return answer | {"status": RAISED, "error": described}
        return answer | {"status": OK, "result": encoded}

    def result(self, function: Callable[..., Any], answer: object) -> Any:
        """Return what an answer holds, or raise the error that it tells of.

        Raises
        ------
        PayloadError
            If it is no answer of magg's, or the other side called the call malformed.
        VersionMismatchError
            If the other side runs another version of magg.
        RemoteError
            If the function raised; its own exception where calls are pickled.
        """
        if not isinstance(answer, Mapping) or answer.get("magg_call") != FORMAT:
            raise PayloadError(
                "the function gave an answer that is not magg's; deploy magg's handler "
                "(magg.aws.handler.lambda_handler) under that name, or name another function"
            )
        error = answer.get("error")
        if error is not None:
            raise _remote(int(answer.get("status", RAISED)), error, pickled=self.codec == "pickle")
        if self.codec == "pickle":
            return _unpickle(answer["result"])
        expected = _annotations(function).get("return", Any)
        return _to_typed(answer.get("result"), expected)

    def _name(self, function: Callable[..., Any]) -> str:
        for name, known in self.functions.items():
            if known is function:
                return name
        raise BackendError(
            f"the deployed function does not know {function!r}; it may call "
            f"{', '.join(sorted(self.functions)) or 'nothing'}. Pass functions={{name: function}} "
            "at both ends, or switch pickling on at both ends (codec='pickle')"
        )

    def _parse(
        self, event: object
    ) -> tuple[Callable[..., Any], tuple[Any, ...], Mapping[str, Any]]:
        call = _checked(event)
        if call.get("codec") != self.codec:
            raise PayloadError(
                f"the call is not written as {self.codec!r}, which this function reads; give both "
                "ends the same codec"
            )
        if self.codec == "pickle":
            return _unpickled_call(call.get("pickled"))
        name = call.get("function")
        if not isinstance(name, str) or name not in self.functions:
            raise PayloadError(
                "the call names no function that is known here; known: "
                f"{', '.join(sorted(self.functions)) or 'none'}"
            )
        function = self.functions[name]
        return function, *_structured(function, call)


def _checked(event: object) -> Mapping[str, Any]:
    """Return a call whose envelope is right, or say what is wrong with it.

    What the call holds is never repeated: it may be a credential in the wrong place.
    """
    if not isinstance(event, Mapping):
        raise PayloadError("a call must be a JSON object with the key 'magg_call'")
    if event.keys() & FIRST_FORMAT and "magg_call" not in event:
        raise PayloadError(
            "this is an event of magg's first version (chunk_idx, parent_morton, ...), which is "
            'served no more; send {"magg_call": 1, "function": "process_cell", "arguments": '
            "[task]}, as magg.executors.LambdaExecutor does"
        )
    if event.get("magg_call") != FORMAT:
        raise PayloadError(f"'magg_call' must be {FORMAT}")
    version = event.get("version")
    if not isinstance(version, str) or not _VERSION.fullmatch(version):
        raise PayloadError("'version' must be the caller's version of magg")
    if not compatible(version, __version__):
        raise VersionMismatchError(
            f"the caller runs magg {version} and this function {__version__}; "
            "deploy the function again, or install the same version on both sides"
        )
    return event


def compatible(one: str, other: str) -> bool:
    """Tell whether two versions of magg understand each other: all but the last number agree."""
    return one.split(".")[:2] == other.split(".")[:2]


def _structured(
    function: Callable[..., Any], call: Mapping[str, Any]
) -> tuple[tuple[Any, ...], Mapping[str, Any]]:
    args, kwargs = call.get("arguments", []), call.get("keywords", {})
    if not isinstance(args, list) or not isinstance(kwargs, Mapping):
        raise PayloadError("'arguments' must be a list and 'keywords' an object")
    try:
        signature = inspect.signature(function)
    except ValueError:  # some functions written in C have none
        return tuple(map(_unmarked, args)), _unmarked(kwargs)
    try:
        bound = signature.bind(*args, **kwargs)
    except TypeError as error:
        raise PayloadError(f"{call['function']}: {error}") from None
    types = _annotations(function)
    try:
        for name, value in bound.arguments.items():
            expected, kind = types.get(name, Any), signature.parameters[name].kind
            if kind is inspect.Parameter.VAR_POSITIONAL:
                bound.arguments[name] = tuple(_to_typed(one, expected) for one in value)
            elif kind is inspect.Parameter.VAR_KEYWORD:
                bound.arguments[name] = {k: _to_typed(one, expected) for k, one in value.items()}
            else:
                bound.arguments[name] = _to_typed(value, expected)
    except PayloadError as error:
        raise PayloadError(f"{call['function']}: argument {name!r}: {error}") from None
    return bound.args, bound.kwargs


def _annotations(function: Callable[..., Any]) -> dict[str, Any]:
    try:
        return typing.get_type_hints(function)
    except TypeError:  # objects that can be called have none
        return {}
    except NameError as error:
        raise PayloadError(
            f"the annotations of {function!r} cannot be resolved ({error}); import what they name "
            "where the function is defined, and not under TYPE_CHECKING"
        ) from None


def _to_plain(value: object) -> Any:
    return _marked(wire.unstructure(value))


def _to_typed(value: object, expected: Any) -> Any:
    plain = _unmarked(value)
    if expected is Any or expected is None:
        return plain
    try:
        return wire.structure(plain, expected)
    except wire.WireError as error:
        # The paths alone: a payload may hold credentials, and messages are logged.
        places = ", ".join(sorted({path or "the whole" for path, _ in error.problems}))
        raise PayloadError(
            f"does not fit {getattr(expected, '__name__', expected)} at: {places}"
        ) from None


def _marked(value: Any) -> Any:
    """Replace the numbers that JSON does not have."""
    if isinstance(value, float) and not math.isfinite(value):
        return {NON_FINITE: str(value)}
    if isinstance(value, dict):
        if not all(isinstance(key, str) for key in value):
            raise PayloadError("JSON has no keys but text; make them text, or use codec='pickle'")
        return {key: _marked(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_marked(inner) for inner in value]
    if value is None or isinstance(value, str | int | float):
        return value
    raise PayloadError(
        f"JSON has nothing for a {type(value).__name__}; use numbers, text, lists, dicts and "
        "dataclasses of them, or codec='pickle' at both ends"
    )


def _unmarked(value: Any) -> Any:
    if isinstance(value, dict):
        if value.keys() == {NON_FINITE} and value[NON_FINITE] in ("nan", "inf", "-inf"):
            return float(value[NON_FINITE])
        return {key: _unmarked(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_unmarked(inner) for inner in value]
    return value


def describe(error: BaseException) -> dict[str, Any]:
    """Return an exception as plain data."""
    text = "".join(traceback.format_exception(error))
    try:
        message = str(error)
    except Exception:  # noqa: BLE001 - an error that cannot say what it is has a name at least
        message = ""
    return {
        "type": type(error).__name__,
        "message": redact(message) or type(error).__name__,
        "traceback": redact(text)[-TRACEBACK_CHARACTERS:],
    }


def _remote(status: int, error: Mapping[str, Any], *, pickled: bool) -> BaseException:
    message = str(error.get("message", ""))
    if status == CONFLICT:
        return VersionMismatchError(message)
    if status == MALFORMED:
        return PayloadError(message)
    told = RemoteError(
        f"{error.get('type')}: {message}",
        type=str(error.get("type", "")),
        traceback=str(error.get("traceback", "")),
    )
    if not pickled or not error.get("pickled"):
        return told
    raised = _unpickle(error["pickled"])
    if not isinstance(raised, BaseException):
        return told
    raised.__cause__ = told  # as pools of processes show where a worker failed
    return raised


def _pickle(value: object) -> str:
    # By value where it must be: functions of a notebook are in no module of the other side.
    try:
        import cloudpickle as pickle
    except ImportError:
        import pickle
    return base64.b64encode(pickle.dumps(value)).decode("ascii")


def _unpickle(text: str) -> Any:
    import pickle

    return pickle.loads(base64.b64decode(text))  # noqa: S301 - switched on at both ends


def _unpickled_call(text: object) -> tuple[Callable[..., Any], tuple[Any, ...], Mapping[str, Any]]:
    try:
        function, args, kwargs = _unpickle(str(text))
    except Exception as error:
        raise PayloadError(
            f"the pickled call cannot be read here ({type(error).__name__}: {error}); whatever it "
            "names must be installed beside the deployed function"
        ) from error
    return function, args, kwargs


def _pickled_error(error: BaseException) -> str | None:
    try:
        encoded = _pickle(error)
        _unpickle(encoded)  # some errors are pickled well and fail to come back
    except Exception:  # noqa: BLE001 - its description travels all the same
        return None
    return encoded
