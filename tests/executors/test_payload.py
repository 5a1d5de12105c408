"""Calls as plain data: what goes there and comes back, and what is refused."""

from __future__ import annotations

import base64
import json
import math
import pickle
from dataclasses import dataclass, field
from typing import Any, Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from magg import __version__, wire
from magg.cell import CellFailure, CellResult, CellTask, process_cell
from magg.config import grid_of
from magg.errors import (
    BackendError,
    GranuleError,
    PayloadError,
    RemoteError,
    VersionMismatchError,
)
from magg.executors.payload import Calls, compatible, describe
from magg.executors.retry import Kind
from magg.granules import GranuleRead
from magg.store.records import SkippedGranule
from magg.worker import FUNCTIONS

SECRET = "FwoGZXIvYXdzEXAMPLE"  # noqa: S105


@dataclass(frozen=True)
class Point:
    x: float
    name: str = ""
    more: dict[str, float] = field(default_factory=dict)


def move(point: Point, by: float = 1.0) -> Point:
    return Point(point.x + by, point.name, point.more)


def total(*values: float, **named: Point) -> float:
    return sum(values) + sum(point.x for point in named.values())


def echo(value):
    return value


def kind_of(value: Literal["a", "b"]) -> str:
    return type(value).__name__


def fail(message: str) -> None:
    raise GranuleError(message, granule="g.h5")


class UnsayableError(Exception):
    def __str__(self):
        raise RuntimeError("no words")


class UnpicklableError(Exception):
    def __init__(self, one, two):
        super().__init__(f"{one} and {two}")


def fail_unsayably():
    raise UnsayableError


def fail_unpicklably():
    raise UnpicklableError(1, 2)


def leave():
    raise SystemExit(3)


def give_a_lambda():
    return lambda: 1


def give_a_set():
    return {1, 2}


def give_keys():
    return {1: 2}


def give_a_circle():
    circle = []
    circle.append(circle)
    return circle


def unresolved(value: Nowhere) -> None:  # noqa: F821
    pass


class Doubler:
    def __call__(self, value):
        return 2 * value


KNOWN = {
    function.__name__: function
    for function in (
        move, total, echo, kind_of, fail, fail_unsayably, fail_unpicklably, leave, give_a_lambda,
        give_a_set, give_keys, give_a_circle,
    )
} | {"double": Doubler()}  # fmt: skip
CALLS, PICKLED = Calls(KNOWN), Calls(codec="pickle")


def through_json(value):
    """Send as Lambda does, which refuses what is no JSON."""
    return json.loads(json.dumps(value, allow_nan=False))


def call(calls, function, /, *args, **kwargs):
    """Call a function as if it were far away."""
    answer = calls.answer(through_json(calls.request(function, args, kwargs)))
    return calls.result(function, through_json(answer))


def event(**changes):
    whole = {
        "magg_call": 1,
        "version": __version__,
        "codec": "json",
        "function": "move",
        "arguments": [{"x": 1.0}],
        "keywords": {},
    } | changes
    return {key: value for key, value in whole.items() if value is not ...}


# What comes back


def test_arguments_and_results_are_of_the_types_that_a_function_declares():
    assert call(CALLS, move, Point(1.0, "a", {"b": 2.0})) == Point(2.0, "a", {"b": 2.0})
    assert call(CALLS, move, point=Point(1.0), by=0.5) == Point(1.5)


def test_any_number_of_arguments_have_the_type_of_the_one_that_stands_for_them():
    assert call(CALLS, total, 1.0, 2.0, a=Point(3.0), b=Point(4.0)) == 10.0
    assert math.isnan(call(CALLS, total, 1.0, math.nan))


def test_what_declares_nothing_stays_plain():
    assert call(CALLS, echo, Point(1.0, "a")) == {"x": 1.0, "name": "a", "more": {}}
    assert call(CALLS, KNOWN["double"], 21) == 42
    assert call(Calls({"root": math.sqrt}), math.sqrt, 9) == 3.0
    assert call(Calls({"most": max}), max, [3, 5, 4]) == 5  # has no signature


def test_names_that_executors_use_themselves_may_be_keywords():
    def gather(**kwargs):
        return kwargs

    named = {"self": 1, "fn": 2, "function": 3, "args": 4, "kwargs": 5, "event": 6}
    assert call(Calls({"gather": gather}), gather, **named) == named


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
def test_numbers_that_json_does_not_have_come_back(number):
    assert repr(call(CALLS, echo, {"a": [number, {"b": number}]})) == repr(
        {"a": [number, {"b": number}]}
    )
    found = call(CALLS, move, Point(number, more={"c": number}))
    assert [repr(found.x), repr(found.more["c"])] == [repr(number)] * 2


@pytest.mark.parametrize("value", ["abc", None, [1], 10**400, {"$number": "nan"}])
def test_a_dict_that_only_looks_like_such_a_number_is_left_alone(value):
    if value == {"$number": "nan"}:
        assert math.isnan(call(CALLS, echo, {"$number": value})["$number"])
    else:
        assert call(CALLS, echo, {"$number": value}) == {"$number": value}


TEXT = st.text(max_size=4)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=60, deadline=None)
@given(JSON)
def test_whatever_json_holds_goes_there_and_comes_back(value):
    assert repr(call(CALLS, echo, value)) == repr(value)


@settings(max_examples=30, deadline=None)
@given(JSON)
def test_what_is_pickled_goes_there_and_comes_back(value):
    assert repr(call(PICKLED, echo, value)) == repr(value)


def test_a_task_and_its_result_come_back_equal(config):
    task = CellTask(
        cell="-6134114",
        granules=("s3://b/a.h5", "https://host/b.h5"),
        config=config,
        grid=grid_of(config, 6),
        store="s3://b/out.zarr",
        chunk=3,
        parents=12,
        digest="0123",
        making="0123456789abcdef",
        on_granule_error="skip",
        region="us-west-2",
    )
    result = CellResult(
        cell="-6134114",
        status="error",
        observations=7,
        children=3,
        granules=(GranuleRead("s3://b/a.h5", 9, 7, {"missing": 2}, 1, ("gt1l",)),),
        skipped=(SkippedGranule("https://host/b.h5", "gone"),),
        duration_s=math.inf,
        error=CellFailure("OSError", "gone", "Traceback ...", Kind.TRANSIENT),
    )
    seen = []

    def process(task: CellTask) -> CellResult:
        seen.append(task)
        return result

    assert call(Calls({"process_cell": process}), process, task) == result
    assert seen == [task]
    assert seen[0].config.digest == config.digest


# What is refused before it is sent


def test_a_function_that_is_not_in_the_list_is_refused_before_anything_is_sent():
    with pytest.raises(BackendError, match=r"may call double, echo.*codec='pickle'"):
        CALLS.check(print)
    with pytest.raises(BackendError, match="may call nothing"):
        Calls().request(print, (), {})
    PICKLED.check(print)
    CALLS.check(move)


def test_annotations_that_cannot_be_resolved_are_told_before_anything_is_sent():
    calls = Calls({"unresolved": unresolved})
    with pytest.raises(BackendError, match=r"'Nowhere' is not defined.*TYPE_CHECKING"):
        calls.check(unresolved)
    assert calls.answer(event(function="unresolved", arguments=[1]))["status"] == 400


def test_a_codec_must_be_one_of_two():
    with pytest.raises(BackendError, match="'json' or 'pickle'"):
        Calls({}, "yaml")


@pytest.mark.parametrize("value", [{1}, b"x", object(), 1j, {1: 2}, [{1.5: 3}]])
def test_an_argument_that_json_cannot_hold_is_refused_before_it_is_sent(value):
    with pytest.raises(PayloadError, match="codec='pickle'"):
        CALLS.request(echo, (value,), {})


# What the other side refuses


def refused(calls, document, status=400):
    answer = calls.answer(document)
    assert answer["status"] == status
    assert "result" not in answer
    expected = VersionMismatchError if status == 409 else PayloadError
    with pytest.raises(expected):
        calls.result(move, through_json(answer))
    return answer["error"]["message"]


@pytest.mark.parametrize(
    ("document", "words"),
    [
        (None, "JSON object"),
        ([], "JSON object"),
        ("x", "JSON object"),
        (1.5, "JSON object"),
        ({}, "'magg_call' must be 1"),
        (event(magg_call=2), "'magg_call' must be 1"),
        (event(magg_call="1"), "'magg_call' must be 1"),
        (event(version=...), "'version'"),
        (event(version=None), "'version'"),
        (event(version={"a": 1}), "'version'"),
        (event(version="latest"), "'version'"),
        (event(codec=...), "same codec"),
        (event(codec="pickle", pickled="gASVBQAAAAAAAABLAS4="), "same codec"),
        (event(codec=["json"]), "same codec"),
        (event(function=...), "names no function"),
        (event(function=None), "names no function"),
        (event(function=["move"]), "names no function"),
        (event(function={"move": 1}), "names no function"),
        (event(arguments="ab"), "must be a list"),
        (event(arguments={"x": 1}), "must be a list"),
        (event(arguments=None), "must be a list"),
        (event(keywords=[]), "an object"),
        (event(keywords=None), "an object"),
        (event(arguments=[]), "missing a required argument: 'point'"),
        (event(arguments=[1, 2, 3]), "too many positional arguments"),
        (event(keywords={"point": 1}), "multiple values for argument 'point'"),
        (event(keywords={"to": 1}), "unexpected keyword argument 'to'"),
        (event(arguments=[1]), "argument 'point': does not fit Point"),
        (event(arguments=[{}]), "argument 'point': does not fit Point at: "),
        (event(arguments=[{"x": "1"}]), "at: x"),
        (event(arguments=[{"x": 1.0, "more": {"a": "b"}}]), "at: more.a"),
        (event(arguments=[{"x": 1.0, "y": 2}]), "at: y"),
        (event(keywords={"by": "far"}), "argument 'by'"),
        (event(function="kind_of", arguments=["c"]), "argument 'value'"),
        (event(function="total", arguments=[1, "2"]), "argument 'values'"),
        (event(function="total", arguments=[], keywords={"p": 1}), "argument 'named'"),
    ],
)
def test_a_malformed_call_is_told_what_is_wrong_with_it(document, words):
    assert words in refused(CALLS, document)


@pytest.mark.parametrize(
    "name",
    ["os.system", "builtins.eval", "eval", "__import__", "payload.move", "move.__call__", "",
     "magg.worker.FUNCTIONS", "Move", "move "],
)  # fmt: skip
def test_nothing_that_is_not_in_the_list_is_ever_called(name):
    for calls in (CALLS, Calls(FUNCTIONS)):
        message = refused(calls, event(function=name, arguments=["true"]))
        assert f"known: {', '.join(sorted(calls.functions))}" in message


def test_a_function_that_is_in_the_list_is_called():
    assert CALLS.answer(event())["result"] == {"x": 2.0, "name": "", "more": {}}


@pytest.mark.parametrize(
    "document",
    [
        {
            "chunk_idx": 1, "parent_morton": -6134114, "parent_order": 6, "child_order": 12,
            "granule_urls": [], "store_path": "s3://b/x", "s3_credentials": {"secret": SECRET},
            "config": {},
        },
        {"chunk_idx": 1},
        {"s3_credentials": SECRET},
    ],
    ids=len,
)  # fmt: skip
def test_an_event_of_the_first_version_is_told_of_the_new_one(document):
    message = refused(Calls(FUNCTIONS), document)
    assert "first version" in message
    assert '"magg_call": 1, "function": "process_cell"' in message
    assert "LambdaExecutor" in message
    assert SECRET not in message


def test_another_version_is_a_conflict_that_names_both():
    message = refused(CALLS, event(version="9.1.0"), 409)
    assert "9.1.0" in message
    assert __version__ in message
    assert "deploy the function again" in message


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        ("0.2.0", "0.2.7", True), ("0.2", "0.2.7", True), ("0.2.0", "0.3.0", False),
        ("1.2.0", "0.2.0", False), ("0.2.0.dev3", "0.2.0", True), ("", "0.2.0", False),
        ("0.20.0", "0.2.0", False),
    ],
)  # fmt: skip
def test_versions_understand_each_other_when_all_but_the_last_number_agree(one, other, expected):
    assert compatible(one, other) is compatible(other, one) is expected


SECRETS = [SECRET, [SECRET], {SECRET: 1}, {"secret": SECRET}, [[{"a": [SECRET]}]]]
PLACES = [*event(), "reference", "pickled", "offload"]


@pytest.mark.parametrize("planted", SECRETS, ids=str)
@pytest.mark.parametrize("place", PLACES)
def test_what_a_call_holds_is_never_repeated_in_a_message(place, planted):
    # Keys are names; of those, only values hold secrets.
    planted = {"secret": SECRET} if planted == {SECRET: 1} else planted
    for calls in (CALLS, PICKLED, Calls(FUNCTIONS)):
        for function in (..., "move", "process_cell"):
            changed = event(**({} if function is ... else {"function": function}))
            answer = calls.answer(changed | {place: planted})
            if answer["status"] != 200:
                assert SECRET not in json.dumps(answer)


@pytest.mark.parametrize("planted", SECRETS[:2] + SECRETS[3:], ids=str)
def test_what_a_task_holds_is_never_repeated_in_a_message(config, planted):
    task = CellTask("-6134114", ("a",), config, grid_of(config, 6), "s3://b/x", 0, 1, "0", "1")
    plain = wire.unstructure(task)
    told = 0
    for name in plain:
        document = event(function="process_cell", arguments=[plain | {name: planted}])
        answer = Calls({"process_cell": _return_nothing}).answer(document)
        told += answer["status"] == 400
        assert SECRET not in json.dumps(answer)
    assert told >= len(plain) - 6  # in fields of text a text is no mistake


def _return_nothing(task: CellTask) -> None:
    pass


def test_an_event_that_is_nested_too_deeply_is_malformed():
    deep: Any = []
    for _ in range(100_000):
        deep = [deep]
    assert "nested too deeply" in refused(CALLS, event(function="echo", arguments=[deep]))


KEYS = st.sampled_from([*event(), "pickled", "offload", "reference", "chunk_idx", "x", "$number"])
EVENTS = st.one_of(
    JSON,
    st.dictionaries(KEYS, JSON, max_size=8),
    st.builds(
        lambda name, args, keywords, changes: (
            event(function=name, arguments=args, keywords=keywords) | changes
        ),
        st.sampled_from([*KNOWN, "nothing"]),
        st.lists(JSON | st.dictionaries(KEYS, JSON, max_size=2), max_size=3),
        st.dictionaries(st.sampled_from(["point", "by", "value", "message"]), JSON, max_size=2),
        st.dictionaries(KEYS, JSON, max_size=1),
    ),
)


@settings(max_examples=100, deadline=None)
@given(EVENTS)
def test_an_answer_is_always_given_and_always_json(document):
    for calls in (CALLS, PICKLED):
        answer = calls.answer(document)
        assert answer["status"] in (200, 400, 409, 500)
        assert answer["magg_call"] == 1
        assert ("result" in answer) == (answer["status"] == 200)
        assert ("error" in answer) == (answer["status"] != 200)
        json.dumps(answer, allow_nan=False)


# What a function raises


def test_what_a_function_raises_comes_back_as_text():
    with pytest.raises(RemoteError, match="is gone") as caught:
        call(CALLS, fail, "g.h5 is gone")
    assert str(caught.value) == "GranuleError: g.h5 is gone"
    assert caught.value.type == "GranuleError"
    assert "in fail" in caught.value.traceback
    assert "in fail" in caught.value.__notes__[0]


@pytest.mark.parametrize(
    ("function", "words"),
    [
        (leave, "SystemExit: 3"),
        (fail_unsayably, "UnsayableError: UnsayableError"),
        (give_a_lambda, "PayloadError: JSON has nothing for a function"),
        (give_a_set, "PayloadError: JSON has nothing for a set"),
        (give_keys, "PayloadError: JSON has no keys but text"),
        (give_a_circle, "RecursionError"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_whatever_goes_wrong_is_an_answer(function, words):
    answer = through_json(CALLS.answer(event(function=function.__name__, arguments=[])))
    assert answer["status"] == 500
    with pytest.raises(RemoteError, match=words):
        CALLS.result(function, answer)


def test_the_traceback_that_travels_is_short_however_long_the_stack():
    def deep(n):
        return deep(n - 1) if n else 1 / 0

    try:
        deep(200)
    except ZeroDivisionError as error:
        error.add_note("x" * 100_000)
        described = describe(error)
    assert len(described["traceback"]) <= 8_000
    assert described["type"] == "ZeroDivisionError"


@pytest.mark.parametrize(
    "answer", [None, "ok", 7, [], {}, {"statusCode": 200, "body": "{}"}, {"magg_call": 2}]
)
def test_an_answer_that_is_not_ours_says_which_handler_to_deploy(answer):
    with pytest.raises(PayloadError, match=r"deploy magg's handler .*lambda_handler"):
        CALLS.result(move, answer)


def test_a_result_that_does_not_fit_is_refused():
    answer = {"magg_call": 1, "version": __version__, "status": 200, "result": {"x": "far"}}
    with pytest.raises(PayloadError, match="does not fit Point at: x"):
        CALLS.result(move, answer)


# Pickled calls


def test_any_function_can_be_called_where_both_ends_unpickle():
    assert call(PICKLED, lambda a, b=1: {a, b}, 5) == {1, 5}
    assert call(PICKLED, Point, 1.0, name="x") == Point(1.0, "x")


def test_pickling_must_be_switched_on_at_both_ends():
    message = refused(CALLS, PICKLED.request(move, (Point(1.0),), {}))
    assert "same codec" in message
    assert "same codec" in refused(PICKLED, CALLS.request(move, (Point(1.0),), {}))


def test_a_pickle_is_never_opened_unless_that_was_switched_on(tmp_path):
    mark = tmp_path / "opened"

    class Trap:
        def __reduce__(self):
            return (mark.touch, ())

    trap = base64.b64encode(pickle.dumps(Trap())).decode()
    for codec in ("json", "pickle", None):
        for changes in ({"pickled": trap}, {"arguments": [trap]}, {"function": trap}):
            CALLS.answer(event(codec=codec, **changes))
    assert not mark.exists()
    PICKLED.answer(event(codec="pickle", pickled=trap))
    assert mark.exists()  # so the trap works


def test_an_error_comes_back_as_itself_with_where_it_was_raised():
    with pytest.raises(GranuleError, match=r"^gone$") as caught:
        call(PICKLED, fail, "gone")
    assert caught.value.granule == "g.h5"
    assert isinstance(caught.value.__cause__, RemoteError)
    assert "in fail" in caught.value.__cause__.traceback
    with pytest.raises(SystemExit) as left:
        call(PICKLED, leave)
    assert left.value.code == 3


def test_an_error_that_does_not_survive_pickling_comes_back_as_text():
    with pytest.raises(RemoteError, match="UnpicklableError: 1 and 2"):
        call(PICKLED, fail_unpicklably)


def test_a_result_that_cannot_be_pickled_is_an_error_of_the_call():
    def give_a_lock():
        import threading

        return threading.Lock()

    with pytest.raises(TypeError, match="pickle"):
        call(PICKLED, give_a_lock)


@pytest.mark.parametrize("text", [None, "", "!", "AAAA", base64.b64encode(b"no").decode(), 7])
def test_a_pickle_that_cannot_be_read_is_malformed(text):
    assert "cannot be read here" in refused(PICKLED, event(codec="pickle", pickled=text))


def test_the_worker_knows_four_functions_and_no_more():
    assert set(FUNCTIONS) == {
        "process_cell", "describe_worker", "survey_granule", "look_at_granules"
    }  # fmt: skip
    assert FUNCTIONS["process_cell"] is process_cell
