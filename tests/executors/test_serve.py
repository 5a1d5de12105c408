"""What a deployed function runs: its answers and its log."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest

from magg import __version__
from magg.aws.handler import lambda_handler
from magg.errors import PayloadError
from magg.executors import offload, serve
from magg.executors.payload import Calls
from magg.executors.serve import make_handler

SECRET = "FwoGZXIvYXdzEXAMPLE"  # noqa: S105
CONTEXT = SimpleNamespace(aws_request_id="8f507cfc-example")


def repeat(text: str, times: int = 1) -> str:
    return text * times


def fail(text: str) -> None:
    raise ValueError(text)


FUNCTIONS = {"repeat": repeat, "fail": fail}
CALLS = Calls(FUNCTIONS)


def event(function=repeat, *args, **kwargs):
    return CALLS.request(function, args, kwargs)


def logged(capsys):
    """Return the one line of the log, parsed."""
    out, err = capsys.readouterr()
    assert err == ""
    assert out.endswith("\n")
    (line,) = out.splitlines()
    return json.loads(line), line


def test_a_call_is_answered_and_logged_in_one_line_of_json(capsys):
    answer = make_handler(FUNCTIONS)(event(repeat, "ab\n", times=2), CONTEXT)
    assert CALLS.result(repeat, answer) == "ab\nab\n"
    line, _ = logged(capsys)
    assert 0 <= line.pop("seconds") < 30
    assert line == {
        "message": "call",
        "function": "repeat",
        "status": 200,
        "magg": __version__,
        "request_id": "8f507cfc-example",
    }


@pytest.mark.parametrize(
    ("document", "status", "error", "function"),
    [
        (event(repeat, SECRET), 200, None, "repeat"),
        (event(fail, SECRET), 500, "ValueError", "fail"),
        (event(repeat, SECRET) | {"function": SECRET}, 400, "PayloadError", None),
        (event(repeat, SECRET) | {"function": {SECRET: SECRET}}, 400, "PayloadError", None),
        (event(repeat, SECRET) | {"version": "9.9"}, 409, "VersionMismatchError", "repeat"),
        (event(repeat, SECRET) | {"arguments": SECRET}, 400, "PayloadError", "repeat"),
        (event(repeat, [SECRET]), 400, "PayloadError", "repeat"),
        ({"s3_credentials": {"secretAccessKey": SECRET}}, 400, "PayloadError", None),
        (
            {"reference": {"url": f"https://b/x?X-Amz-Signature={SECRET}"}},
            400,
            "PayloadError",
            None,
        ),
        (SECRET, 400, "PayloadError", None),
        ([SECRET], 400, "PayloadError", None),
        (None, 400, "PayloadError", None),
    ],
)
def test_the_log_holds_nothing_of_what_a_call_holds(capsys, document, status, error, function):
    answer = make_handler(FUNCTIONS)(document, None)
    assert answer["status"] == status
    line, text = logged(capsys)
    assert SECRET not in text
    assert (line["status"], line.get("error"), line.get("function")) == (status, error, function)
    assert status in (200, 500) or SECRET not in json.dumps(answer)


def test_facts_of_an_answer_are_logged(capsys):
    handler = make_handler(FUNCTIONS, facts=lambda answer: {"characters": len(answer["result"])})
    handler(event(repeat, "abc"), CONTEXT)
    assert logged(capsys)[0]["characters"] == 3


@pytest.mark.parametrize("facts", [lambda answer: {}["x"], lambda answer: 7])
def test_an_answer_is_worth_more_than_its_line_in_the_log(capsys, facts):
    answer = make_handler(FUNCTIONS, facts=facts)(event(repeat, "abc"), CONTEXT)
    assert answer["result"] == "abc"
    assert logged(capsys)[0]["facts_error"] in ("KeyError", "TypeError")


def test_facts_that_are_no_json_are_logged_all_the_same(capsys):
    make_handler(FUNCTIONS, facts=lambda answer: {"kind": str})(event(repeat, "abc"), CONTEXT)
    assert logged(capsys)[0]["kind"] == "<class 'str'>"


def test_an_answer_over_the_limit_says_how_it_could_be_returned(capsys):
    answer = make_handler(FUNCTIONS)(event(repeat, "x" * 1_000, 7_000), CONTEXT)
    assert answer["status"] == 500
    assert answer["error"]["type"] == "PayloadError"
    assert "6.7 MB" in answer["error"]["message"]
    assert "offload_to='s3://bucket/prefix'" in answer["error"]["message"]
    assert logged(capsys)[0]["status"] == 500


@pytest.mark.parametrize("place", ["s3://b/x", [], {"prefix": "/tmp"}, {}, {"prefix": None}])  # noqa: S108
def test_an_answer_over_the_limit_goes_nowhere_but_to_a_bucket(capsys, place):
    document = event(repeat, "x" * 1_000, 7_000) | {"offload": place}
    answer = make_handler(FUNCTIONS)(document, CONTEXT)
    assert answer["error"]["type"] == "PayloadError"
    assert "result" not in answer


@pytest.mark.parametrize("below", [0, 1])
def test_the_limit_is_met_exactly(monkeypatch, below):
    answer = make_handler(FUNCTIONS)(event(repeat, "abc"), CONTEXT)
    monkeypatch.setattr(serve, "ANSWER_BYTES", len(json.dumps(answer)) - below)
    again = make_handler(FUNCTIONS)(event(repeat, "abc"), CONTEXT)
    assert again["status"] == (500 if below else 200)


def test_calls_and_answers_over_the_limit_travel_through_the_bucket(
    capsys, s3_bucket, aws_environment
):
    aws_environment()
    prefix, region = s3_bucket.url("out.zarr"), s3_bucket.server.region
    whole = event(repeat, "x" * 1_000, times=7_000)
    url = offload.put(prefix, json.dumps(whole).encode(), region)
    small = {
        "magg_call": 1,
        "version": __version__,
        "offload": {"prefix": prefix, "region": region},
        "reference": {"url": url, "region": region},
    }
    answer = make_handler(FUNCTIONS, facts=lambda a: {"characters": len(a["result"])})(small, None)
    assert set(answer) == {"magg_call", "version", "status", "reference"}
    assert len(json.dumps(answer)) < 1_000
    assert logged(capsys)[0]["characters"] == 7_000_000
    assert CALLS.result(repeat, offload.fetched(answer)) == "x" * 7_000_000
    # The caller deletes its own, the answer goes when it is read.
    assert [s3_bucket.url(key) for key in s3_bucket.keys("out.zarr")] == [url]


def test_a_payload_that_is_gone_is_an_answer(s3_bucket, aws_environment, capsys):
    aws_environment()
    region = s3_bucket.server.region
    url = offload.put(s3_bucket.url(), b"{}", region)
    offload.delete(url, region)
    answer = make_handler(FUNCTIONS)({"reference": {"url": url, "region": region}}, None)
    assert answer["status"] == 400
    assert logged(capsys)[0]["error"] in ("NotFoundError", "FileNotFoundError")


def test_a_codec_is_checked_when_the_handler_is_made():
    with pytest.raises(ValueError, match="codec"):
        make_handler({}, codec="yaml")


def test_the_deployed_handler_knows_cells_and_refuses_the_rest(capsys):
    answer = lambda_handler({"chunk_idx": 0, "s3_credentials": {"secretAccessKey": SECRET}}, None)
    assert answer["status"] == 400
    assert "first version" in answer["error"]["message"]
    assert SECRET not in json.dumps(answer) + logged(capsys)[1]
    answer = lambda_handler(event(repeat, "x") | {"function": "os.system"}, CONTEXT)
    assert isinstance(answer, dict)
    assert (
        "describe_worker, look_at_granules, process_cell, survey_granule"
        in answer["error"]["message"]
    )
    with pytest.raises(PayloadError):
        CALLS.result(repeat, answer)
