from __future__ import annotations

import json
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from magg import wire


class Colour(StrEnum):
    RED = "red"
    BLUE = "blue"


@dataclass(frozen=True)
class Inner:
    name: str
    number: float = 0.0


@dataclass(frozen=True)
class Outer:
    count: int
    label: str | None = None
    kind: Literal["a", "b"] = "a"
    mixed: int | float | str | tuple[int, ...] = 0
    inner: Inner | None = None
    items: tuple[Inner, ...] = ()
    table: dict[str, Inner] = field(default_factory=dict)
    colour: Colour = Colour.RED


TEXT = st.text(max_size=5)
NUMBERS = st.floats(allow_nan=False)
INNERS = st.builds(Inner, TEXT, NUMBERS)
OUTERS = st.builds(
    Outer,
    st.integers(),
    st.none() | TEXT,
    st.sampled_from(["a", "b"]),
    st.integers() | NUMBERS | TEXT | st.lists(st.integers(), max_size=3).map(tuple),
    st.none() | INNERS,
    st.lists(INNERS, max_size=3).map(tuple),
    st.dictionaries(TEXT, INNERS, max_size=3),
    st.sampled_from(Colour),
)


@settings(deadline=None)
@given(OUTERS)
def test_what_goes_out_as_json_comes_back_equal(value):
    sent = json.dumps(wire.unstructure(value))
    assert wire.structure(json.loads(sent), Outer) == value


@pytest.mark.parametrize(
    ("data", "path", "words"),
    [
        ({"count": "1"}, "count", "must be a whole number, not '1'"),
        ({"count": 1.0}, "count", "must be a whole number"),
        ({"count": True}, "count", "must be a whole number"),
        ({}, "count", "is missing"),
        ({"count": 1, "labell": "x"}, "labell", "did you mean 'label'"),
        ({"count": 1, "kind": "c"}, "kind", "must be one of 'a', 'b'"),
        (
            {"count": 1, "mixed": {}},
            "mixed",
            "must be a whole number or a number or text or a list",
        ),
        ({"count": 1, "items": "abc"}, "items", "must be a list"),
        ({"count": 1, "items": [{"name": "x"}, {"name": 3}]}, "items.1.name", "must be text"),
        (
            {"count": 1, "table": {"k": {"nam": "x", "name": "y"}}},
            "table.k.nam",
            "did you mean 'name'",
        ),
        ({"count": 1, "table": [1]}, "table", "must be a mapping"),
        ({"count": 1, "colour": "green"}, "colour", "must be one of 'red', 'blue', not 'green'"),
        ({"count": 1, "colour": ["red"]}, "colour", "must be one of 'red', 'blue'"),
        ([], "", "must be a mapping"),
    ],
)
def test_what_does_not_fit_is_told_with_its_path(data, path, words):
    with pytest.raises(wire.WireError) as caught:
        wire.structure(data, Outer)
    assert [(p, words in what) for p, what in caught.value.problems] == [(path, True)]


def test_all_problems_are_told_together():
    data = {"count": "1", "inner": {"name": 2, "x": 3}, "items": [1, {"name": 2}]}
    with pytest.raises(wire.WireError) as caught:
        wire.structure(data, Outer)
    places = {path for path, _ in caught.value.problems}
    assert places == {"count", "inner.name", "inner.x", "items.0", "items.1.name"}
