from __future__ import annotations

import os

import pytest
from services.moto import empty_account


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
    empty_account(moto_server)
    return moto_server
