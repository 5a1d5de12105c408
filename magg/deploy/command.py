"""`magg deploy`: what its options mean, and what it says."""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from magg.errors import DeployError

if TYPE_CHECKING:
    from magg.deploy.cloud import Cloud
    from magg.deploy.operations import Ask

EXAMPLES = (
    "magg deploy --bucket my-heights\n"
    "magg deploy --write s3://my-bucket/heights --dry-run\n"
    "magg deploy --memory 4096\n"
    "magg deploy --status\n"
    "magg deploy --destroy"
)
# Options by the settings that they are.
_SETTINGS = (
    "function_name", "state_machine", "architecture", "memory_mb", "timeout_s", "concurrency",
    "log_days", "bucket", "image", "permissions_boundary",
)  # fmt: skip
FAILED = 1


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command; those left out keep what is deployed, or have a default."""
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--status", action="store_true", help="say what is deployed")
    what.add_argument(
        "--destroy", action="store_true", help="remove all that was made, but never a bucket's data"
    )
    parser.add_argument("--dry-run", action="store_true", help="say what would be done, and stop")
    parser.add_argument("--yes", action="store_true", help="do not ask")
    parser.add_argument("--region", default="us-west-2", help="AWS region (default: us-west-2)")
    parser.add_argument("--profile", help="AWS profile (default: $AWS_PROFILE)")
    parser.add_argument("--stack", default="magg", help="name of all of it (default: magg)")
    name = parser.add_argument_group("what is made")
    name.add_argument("--function-name", help="default: process-morton-cell")
    name.add_argument("--state-machine", metavar="NAME", help="default: magg")
    name.add_argument(
        "--no-state-machine", dest="state_machine", action="store_const", const="", help="make none"
    )
    name.add_argument("--bucket", help="a bucket for stores, made if there is none of the name")
    use = parser.add_argument_group("what it may use")
    use.add_argument("--memory", dest="memory_mb", type=int, metavar="MB", help="default: 2048")
    use.add_argument(
        "--timeout", dest="timeout_s", type=int, metavar="SECONDS", help="default: 900"
    )
    use.add_argument("--concurrency", type=int, help="calls at once, reserved (default: shared)")
    use.add_argument("--architecture", choices=("arm64", "x86_64"), help="default: x86_64")
    use.add_argument("--log-days", type=int, help="how long the log is kept (default: 30)")
    use.add_argument(
        "--write", action="append", metavar="S3_URL", help="where stores may be; may be given again"
    )
    use.add_argument(
        "--read", action="append", metavar="S3_URL", help="where granules of your own are; likewise"
    )
    other = parser.add_argument_group("the rest")
    other.add_argument(
        "--package",
        type=Path,
        metavar="FOLDER",
        default=os.environ.get("MAGG_PACKAGE") or None,
        help="that scripts/build_lambda.py wrote (default: $MAGG_PACKAGE; else it is built now)",
    )
    other.add_argument("--image", metavar="URI", help="a container image in ECR instead")
    other.add_argument("--permissions-boundary", metavar="ARN", help="of the roles")
    other.add_argument("--tag", action="append", metavar="KEY=VALUE", help="may be given again")
    other.add_argument(
        "--earthdata-token",
        action="store_true",
        help="put $EARTHDATA_TOKEN into the function's environment (for Step Functions)",
    )
    other.add_argument("--json", action="store_true", help="print JSON (with --status)")


def execute(arguments: argparse.Namespace) -> int:
    """Do what the options say; return the status of the process."""
    from magg.deploy import operations
    from magg.deploy.cloud import connect

    logging.getLogger("botocore").setLevel(logging.WARNING)  # where it finds credentials
    token = _token(arguments)
    wanted = _wanted(arguments)
    cloud = connect(arguments.region, arguments.profile)
    if arguments.status:
        found = operations.status(cloud, arguments.stack)
        _say(json.dumps(found, indent=2) if arguments.json else "\n".join(_status_lines(found)))
        return 0 if found["status"].endswith("_complete") else FAILED
    if arguments.destroy:
        operations.destroy(
            cloud, arguments.stack, listen=_say, ask=_asker(arguments), dry_run=arguments.dry_run
        )
        return 0
    outputs = operations.deploy(
        cloud,
        arguments.stack,
        wanted,
        listen=_say,
        ask=_asker(arguments),
        dry_run=arguments.dry_run,
        built=arguments.package,
        earthdata_token=token,
    )
    for line in _usage(outputs, cloud):
        _say(line)
    return 0


def _wanted(arguments: argparse.Namespace) -> dict[str, Any]:
    wanted = {name: getattr(arguments, name) for name in _SETTINGS}
    for name in ("write", "read"):
        given = getattr(arguments, name)
        wanted[name] = None if given is None else tuple(given)
    if arguments.tag is not None:
        pairs = [pair.partition("=") for pair in arguments.tag]
        wanted["tags"] = {key: value for key, _, value in pairs}
    return {name: value for name, value in wanted.items() if value is not None}


def _token(arguments: argparse.Namespace) -> str:
    if not arguments.earthdata_token:
        return ""
    token = os.environ.get("EARTHDATA_TOKEN", "")
    if not token:
        raise DeployError("--earthdata-token: EARTHDATA_TOKEN is not set in the environment")
    return token


def _asker(arguments: argparse.Namespace) -> Ask:
    def ask(question: str) -> bool:
        if arguments.yes:
            return True
        if not sys.stdin.isatty():
            raise DeployError("there is no terminal to ask at; pass --yes, or --dry-run to look")
        sys.stdout.write(f"{question} [y/N] ")
        sys.stdout.flush()
        return sys.stdin.readline().strip().lower() in ("y", "yes")

    return ask


def _usage(outputs: dict[str, str], cloud: Cloud) -> list[str]:
    if not outputs:
        return []
    lines = [
        "",
        f"export MAGG_LAMBDA_FUNCTION_NAME={outputs['FunctionName']}",
    ]
    if "StateMachineArn" in outputs:
        lines.append(f"export MAGG_STATE_MACHINE_ARN={outputs['StateMachineArn']}")
    lines += [
        f"magg check --region {cloud.region}",
        f"whoever else runs magg needs the policy {outputs['CallerPolicyArn']}",
    ]
    return lines


def _status_lines(found: dict[str, Any]) -> list[str]:
    place = f"stack {found['stack']} in {found['region']}, account {found['account']}"
    if found["status"] == "absent":
        return [f"{place}: not deployed; run `magg deploy`"]
    lines = [f"{place}: {found['status']}"]
    if found["reason"]:
        lines.append(f"  because: {found['reason']}")
    lines.append(f"  magg {found['version'] or 'of an unknown version'}")
    function = found["function"]
    if function:
        lines.append(
            f"  function {found['settings']['FunctionName']}: {function['state'].lower()}, "
            f"{function['runtime']}, {function['architecture']}, {function['memory_mb']} MB, "
            f"{function['timeout_s']} s"
        )
    elif "FunctionName" in found["settings"]:
        lines.append(f"  function {found['settings']['FunctionName']}: not to be seen")
    lines += [f"  {key}: {value}" for key, value in sorted(found["outputs"].items())]
    sizes = {"code": found["code_bytes"], "log": found["log_bytes"]}
    known = ", ".join(f"{k} {v / 1e6:.1f} MB" for k, v in sizes.items() if v is not None)
    lines.append(
        f"  kept in AWS: {known or 'unknown'}; about ${found['storage_usd_a_month']:.4f} a month"
    )
    return lines


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()
