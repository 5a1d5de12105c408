"""The REST API of Lambda, as far as it is emulated."""

from __future__ import annotations

import base64
import json
import re
import uuid
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

from services.http_server import LoopbackHandler
from services.lambda_faults import ANSWERS, Fault, Refusal
from services.lambda_function import Function
from services.lambda_log import TAIL_BYTES
from services.lambda_runtime import Invocation

ACCOUNT_ID = "123456789012"
REQUEST_BYTES = 6_291_456
EVENT_BYTES = 1_048_576  # of asynchronous invocations; 256 KiB until October 2025
# Headers that start with x-amz change what a request means, so that others are refused.
KNOWN_HEADERS = {
    "x-amz-client-context",
    "x-amz-content-sha256",
    "x-amz-date",
    "x-amz-invocation-type",
    "x-amz-log-type",
    "x-amz-security-token",
    "x-amzn-trace-id",
}
INVOKE = r"/2015-03-31/functions/([^/]+)/invocations"
READ = {
    "function": r"/2015-03-31/functions/([^/]+)",
    "configuration": r"/2015-03-31/functions/([^/]+)/configuration",
    "concurrency": r"/(?:2019-09-30|2017-10-31)/functions/([^/]+)/concurrency",
    "account": r"/2016-08-19/account-settings/?()",
}
NAME = (
    r"(?:(?:arn:aws:lambda:(?P<region>[a-z0-9-]+):)?(?P<account>\d{12}):function:|function:)?"
    r"(?P<name>[A-Za-z0-9_-]+)(?::(?P<qualifier>[$A-Za-z0-9_-]+))?"
)
SIGNATURE = (
    r"AWS4-HMAC-SHA256 Credential=(?P<key>[^/]+)/\d{8}/(?P<region>[^/]+)/(?P<service>[^/]+)"
    r"/aws4_request, *SignedHeaders=[^,]+, *Signature=[0-9a-f]{64}"
)


class Front(LoopbackHandler):
    """One connection of a client."""

    def _do(self) -> None:
        self._event: bytes | None = None
        try:
            self._check_signature()
            self._check_headers()
            url = urlsplit(self.path)
            found = re.fullmatch(INVOKE, url.path)
            if found and self.command == "POST":
                self._invoke(self._named(found[1], url.query))
            else:
                self.answer(200, json.dumps(self._read(url.path, url.query)).encode())
        except Refusal as refusal:
            self._body_once()
            headers = [("x-amzn-RequestId", str(uuid.uuid4())), *refusal.headers()]
            self.answer(refusal.status, refusal.body(), headers)

    do_GET = do_POST = do_PUT = do_DELETE = do_PATCH = _do  # noqa: N815

    def _invoke(self, function: Function) -> None:
        seconds, fault = function.requested()
        if fault and fault.kind == "drop":
            return self.drop()
        stopping = self.server.owner.stopping
        try:
            status, payload, headers = self._run(function, fault)
        except Refusal:
            stopping.wait(seconds)
            raise
        stopping.wait(seconds)
        if fault and fault.kind == "drop-answer":
            return self.drop()
        return self.answer(status, payload, headers)

    def _run(
        self, function: Function, fault: Fault | None
    ) -> tuple[int, bytes, list[tuple[str, str]]]:
        """Return status, body and headers of the answer to an invocation."""
        kind = self._one_of("X-Amz-Invocation-Type", "RequestResponse", "Event", "DryRun")
        tail = self._one_of("X-Amz-Log-Type", "None", "Tail") == "Tail"
        invocation = Invocation(
            str(uuid.uuid4()), self._checked_event(kind), function.arn, self._client_context()
        )
        if fault and (refusal := fault.refusal()):
            raise refusal
        headers = [("x-amzn-RequestId", invocation.request_id)]
        if kind == "DryRun":
            return 204, b"", headers
        if kind == "Event":
            self.server.owner.invoke_later(function, invocation)
            return 202, b"", headers
        outcome = function.invoke(invocation)
        headers.append(("X-Amz-Executed-Version", "$LATEST"))
        if outcome.answer.error:
            headers.append(("X-Amz-Function-Error", "Unhandled"))
        if tail:
            log = base64.b64encode(outcome.log[-TAIL_BYTES:]).decode()
            headers.append(("X-Amz-Log-Result", log))
        return 200, outcome.answer.payload, headers

    def _read(self, path: str, query: str) -> dict[str, Any]:
        """Return what the API tells of a function or of the account."""
        what, found = next(
            ((what, m) for what, form in READ.items() if (m := re.fullmatch(form, path))),
            (None, None),
        )
        if found is None or self.command != "GET":
            raise self._not_emulated(f"{self.command} {path}")
        if what == "account":
            return self._account()
        function = self._named(found[1], query)
        if what == "configuration":
            return function.configuration()
        reserved = {}
        if function.concurrency is not None:
            reserved = {"ReservedConcurrentExecutions": function.concurrency}
        if what == "concurrency":
            return reserved
        words = {"Concurrency": reserved} if reserved else {}
        return {"Configuration": function.configuration(), "Code": {}, **words}

    def _account(self) -> dict[str, Any]:
        account = self.server.owner.account
        return {
            "AccountLimit": {
                "TotalCodeSize": 80_530_636_800,
                "CodeSizeUnzipped": 262_144_000,
                "CodeSizeZipped": 52_428_800,
                "ConcurrentExecutions": account.concurrent_executions,
                "UnreservedConcurrentExecutions": account.unreserved,
            },
            "AccountUsage": {"TotalCodeSize": 0, "FunctionCount": len(account.functions)},
        }

    def _named(self, text: str, query: str) -> Function:
        """Return the function of a name or ARN, as it stands in the path."""
        service = self.server.owner
        asked = dict(parse_qsl(query, keep_blank_values=True))
        if set(asked) - {"Qualifier"}:
            raise self._not_emulated(f"the query {query!r}")
        found = re.fullmatch(NAME, unquote(text))
        if not found:
            message = f"Value {unquote(text)!r} at 'functionName' failed to satisfy constraint"
            raise Refusal(400, "ValidationException", f"1 validation error detected: {message}")
        region = found["region"] or service.region
        account = found["account"] or ACCOUNT_ID
        qualifier = asked.get("Qualifier") or found["qualifier"]
        function = service.account.functions.get(found["name"])
        here = (region, account) == (service.region, ACCOUNT_ID)
        if function and here and qualifier in {None, "$LATEST"}:
            return function
        arn = f"arn:aws:lambda:{region}:{account}:function:{found['name']}"
        arn += f":{qualifier}" if qualifier else ""
        raise Refusal(404, "ResourceNotFoundException", f"Function not found: {arn}")

    def _check_signature(self) -> None:
        """Refuse who is not known, without a look at the signature itself."""
        service = self.server.owner
        header = self.headers.get("Authorization")
        if not header:
            error = "MissingAuthenticationTokenException"
            raise Refusal(403, error, "Missing Authentication Token")
        found = re.fullmatch(SIGNATURE, header)
        if not found:
            error = "IncompleteSignatureException"
            raise Refusal(403, error, "Authorization header is not of the form of AWS4-HMAC-SHA256")
        if found["service"] != "lambda":
            message = "Credential should be scoped to correct service: 'lambda'."
            raise Refusal(403, "InvalidSignatureException", message)
        if found["region"] != service.region:
            message = "Credential should be scoped to a valid region."
            raise Refusal(403, "InvalidSignatureException", message)
        if found["key"] != service.access_key:
            status, error, message = ANSWERS["UnrecognizedClientException"]
            raise Refusal(status, error, message)

    def _check_headers(self) -> None:
        unknown = {
            name
            for name in map(str.lower, self.headers.keys())
            if name.startswith("x-amz") and name not in KNOWN_HEADERS
        }
        if unknown:
            raise self._not_emulated(f"the headers {sorted(unknown)}")

    def _one_of(self, header: str, default: str, *others: str) -> str:
        value = self.headers.get(header) or default
        if value not in {default, *others}:
            raise self._not_emulated(f"{header}: {value}")
        return value

    def _checked_event(self, kind: str) -> bytes:
        event = self._body_once() or b"{}"
        limit = EVENT_BYTES if kind == "Event" else REQUEST_BYTES
        if len(event) > limit:
            message = f"Request must be smaller than {limit} bytes for the InvokeFunction operation"
            raise Refusal(413, "RequestTooLargeException", message)
        try:
            json.loads(event, parse_constant=_refuse_constant)
        except ValueError as error:
            message = f"Could not parse request body into json: {error}"
            raise Refusal(400, "InvalidRequestContentException", message) from error
        return event

    def _client_context(self) -> str | None:
        text = self.headers.get("X-Amz-Client-Context")
        try:
            return base64.b64decode(text, validate=True).decode() if text else None
        except ValueError as error:
            message = "Client context must be a valid Base64-encoded JSON object."
            raise Refusal(400, "InvalidRequestContentException", message) from error

    def _body_once(self) -> bytes:
        if self._event is None:
            self._event = self.body()
        return self._event

    def _not_emulated(self, what: str) -> Refusal:
        self.server.owner.refused.append(what)
        message = f"{what} is not emulated by the Lambda service of these tests"
        return Refusal(501, "NotEmulatedException", message)


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON")
