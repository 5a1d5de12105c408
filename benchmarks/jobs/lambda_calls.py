"""Calls of a Lambda function: ``lambda_calls.py magg|pool PORT CALLS WORKERS BURST``.

Prints what they took as JSON. ``pool`` is what one would write without magg: a ThreadPoolExecutor
over a boto3 client with a connection for each of its threads.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import time
from collections.abc import Callable
from concurrent.futures import Executor, Future, ThreadPoolExecutor, wait
from typing import Any

FUNCTION = "benchmark"


def one(number: int) -> int:
    """Stand for a function that is deployed elsewhere."""
    return number


def with_magg(workers: int, burst: int) -> tuple[Executor, Callable[[int], Future[Any]]]:
    """Return an executor, and what submits a call to it."""
    from magg.executors import LambdaExecutor

    pace = {"burst": burst} if burst else {}
    executor = LambdaExecutor(FUNCTION, max_workers=workers, functions={"one": one}, **pace)
    return executor, lambda number: executor.submit(one, number)


def with_pool(workers: int, _: int) -> tuple[Executor, Callable[[int], Future[Any]]]:
    """Return a pool of threads, and what submits a call to it."""
    import boto3
    from botocore.config import Config

    client = boto3.client("lambda", config=Config(max_pool_connections=workers))
    executor = ThreadPoolExecutor(workers)

    def call(number: int) -> Any:
        payload = json.dumps({"number": number})
        answer = client.invoke(FunctionName=FUNCTION, Payload=payload, LogType="Tail")
        return json.load(answer["Payload"])

    return executor, lambda number: executor.submit(call, number)


def main(contestant: str, port: str, calls: int, workers: int, burst: int) -> None:
    """Send the calls and print what they took."""
    os.environ.update(
        AWS_ENDPOINT_URL_LAMBDA=f"http://127.0.0.1:{port}",
        AWS_ACCESS_KEY_ID="benchmark",
        AWS_SECRET_ACCESS_KEY="benchmark",  # noqa: S106 - of no account
        AWS_DEFAULT_REGION="us-west-2",
        AWS_EC2_METADATA_DISABLED="true",
        AWS_CONFIG_FILE=os.devnull,
        AWS_SHARED_CREDENTIALS_FILE=os.devnull,
        NO_PROXY="127.0.0.1",
    )
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    executor, submit = {"magg": with_magg, "pool": with_pool}[contestant](workers, burst)
    cpu, wall = time.process_time(), time.perf_counter()
    futures = [submit(number) for number in range(calls)]
    wait(futures)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    failed = [type(future.exception()).__name__ for future in futures if future.exception()]
    peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"wall": wall, "cpu": cpu, "mb": peak_mb, "failed": failed}))
    executor.shutdown()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], *map(int, sys.argv[3:]))
