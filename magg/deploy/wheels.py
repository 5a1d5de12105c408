"""What a deployed worker is made of: wheels by their digests, for the platform of Lambda.

A lock names each wheel by version and SHA-256, and no place: where wheels come from is for pip's
own configuration to say (an index, a mirror, or ``PIP_NO_INDEX`` and ``PIP_FIND_LINKS`` for a
folder).
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
from importlib.metadata import PackageNotFoundError, requires
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

from magg.errors import DeployError

Architecture = Literal["x86_64", "arm64"]

ARCHITECTURES: tuple[Architecture, ...] = ("x86_64", "arm64")
PYTHON = (3, 13)
# What magg depends on and a worker never imports.
NOT_IN_WORKERS = ("rich",)
_MACHINE = {"x86_64": "x86_64", "arm64": "aarch64"}
# The C library of Amazon Linux 2023 is glibc 2.34; pip takes platforms by their exact names.
_GLIBC = range(17, 35)
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


def lock_text(architecture: Architecture) -> str:
    """Return the lock that magg is shipped with."""
    return files("magg.deploy").joinpath("locks", f"{architecture}.txt").read_text("utf-8")


def fetch(architecture: Architecture, folder: Path) -> list[Path]:
    """Download the wheels of a lock into an empty folder, and return them sorted.

    Raises
    ------
    DeployError
        If pip cannot have one of them, or its digest is not that of the lock.
    """
    with tempfile.TemporaryDirectory(prefix="magg-lock-") as scratch:
        lock = Path(scratch, "requirements.txt")
        lock.write_text(lock_text(architecture), encoding="utf-8")
        _pip(
            "download", "--no-deps", "--require-hashes", "--requirement", lock, "--dest", folder,
            *_for_lambda(architecture),
        )  # fmt: skip
    return sorted(folder.glob("*.whl"))


def make_lock(architecture: Architecture) -> str:
    """Return a new lock: the newest wheels that magg's requirements admit, by pip's own choice.

    Raises
    ------
    DeployError
        If this is not the Python of the function (pip weighs what packages require by the Python
        that runs it), or pip finds no wheels.
    """
    if sys.version_info[:2] != PYTHON:
        raise DeployError(
            f"a lock is made with Python {version_text()}, which the function runs, and this is "
            f"{sys.version_info[0]}.{sys.version_info[1]}"
        )
    with tempfile.TemporaryDirectory(prefix="magg-lock-") as scratch:
        report = Path(scratch, "report.json")
        _pip(
            "install", "--dry-run", "--ignore-installed", "--target", Path(scratch, "none"),
            "--report", report, *_for_lambda(architecture), *worker_requirements(),
        )  # fmt: skip
        found = json.loads(report.read_text(encoding="utf-8"))["install"]
    lines = sorted(_line(one) for one in found)
    return (
        f"# Wheels of the worker: Python {version_text()}, {architecture}. Renewed by "
        "scripts/build_lambda.py --lock.\n" + "".join(lines)
    )


def worker_requirements() -> list[str]:
    """Return what magg requires of other packages where it only works on cells.

    Raises
    ------
    DeployError
        If magg is not installed, so that its requirements are not known.
    """
    try:
        known = requires("magg-healpix") or []
    except PackageNotFoundError:
        raise DeployError(
            "magg is not installed, so that its requirements are not known; pip install -e ."
        ) from None
    return [line for line in known if ";" not in line and name_of(line) not in NOT_IN_WORKERS]


def name_of(requirement: str) -> str:
    """Return the normalised name of the package that a line of requirements is about."""
    found = _NAME.match(requirement)
    return re.sub(r"[-_.]+", "-", found[0]).lower() if found else ""


def version_text() -> str:
    """Return the Python of the function, such as ``"3.13"``."""
    return ".".join(map(str, PYTHON))


def _for_lambda(architecture: Architecture) -> list[str]:
    machine, tag = _MACHINE[architecture], "cp" + "".join(map(str, PYTHON))
    platforms = [f"manylinux_2_{minor}_{machine}" for minor in _GLIBC] + [
        f"manylinux2014_{machine}"
    ]
    options = ["--only-binary=:all:", "--implementation=cp", f"--python-version={version_text()}"]
    options += [f"--abi={abi}" for abi in (tag, "abi3", "none")]
    return options + [f"--platform={platform}" for platform in platforms]


def _line(found: dict[str, Any]) -> str:
    digest = found["download_info"]["archive_info"]["hashes"]["sha256"]
    told = found["metadata"]
    return f"{name_of(told['name'])}=={told['version']} --hash=sha256:{digest}\n"


def _pip(command: str, *arguments: str | Path) -> None:
    """Run pip, which knows by its own configuration where wheels are."""
    ended = subprocess.run(  # noqa: S603 - no shell; every word is magg's own
        [sys.executable, "-m", "pip", command, *map(str, arguments)],
        env=os.environ | {"PIP_DISABLE_PIP_VERSION_CHECK": "1", "PIP_NO_INPUT": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    if ended.returncode == 0:
        return
    if "No module named pip" in ended.stderr:
        raise DeployError(
            "pip is needed to fetch the worker's packages and is not installed here; run "
            "`python -m ensurepip`, or pass a package that was built elsewhere"
        )
    errors = [line for line in ended.stderr.splitlines() if line.startswith("ERROR")]
    told = _without_places("; ".join(errors) or ended.stderr.strip()[-500:])
    raise DeployError(
        f"pip {command} failed ({told}); look at the network and at pip's configuration "
        "(`pip config list`)"
    )


def _without_places(text: str) -> str:
    """Cut URLs, in which indexes may have passwords."""
    return re.sub(r"\b(?:https?|file)://\S+", "<URL>", text)
