"""Several calls in one event, as Step Functions hands them to a deployed function.

The event is what a Distributed Map with an ItemBatcher makes of a list of items: ``{"Items":
[{"id": ..., "call": ...}, ...], "BatchInput": {"magg_batch": 1, "offload": ...}}``.
"""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from magg.errors import PayloadError
from magg.executors.lambda_usage import Report

FORMAT = 1
MARK = "magg_batch"
# Between states 256 KiB may travel. Whatever is larger goes through the bucket.
CALL_BYTES = 200_000
ANSWERS_BYTES = 200_000

AnswerCall = Callable[[Any, Any, int], dict[str, Any]]


def is_batch(event: object) -> bool:
    """Tell whether an event holds several calls."""
    return isinstance(event, Mapping) and MARK in _input(event)


def answer(event: Mapping[str, Any], context: Any, answer_call: AnswerCall) -> dict[str, Any]:
    """Answer all calls of an event, one after another.

    Parameters
    ----------
    event : mapping
    context : object
        Of the Lambda runtime.
    answer_call : callable
        ``answer_call(call, context, bytes) -> dict`` answers one call in so many bytes; never
        raises.

    Returns
    -------
    dict
        ``answers``, each with the ``id`` of its item, and what they ``used``.
    """
    began = time.perf_counter()
    items = event.get("Items")
    items = items if isinstance(items, list) else []
    place = {"offload": _input(event).get("offload")}
    limit = ANSWERS_BYTES // max(1, len(items))
    answers = []
    for item in items:
        known = item if isinstance(item, Mapping) else {}
        call = known.get("call")
        call = {**call, **place} if isinstance(call, Mapping) else call
        answers.append({"id": known.get("id"), "answer": answer_call(call, context, limit)})
    return {MARK: FORMAT, "answers": answers, "used": _used(context, time.perf_counter() - began)}


def calls_in(text: object) -> list[str]:
    """Return the ids of the calls in an event that was written as JSON; none if it was not."""
    items = _parsed(text).get("Items")
    return [str(item.get("id")) for item in items] if isinstance(items, list) else []


def answers_in(text: object) -> tuple[Iterable[tuple[str, Any]], Report]:
    """Return the answers in what a batch returned, by the ids of their calls, and what they used.

    Raises
    ------
    PayloadError
        If it is not what `answer` returns.
    """
    told = _parsed(text)
    if told.get(MARK) != FORMAT:
        raise PayloadError(
            "the function of the state machine gave an answer that is not magg's; deploy magg's "
            "handler (magg.aws.handler.lambda_handler) of this version there"
        )
    used = told["used"]
    report = Report(
        # Billed by the millisecond; the time in which the runtime starts is not seen from inside.
        billed_s=math.ceil(used["seconds"] * 1e3) / 1e3,
        memory_mb=used["memory_mb"],
        peak_memory_mb=used["peak_memory_mb"],
        is_cold=False,
    )
    return [(entry["id"], entry["answer"]) for entry in told["answers"]], report


def _input(event: Mapping[str, Any]) -> Mapping[str, Any]:
    told = event.get("BatchInput")
    return told if isinstance(told, Mapping) else {}


def _parsed(text: object) -> dict[str, Any]:
    try:
        parsed = json.loads(str(text))
    except ValueError:
        return {}
    return parsed if isinstance(parsed, dict) else {}


def _used(context: Any, seconds: float) -> dict[str, Any]:
    import resource

    # Linux counts KiB here, macOS bytes.
    unit = 1 if sys.platform == "darwin" else 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit // 2**20
    memory = int(getattr(context, "memory_limit_in_mb", 0) or 0)
    return {"seconds": round(seconds, 3), "memory_mb": memory, "peak_memory_mb": peak}
