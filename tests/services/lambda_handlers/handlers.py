"""Handlers for the tests of the loopback Lambda."""

import logging
import os
import subprocess
import sys
import time
from pathlib import Path

logging.getLogger().setLevel("INFO")


def echo(event, context):
    sys.stdout.write("from the handler\n")
    if "log" in event:
        logging.info(event["log"])
    time.sleep(event.get("sleep", 0))
    while "until" in event and not Path(event["until"]).exists():
        time.sleep(0.01)
    return {
        "pid": os.getpid(),
        "event": event,
        "request": context.aws_request_id,
        "left_ms": context.get_remaining_time_in_millis(),
        "memory": context.memory_limit_in_mb,
        "arn": context.invoked_function_arn,
        "folder": str(Path.cwd()),
    }


def surroundings(event, context):
    import extra

    return {"variables": dict(os.environ), "extra": extra.WORD}


def context_of_client(event, context):
    return context.client_context.custom


def fail(event, context):
    raise LookupError("no such granule")


def leave(event, context):
    os._exit(event)


def struck(event, context):
    os.kill(os.getpid(), event)
    time.sleep(5)


def hoard(event, context):
    held = bytearray(event["mb"] << 20)
    held[::4096] = b"x" * len(held[::4096])
    time.sleep(event["sleep"])


def start_another(event, context):
    return subprocess.Popen(["sleep", "600"]).pid


def long(event, context):
    return "x" * event


def size(event, context):
    return len(event)


def unserialisable(event, context):
    return object()
