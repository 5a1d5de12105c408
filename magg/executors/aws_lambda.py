"""AWS Lambda as an executor: one synchronous Invoke for every submission."""

from __future__ import annotations

import functools
import json
import weakref
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from magg.errors import PayloadError
from magg.executors import lambda_client, lambda_preflight, offload
from magg.executors.cloud import CloudExecutor
from magg.executors.lambda_invoke import Invoker
from magg.executors.lambda_usage import Price, Usage, ceiling
from magg.executors.pacing import BURST, PER_SECOND, Pacer
from magg.executors.payload import Calls, Codec, Functions
from magg.executors.threads import WaitingThreadPool

if TYPE_CHECKING:
    from botocore.client import BaseClient

P = ParamSpec("P")
T = TypeVar("T")

DEFAULT_FUNCTION = "process-morton-cell"
DEFAULT_WORKERS = 1_700
# Refused for so long, a call is given up; meanwhile other calls go on.
PATIENCE_S = 600.0
# Of a synchronous call (AWS Lambda Developer Guide, "Lambda quotas").
PAYLOAD_BYTES = 6 * 1024 * 1024


class LambdaExecutor(WaitingThreadPool, CloudExecutor):
    """Runs each submitted call in a deployed AWS Lambda function.

    A thread waits for each call, over one client. A call that Lambda refused, or that never left
    this machine, is sent again by itself; one that may have run is never sent twice, but fails
    with `magg.errors.WorkerLostError`, so that whoever submitted it decides.

    Parameters
    ----------
    function_name : str
        Name or ARN of the function, which runs `magg.aws.handler.lambda_handler`, or a handler
        made with `magg.executors.serve.make_handler`.
    max_workers : int, default 1700
        Calls at once. Each needs a thread and an open connection.
    region : str, optional
        AWS region; that of the environment where left out.
    client : botocore.client.BaseClient, optional
        A client for Lambda that sends a call once and waits longer than any function may run.
        Without one such a client is made, which also keeps silent connections alive.
    functions : mapping of str to callable
        The functions that the deployed handler knows, by name.
    codec : {"json", "pickle"}
        "pickle" sends any function; the handler must have been told to accept it.
    offload_to : str, optional
        ``s3://bucket/prefix`` for calls and answers of more than 6 MB; without it they are errors.
    price : Price, optional
        What the function costs; that of its region and architecture where left out.
    burst, per_second : int, float
        Environments that Lambda starts at once, and further on.
    patience_s : float
        How long a call that Lambda refuses is tried.

    Attributes
    ----------
    usage : Usage
        Calls, billed time and estimated cost so far.
    longest_call_s : float or None
        The function's time limit, once `preflight` has asked for it.

    Raises
    ------
    ValueError
        If ``max_workers`` or ``burst`` is less than 1, or ``per_second`` not positive.
    MissingExtraError
        If boto3 is not installed.
    AccessDeniedError
        If there are no AWS credentials.
    BackendError
        If no region is set, the client repeats calls, or so many connections cannot be open.
    """

    def __init__(
        self,
        function_name: str,
        *,
        max_workers: int = DEFAULT_WORKERS,
        region: str | None = None,
        client: BaseClient | None = None,
        functions: Functions | None = None,
        codec: Codec = "json",
        offload_to: str | None = None,
        price: Price | None = None,
        burst: int = BURST,
        per_second: float = PER_SECOND,
        patience_s: float = PATIENCE_S,
    ) -> None:
        super().__init__(max_workers, name="magg-lambda")
        self.function_name = function_name
        self._codec = Calls(functions or {}, codec)
        self._offload_to = offload_to
        lambda_client.allow_connections(max_workers)
        renew = None
        if client is None:
            renew = functools.partial(lambda_client.make, region, max_workers)
            client = renew()
        else:
            lambda_client.check(client)
        self.region: str = str(client.meta.region_name)
        self._has_price = price is not None
        self.usage = Usage(price or Price.of(self.region))
        self._pacer = Pacer(burst, per_second)
        self._invoker = Invoker(function_name, client, self._pacer, self.usage, renew, patience_s)
        self._facts: lambda_preflight.FunctionFacts | None = None
        lambda_client.begin_patience()
        self._end_patience = weakref.finalize(self, lambda_client.end_patience)

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Send a call as soon as a worker is free.

        Raises
        ------
        BackendError
            If the deployed handler does not know the function.
        RuntimeError
            After `shutdown`.
        """
        self._codec.check(fn)
        return super().submit(self._call, fn, args, kwargs)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Accept no more calls.

        With ``wait=False`` and ``cancel_futures=True`` nothing is waited for, not even by the end
        of the interpreter; calls under way run to their end in the cloud.
        """
        if cancel_futures and not wait:
            self._invoker.stop()
        super().shutdown(wait, cancel_futures=cancel_futures)
        self._end_patience()

    def preflight(self, store: str | None = None) -> list[str]:
        """Ask AWS about the function, the account and the bucket; see `CloudExecutor.preflight`.

        Usage is counted from here on.
        """
        self.usage.reset()
        self._facts = facts = lambda_preflight.ask(
            self._invoker.client, self.function_name, self.region
        )
        self.longest_call_s = facts.timeout_s
        if not self._has_price:
            self.usage.price = Price.of(self.region, facts.architecture)
        notices = lambda_preflight.judge(facts, self._max_workers)
        self._pacer.limit = facts.concurrency
        if store is not None:
            lambda_preflight.check_bucket(store, self.region)
        return notices

    def ceiling(self, calls: int) -> dict[str, Any]:
        """Return what so many calls cost at most: each up to the function's time limit, once."""
        if self._facts is None:
            return {}
        most = ceiling(calls, self._facts.timeout_s, self._facts.memory_mb, self.usage.price)
        return {f"{name}_ceiling": value for name, value in most.items()}

    def used(self) -> dict[str, Any]:
        """Return calls, billed time and estimated cost so far."""
        return self.usage.summary()

    def _call(
        self, function: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> Any:
        request = self._codec.request(function, args, kwargs)
        if self._offload_to:
            request["offload"] = {"prefix": self._offload_to, "region": self.region}
        payload = json.dumps(request, separators=(",", ":"), allow_nan=False).encode()
        url = None
        if len(payload) > PAYLOAD_BYTES:
            url = self._offload(payload)
            payload = json.dumps(offload.naming(url, request["offload"])).encode()
        try:
            answer = self._invoker.invoke(payload)
        finally:
            if url is not None:
                offload.delete(url, self.region)
        return self._codec.result(function, offload.fetched(answer))

    def _offload(self, payload: bytes) -> str:
        if self._offload_to is None:
            raise PayloadError(
                f"the call is {len(payload) / 2**20:.1f} MB and Lambda takes 6 MB; pass "
                "offload_to='s3://bucket/prefix', or pass what is large by its URL"
            )
        return offload.put(self._offload_to, payload, self.region)


def make(
    max_workers: int | None = None,
    *,
    function_name: str | None = None,
    region: str | None = None,
    functions: Functions | None = None,
    store: str | None = None,
    **_: Any,
) -> LambdaExecutor:
    """Return the executor of ``backend="lambda"``; see `magg.executors.make_executor`."""
    import os

    name = function_name or os.environ.get("MAGG_LAMBDA_FUNCTION_NAME") or DEFAULT_FUNCTION
    return LambdaExecutor(
        name,
        max_workers=DEFAULT_WORKERS if max_workers is None else max_workers,
        region=region,
        functions=functions,
        offload_to=store,
    )
