"""A deployed state machine, and the bucket in which it finds calls and leaves answers."""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit

from magg import __version__
from magg.errors import AccessDeniedError, BackendError
from magg.executors import lambda_client, lambda_errors, lambda_preflight, sfn_errors

if TYPE_CHECKING:
    from botocore.client import BaseClient

T = TypeVar("T")

FOLDER = ".magg/executions"
CONNECT_TIMEOUT_S = 5.0
READ_TIMEOUT_S = 60.0
# Starting is safe to repeat: an execution of the same name and input is the same execution.
ATTEMPTS = 4
_ARN = re.compile(
    r"arn:aws[a-z-]*:states:(?P<region>[a-z0-9-]+):\d{12}:stateMachine:(?P<name>[A-Za-z0-9_.-]+)"
    r"(:[A-Za-z0-9_.-]+)?"
)


@dataclass(frozen=True)
class Clients:
    """Clients of boto3 for Step Functions, S3 and Lambda."""

    sfn: BaseClient
    s3: BaseClient
    functions: BaseClient

    @classmethod
    def make(cls, region: str) -> Clients:
        """Return clients with credentials from boto3's own chain."""
        session = lambda_client.open_session(region, "AWS Step Functions")
        from botocore.config import Config

        config = Config(
            connect_timeout=CONNECT_TIMEOUT_S,
            read_timeout=READ_TIMEOUT_S,
            retries={"mode": "standard", "total_max_attempts": ATTEMPTS},
            user_agent_extra=f"magg/{__version__}",
        )
        services = ("stepfunctions", "s3", "lambda")
        return cls(*(session.client(service, config=config) for service in services))


class StateMachine:
    """A deployed state machine, asked in the words of magg.

    Parameters
    ----------
    arn : str
    prefix : str
        ``s3://bucket/prefix`` below which calls and answers travel.
    clients : Clients, optional
        Used as they are. Without them some are made, and made again when credentials expire.

    Raises
    ------
    BackendError
        If the ARN or the prefix is none.
    MissingExtraError, AccessDeniedError
        If boto3 or credentials are missing.
    """

    def __init__(self, arn: str, prefix: str, clients: Clients | None = None) -> None:
        found, url = _ARN.fullmatch(arn), urlsplit(prefix)
        if not found:
            raise BackendError(
                f"{arn!r} is no ARN of a state machine, such as "
                "arn:aws:states:us-west-2:123456789012:stateMachine:magg"
            )
        if url.scheme != "s3" or not url.netloc or not url.path.strip("/"):
            raise BackendError(
                f"{prefix} is not in S3, where Step Functions reads calls and writes answers; use "
                "a store at s3://bucket/prefix, or backend='local'"
            )
        self.arn, self.name, self.region = arn, found["name"], found["region"]
        self.bucket, self._prefix = url.netloc, url.path.strip("/")
        self.place = f"state machine {self.name!r} in {self.region}"
        self._make = None if clients else functools.partial(Clients.make, self.region)
        self._clients = clients or Clients.make(self.region)

    def describe(self) -> Mapping[str, Any]:
        """Return what Step Functions says of the state machine."""
        return self._ask(lambda c: c.sfn.describe_state_machine(stateMachineArn=self.arn))

    def function(self, name: str) -> lambda_preflight.FunctionFacts | None:
        """Return what is known of the function, or None where one may not ask."""
        try:
            return lambda_preflight.ask(self._clients.functions, name, self.region)
        except AccessDeniedError:
            return None  # the state machine calls it, not this user

    def running(self) -> list[str]:
        """Return the ARNs of executions that are running (at most a hundred)."""
        told = self._ask(
            lambda c: c.sfn.list_executions(
                stateMachineArn=self.arn, statusFilter="RUNNING", maxResults=100
            )
        )
        return [execution["executionArn"] for execution in told["executions"]]

    def start(self, name: str, calls: bytes, **settings: Any) -> str:
        """Start an execution over calls, and return its ARN.

        Parameters
        ----------
        name : str
            Of the execution.
        calls : bytes
            JSON: a list of items.
        **settings
            What else the state machine reads from its input.
        """
        folder = self._folder(name)
        told = settings | {
            "bucket": self.bucket,
            "calls": f"{folder}/calls.json",
            "results": f"{folder}/results",
        }
        self._ask_bucket(
            lambda c: c.s3.put_object(Bucket=self.bucket, Key=told["calls"], Body=calls)
        )
        execution = self._ask(
            lambda c: c.sfn.start_execution(
                stateMachineArn=self.arn, name=name, input=json.dumps(told)
            )
        )
        return str(execution["executionArn"])

    def execution(self, arn: str) -> Mapping[str, Any]:
        """Return what Step Functions says of an execution."""
        return self._ask(lambda c: c.sfn.describe_execution(executionArn=arn))

    def map_run(self, arn: str) -> Mapping[str, Any] | None:
        """Return the state of an execution's Map, if it has begun."""
        runs = self._ask(lambda c: c.sfn.list_map_runs(executionArn=arn))["mapRuns"]
        if not runs:
            return None
        state: Mapping[str, Any] = self._ask(
            lambda c: c.sfn.describe_map_run(mapRunArn=runs[0]["mapRunArn"])
        )
        return state

    def stop(self, arn: str) -> None:
        """Start no further call of an execution; those that run are left to their end."""
        cause = "stopped by the client"
        self._ask(lambda c: c.sfn.stop_execution(executionArn=arn, error="magg", cause=cause))

    def calls(self, execution: Mapping[str, Any]) -> list[dict[str, Any]]:
        """Return the items of an execution, given what Step Functions says of it."""
        key = json.loads(execution["input"])["calls"]
        items: list[dict[str, Any]] = json.loads(self._read(key))
        return items

    def results(self, execution: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
        """Yield the records of all batches of an execution that has succeeded."""
        manifest = json.loads(execution["output"])["ResultWriterDetails"]["Key"]
        for entries in json.loads(self._read(manifest))["ResultFiles"].values():
            for entry in entries:
                yield from json.loads(self._read(entry["Key"]))

    def clean(self, name: str) -> None:
        """Delete calls and results of an execution."""
        place = {"Bucket": self.bucket, "Prefix": self._folder(name) + "/"}
        while True:
            page = self._ask_bucket(lambda c: c.s3.list_objects_v2(**place))
            for entry in page.get("Contents", ()):
                self._delete(entry["Key"])
            if not page.get("IsTruncated"):
                return

    def _delete(self, key: str) -> None:
        self._ask_bucket(lambda c: c.s3.delete_object(Bucket=self.bucket, Key=key))

    def _folder(self, name: str) -> str:
        return f"{self._prefix}/{FOLDER}/{name}"

    def _read(self, key: str) -> bytes:
        def read(clients: Clients) -> bytes:
            body: bytes = clients.s3.get_object(Bucket=self.bucket, Key=key)["Body"].read()
            return body

        return self._ask_bucket(read)

    def _ask_bucket(self, question: Callable[[Clients], T]) -> T:
        return self._ask(question, f"bucket {self.bucket!r}")

    def _ask(self, question: Callable[[Clients], T], place: str | None = None) -> T:
        """Ask AWS, once more with new clients if credentials have expired."""
        for make in (self._make, None):
            try:
                return question(self._clients)
            except Exception as error:  # noqa: BLE001 - told in words of our own
                if not (make and lambda_errors.is_expired(error)):
                    raise sfn_errors.translate(error, place or self.place) from None
                self._clients = make()
        raise AssertionError("unreachable")
