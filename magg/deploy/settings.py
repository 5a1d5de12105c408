"""What is to be deployed: checked here, before anybody is asked for anything."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from magg import __version__
from magg.credentials import DEFAULT_REGION
from magg.deploy.wheels import ARCHITECTURES, Architecture
from magg.errors import DeployError

RETENTION_DAYS = (
    1, 3, 5, 7, 14, 30, 60, 90, 120, 150, 180, 365, 400, 545, 731, 1096, 1827, 3653,
)  # fmt: skip
_NAMES = {
    "stack": r"[A-Za-z][A-Za-z0-9-]{0,99}",
    "function_name": r"[A-Za-z0-9_-]{1,64}",
    "state_machine": r"[A-Za-z0-9_-]{0,80}",
    "bucket": r"|[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]",
    "permissions_boundary": r"|arn:aws[a-z-]*:iam::(\d{12}|aws):policy/\S+",
    "image": r"|\d{12}\.dkr\.ecr\.[a-z0-9-]+\.amazonaws\.com(\.cn)?/\S+",
}
# No wildcard, and no comma, which stands between places.
_PLACE = r"s3://[a-z0-9][a-z0-9.-]{1,61}[a-z0-9](/[^*?,]*)?"


@dataclass(frozen=True)
class Settings:
    """What is to be deployed.

    Parameters
    ----------
    stack : str
        Name of the CloudFormation stack; all it holds is found by it again.
    function_name : str
    state_machine : str
        Empty for none.
    architecture : {"x86_64", "arm64"}
    memory_mb, timeout_s : int
        Of one call.
    concurrency : int, optional
        Calls at once that are reserved for the function and are its most; the account's where
        left out.
    log_days : int
        How long the log is kept.
    bucket : str
        A bucket for stores; made if there is none of the name, and never deleted with anything in
        it. Empty for none.
    write, read : tuple of str
        ``s3://bucket/prefix`` of further places that workers may write to, or read granules from.
    image : str
        URI of a container image in ECR, in place of the zip files.
    permissions_boundary : str
        ARN of the policy that bounds the roles, where the account demands one.
    tags : dict
        Put on everything, beside magg's own.
    region : str

    Raises
    ------
    DeployError
        If any of it is impossible; says all that is.
    """

    stack: str = "magg"
    function_name: str = "process-morton-cell"
    state_machine: str = "magg"
    architecture: Architecture = "x86_64"
    memory_mb: int = 2048
    timeout_s: int = 900
    concurrency: int | None = None
    log_days: int = 30
    bucket: str = ""
    write: tuple[str, ...] = ()
    read: tuple[str, ...] = ()
    image: str = ""
    permissions_boundary: str = ""
    tags: Mapping[str, str] = field(default_factory=dict)
    region: str = DEFAULT_REGION

    def __post_init__(self) -> None:
        problems = [*self._problems()]
        if problems:
            raise DeployError("; ".join(problems))

    @property
    def all_tags(self) -> dict[str, str]:
        """Return the tags of all that is made."""
        own = {"application": "magg", "magg:stack": self.stack, "magg:version": __version__}
        return {**self.tags, **own}

    @classmethod
    def of_stack(
        cls,
        parameters: Mapping[str, str],
        tags: Mapping[str, str],
        wanted: Mapping[str, Any],
    ) -> Settings:
        """Return the settings of a stack as it is, but for what is wanted otherwise.

        Parameters
        ----------
        parameters, tags : dict
            Of the stack; both empty where there is none.
        wanted : dict
            Settings by their names.
        """
        known: dict[str, Any] = {
            name: kind(parameters[key])
            for key, (name, kind) in _BY_PARAMETER.items()
            if key in parameters
        }
        known["tags"] = {k: v for k, v in tags.items() if not _is_own_tag(k)}
        known |= wanted
        if known.get("bucket"):
            own = f"s3://{known['bucket']}"
            known["write"] = tuple(place for place in known.get("write", ()) if place != own)
        return cls(**known)

    def parameters(self, make_bucket: bool) -> dict[str, str]:
        """Return the template's parameters, but for those of the code.

        Parameters
        ----------
        make_bucket : bool
            Whether the bucket is the stack's to make, or to keep.
        """
        partition = partition_of(self.region)
        writable = [*_places(self.write, partition)]
        if self.bucket:
            writable.append((f"arn:{partition}:s3:::{self.bucket}", ""))
        readable = [*_places(self.read, partition)]
        return {
            "FunctionName": self.function_name,
            "StateMachineName": self.state_machine,
            "DataBucketName": self.bucket if make_bucket else "",
            "MemoryMB": str(self.memory_mb),
            "TimeoutSeconds": str(self.timeout_s),
            "Concurrency": "" if self.concurrency is None else str(self.concurrency),
            "LogRetentionDays": str(self.log_days),
            "Architecture": self.architecture,
            "WritableBuckets": _joined(bucket for bucket, _ in writable),
            "WritableObjects": _joined(f"{bucket}/{key}*" for bucket, key in writable),
            "ExecutionObjects": _joined(
                f"{bucket}/{key}*.magg/executions/*" for bucket, key in writable
            ),
            "ReadableBuckets": _joined(bucket for bucket, _ in readable),
            "ReadableObjects": _joined(f"{bucket}/{key}*" for bucket, key in readable),
            "ImageUri": self.image,
            "PermissionsBoundary": self.permissions_boundary,
        }

    def _problems(self) -> Iterator[str]:
        for name, form in _NAMES.items():
            if not re.fullmatch(form, getattr(self, name)):
                yield f"{name} {getattr(self, name)!r} is no name that AWS takes"
        if self.architecture not in ARCHITECTURES:
            yield f"architecture must be one of {', '.join(ARCHITECTURES)}"
        for name, least, most in (("memory_mb", 128, 10_240), ("timeout_s", 1, 900)):
            if not least <= getattr(self, name) <= most:
                yield f"{name} must be between {least} and {most:,}, not {getattr(self, name)}"
        if self.concurrency is not None and self.concurrency < 0:
            yield f"concurrency cannot be {self.concurrency}"
        if self.log_days not in RETENTION_DAYS:
            yield f"log_days must be one of {', '.join(map(str, RETENTION_DAYS))}"
        for place in (*self.write, *self.read):
            if not re.fullmatch(_PLACE, place):
                yield f"{place!r} is no place in S3, such as s3://bucket or s3://bucket/prefix"
        for key in self.tags:
            if key.startswith("aws:") or _is_own_tag(key):
                yield f"the tag {key!r} is not free"


def partition_of(region: str) -> str:
    """Return the partition of AWS that a region belongs to, the second part of ARNs."""
    special = {"cn": "aws-cn", "us-gov": "aws-us-gov"}
    return next((name for start, name in special.items() if region.startswith(start)), "aws")


def load_template() -> str:
    """Return the text of the CloudFormation template."""
    return Path(__file__).with_name("template.yaml").read_text(encoding="utf-8")


def _places(urls: tuple[str, ...], partition: str) -> Iterator[tuple[str, str]]:
    """Yield the ARN of the bucket of each place, and the prefix in it, which ends with a slash."""
    for place in urls:
        url = urlsplit(place)
        prefix = url.path.strip("/")
        yield f"arn:{partition}:s3:::{url.netloc}", f"{prefix}/" if prefix else ""


def _urls(objects: str) -> tuple[str, ...]:
    """Return the places that ARNs of objects stand for: the inverse of `_places`."""
    keys = (
        arn.rpartition(":")[2].removesuffix("*").rstrip("/") for arn in objects.split(",") if arn
    )
    return tuple(f"s3://{key}" for key in keys)


def _is_own_tag(key: str) -> bool:
    return key == "application" or key.startswith("magg:")


_BY_PARAMETER: dict[str, tuple[str, Callable[[str], Any]]] = {
    "FunctionName": ("function_name", str),
    "StateMachineName": ("state_machine", str),
    "DataBucketName": ("bucket", str),
    "MemoryMB": ("memory_mb", int),
    "TimeoutSeconds": ("timeout_s", int),
    "Concurrency": ("concurrency", lambda text: int(text) if text else None),
    "LogRetentionDays": ("log_days", int),
    "Architecture": ("architecture", str),
    "WritableObjects": ("write", _urls),
    "ReadableObjects": ("read", _urls),
    "ImageUri": ("image", str),
    "PermissionsBoundary": ("permissions_boundary", str),
}


def _joined(arns: Iterator[str]) -> str:
    return ",".join(dict.fromkeys(arns))
