"""Deploying, looking at what is deployed, and tearing it down."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from magg.deploy import buckets, package, plan
from magg.deploy.cloud import Cloud
from magg.deploy.errors_of_aws import told
from magg.deploy.settings import Settings, load_template
from magg.deploy.stack import EMPTY, Listen, Stack, StackState
from magg.errors import AccessDeniedError, DeployError, MaggError

Ask = Callable[[str], bool]

CAPABILITIES = ("CAPABILITY_IAM",)


def deploy(
    cloud: Cloud,
    stack: str,
    wanted: dict[str, Any],
    *,
    listen: Listen,
    ask: Ask,
    dry_run: bool = False,
    built: Path | None = None,
    earthdata_token: str = "",
) -> dict[str, str]:
    """Make the stack what it shall be: create it, change it, or find that nothing is to be done.

    Parameters
    ----------
    cloud : Cloud
    stack : str
        Its name.
    wanted : dict
        Arguments of `Settings`; what is not named stays as it is, or as a new stack has it.
    listen : callable
        Told, a line at a time, what would be done and what is done.
    ask : callable
        Given a question; whether to go on.
    dry_run : bool
        Stop before anything is asked or changed.
    built : Path, optional
        Folder of a package that was built before; it is built now where left out.
    earthdata_token : str
        Put into the function's environment; what is there stays where left out.

    Returns
    -------
    dict
        The outputs of the stack; empty for a dry run, or where the answer was no.

    Raises
    ------
    DeployError, AccessDeniedError
        If it cannot be done; says why, and what to do.
    """
    there = Stack(cloud.stacks, stack)
    state = there.look()
    plan.refuse(state, stack)
    known = state if state.exists and state.status not in EMPTY else StackState()
    settings, make_bucket = _settings(cloud, known, stack, wanted)
    template, parameters = load_template(), settings.parameters(make_bucket)
    if earthdata_token or not known.exists:
        parameters[plan.SECRET] = earthdata_token
    with tempfile.TemporaryDirectory(prefix="magg-deploy-") as scratch:
        code = {}
        if not settings.image:
            code = _code(settings, stack, Path(scratch), built, listen)
        parameters |= {"CodeBucket": cloud.code_bucket} if code else {}
        parameters |= {parameter: one.key for parameter, one in code.items()}
        todo = plan.make_plan(state, template, parameters, settings.all_tags, stack)
        _announce(cloud, stack, todo, parameters, code, listen)
        if dry_run:
            return {}
        if todo.kind == "nothing":
            return dict(state.outputs)
        if not ask(f"{'Create' if todo.kind == 'create' else 'Change'} this?"):
            listen("nothing was changed")
            return {}
        if code:
            buckets.ensure_code_bucket(cloud, settings.all_tags)
            for one in code.values():
                if buckets.upload(cloud, one):
                    listen(f"uploaded {one.key}")
        request = _request(template, parameters, settings, known)
        if todo.remove_first:
            there.delete(listen)
        if todo.kind == "create":
            _create(cloud, there, request, parameters["DataBucketName"], listen)
        else:
            there.update(listen, **request)
        buckets.remove_code(cloud, stack, frozenset(one.key for one in code.values()))
    return dict(there.look().outputs)


def destroy(cloud: Cloud, stack: str, *, listen: Listen, ask: Ask, dry_run: bool = False) -> bool:
    """Remove all that deploying made, but for buckets with something in them.

    Parameters
    ----------
    cloud, stack, listen, ask, dry_run
        As for `deploy`.

    Returns
    -------
    bool
        Whether anything was removed.

    Raises
    ------
    DeployError, AccessDeniedError
        If something cannot be removed; the same call goes on with what is left.
    """
    there = Stack(cloud.stacks, stack)
    state = there.look()
    if state.status.endswith("_IN_PROGRESS") and state.status not in EMPTY:
        plan.refuse(state, stack)
    code = [key for key, _ in buckets.code_of(cloud, f"{stack}/")]
    bucket = _own_bucket(state)
    if not state.exists and not code:
        listen(f"there is no stack {stack!r} in {cloud.region}, and no code of it")
        return False
    listen(f"in account {cloud.account}, {cloud.region}:")
    for name, kind, physical in state.resources:
        if name != "DataBucket":
            listen(f"- {kind.removeprefix('AWS::')} {physical or name}")
    for key in code:
        listen(f"- s3://{cloud.code_bucket}/{key}")
    if bucket:
        listen(f"- S3 bucket {bucket} if nothing is in it; otherwise it is kept, with all it holds")
    if dry_run:
        return False
    if not ask("Delete this?"):
        listen("nothing was deleted")
        return False
    there.delete(listen)
    buckets.remove_code(cloud, stack)
    buckets.remove_if_empty(cloud, cloud.code_bucket)
    if bucket and buckets.remove_if_empty(cloud, bucket) is False:
        listen(
            f"kept: bucket {bucket}, which is not empty. To delete it with all it holds: "
            f"aws s3 rb --force s3://{bucket}"
        )
    listen("deleted")
    return True


def status(cloud: Cloud, stack: str) -> dict[str, Any]:
    """Return what is deployed, as plain data; changes nothing.

    Returns
    -------
    dict
        ``stack``, ``region``, ``account``, ``status`` (``"absent"`` where there is none),
        ``reason``, ``version`` of magg, ``settings`` (the template's parameters), ``outputs``,
        ``function`` (state, memory, time limit...), ``log_bytes``, ``code_bytes`` and
        ``storage_usd_a_month``. What may not be asked is None.
    """
    state = Stack(cloud.stacks, stack).look()
    code_bytes = _unless_denied(
        lambda: sum(size for _, size in buckets.code_of(cloud, f"{stack}/"))
    )
    function = log_bytes = None
    name = state.parameters.get("FunctionName")
    if name and state.status not in EMPTY:
        function = _unless_denied(lambda: _function(cloud, name))
        log_bytes = _unless_denied(lambda: _log_bytes(cloud, name))
    storage = (code_bytes or 0) / 1e9 * plan.S3_USD + (log_bytes or 0) / 1e9 * plan.LOG_USD
    return {
        "stack": stack,
        "region": cloud.region,
        "account": cloud.account,
        "status": state.status.lower() or "absent",
        "reason": state.reason,
        "version": state.tags.get("magg:version"),
        "settings": {k: v for k, v in state.parameters.items() if k != plan.SECRET},
        "outputs": dict(state.outputs),
        "function": function,
        "log_bytes": log_bytes,
        "code_bytes": code_bytes,
        "storage_usd_a_month": round(storage, 4),
    }


def _settings(
    cloud: Cloud, state: StackState, stack: str, wanted: dict[str, Any]
) -> tuple[Settings, bool]:
    """Return the settings, and whether their bucket is the stack's to make or to keep."""
    place = {"stack": stack, "region": cloud.region}
    settings = Settings.of_stack(state.parameters, state.tags, {**wanted, **place})
    own = _own_bucket(state)
    if own and settings.bucket not in ("", own):
        raise DeployError(
            f"stack {stack!r} has the bucket {own!r} and can have no other; name further ones "
            "with --write"
        )
    if own or not settings.bucket:
        return replace(settings, bucket=own), bool(own)
    if not buckets.bucket_exists(cloud, settings.bucket):
        return settings, True
    # Somebody's own, which the stack must neither make nor keep.
    older = f"s3://{settings.bucket}"
    return replace(settings, bucket="", write=(*settings.write, older)), False


def _create(
    cloud: Cloud, there: Stack, request: dict[str, Any], bucket: str, listen: Listen
) -> None:
    try:
        there.create(listen, **request)
    except DeployError:
        # A bucket outlives its stack even where that was never finished; the next attempt would
        # take it for somebody else's.
        if bucket:
            with contextlib.suppress(MaggError):  # what failed first is what matters
                buckets.remove_if_empty(cloud, bucket)
        raise


def _own_bucket(state: StackState) -> str:
    """Return the bucket that the stack made, if it made one."""
    return next((physical for name, _, physical in state.resources if name == "DataBucket"), "")


def _code(
    settings: Settings, stack: str, scratch: Path, built: Path | None, listen: Listen
) -> dict[str, buckets.Upload]:
    if built is not None:
        return buckets.uploads(package.find(settings.architecture, built), stack)
    listen("building the package (half a minute; --package takes one that is built)")
    made = package.build(settings.architecture, scratch)
    listen(package.describe(made))
    return buckets.uploads(made, stack)


def _announce(
    cloud: Cloud,
    stack: str,
    todo: plan.Plan,
    parameters: dict[str, str],
    code: dict[str, buckets.Upload],
    listen: Listen,
) -> None:
    listen(f"account {cloud.account}, {cloud.region}, as {cloud.identity}")
    if todo.kind == "nothing":
        listen(f"stack {stack} is as it should be; nothing to do")
        return
    listen(f"stack {stack} is to be {'created' if todo.kind == 'create' else 'changed'}:")
    for step in todo.steps:
        listen(f"  {step}")
    size = sum(one.path.stat().st_size for one in code.values())
    if size:
        listen(f"  code: {size / 1e6:.0f} MB in s3://{cloud.code_bucket}/{stack}/")
    listen("cost at rest:")
    for line in plan.costs(parameters, size):
        listen(f"  {line}")


def _request(
    template: str, parameters: dict[str, str], settings: Settings, state: StackState
) -> dict[str, Any]:
    given: list[dict[str, Any]] = [
        {"ParameterKey": k, "ParameterValue": v} for k, v in parameters.items()
    ]
    if state.exists and plan.SECRET not in parameters:  # it cannot be read back
        given.append({"ParameterKey": plan.SECRET, "UsePreviousValue": True})
    return {
        "TemplateBody": template,
        "Parameters": given,
        "Capabilities": list(CAPABILITIES),
        "Tags": [{"Key": k, "Value": v} for k, v in settings.all_tags.items()],
    }


def _function(cloud: Cloud, name: str) -> dict[str, Any] | None:
    with told(f"function {name!r}"):
        try:
            known = cloud.functions.get_function_configuration(FunctionName=name)
        except cloud.functions.exceptions.ResourceNotFoundException:
            return None
    return {
        "state": known.get("State", "Active"),
        "last_update": known.get("LastUpdateStatus", "Successful"),
        "runtime": known.get("Runtime") or known.get("PackageType", ""),
        "architecture": (known.get("Architectures") or ["x86_64"])[0],
        "memory_mb": known["MemorySize"],
        "timeout_s": known["Timeout"],
    }


def _log_bytes(cloud: Cloud, name: str) -> int | None:
    group = f"/aws/lambda/{name}"
    with told(f"log group {group!r}"):
        found = cloud.logs.describe_log_groups(logGroupNamePrefix=group)["logGroups"]
    return next((one.get("storedBytes", 0) for one in found if one["logGroupName"] == group), None)


def _unless_denied(ask_for: Callable[[], Any]) -> Any:
    try:
        return ask_for()
    except AccessDeniedError:
        return None
