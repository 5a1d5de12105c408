from __future__ import annotations

from pathlib import Path

import pytest

HANDLERS = Path(__file__).with_name("lambda_handlers")


@pytest.fixture(name="service")
def _service(lambda_service):
    return lambda_service


@pytest.fixture(name="client")
def _client(lambda_client):
    return lambda_client


@pytest.fixture
def deploy(lambda_deploy):
    """Return a function that deploys one of the handlers of these tests."""

    def deployed(handler="handlers.echo", **options):
        return lambda_deploy(handler, folder=HANDLERS, **options)

    return deployed
