"""AWS Step Functions on loopback: its API before the loopback Lambda and a real S3 server.

It runs the one kind of state machine that magg has. A definition, an operation or a parameter
beyond that is refused, and what was asked for is remembered in `StepFunctionsService.refused`.
"""

from __future__ import annotations

import json
import re
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Self

import pytest

from services.http_server import LoopbackHandler, LoopbackServer
from services.lambda_api import LambdaService
from services.lambda_front import ACCOUNT_ID, SIGNATURE
from services.s3 import S3Server
from services.sfn_language import LIMIT, Invalid, check_machine

if TYPE_CHECKING:
    from services.sfn_execution import Execution, MapRun

ROLE = f"arn:aws:iam::{ACCOUNT_ID}:role/magg"
NAME = r"[A-Za-z0-9_-]{1,80}"
INVOKE_TIMEOUT_S = 905.0
# What the API may answer instead, by the name of the exception.
MESSAGES = {
    "ThrottlingException": "Rate exceeded",
    "AccessDeniedException": f"User: arn:aws:iam::{ACCOUNT_ID}:user/magg is not authorized to "
    "perform: states:{operation} on resource",
    "ExpiredTokenException": "The security token included in the request is expired",
    "UnrecognizedClientException": "The security token included in the request is invalid.",
    "InternalFailure": "The request processing has failed because of an unknown error",
}


class Refusal(Exception):  # noqa: N818
    """An answer of the API that is an error."""

    def __init__(self, error: str, message: str, status: int = 400) -> None:
        super().__init__(message)
        self.error, self.message, self.status = error, message, status


class StepFunctionsService:
    """A loopback Step Functions that runs in threads of this process; a context manager.

    Parameters
    ----------
    lambda_service : LambdaService
    s3_server : S3Server

    Attributes
    ----------
    endpoint : str
    time_scale : float
        What the waits of retries are multiplied with; may be set.
    records_per_file : int
        How many batches one file of results names; may be set.
    role_denied : set of str
        What the role of state machines may not do, such as ``"lambda:InvokeFunction"``.
    executions : dict of str to Execution
        All that were started, by their ARN.
    requests : Counter of str
        Operations that were asked for.
    refused : list of str
        Requests that were refused because they are not emulated.
    """

    def __init__(self, lambda_service: LambdaService, s3_server: S3Server) -> None:
        import boto3
        from botocore.config import Config

        session = boto3.session.Session(
            s3_server.access_key, s3_server.secret_key, region_name=s3_server.region
        )
        once = Config(retries={"total_max_attempts": 1}, read_timeout=INVOKE_TIMEOUT_S,
                      max_pool_connections=128)  # fmt: skip
        self.functions = session.client("lambda", endpoint_url=lambda_service.endpoint, config=once)
        self.s3 = session.client("s3", endpoint_url=s3_server.endpoint, config=once)
        self.access_key, self.region = s3_server.access_key, s3_server.region
        self.time_scale, self.records_per_file = 0.05, 3
        self.role_denied: set[str] = set()
        self.machines: dict[str, Any] = {}
        self.executions: dict[str, Execution] = {}
        self.map_runs: dict[str, MapRun] = {}
        self.requests: Counter[str] = Counter()
        self.refused: list[str] = []
        self.calls = ThreadPoolExecutor(128, "sfn-invoke")
        self._faults: list[list[Any]] = []
        self._lock = threading.Lock()
        self._server = LoopbackServer(_Front, self)
        self.endpoint = f"http://{self._server.address}"

    def deploy(self, name: str, definition: str) -> str:
        """Create a state machine, in place of an earlier one, and return its ARN."""
        check_machine(json.loads(definition))
        arn = f"arn:aws:states:{self.region}:{ACCOUNT_ID}:stateMachine:{name}"
        self.machines[arn] = json.loads(definition)
        return arn

    def inject(self, error: str, operation: str | None = None, times: int = 1) -> None:
        """Let the next requests, or those of one operation, be answered with an error."""
        with self._lock:
            self._faults.append([error, operation, times])

    def clear(self) -> None:
        """Forget faults, denials and executions, which are stopped."""
        with self._lock:
            self._faults.clear()
        self.role_denied.clear()
        for execution in list(self.executions.values()):
            execution.stop()
        self.executions.clear()
        self.requests.clear()

    def environment(self) -> dict[str, str]:
        """Return the variables that lead clients of Step Functions here."""
        return {"AWS_ENDPOINT_URL_SFN": self.endpoint}

    def stop(self) -> None:
        """Stop all executions, and close all connections; may be called twice."""
        executions = list(self.executions.values())
        for execution in executions:
            execution.stop()
        self._server.hang_up()
        self._server.join()
        self.calls.shutdown(cancel_futures=True)
        for execution in executions:
            execution.join()

    def answer(self, operation: str, given: dict[str, Any]) -> dict[str, Any]:
        """Answer a request."""
        self.requests[operation] += 1
        self._strike(operation)
        known: dict[str, tuple[Callable[..., dict[str, Any]], set[str]]] = {
            "CreateStateMachine": (self._create, {"name", "definition", "roleArn", "type"}),
            "DescribeStateMachine": (self._describe_machine, {"stateMachineArn"}),
            "StartExecution": (self._start, {"stateMachineArn", "name", "input"}),
            "DescribeExecution": (self._describe, {"executionArn"}),
            "StopExecution": (self._stop, {"executionArn", "error", "cause"}),
            "ListMapRuns": (self._list_map_runs, {"executionArn"}),
            "DescribeMapRun": (self._describe_map_run, {"mapRunArn"}),
            "ListExecutions": (self._list, {"stateMachineArn", "statusFilter", "maxResults"}),
        }
        function, parameters = known.get(operation, (None, set()))
        if function is None or given.keys() - parameters:
            self.refused.append(f"{operation} {sorted(given)}")
            raise Refusal("NotEmulatedException", f"{self.refused[-1]} is not emulated", 501)
        return function(**given)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.stop()

    def _strike(self, operation: str) -> None:
        with self._lock:
            for fault in self._faults:
                if fault[1] in (None, operation) and fault[2]:
                    fault[2] -= 1
                    status = 500 if fault[0] == "InternalFailure" else 400
                    message = MESSAGES[fault[0]].format(operation=operation)
                    raise Refusal(fault[0], message, status)

    def _create(
        self,
        name: str,
        definition: str,
        roleArn: str,  # noqa: N803
        type: str = "STANDARD",  # noqa: A002
    ) -> dict[str, Any]:
        if type != "STANDARD" or not re.fullmatch(NAME, name):
            raise Refusal("ValidationException", "only STANDARD workflows are emulated")
        try:
            arn = self.deploy(name, definition)
        except (ValueError, Invalid) as error:
            raise Refusal(
                "InvalidDefinition", f"Invalid State Machine Definition: {error}"
            ) from None
        return {"stateMachineArn": arn, "creationDate": time.time()}

    def _machine(self, arn: str) -> Any:
        form = rf"arn:aws:states:[a-z0-9-]+:\d{{12}}:stateMachine:{NAME}"
        if not re.fullmatch(form, arn):
            raise Refusal("InvalidArn", f"Invalid Arn: '{arn}'")
        if arn not in self.machines:
            message = f"State Machine Does Not Exist: '{arn}'"
            raise Refusal("StateMachineDoesNotExist", message)
        return self.machines[arn]

    def _execution(self, arn: str) -> Execution:
        if arn not in self.executions:
            raise Refusal("ExecutionDoesNotExist", f"Execution Does Not Exist: '{arn}'")
        return self.executions[arn]

    def _describe_machine(self, stateMachineArn: str) -> dict[str, Any]:  # noqa: N803
        definition = self._machine(stateMachineArn)
        return {
            "stateMachineArn": stateMachineArn,
            "name": stateMachineArn.rpartition(":")[2],
            "status": "ACTIVE",
            "definition": json.dumps(definition),
            "roleArn": ROLE,
            "type": "STANDARD",
            "creationDate": 0,
        }

    def _start(self, stateMachineArn: str, input: str, name: str = "") -> dict[str, Any]:  # noqa: A002, N803
        from services.sfn_execution import Execution

        self._machine(stateMachineArn)
        if len(input.encode()) > LIMIT:
            message = "Value at 'input' failed to satisfy constraint: at most 262144"
            raise Refusal("ValidationException", f"1 validation error detected: {message}")
        name = name or str(uuid.uuid4())
        if not re.fullmatch(NAME, name):
            raise Refusal("InvalidName", f"Invalid Name: '{name}'")
        try:
            given = json.loads(input)
        except ValueError as error:
            raise Refusal("InvalidExecutionInput", f"Invalid Input: '{error}'") from None
        arn = f"{stateMachineArn.replace(':stateMachine:', ':execution:')}:{name}"
        with self._lock:
            execution = self.executions.get(arn)
            if execution is None:
                execution = self.executions[arn] = Execution(self, stateMachineArn, name, given)
            elif execution.input != given or execution.status != "RUNNING":
                raise Refusal("ExecutionAlreadyExists", f"Execution Already Exists: '{arn}'")
        return {"executionArn": arn, "startDate": execution.began}

    def _describe(self, executionArn: str) -> dict[str, Any]:  # noqa: N803
        return self._execution(executionArn).describe()

    def _stop(self, executionArn: str, error: str = "", cause: str = "") -> dict[str, Any]:  # noqa: N803
        self._execution(executionArn).stop(error, cause)
        return {"stopDate": time.time()}

    def _list_map_runs(self, executionArn: str) -> dict[str, Any]:  # noqa: N803
        run = self._execution(executionArn).map_run
        names = {"mapRunArn", "executionArn", "startDate", "stopDate"}
        machine = executionArn.replace(":execution:", ":stateMachine:").rpartition(":")[0]
        if run is None:
            return {"mapRuns": []}
        told = {name: value for name, value in run.describe().items() if name in names}
        return {"mapRuns": [told | {"stateMachineArn": machine}]}

    def _describe_map_run(self, mapRunArn: str) -> dict[str, Any]:  # noqa: N803
        if mapRunArn not in self.map_runs:
            raise Refusal("ResourceNotFound", f"Resource not found: '{mapRunArn}'")
        return self.map_runs[mapRunArn].describe()

    def _list(self, stateMachineArn: str, statusFilter: str, maxResults: int) -> dict[str, Any]:  # noqa: N803
        self._machine(stateMachineArn)
        told = [execution.describe() for execution in list(self.executions.values())]
        names = ("executionArn", "stateMachineArn", "name", "status", "startDate")
        found = [
            {name: one[name] for name in names}
            for one in told
            if one["stateMachineArn"] == stateMachineArn and one["status"] == statusFilter
        ]
        return {"executions": found[:maxResults]}


class _Front(LoopbackHandler):
    """One connection of a client."""

    def do_POST(self) -> None:  # noqa: N802
        service: StepFunctionsService = self.server.owner
        body = self.body()
        try:
            self._check_signature(service)
            target = self.headers.get("X-Amz-Target", "")
            if not target.startswith("AWSStepFunctions."):
                raise Refusal("UnknownOperationException", target)
            answer = service.answer(target.partition(".")[2], json.loads(body or b"{}"))
        except Refusal as refusal:
            told = {"__type": refusal.error, "message": refusal.message}
            self.answer(refusal.status, json.dumps(told).encode())
        else:
            self.answer(200, json.dumps(answer).encode())

    def _check_signature(self, service: StepFunctionsService) -> None:
        """Refuse who is not known, without a look at the signature itself."""
        found = re.fullmatch(SIGNATURE, self.headers.get("Authorization", ""))
        if not found:
            raise Refusal("MissingAuthenticationTokenException", "Missing Authentication Token")
        if (found["service"], found["region"]) != ("states", service.region):
            message = "Credential should be scoped to a valid region."
            raise Refusal("InvalidSignatureException", message)
        if found["key"] != service.access_key:
            error = "UnrecognizedClientException"
            raise Refusal(error, MESSAGES[error])


@pytest.fixture(scope="session")
def sfn_service(
    lambda_service: LambdaService, s3_server: S3Server
) -> Iterator[StepFunctionsService]:
    """Return a running service, one for each worker of pytest-xdist.

    At the end it fails if anything was asked for that is not emulated.
    """
    with StepFunctionsService(lambda_service, s3_server) as service:
        yield service
    assert not service.refused, f"asked of Step Functions, but not emulated: {service.refused}"
