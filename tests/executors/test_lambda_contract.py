"""LambdaExecutor keeps the contract of executors, through the real runtime client."""

from __future__ import annotations

from pathlib import Path

import pytest

from magg.testing import ExecutorTests

pytest.importorskip("boto3")
pytest.importorskip("awslambdaric")
pytestmark = pytest.mark.slow

HANDLER = """
from magg.executors.serve import make_handler

handler = make_handler({}, codec="pickle")
"""


class TestLambdaExecutor(ExecutorTests):
    factory = "lambda_factory:make"
    many = 500

    @pytest.fixture(autouse=True, scope="class")
    @classmethod
    def function(cls, lambda_service, tmp_path_factory):
        """Deploy a function that runs whatever it is sent."""
        folder = tmp_path_factory.mktemp("any")
        (folder / "h.py").write_text(HANDLER)
        here = Path(__file__).parent
        lambda_service.deploy(
            "any-function",
            folder=folder,
            timeout=60.0,
            memory_mb=1_000,
            concurrency=8,
            environment={"PYTHONPATH": f"{here.parents[1]}:{here}"},
        )
        cls.environment = lambda_service.environment()
        yield
        lambda_service.remove("any-function")
