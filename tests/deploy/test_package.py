"""The package of the function: how it is built, and that it works with nothing else beside it."""

from __future__ import annotations

import importlib.metadata
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
from intrinsics import Template
from remote_runs import arrays, assert_same

from magg import __version__, run
from magg.deploy import package, wheels
from magg.errors import DeployError

ROOT = Path(__file__).parents[2]
NEVER = {"pandas", "rich", "earthaccess", "boto3", "botocore", "lithops", "dask", "matplotlib"}
NAME = "packaged"


@pytest.fixture(scope="session")
def python():
    """Return an interpreter of the function's Python."""
    places = [Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"), "versions")]
    folders = [path for place in places for path in place.glob(f"{wheels.version_text()}*/bin")]
    found = package.runtime_python() or next((str(path / "python3") for path in folders), None)
    if found is None:
        pytest.skip(f"there is no Python {wheels.version_text()} here, which the function runs")
    return found


def _pip(*arguments):
    command = [sys.executable, "-m", "pip", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.fixture(scope="session")
def built(python, tmp_path_factory):
    """Return the package for this machine, built from the lock."""
    machine = os.uname().machine
    architecture = {"aarch64": "arm64"}.get(machine, machine)
    folder = tmp_path_factory.mktemp("package")
    try:
        return package.build(architecture, folder, python)
    except DeployError:
        # Whatever is wrong with the lock is a failure; that no index is to be reached is none.
        if _pip(
            "download", "--no-deps", "--dest", tmp_path_factory.mktemp("probe"), "pip"
        ).returncode:
            pytest.skip("no package index is to be reached")
        raise


@pytest.fixture(scope="session")
def unpacked(built, tmp_path_factory):
    """Return what Lambda makes of the package: the folders /var/task and /opt."""
    folder = tmp_path_factory.mktemp("unpacked")
    for path, where in ((built.function, "task"), (built.layer, "opt")):
        with zipfile.ZipFile(path) as archive:
            archive.extractall(folder / where)
    return folder


@pytest.fixture(scope="session")
def runtime(python, tmp_path_factory):
    """Return a folder with AWS's runtime client alone, as Lambda has it in /var/runtime."""
    known = pytest.importorskip("awslambdaric")
    folder = tmp_path_factory.mktemp("runtime")
    if sys.version_info[:2] == wheels.PYTHON:
        site = Path(known.__file__).parents[1]
        for path in site.iterdir():
            if re.match(r"(awslambdaric|runtime_client|simplejson|snapshot_restore)", path.name):
                (folder / path.name).symlink_to(path)
        return folder
    version = importlib.metadata.version("awslambdaric")
    machine = os.uname().machine
    options = [f"--platform=manylinux_2_{minor}_{machine}" for minor in range(17, 35)]
    ended = _pip(
        "install", "--quiet", "--target", folder, "--only-binary=:all:", "--implementation=cp",
        f"--python-version={wheels.version_text()}", f"--platform=manylinux2014_{machine}",
        *options, f"awslambdaric=={version}",
    )  # fmt: skip
    if ended.returncode:
        pytest.skip(f"no awslambdaric for Python {wheels.version_text()} is to be had")
    return folder


@pytest.fixture(scope="session")
def bare_python(python, tmp_path_factory):
    """Return an interpreter that sees no installed package but what PYTHONPATH leads to."""
    path = tmp_path_factory.mktemp("python") / f"python{wheels.version_text()}"
    path.write_text(f'#!/bin/sh\nexec "{python}" -s -S "$@"\n')
    path.chmod(0o755)
    return str(path)


# The locks


@pytest.mark.parametrize("architecture", wheels.ARCHITECTURES)
def test_a_lock_names_versions_and_digests_and_no_place(architecture):
    lines = [line for line in wheels.lock_text(architecture).splitlines() if line[0] != "#"]
    form = re.compile(r"[a-z0-9-]+==[0-9][A-Za-z0-9.+-]* --hash=sha256:[0-9a-f]{64}")
    assert all(map(form.fullmatch, lines)), lines
    assert lines == sorted(set(lines))


def locked(architecture):
    lines = wheels.lock_text(architecture).splitlines()
    return {line.split(" --hash")[0] for line in lines if line[0] != "#"}


def test_both_architectures_have_the_same_versions():
    assert locked("arm64") == locked("x86_64")


def test_the_lock_holds_what_workers_need_and_nothing_of_what_callers_need(monkeypatch):
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extra = [f'{line}; extra == "aws"' for line in project["optional-dependencies"]["aws"]]
    monkeypatch.setattr(wheels, "requires", lambda _: project["dependencies"] + extra)
    needed = {wheels.name_of(line) for line in wheels.worker_requirements()}
    assert needed == {wheels.name_of(line) for line in project["dependencies"]} - {"rich"}
    names = {wheels.name_of(line) for line in locked("x86_64")}
    assert needed <= names
    assert not names & NEVER


def test_what_is_locked_is_what_the_project_asks_for():
    requirements = pytest.importorskip("packaging.requirements")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    known = dict(line.split("==") for line in locked("x86_64"))
    for line in project["dependencies"]:
        if (name := wheels.name_of(line)) in known:
            assert requirements.Requirement(line).specifier.contains(known[name]), line


def test_a_lock_is_made_with_the_python_of_the_function_only(monkeypatch):
    monkeypatch.setattr(wheels, "PYTHON", (2, 7))
    with pytest.raises(DeployError, match=r"made with Python 2\.7"):
        wheels.make_lock("x86_64")


def test_an_index_is_not_named_in_what_users_are_told(monkeypatch, tmp_path):
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_INDEX_URL", "http://me:secret@127.0.0.1:9/simple")
    monkeypatch.setenv("PIP_RETRIES", "0")
    for name in ("PIP_FIND_LINKS", "PIP_EXTRA_INDEX_URL"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(DeployError, match="pip config list") as caught:
        wheels.fetch("x86_64", tmp_path)
    assert "secret" not in str(caught.value)


# What is built of wheels


def make_wheel(folder, name, **files):
    path = folder / f"{name}-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for where, text in files.items():
            archive.writestr(where, text)
    return path


@pytest.fixture
def made_of(monkeypatch, tmp_path):
    """Return a function that builds a package of wheels that hold such files."""

    def build(where="out", python=None, **files):
        def fetch(_, folder):
            return [make_wheel(folder, "pkg", **files)]

        monkeypatch.setattr(wheels, "fetch", fetch)
        monkeypatch.setattr(package, "runtime_python", lambda: python)
        return package.build("arm64", tmp_path / where)

    return build


def names_in(path):
    with zipfile.ZipFile(path) as archive:
        return archive.namelist()


def test_the_same_wheels_give_the_same_bytes(made_of, monkeypatch):
    files = {"pkg/__init__.py": "x = 1\n", "pkg/b.so": "binary", "pkg/a.py": "y = 2\n"}
    one = made_of("one", **files)
    monkeypatch.setattr(zipfile.time, "localtime", lambda *_: (2030, 1, 1, 0, 0, 0, 0, 0, 0))
    other = made_of("other", **dict(reversed(files.items())))
    assert one.layer.read_bytes() == other.layer.read_bytes()
    assert one.function.read_bytes() == other.function.read_bytes()


def test_byte_code_is_the_same_each_time_too(made_of):
    same = f"{sys.version_info[0]}.{sys.version_info[1]}" == wheels.version_text()
    if not same:
        pytest.skip("byte code is of the function's Python")
    files = {"pkg/__init__.py": "def f(x):\n    return {'a': x}\n", "pkg/no.py": "not Python"}
    one, other = (made_of(where, python=sys.executable, **files) for where in ("one", "other"))
    assert "python/pkg/__pycache__/__init__.cpython-313.pyc" in names_in(one.layer)
    assert one.layer.read_bytes() == other.layer.read_bytes()
    assert one.function.read_bytes() == other.function.read_bytes()


def test_what_no_worker_needs_stays_out(made_of):
    built = made_of(
        **{
            "pkg/__init__.py": "",
            "pkg/core.so": "",
            "pkg/data.txt": "",
            "pkg/tests/test_it.py": "",
            "pkg/__pycache__/__init__.cpython-313.pyc": "",
            "pkg/core.pyx": "",
            "pkg/core.pyi": "",
            "pkg-1.0.data/purelib/beside.py": "",
            "pkg-1.0.data/scripts/tool": "",
            "pkg-1.0.dist-info/METADATA": "Name: pkg",
            "pkg-1.0.dist-info/entry_points.txt": "",
            "pkg-1.0.dist-info/licenses/LICENSE": "",
            "pkg-1.0.dist-info/RECORD": "",
        }
    )
    assert names_in(built.layer) == [
        "python/beside.py",
        "python/pkg-1.0.dist-info/METADATA",  # versions are recorded in stores
        "python/pkg-1.0.dist-info/entry_points.txt",  # statistics are found by them
        "python/pkg-1.0.dist-info/licenses/LICENSE",
        "python/pkg/__init__.py",
        "python/pkg/core.so",
        "python/pkg/data.txt",
    ]
    mine = names_in(built.function)
    assert "magg/aws/handler.py" in mine
    assert "magg/configs/atl06.yaml" in mine
    assert not [name for name in mine if name.split("/")[1] in ("testing", "deploy", "maps")]
    assert not [name for name in mine if name.endswith(".pyc")]


def test_a_wheel_cannot_write_elsewhere(made_of):
    with pytest.raises(DeployError, match="leads out of its folder"):
        made_of(**{"../outside.py": ""})


def test_a_package_over_the_limit_is_refused(made_of, monkeypatch):
    monkeypatch.setattr(package, "UNZIPPED_LIMIT", 1000)
    with pytest.raises(DeployError, match="use a container image"):
        made_of(**{"pkg/__init__.py": ""})


# The package itself


def test_the_package_is_within_the_limits(built):
    assert built.unzipped < 120 * 2**20 < package.UNZIPPED_LIMIT
    assert built.zipped < 50 * 2**20
    assert built.cold_import_cpu_s < package.COLD_IMPORT_LIMIT_S
    assert built.has_byte_code


def test_it_holds_nothing_that_only_callers_need(built):
    tops = {name.split("/")[1] for name in names_in(built.layer)}
    assert not tops & NEVER
    assert {"numpy", "zarr", "h5py", "mortie", "obstore"} <= tops


def test_a_slow_import_is_refused(built, monkeypatch, python, unpacked):
    monkeypatch.setattr(package, "COLD_IMPORT_LIMIT_S", 0.0)
    with pytest.raises(DeployError, match="importing the package takes"):
        package._cold_import(
            python, built.architecture, unpacked / "task", unpacked / "opt" / "python"
        )


def test_the_package_alone_makes_cells_from_s3_to_s3(
    config, remote_catalog, expected, s3_bucket, s3_server, aws_environment, lambda_service,
    monkeypatch, unpacked, runtime, bare_python,
):  # fmt: skip
    aws_environment()
    monkeypatch.setenv("AWS_ENDPOINT_URL_LAMBDA", lambda_service.endpoint)
    deployed = Template().resources()["Worker"]["Properties"]
    search = os.pathsep.join(map(str, (unpacked / "opt" / "python", runtime)))
    told = subprocess.run(
        [bare_python, "-c", "import json, sys; print(json.dumps(sys.path))"],
        env={"PYTHONPATH": search}, capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    assert not [path for path in json.loads(told) if "site-packages" in path or path == str(ROOT)]
    lambda_service.deploy(
        NAME,
        deployed["Handler"],
        folder=unpacked / "task",
        python=bare_python,
        timeout=120.0,
        memory_mb=2_000,
        concurrency=2,
        init_timeout=120.0,
        environment={
            **s3_server.environment(),
            **deployed["Environment"]["Variables"],
            "PYTHONPATH": search,
        },
    )
    try:
        store = s3_bucket.url("s.zarr")
        summary = run(
            config, catalog=remote_catalog, store=store, backend="lambda", function_name=NAME,
            max_workers=2, progress=False,
        )  # fmt: skip
    finally:
        lambda_service.remove(NAME)
    assert_same(arrays(store, summary), expected)


def test_versions_of_packages_are_known_there(bare_python, unpacked):
    search = os.pathsep.join(str(unpacked / part) for part in ("task", "opt/python"))
    code = "from magg.store.schema import _versions; print(_versions())"
    told = subprocess.run(
        [bare_python, "-c", code],
        env={"PYTHONPATH": search}, capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    assert f"'magg': '{__version__}'" in told
    assert "'numpy'" in told


def test_the_script_builds_and_tells_what_it_built(tmp_path, built, monkeypatch):
    wanted = [sys.executable, str(ROOT / "scripts" / "build_lambda.py"), "--help"]
    told = subprocess.run(
        wanted, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True,
        check=True,
    ).stdout  # fmt: skip
    assert "--lock" in told
    shutil.copytree(built.function.parent, tmp_path / "there")
    found = package.find(built.architecture, tmp_path / "there")
    assert package.digest_of(found.layer) == package.digest_of(built.layer)
    assert f"{built.architecture}: " in package.describe(found)
