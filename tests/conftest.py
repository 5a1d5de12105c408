from __future__ import annotations

import os
import signal
import socket
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from magg import Catalog, load_config
from magg.testing import simulate_region

# A busy machine may take long for anything.
settings.register_profile("magg", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("magg")

pytest_plugins = [
    "services.s3",
    "services.proxy",
    "services.lambda_api",
    "services.earthdata",
    "services.lithops_home",
    "services.moto",
    "services.stepfunctions",
    "remote_runs",
    "index_runs",
    "result_stores",
]

REAL = Path(os.environ.get("MAGG_ATL06") or Path(__file__).parents[2] / "shared" / "atl06")


def pytest_collection_modifyitems(config, items):
    """Leave NASA's servers alone unless they are asked for by name."""
    if "live" not in config.option.markexpr:
        for item in items:
            if item.get_closest_marker("live"):
                item.add_marker(pytest.mark.skip(reason="asks NASA's servers: pytest -m live"))


@pytest.fixture(scope="session", autouse=True)
def interruptible():
    """Let the programs that tests start be interrupted, also where a shell runs pytest with `&`."""
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def no_session_of_before(monkeypatch):
    """Let `boto3.client` read the environment anew: it keeps one session for the whole process."""
    if "boto3" in sys.modules:
        monkeypatch.setattr("boto3.DEFAULT_SESSION", None)


@pytest.fixture(scope="session", autouse=True)
def no_cloud_machine():
    """Block the address where a cloud machine finds its region and credentials."""
    connect = socket.socket.connect

    def guarded(self, address):
        if isinstance(address, tuple) and str(address[0]).startswith("169.254."):
            raise OSError(101, "the metadata address is blocked in tests")
        return connect(self, address)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "connect", guarded)
        patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        yield


@pytest.fixture(scope="session")
def real_granules():
    granules = sorted(REAL.glob("*.h5"))
    if not granules:
        pytest.skip(f"no real ATL06 granules in {REAL}; set MAGG_ATL06 to a folder of them")
    return granules


@pytest.fixture(scope="session")
def region(tmp_path_factory):
    """Return six small simulated granules that cross over West Antarctica."""
    return simulate_region(
        tmp_path_factory.mktemp("region"),
        latitude=-75.5,
        longitude=-101.0,
        granules=6,
        segments=6_000,
        width_km=60.0,
    )


@pytest.fixture(scope="session")
def config():
    return load_config("atl06")


@pytest.fixture(scope="session")
def catalog(region):
    return Catalog.from_files(region)


@pytest.fixture(scope="session")
def small(tmp_path_factory):
    """Return a dozen cells that take milliseconds each (see `cell_faults.Small`)."""
    from cell_faults import make_small

    return make_small(tmp_path_factory.mktemp("small"))
