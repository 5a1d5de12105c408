"""One call of a Lambda function, and what may be sent again without anybody deciding it."""

from __future__ import annotations

import base64
import json
import random
import threading
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from magg.errors import ThrottledError, WorkerLostError
from magg.executors import lambda_errors
from magg.executors.lambda_usage import Report, Usage
from magg.executors.pacing import Pacer

if TYPE_CHECKING:
    from botocore.client import BaseClient

CONNECT_ATTEMPTS = 4


class Invoker:
    """Calls a function synchronously; what certainly did not run is sent again.

    Parameters
    ----------
    function_name : str
    client : botocore.client.BaseClient
    pacer : Pacer
    usage : Usage
        Told of every call.
    renew : callable, optional
        Returns a client with fresh credentials.
    patience_s : float
        How long a call that Lambda refuses is tried.
    """

    def __init__(
        self,
        function_name: str,
        client: BaseClient,
        pacer: Pacer,
        usage: Usage,
        renew: Callable[[], BaseClient] | None,
        patience_s: float,
    ) -> None:
        self.function_name = function_name
        self.client = client
        self.region = str(client.meta.region_name)
        self._pacer, self._usage = pacer, usage
        self._renew, self._patience_s = renew, patience_s
        self._renewing = threading.Lock()
        self._stopped = threading.Event()

    def stop(self) -> None:
        """Send nothing any more."""
        self._stopped.set()
        self._pacer.stop()

    def invoke(self, payload: bytes) -> Any:
        """Call the function and return its answer, parsed.

        Raises
        ------
        ThrottledError
            If Lambda refused the call for longer than the patience lasts.
        WorkerLostError
            If the answer was lost, or the executor was shut down.
        WorkerTimeoutError, WorkerOutOfMemoryError, RemoteError
            If the function did not come to its end.
        FunctionNotFoundError, AccessDeniedError, CredentialsExpiredError, BackendError
            If it cannot be called at all.
        """
        began, unsent, renewed, refused = time.monotonic(), 0, False, False
        while self._pacer.enter(first=refused):
            client = self.client
            try:
                response = client.invoke(
                    FunctionName=self.function_name, Payload=payload, LogType="Tail"
                )
                body = response["Payload"].read()
            except Exception as error:  # noqa: BLE001 - every one is judged below
                refused = lambda_errors.was_refused(error)
                if refused:
                    self._pacer.refused()
                    self._usage.add_throttled()
                    self._check_patience(began, error)
                    continue
                self._pacer.leave()
                if lambda_errors.was_not_sent(error) and unsent < CONNECT_ATTEMPTS:
                    unsent += 1
                    self._usage.add_resent()
                    self._stopped.wait(random.uniform(0, 2**unsent))  # noqa: S311 - jitter
                elif lambda_errors.is_expired(error) and self._renew and not renewed:
                    renewed = True
                    self._renew_client(client)
                else:
                    raise lambda_errors.translate(error, self.function_name, self.region) from None
            else:
                self._pacer.leave()
                return self._read(response, body)
        raise WorkerLostError("the executor was shut down before the call was sent")

    def _check_patience(self, began: float, error: Exception) -> None:
        waited = time.monotonic() - began
        if waited > self._patience_s:
            raise ThrottledError(
                f"function {self.function_name!r} in {self.region} was refused for {waited:.0f} s "
                f"({lambda_errors.reason_of(error)}); use fewer workers, or ask AWS for more "
                "concurrent executions"
            ) from None

    def _renew_client(self, expired: BaseClient) -> None:
        """Make a new client, unless another thread has."""
        with self._renewing:
            if self.client is expired and self._renew is not None:
                self.client = self._renew()

    def _read(self, response: Mapping[str, Any], body: bytes) -> Any:
        log = base64.b64decode(response.get("LogResult", "")).decode(errors="replace")
        report = Report.parse(log)
        self._usage.add(report)
        try:
            document = json.loads(body)
        except ValueError:
            document = body.decode(errors="replace")
        if response.get("FunctionError"):
            memory = report.memory_mb if report else None
            raise lambda_errors.of_function(document, self.function_name, memory)
        return document
