"""The package of the Lambda function: magg as its code, what magg imports as its layer.

The same wheels and the same magg give the same bytes: entries are sorted, carry no time, and the
byte code (compiled where a Python of the function's version is at hand; it takes six tenths off
the time of a cold start) is bound to no time of a file either.
"""

from __future__ import annotations

import hashlib
import json
import platform
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import magg
from magg.deploy import wheels
from magg.deploy.wheels import Architecture
from magg.errors import DeployError

# Of AWS: code and layers together, unzipped.
UNZIPPED_LIMIT = 250 * 2**20
# CPU, so that a busy machine does not decide.
COLD_IMPORT_LIMIT_S = 1.5
FUNCTION, LAYER = "magg-function-{}.zip", "magg-layer-{}.zip"
# Parts of magg that no cell needs.
_CLIENT_ONLY = ("testing", "deploy", "maps")
_USELESS = (".pyc", ".pyi", ".a", ".c", ".h", ".pyx", ".pxd")
_KEPT_OF_METADATA = ("METADATA", "entry_points.txt")
_EPOCH = (1980, 1, 1, 0, 0, 0)  # the first that a zip can hold
# Beyond the handler, what processing a cell imports.
_COLD_IMPORT = """
import sys, time
sys.path[:0] = sys.argv[1:]
wall, cpu = time.perf_counter(), time.process_time()
import magg.aws.handler, h5py, mortie, numcodecs, obstore.store, zarr.storage
print(time.perf_counter() - wall, time.process_time() - cpu)
"""
_COMPILE = """
import compileall, sys
from py_compile import PycInvalidationMode as Mode
done = compileall.compile_dir(sys.argv[1], quiet=2, force=True, stripdir=sys.argv[1],
    prependdir=sys.argv[2], workers=1, invalidation_mode=Mode.UNCHECKED_HASH)
"""


@dataclass(frozen=True)
class Package:
    """What is deployed, on disk.

    Parameters
    ----------
    architecture : {"x86_64", "arm64"}
    function, layer : Path
        Zip files.
    unzipped : int
        Bytes of both together; 0 where they were not built just now.
    has_byte_code : bool
    cold_import_s, cold_import_cpu_s : float, optional
        What importing all that a cell needs takes in a fresh process of this machine, where that
        can be measured: its Python and processor are those of the function.
    """

    architecture: Architecture
    function: Path
    layer: Path
    unzipped: int = 0
    has_byte_code: bool = False
    cold_import_s: float | None = None
    cold_import_cpu_s: float | None = None

    @property
    def zipped(self) -> int:
        """Bytes of both files."""
        return self.function.stat().st_size + self.layer.stat().st_size


def build(architecture: Architecture, folder: Path, python: str | None = None) -> Package:
    """Build the package.

    Parameters
    ----------
    architecture : {"x86_64", "arm64"}
    folder : Path
        Where the two zip files go.
    python : str, optional
        An interpreter of the function's Python, to compile and to measure with; one is looked
        for where left out, and without one there is neither.

    Raises
    ------
    DeployError
        If wheels cannot be had, or a limit is exceeded.
    """
    python = python or runtime_python()
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="magg-package-") as scratch:
        code, layer = Path(scratch, "code"), Path(scratch, "layer")
        _copy_magg(code)
        (fetched := Path(scratch, "wheels")).mkdir()
        for wheel in wheels.fetch(architecture, fetched):
            _unpack(wheel, layer / "python")
        if python is not None:
            _compile(python, code, "/var/task")
            _compile(python, layer / "python", "/opt/python")
        unzipped = sum(path.stat().st_size for top in (code, layer) for path in _files(top))
        if unzipped > UNZIPPED_LIMIT:
            raise DeployError(
                f"the package is {unzipped / 2**20:.0f} MB unzipped, and Lambda takes "
                f"{UNZIPPED_LIMIT / 2**20:.0f}; use a container image"
            )
        cold = _cold_import(python, architecture, code, layer / "python")
        return Package(
            architecture,
            _zip(code, folder / FUNCTION.format(architecture)),
            _zip(layer, folder / LAYER.format(architecture)),
            unzipped,
            python is not None,
            *cold,
        )


def find(architecture: Architecture, folder: Path) -> Package:
    """Return the package that was built into a folder before.

    Raises
    ------
    DeployError
        If there is none for the architecture.
    """
    found = Package(
        architecture, folder / FUNCTION.format(architecture), folder / LAYER.format(architecture)
    )
    for path in (found.function, found.layer):
        if not path.is_file():
            raise DeployError(
                f"there is no {path}; build it with: python scripts/build_lambda.py "
                f"--architecture {architecture} --output {folder}"
            )
    return found


def describe(package: Package) -> str:
    """Return what was built, and what it weighs, in words."""
    parts = [
        f"{package.architecture}: {package.zipped / 2**20:.1f} MB zipped (function "
        f"{package.function.stat().st_size / 2**20:.1f}, layer "
        f"{package.layer.stat().st_size / 2**20:.1f})"
    ]
    if package.unzipped:
        parts.append(f"{package.unzipped / 2**20:.0f} MB unzipped")
        parts.append("with byte code" if package.has_byte_code else "without byte code")
    if package.cold_import_s is not None:
        parts.append(
            f"cold import {package.cold_import_s:.2f} s ({package.cold_import_cpu_s:.2f} s CPU)"
        )
    return ", ".join(parts)


def digest_of(path: Path) -> str:
    """Return the SHA-256 of a file, as hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def runtime_python() -> str | None:
    """Return an interpreter of the function's Python, or None where this machine has none."""
    if sys.version_info[:2] == wheels.PYTHON:
        return sys.executable
    candidate = shutil.which(f"python{wheels.version_text()}")
    if candidate is None:
        return None
    # What is on the path may be a shim that leads nowhere.
    ended = _run(candidate, "-c", "import json, sys; print(json.dumps(sys.version_info[:2]))")
    works = ended.returncode == 0 and tuple(json.loads(ended.stdout)) == wheels.PYTHON
    return candidate if works else None


def _copy_magg(target: Path) -> None:
    source = Path(magg.__file__).parent
    for path in _files(source):
        parts = path.relative_to(source).parts
        if parts[0] not in _CLIENT_ONLY and "__pycache__" not in parts:
            copy = target / "magg" / path.relative_to(source)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, copy)


def _unpack(wheel: Path, target: Path) -> None:
    """Unpack what a worker needs of a wheel."""
    with zipfile.ZipFile(wheel) as archive:
        for name in archive.namelist():
            place = _place(name)
            if place is None:
                continue
            copy = target / place
            if not copy.resolve().is_relative_to(target.resolve()):
                raise DeployError(f"{wheel.name} holds {name!r}, which leads out of its folder")
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes(archive.read(name))


def _place(name: str) -> str | None:
    """Return where a file of a wheel belongs, or None if a worker never needs it."""
    parts = name.split("/")
    if parts[0].endswith(".data"):
        if len(parts) < 3 or parts[1] not in ("purelib", "platlib"):
            return None
        parts = parts[2:]
    folder = parts[0].endswith(".dist-info")
    if folder and parts[-1] not in _KEPT_OF_METADATA and "licen" not in name.lower():
        return None
    if name.endswith(("/", *_USELESS)) or {"tests", "__pycache__"} & set(parts[:-1]):
        return None
    return "/".join(parts)


def _compile(python: str, folder: Path, where: str) -> None:
    # A template in a package may be no Python; what cannot be compiled is imported by nobody.
    ended = _run(python, "-I", "-S", "-c", _COMPILE, str(folder), where)
    if ended.returncode:
        raise DeployError(f"{python} cannot compile the package: {ended.stderr.strip()[-500:]}")


def _cold_import(
    python: str | None, architecture: Architecture, *paths: Path
) -> tuple[float | None, float | None]:
    here = {"aarch64": "arm64"}.get(platform.machine(), platform.machine())
    if python is None or (sys.platform, here) != ("linux", architecture):
        return None, None
    ended = _run(python, "-I", "-S", "-B", "-c", _COLD_IMPORT, *map(str, paths))
    if ended.returncode:
        raise DeployError(f"the package cannot be imported: {ended.stderr.strip()[-1000:]}")
    wall, cpu = map(float, ended.stdout.split())
    if cpu > COLD_IMPORT_LIMIT_S:
        raise DeployError(
            f"importing the package takes {cpu:.1f} s of CPU, more than {COLD_IMPORT_LIMIT_S} s"
        )
    return wall, cpu


def _zip(folder: Path, path: Path) -> Path:
    """Write the files below a folder in the order of their names, without their times."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in sorted(_files(folder), key=lambda file: file.relative_to(folder).as_posix()):
            entry = zipfile.ZipInfo(file.relative_to(folder).as_posix(), _EPOCH)
            entry.compress_type, entry.create_system = zipfile.ZIP_DEFLATED, 3
            entry.external_attr = (0o100755 if ".so" in file.suffixes else 0o100644) << 16
            archive.writestr(entry, file.read_bytes())
    return path


def _files(folder: Path) -> Iterator[Path]:
    return (path for path in folder.rglob("*") if path.is_file())


def _run(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(list(command), capture_output=True, text=True, check=False)  # noqa: S603
