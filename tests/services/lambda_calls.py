"""Calls of a loopback Lambda as tests make them, and what they look at."""

from __future__ import annotations

import base64
import json
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest

from services.lambda_function import Function


def invoke(client: Any, function: Function, event: Any = None, **options: Any) -> dict[str, Any]:
    """Invoke a function, and return the answer with its payload read."""
    payload = json.dumps({} if event is None else event)
    answer = client.invoke(FunctionName=function.name, Payload=payload, **options)
    answer["Payload"] = answer["Payload"].read()
    return answer


def result(client: Any, function: Function, event: Any = None) -> Any:
    """Invoke a function that is to succeed, and return its result."""
    answer = invoke(client, function, event)
    assert "FunctionError" not in answer, answer["Payload"]
    return json.loads(answer["Payload"])


def failure(client: Any, function: Function, event: Any = None) -> tuple[dict[str, Any], str]:
    """Invoke a function that is to fail, and return its error and its log."""
    answer = invoke(client, function, event, LogType="Tail")
    assert (answer["StatusCode"], answer["FunctionError"]) == (200, "Unhandled")
    return json.loads(answer["Payload"]), base64.b64decode(answer["LogResult"]).decode()


def log_of(client: Any, function: Function, event: Any = None) -> str:
    """Invoke a function, and return its log."""
    answer = invoke(client, function, event, LogType="Tail")
    return base64.b64decode(answer["LogResult"]).decode()


def refusal(call: Callable[..., Any], *arguments: Any, **options: Any) -> tuple[int, str, Any]:
    """Make a call that the API is to refuse; return status, error code and the whole answer."""
    from botocore.exceptions import ClientError

    with pytest.raises(ClientError) as caught:
        call(*arguments, **options)
    answer = caught.value.response
    return answer["ResponseMetadata"]["HTTPStatusCode"], answer["Error"]["Code"], answer


def wait_until(condition: Callable[[], Any]) -> None:
    """Wait for something to come true; the limit is against hangs."""
    deadline = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def threads_since(before: Iterable[threading.Thread]) -> list[threading.Thread]:
    """Return the threads that have begun since, and have not ended yet."""
    return [thread for thread in threading.enumerate() if thread not in set(before)]


def gone(pid: int | str | None) -> bool:
    """Return whether a process has ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True
