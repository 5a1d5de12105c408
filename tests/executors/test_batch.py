"""Batches of calls, as a handler answers them."""

from __future__ import annotations

import json

import pytest
from sfn_calls import FUNCTIONS, double, fail, repeat

from magg.errors import PayloadError, RemoteError
from magg.executors import batch
from magg.executors.payload import Calls
from magg.executors.serve import make_handler

CALLS = Calls(FUNCTIONS)


class Context:
    memory_limit_in_mb = "512"
    aws_request_id = "r"


@pytest.fixture
def handler():
    return make_handler(FUNCTIONS)


def event(*calls, **batch_input):
    items = [
        {"id": str(number), "call": CALLS.request(function, args, {})}
        for number, (function, *args) in enumerate(calls)
    ]
    return {"Items": items, "BatchInput": {"magg_batch": 1} | batch_input}


def test_every_call_is_answered_under_its_id(handler):
    told = json.dumps(handler(event((double, 1), (fail, "no"), (double, 3)), Context()))
    answers, report = batch.answers_in(told)
    answers = dict(answers)
    assert CALLS.result(double, answers["0"]) == 2
    assert CALLS.result(double, answers["2"]) == 6
    with pytest.raises(RemoteError, match="ValueError: no"):
        CALLS.result(fail, answers["1"])
    assert report.memory_mb == 512
    assert report.peak_memory_mb > 0
    assert 0 < report.billed_s < 10


def test_every_call_is_logged(handler, capsys):
    handler(event((double, 1), (fail, "secret")), Context())
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(line["function"], line["status"]) for line in lines] == [
        ("double", 200),
        ("fail", 500),
    ]
    assert "secret" not in json.dumps(lines)


@pytest.mark.parametrize("item", [None, 7, {}, {"id": "x"}, {"id": "x", "call": "double"}])
def test_what_is_no_call_is_answered_as_malformed(handler, item):
    given = event((double, 1))
    given["Items"].insert(0, item)
    first, second = handler(given, None)["answers"]
    assert first["answer"]["status"] == 400
    assert second["answer"]["result"] == 2


@pytest.mark.parametrize("items", [[], None, "text", {"0": 1}])
def test_a_batch_without_calls_has_no_answers(handler, items):
    told = handler({"Items": items, "BatchInput": {"magg_batch": 1}}, None)
    assert told["answers"] == []


@pytest.mark.parametrize(
    "other", [None, [], "text", {"Items": []}, {"BatchInput": {}}, {"BatchInput": "magg_batch"}]
)
def test_other_events_are_no_batches(handler, other):
    assert not batch.is_batch(other)
    assert handler(other, None)["status"] == 400


def test_a_single_call_is_answered_as_before(handler):
    call = CALLS.request(double, (4,), {})
    assert handler(call, None)["result"] == 8


def test_the_room_for_answers_is_shared_and_what_needs_more_says_so(handler):
    size = batch.ANSWERS_BYTES // 2
    told = handler(event((repeat, "x", size), (double, 1)), None)
    first, second = (entry["answer"] for entry in told["answers"])
    assert "offload_to" in first["error"]["message"]
    assert second["result"] == 2
    alone = handler(event((repeat, "x", size)), None)
    assert len(alone["answers"][0]["answer"]["result"]) == size
    assert len(json.dumps(told)) < 256 * 1024


@pytest.mark.parametrize("text", [None, "", "{", "[]", '"x"', '{"hello": "world"}'])
def test_what_is_no_answer_of_maggs_is_refused(text):
    with pytest.raises(PayloadError, match="not magg's"):
        batch.answers_in(text)


def test_ids_are_read_from_what_was_sent(handler):
    assert batch.calls_in(json.dumps(event((double, 1), (double, 2)))) == ["0", "1"]
    assert batch.calls_in(None) == batch.calls_in("[1]") == batch.calls_in("{}") == []
