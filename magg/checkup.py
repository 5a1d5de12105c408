"""What is set up and what is missing, with the fix for each: read-only, one screen."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import urlsplit

from magg import __version__
from magg.access import aws_region
from magg.credentials import DEFAULT_REGION, login, redact
from magg.errors import CredentialsError, EarthdataError, MissingExtraError

if TYPE_CHECKING:
    from rich.console import RenderableType

DEFAULT_FUNCTION = "process-morton-cell"
LEAST_LITHOPS = (3, 8)
LITHOPS_FILES = (".lithops_config", "~/.lithops/config", "/etc/lithops/config")
PACKAGES = ("numpy", "zarr", "mortie", "h5py", "obstore")

Status = Literal["ok", "missing", "unknown"]


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Parameters
    ----------
    group : str
        Where it matters: ``"local"``, ``"aws"``, ``"lambda"``, ``"lithops"``, ``"sfn"``.
    what : str
    status : {"ok", "missing", "unknown"}
    found : str
    fix : str
        What to do; empty if nothing.
    """

    group: str
    what: str
    status: Status
    found: str
    fix: str = ""


def check(
    region: str = DEFAULT_REGION, function_name: str | None = None, store: str | None = None
) -> list[Finding]:
    """Look at what runs need: here, and on each backend. Changes nothing and asks nobody.

    Parameters
    ----------
    region : str
        AWS region of the function and the bucket.
    function_name : str, optional
        Of the Lambda backend; ``$MAGG_LAMBDA_FUNCTION_NAME`` or "process-morton-cell" if left out.
    store : str, optional
        ``s3://bucket/prefix`` that results should go to.
    """
    function = function_name or os.environ.get("MAGG_LAMBDA_FUNCTION_NAME") or DEFAULT_FUNCTION
    aws = _Aws(region)
    return [
        _versions(),
        _earthdata(),
        _place(),
        aws.identity,
        *_bucket(aws, store),
        _function(aws, function),
        *_lithops(),
        _state_machine(aws),
    ]


def as_table(findings: Sequence[Finding]) -> RenderableType:
    """Return the findings as a table (a rich renderable)."""
    from rich.table import Table
    from rich.text import Text

    styles = {"ok": "green", "missing": "red", "unknown": "yellow"}
    table = Table(box=None, header_style="dim", padding=(0, 2, 0, 0))
    for column in ("for", "what", "", "found"):
        table.add_column(column, overflow="fold")
    for one in findings:
        text = Text(one.found + (f"\n-> {one.fix}" if one.fix else ""))
        table.add_row(one.group, one.what, Text(one.status, style=styles[one.status]), text)
    return table


def _versions() -> Finding:
    known = {"magg": __version__, "Python": platform.python_version()}
    known |= {name: version(name) for name in PACKAGES}
    extras = ("earthaccess", "boto3", "lithops", "dask")
    known |= {name: found for name in extras if (found := _installed(name))}
    return Finding("local", "versions", "ok", ", ".join(f"{k} {v}" for k, v in known.items()))


def _earthdata() -> Finding:
    try:
        auth = login(ask=False)
    except MissingExtraError as error:
        return Finding("local", "Earthdata login", "missing", "no earthaccess", str(error))
    except CredentialsError as error:
        found, _, fix = str(error).partition(":")
        return Finding("local", "Earthdata login", "missing", found, fix.strip())
    except EarthdataError as error:
        return Finding("local", "Earthdata login", "unknown", redact(str(error)))
    who = f"as {auth.username}" if auth.username else "with a token, which was not tried"
    return Finding("local", "Earthdata login", "ok", who)


def _place() -> Finding:
    here = aws_region()
    if here is None:
        found = "outside AWS, as far as can be told: granules come over HTTPS"
    elif here == DEFAULT_REGION:
        found = f"in {here}: granules come directly from S3"
    else:
        found = f"in {here}, not {DEFAULT_REGION}: granules come over HTTPS"
    return Finding("local", "this machine", "ok", found)


class _Aws:
    """boto3's own idea of who the user is; all else is asked only if there is one."""

    def __init__(self, region: str) -> None:
        self.region = region
        self.account = ""
        self.identity = self._identity()

    def client(self, service: str) -> Any:
        import boto3
        from botocore.config import Config

        quick = Config(connect_timeout=5, read_timeout=10, retries={"total_max_attempts": 2})
        return boto3.client(service, region_name=self.region, config=quick)

    def finding(
        self, group: str, what: str, fix: str, ask: Callable[[], tuple[Status, str, str]]
    ) -> Finding:
        """Return what a question to AWS finds; ``fix`` is for where it fails."""
        if not self.account:
            return Finding(group, what, "unknown", "needs an AWS identity")
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            return Finding(group, what, *ask())
        except (BotoCoreError, ClientError) as error:
            return Finding(group, what, "missing", redact(str(error)), fix)

    def _identity(self) -> Finding:
        what = "identity"
        try:
            import boto3  # noqa: F401
        except ImportError:
            fix = "install it with: pip install 'magg-healpix[aws]'"
            return Finding("aws", what, "missing", "no boto3", fix)
        from botocore.exceptions import BotoCoreError, ClientError

        fix = (
            "set AWS_PROFILE, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or run "
            "`aws configure`; needed for Lambda, Lithops and Step Functions, and for stores on S3"
        )
        try:
            answer = self.client("sts").get_caller_identity()
        except (BotoCoreError, ClientError) as error:
            return Finding("aws", what, "missing", redact(str(error)), fix)
        self.account = answer["Account"]
        return Finding("aws", what, "ok", f"{answer['Arn']}, region {self.region}")


def _bucket(aws: _Aws, store: str | None) -> Iterator[Finding]:
    if not store or not store.startswith("s3://"):
        found = "no s3:// store was named"
        yield Finding("aws", "bucket", "unknown", found, "magg check --store s3://bucket/prefix")
        return
    name = urlsplit(store).netloc

    def ask() -> tuple[Status, str, str]:
        answer = aws.client("s3").head_bucket(Bucket=name)
        headers = answer["ResponseMetadata"]["HTTPHeaders"]
        there = headers.get("x-amz-bucket-region", aws.region)
        if there != aws.region:
            return "missing", f"{name} is in {there}, not {aws.region}", f"use --region {there}"
        return "ok", f"{name}, in {there}", ""

    fix = f"create the bucket {name} in {aws.region}, or ask for access to it"
    yield aws.finding("aws", "bucket", fix, ask)


def _function(aws: _Aws, name: str) -> Finding:
    def ask() -> tuple[Status, str, str]:
        known = aws.client("lambda").get_function_configuration(FunctionName=name)
        runtime = known.get("Runtime") or known.get("PackageType", "")
        found = (
            f"{name}: {runtime}, {known['MemorySize']} MB, {known['Timeout']} s, "
            f"{', '.join(known.get('Architectures', []))}"
        )
        if known.get("State", "Active") not in ("Active", "Inactive"):
            return "missing", f"{found}; its state is {known['State']}", "wait, or deploy it anew"
        return "ok", found, ""

    fix = (
        f"deploy {name} in {aws.region} (`magg deploy`), or name another with "
        "MAGG_LAMBDA_FUNCTION_NAME"
    )
    return aws.finding("lambda", "function", fix, ask)


def _lithops() -> Iterator[Finding]:
    found = _installed("lithops")
    if not found:
        fix = "install it with: pip install 'magg-healpix[lithops]'"
        yield Finding("lithops", "package", "missing", "no lithops", fix)
        return
    if tuple(map(int, found.split(".")[:2])) < LEAST_LITHOPS:
        least = ".".join(map(str, LEAST_LITHOPS))
        fix = f"pip install 'lithops>={least}'"
        yield Finding("lithops", "package", "missing", f"lithops {found} is too old", fix)
    named = os.environ.get("MAGG_LITHOPS_CONFIG") or os.environ.get("LITHOPS_CONFIG_FILE")
    places = [named] if named else list(LITHOPS_FILES)
    path = next((p for place in places if (p := Path(place).expanduser()).is_file()), None)
    if path is None:
        fix = "write ~/.lithops/config, or name a file with MAGG_LITHOPS_CONFIG"
        yield Finding("lithops", "config", "missing", f"none of {', '.join(places)}", fix)
        return
    yield _lithops_config(path)


def _lithops_config(path: Path) -> Finding:
    import yaml

    try:
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
        known = document.get("lithops") or {}
        backend, storage = known.get("backend", "localhost"), known.get("storage", "localhost")
    except (OSError, ValueError, AttributeError, yaml.YAMLError) as error:
        # Not the text itself: such files hold keys.
        found = f"{path} cannot be read ({type(error).__name__})"
        return Finding("lithops", "config", "missing", found, "correct it")
    return Finding("lithops", "config", "ok", f"{path}: {backend}, storage {storage}")


def _state_machine(aws: _Aws) -> Finding:
    arn = os.environ.get("MAGG_STATE_MACHINE_ARN", "")
    if not arn:
        fix = "set MAGG_STATE_MACHINE_ARN to that of a state machine that runs magg's definition"
        return Finding("sfn", "state machine", "missing", "none is named", fix)

    def ask() -> tuple[Status, str, str]:
        known = aws.client("stepfunctions").describe_state_machine(stateMachineArn=arn)
        if known["status"] != "ACTIVE":
            return "missing", f"{known['name']} is {known['status'].lower()}", "deploy it anew"
        return "ok", f"{known['name']}, {known['type'].lower()}", ""

    fix = "correct MAGG_STATE_MACHINE_ARN, or ask for states:DescribeStateMachine"
    return aws.finding("sfn", "state machine", fix, ask)


def _installed(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return ""
