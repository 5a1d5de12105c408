"""Executions of Step Functions: a Map over items in S3, whose batches call a Lambda function."""

from __future__ import annotations

import json
import random
import threading
import time
import uuid
from collections import Counter
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from botocore.exceptions import BotoCoreError, ClientError

from services.sfn_language import LIMIT, Failure, filled, look_up, size

if TYPE_CHECKING:
    from services.stepfunctions import StepFunctionsService

STATUSES = ("pending", "running", "succeeded", "failed", "timedOut", "aborted", "total")
ITEM_BYTES = 8 * 2**20
MOST_THREADS = 64
COUNTED = {"SUCCEEDED": "succeeded", "FAILED": "failed", "TIMED_OUT": "timedOut"}


@dataclass
class MapRun:
    """The state of a Map, as DescribeMapRun tells it."""

    arn: str
    execution: str
    concurrency: int
    tolerated: float
    began: float = field(default_factory=time.time)
    ended: float | None = None
    status: str = "RUNNING"
    items: Counter[str] = field(default_factory=Counter)
    batches: Counter[str] = field(default_factory=Counter)

    def move(self, before: str | None, after: str, items: int) -> None:
        """Count a batch of so many items elsewhere."""
        for counts, number in ((self.items, items), (self.batches, 1)):
            counts[after] += number
            if before:
                counts[before] -= number

    def describe(self) -> dict[str, Any]:
        """Return what DescribeMapRun answers."""
        told = {
            "mapRunArn": self.arn,
            "executionArn": self.execution,
            "status": self.status,
            "startDate": self.began,
            "maxConcurrency": self.concurrency,
            "toleratedFailurePercentage": self.tolerated,
            "toleratedFailureCount": 0,
            "itemCounts": {name: self.items[name] for name in (*STATUSES, "resultsWritten")},
            "executionCounts": {name: self.batches[name] for name in (*STATUSES, "resultsWritten")},
            "redriveCount": 0,
        }
        return told | ({} if self.ended is None else {"stopDate": self.ended})


class Execution:
    """One execution; runs in a thread of its own.

    Attributes
    ----------
    attempts : int
        Invocations of the function that were asked for.
    waits : list of float
        What each retry was to wait (s), before the time scale.
    """

    def __init__(
        self, service: StepFunctionsService, machine: str, name: str, given: dict[str, Any]
    ) -> None:
        self._service, self._machine, self.name, self.input = service, machine, name, given
        self.arn = f"{machine.replace(':stateMachine:', ':execution:')}:{name}"
        self.definition = service.machines[machine]
        self.status, self.error, self.cause = "RUNNING", "", ""
        self.output: Any = None
        self.began, self.ended = time.time(), None
        self.map_run: MapRun | None = None
        self.attempts, self.waits = 0, []
        self._records: list[dict[str, Any]] = []
        self._lock = threading.Lock()
        self._stopped: Future[None] = Future()
        self._thread = threading.Thread(target=self._run, name="sfn-execution", daemon=True)
        self._thread.start()

    def stop(self, error: str = "", cause: str = "") -> None:
        """Abort it; what Lambda runs goes on there."""
        with self._lock:
            if self.status != "RUNNING":
                return
            self.status, self.error, self.cause, self.ended = "ABORTED", error, cause, time.time()
        self._stopped.set_result(None)

    def join(self) -> None:
        """Wait until nothing of it runs here any more."""
        self._thread.join()

    def describe(self) -> dict[str, Any]:
        """Return what DescribeExecution answers."""
        with self._lock:
            told = {
                "executionArn": self.arn,
                "stateMachineArn": self._machine,
                "name": self.name,
                "status": self.status,
                "startDate": self.began,
                "input": json.dumps(self.input),
                "inputDetails": {"included": True},
            }
            if self.ended is not None:
                told["stopDate"] = self.ended
            if self.status == "SUCCEEDED":
                told |= {"output": json.dumps(self.output), "outputDetails": {"included": True}}
            named = {"error": self.error, "cause": self.cause}
            return told | {name: value for name, value in named.items() if value}

    def _run(self) -> None:
        (state,) = self.definition["States"].values()
        try:
            output = self._map(state)
        except Failure as failure:
            self._end("FAILED", error=failure.error, cause=failure.cause)
        except Exception as error:  # noqa: BLE001 - a bug here must not look like a hang
            self._end("FAILED", error="Emulator", cause=repr(error))
        else:
            self._end("SUCCEEDED", output=output)

    def _end(self, status: str, **facts: Any) -> None:
        with self._lock:
            if self.status == "RUNNING":
                self.status, self.ended = status, time.time()
                vars(self).update(facts)

    def _map(self, state: dict[str, Any]) -> dict[str, Any]:
        items = self._read(filled(state["ItemReader"]["Parameters"], self.input))
        batches = self._batched(items, state["ItemBatcher"])
        concurrency = look_up(state["MaxConcurrencyPath"], self.input)
        if not isinstance(concurrency, int) or not 0 <= concurrency <= 10_000:
            raise Failure("States.Runtime", f"MaxConcurrency {concurrency!r} is out of range")
        number = str(uuid.uuid4())
        run = self.map_run = MapRun(
            f"{self._machine.replace(':stateMachine:', ':mapRun:')}/{uuid.uuid4().hex}:{number}",
            self.arn,
            concurrency,
            state["ToleratedFailurePercentage"],
        )
        self._service.map_runs[run.arn] = run
        for batch in batches:
            run.move(None, "pending", len(batch["Items"]))
            run.move(None, "total", len(batch["Items"]))
        (task,) = state["ItemProcessor"]["States"].values()
        threads = min(concurrency or MOST_THREADS, MOST_THREADS, max(1, len(batches)))
        with ThreadPoolExecutor(threads, "sfn-batch") as pool:
            list(pool.map(lambda batch: self._child(task, batch, run), batches))
        run.ended = time.time()
        if self._stopped.done():
            run.status = "ABORTED"
            raise Failure("States.Aborted", "")
        run.status = "SUCCEEDED"  # no share of failures is above a hundred per cent
        if run.tolerated < 100 and run.items["failed"] * 100 > run.tolerated * len(items):
            run.status = "FAILED"
        place = filled(state["ResultWriter"]["Parameters"], self.input)
        key = self._write(place["Bucket"], place["Prefix"].strip("/") + f"/{number}", run)
        if run.status == "FAILED":
            raise Failure("States.ExceedToleratedFailureThreshold", "too many items failed")
        return {
            "MapRunArn": run.arn,
            "ResultWriterDetails": {"Bucket": place["Bucket"], "Key": key},
        }

    def _read(self, place: dict[str, str]) -> list[Any]:
        try:
            if "s3:GetObject" in self._service.role_denied:
                raise Failure(
                    "States.ItemReaderFailed", "AccessDenied: s3:GetObject is not allowed"
                )
            answer = self._service.s3.get_object(Bucket=place["Bucket"], Key=place["Key"])
            items = json.loads(answer["Body"].read())
        except (ClientError, BotoCoreError, ValueError) as error:
            raise Failure("States.ItemReaderFailed", str(error)) from None
        if not isinstance(items, list) or not items:
            raise Failure("States.ItemReaderFailed", "Attempting to map over non-iterable node.")
        if max(map(size, items)) > ITEM_BYTES:
            raise Failure("States.ItemReaderFailed", "an item is larger than 8 MB")
        return items

    def _batched(self, items: list[Any], batcher: dict[str, Any]) -> list[dict[str, Any]]:
        most = look_up(batcher["MaxItemsPerBatchPath"], self.input)
        if not isinstance(most, int) or most < 1:
            raise Failure("States.Runtime", f"MaxItemsPerBatch {most!r} is out of range")
        common = filled(batcher["BatchInput"], self.input)
        limit = batcher["MaxInputBytesPerBatch"]
        batches: list[dict[str, Any]] = []
        filling, room = limit, 0
        for item in items:
            length = size(item) + 1
            if not room or filling + length > limit:
                batches.append({"BatchInput": common, "Items": []})
                filling, room = size(batches[-1]), most
            batches[-1]["Items"].append(item)
            filling, room = filling + length, room - 1
            if filling > limit:
                raise Failure("States.ItemBatcherFailed", f"an item is larger than {limit} bytes")
        return batches

    def _child(self, task: dict[str, Any], batch: dict[str, Any], run: MapRun) -> None:
        items, began, name = len(batch["Items"]), time.time(), str(uuid.uuid4())
        with self._lock:
            if self._stopped.done():
                run.move("pending", "aborted", items)
                return
            run.move("pending", "running", items)
        status, facts = "SUCCEEDED", {}
        try:
            output = self._task(task, batch)
            facts = {"Output": json.dumps(output), "OutputDetails": {"Included": True}}
        except Failure as failure:
            timed_out = failure.error == "States.Timeout"
            status = "ABORTED" if self._stopped.done() else "TIMED_OUT" if timed_out else "FAILED"
            facts = {"Error": failure.error, "Cause": failure.cause}
        record = {
            "ExecutionArn": f"{self.arn.rpartition(':')[0]}/{name}",
            "Input": json.dumps(batch),
            "InputDetails": {"Included": True},
            "Name": name,
            "StartDate": began,
            "StateMachineArn": self._machine,
            "Status": status,
            "StopDate": time.time(),
        }
        with self._lock:
            run.move("running", COUNTED.get(status, "aborted"), items)
            self._records.append(record | facts)

    def _task(self, task: dict[str, Any], given: dict[str, Any]) -> Any:
        """Call the function, and again as the retriers say."""
        tried: Counter[int] = Counter()
        while True:
            try:
                return self._attempt(task, given)
            except Failure as failure:
                retriers = enumerate(task["Retry"])
                number = next((n for n, r in retriers if failure.error in r["ErrorEquals"]), None)
                if number is None or tried[number] >= task["Retry"][number]["MaxAttempts"]:
                    raise
                retrier = task["Retry"][number]
                longest = retrier["IntervalSeconds"] * retrier["BackoffRate"] ** tried[number]
                tried[number] += 1
                wait_s = random.uniform(0, min(longest, retrier["MaxDelaySeconds"]))
                self.waits.append(wait_s)
                wait([self._stopped], wait_s * self._service.time_scale)
                if self._stopped.done():
                    raise

    def _attempt(self, task: dict[str, Any], given: dict[str, Any]) -> Any:
        if size(given) > LIMIT:
            raise Failure("States.DataLimitExceeded", "the input is larger than 256 KiB")
        with self._lock:
            self.attempts += 1
        call = self._service.calls.submit(self._invoke, task["Parameters"]["FunctionName"], given)
        wait([call, self._stopped], task["TimeoutSeconds"], FIRST_COMPLETED)
        if self._stopped.done():
            raise Failure("States.Aborted", "")
        if not call.done():
            raise Failure("States.Timeout", "")
        payload = call.result()
        if size(payload) > LIMIT:
            raise Failure(
                "States.DataLimitExceeded",
                "The state/task returned a result with a size exceeding the maximum number of "
                "bytes service limit.",
            )
        return payload

    def _invoke(self, function: str, payload: dict[str, Any]) -> Any:
        if "lambda:InvokeFunction" in self._service.role_denied:
            raise Failure(
                "Lambda.AWSLambdaException",
                "User: arn:aws:sts::123456789012:assumed-role/magg is not authorized to perform: "
                f"lambda:InvokeFunction on resource: {function}",
            )
        try:
            answer = self._service.functions.invoke(
                FunctionName=function, Payload=json.dumps(payload)
            )
            text = answer["Payload"].read().decode()
        except ClientError as error:
            code = error.response["Error"]["Code"]
            if error.response["ResponseMetadata"]["HTTPStatusCode"] >= 500:
                code = "ServiceException"
            raise Failure(f"Lambda.{code}", str(error)) from None
        except BotoCoreError as error:
            raise Failure("Lambda.SdkClientException", str(error)) from None
        if answer.get("FunctionError"):
            raise Failure(json.loads(text).get("errorType", "Lambda.Unknown"), text)
        return json.loads(text)

    def _write(self, bucket: str, prefix: str, run: MapRun) -> str:
        """Write results and manifest; return the manifest's key."""
        if "s3:PutObject" in self._service.role_denied:
            raise Failure("States.ResultWriterFailed", "AccessDenied: s3:PutObject is not allowed")
        files: dict[str, list[dict[str, Any]]] = {"FAILED": [], "PENDING": [], "SUCCEEDED": []}
        for kind, found in files.items():
            of_kind = [r for r in self._records if (r["Status"] == "SUCCEEDED") == (kind[0] == "S")]
            of_kind = [] if kind == "PENDING" else of_kind
            step = self._service.records_per_file
            for number, first in enumerate(range(0, len(of_kind), step)):
                body = json.dumps(of_kind[first : first + step]).encode()
                key = f"{prefix}/{kind}_{number}.json"
                self._put(bucket, key, body)
                found.append({"Key": key, "Size": len(body)})
        told = {"DestinationBucket": bucket, "MapRunArn": run.arn, "ResultFiles": files}
        self._put(bucket, f"{prefix}/manifest.json", json.dumps(told).encode())
        run.items["resultsWritten"] = run.items["total"]
        run.batches["resultsWritten"] = run.batches["total"]
        return f"{prefix}/manifest.json"

    def _put(self, bucket: str, key: str, body: bytes) -> None:
        try:
            self._service.s3.put_object(Bucket=bucket, Key=key, Body=body)
        except (ClientError, BotoCoreError) as error:
            raise Failure("States.ResultWriterFailed", str(error)) from None
