from __future__ import annotations

import json
import os
import sys
import tempfile
import time
import urllib.error
import urllib.request
import zipfile
from pathlib import Path

import pytest
from services.processes import Supervised, free_ports

START_SECONDS = 180.0


@pytest.fixture(scope="session")
def moto_server():
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


@pytest.fixture
def aws(moto_server, monkeypatch):
    """Lead all clients to an account with nothing in it."""
    pytest.importorskip("boto3")
    for name in [name for name in os.environ if name.startswith(("AWS_", "EARTHDATA_"))]:
        monkeypatch.delenv(name)
    variables = {
        "AWS_ENDPOINT_URL": moto_server,
        "AWS_ACCESS_KEY_ID": "AKIAMAGGTESTS",
        "AWS_SECRET_ACCESS_KEY": "a-secret-of-the-tests",
        "AWS_DEFAULT_REGION": "us-west-2",
        "AWS_CONFIG_FILE": os.devnull,
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        "AWS_EC2_METADATA_DISABLED": "true",
        "NO_PROXY": "127.0.0.1",
        "no_proxy": "127.0.0.1",
    }
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("magg.deploy.stack.POLL_S", 0.05)
    _ask(moto_server, "/moto-api/reset", b"")
    return moto_server


@pytest.fixture(scope="session")
def tiny_package(tmp_path_factory):
    """Return a folder with the two zip files of a package, with next to nothing in them."""
    folder = tmp_path_factory.mktemp("package")
    for architecture in ("arm64", "x86_64"):
        for part in ("function", "layer"):
            with zipfile.ZipFile(folder / f"magg-{part}-{architecture}.zip", "w") as archive:
                archive.writestr(f"{part}.py", f"what = {json.dumps(part)}")
    return folder


def _answers(endpoint):
    try:
        _ask(endpoint, "/moto-api/", None)
    except (urllib.error.URLError, OSError):
        return False
    return True


def _ask(endpoint, path, data):
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(endpoint + path, data, timeout=30) as answer:
        return answer.read()
