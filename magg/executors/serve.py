"""What a deployed function runs: it answers calls, however large, and logs what it did."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

from magg import __version__
from magg.errors import PayloadError
from magg.executors import batch, offload
from magg.executors.payload import FORMAT, MALFORMED, RAISED, Calls, Codec, Functions, describe

# Somewhat less than the 6 MB that Lambda returns, which counts bytes that the runtime adds.
ANSWER_BYTES = 5_900_000

Handler = Callable[[Any, Any], dict[str, Any]]
Facts = Callable[[Mapping[str, Any]], Mapping[str, Any]]


def make_handler(
    functions: Functions, *, codec: Codec = "json", facts: Facts | None = None
) -> Handler:
    """Return a handler for a deployed function.

    Parameters
    ----------
    functions : mapping of str to callable
        What may be called, by the names that travel; nothing else ever is.
    codec : {"json", "pickle"}
        With "pickle" whoever may call the deployed function may run any code in it.
    facts : callable, optional
        Takes an answer, and returns what the log should say of it.

    Returns
    -------
    callable
        ``handler(event, context) -> dict``, which never raises. It answers single calls, and
        the batches of calls of `magg.executors.batch`.

    Examples
    --------
    >>> from magg.executors.serve import make_handler
    >>> handler = make_handler({"double": lambda x: 2 * x})
    >>> handler({"magg_call": 1, "version": "0.2", "codec": "json",
    ...          "function": "double", "arguments": [21]}, None)["result"]
    42
    """
    calls = Calls(functions, codec)

    def answer_call(event: Any, context: Any, limit: int) -> dict[str, Any]:
        began = time.perf_counter()
        answer = _answer(calls, event)
        told = _told(facts, answer)
        answer = _fitting(event, answer, limit)
        line = {
            "message": "call",
            "function": _known_name(functions, event),
            "status": answer["status"],
            "error": answer["error"]["type"] if "error" in answer else None,
            "magg": __version__,
            "request_id": getattr(context, "aws_request_id", None),
            **told,
            "seconds": round(time.perf_counter() - began, 3),
        }
        _log(line)
        return answer

    def handler(event: Any, context: Any) -> dict[str, Any]:
        if batch.is_batch(event):
            return batch.answer(event, context, answer_call)
        return answer_call(event, context, ANSWER_BYTES)

    return handler


def _answer(calls: Calls, event: Any) -> dict[str, Any]:
    try:
        call = offload.fetched(event)
    except Exception as error:  # noqa: BLE001 - a payload that is gone is the caller's to know
        return _failure(MALFORMED, error)
    return calls.answer(call)


def _fitting(event: Any, answer: dict[str, Any], limit: int) -> dict[str, Any]:
    """Put an answer that is too large into the bucket, and name it instead."""
    try:
        data = json.dumps(answer, allow_nan=False).encode()
    except (ValueError, RecursionError) as error:
        return _failure(RAISED, error)
    if len(data) <= limit:
        return answer
    place = event.get("offload") if isinstance(event, Mapping) else None
    try:
        if not isinstance(place, Mapping):
            raise PayloadError(
                f"the answer is {len(data) / 2**20:.1f} MB and {limit / 2**20:.1f} MB may be "
                "returned; give the executor offload_to='s3://bucket/prefix'"
            )
        url = offload.put(str(place.get("prefix")), data, place.get("region"))
    except Exception as error:  # noqa: BLE001 - the caller is told
        return _failure(RAISED, error)
    return {
        "magg_call": FORMAT,
        "version": __version__,
        "status": answer["status"],
        "reference": {"url": url, "region": place.get("region"), "once": True},
    }


def _failure(status: int, error: Exception) -> dict[str, Any]:
    return {
        "magg_call": FORMAT,
        "version": __version__,
        "status": status,
        "error": describe(error),
    }


def _told(facts: Facts | None, answer: Mapping[str, Any]) -> dict[str, Any]:
    try:
        return dict(facts(answer)) if facts else {}
    except Exception as error:  # noqa: BLE001 - an answer is worth more than its line in the log
        return {"facts_error": type(error).__name__}


def _known_name(functions: Functions, event: Any) -> str | None:
    """Return the name of the function, if it is one: a call may hold anything in its place."""
    name = event.get("function") if isinstance(event, Mapping) else None
    return name if isinstance(name, str) and name in functions else None


def _log(line: Mapping[str, Any]) -> None:
    """Write one line of JSON: names and numbers, nothing of what a call holds."""
    known = {key: value for key, value in line.items() if value is not None}
    sys.stdout.write(json.dumps(known, default=str) + "\n")
    sys.stdout.flush()
