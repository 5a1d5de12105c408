"""moto's server on loopback, which stands in for AWS where nothing else does."""

from __future__ import annotations

import os
import sys
import tempfile
import time
import urllib.error
import urllib.request
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from services.processes import Supervised, free_ports

START_SECONDS = 180.0


@pytest.fixture(scope="session")
def moto_server() -> Iterator[str]:
    """Return the endpoint of moto's server, which stands in for all of AWS."""
    pytest.importorskip("moto.server", reason="pip install 'moto[server]'")
    folder = Path(tempfile.mkdtemp(prefix="magg-moto-"))
    (port,) = free_ports(1)
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    bare = {"HOME": str(folder), "TMPDIR": str(folder), "PATH": os.defpath}
    bare |= {"AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "x", "AWS_REGION": "us-west-2"}
    with Supervised(command, folder, bare) as server:
        endpoint = f"http://127.0.0.1:{port}"
        deadline = time.monotonic() + START_SECONDS
        while not _answers(endpoint):
            assert server.running, server.stop()
            assert time.monotonic() < deadline
            time.sleep(0.1)
        yield endpoint


def empty_account(endpoint: str) -> None:
    """Forget all that was made."""
    _ask(endpoint, "/moto-api/reset", b"")


@pytest.fixture(scope="session")
def tiny_package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the two zip files of a package, with next to nothing in them."""
    folder = tmp_path_factory.mktemp("package")
    for architecture in ("arm64", "x86_64"):
        for part in ("function", "layer"):
            with zipfile.ZipFile(folder / f"magg-{part}-{architecture}.zip", "w") as archive:
                archive.writestr(f"{part}.py", f"what = {part!r}")
    return folder


def _answers(endpoint: str) -> bool:
    try:
        _ask(endpoint, "/moto-api/", None)
    except (urllib.error.URLError, OSError):
        return False
    return True


def _ask(endpoint: str, path: str, data: bytes | None) -> bytes:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(endpoint + path, data, timeout=30) as answer:
        return bytes(answer.read())
