"""StepFunctionsExecutor and the contract of executors, through the real runtime client."""

from __future__ import annotations

from pathlib import Path

import pytest

from magg.aws.state_machine import state_machine
from magg.testing import ExecutorTests

pytest.importorskip("boto3")
pytest.importorskip("awslambdaric")
pytestmark = pytest.mark.slow

HANDLER = """
from magg.executors.serve import make_handler

handler = make_handler({}, codec="pickle")
"""


TOGETHER = (
    "calls that are submitted together are one execution, and Step Functions writes its results "
    "when the last of them has ended: a quick call is done no earlier than a slow one beside it"
)

WAITING = (
    "calls wait a moment for others that may come, so that none has begun when an executor is shut "
    "down at once: all are cancelled, where CPython's test wants one that was made"
)


class TestStepFunctionsExecutor(ExecutorTests):
    factory = "sfn_factory:make"
    many = 300
    known = dict.fromkeys(
        (
            "magg.Mapping.test_the_timeout_counts_from_the_call_of_map",
            "magg.Waiting.test_wait_gives_up_in_time",
            "magg.Waiting.test_as_completed_gives_up_in_time",
            "magg.Waiting.test_wait_returns_at_the_first_error",
            "magg.Waiting.test_wait_returns_at_the_first_that_is_done",
            "cpython.ExecutorTest.test_map_timeout",
            "cpython.WaitTests.test_first_completed",
            "cpython.WaitTests.test_first_exception",
            "cpython.WaitTests.test_first_exception_some_already_complete",
        ),
        TOGETHER,
    ) | {"cpython.ExecutorShutdownTest.test_cancel_futures": WAITING}

    @pytest.fixture(autouse=True, scope="class")
    @classmethod
    def function(cls, lambda_service, s3_server, sfn_service, tmp_path_factory):
        """Deploy a function that runs whatever it is sent, and its state machine."""
        folder = tmp_path_factory.mktemp("any")
        (folder / "h.py").write_text(HANDLER)
        here = Path(__file__).parent
        deployed = lambda_service.deploy(
            "any-function-of-sfn",
            folder=folder,
            timeout=60.0,
            memory_mb=1_000,
            concurrency=8,
            environment=s3_server.environment() | {"PYTHONPATH": f"{here.parents[1]}:{here}"},
        )
        arn = sfn_service.deploy("any-machine", state_machine(deployed.arn))
        cls.environment = (
            s3_server.environment()
            | sfn_service.environment()
            | {
                "MAGG_STATE_MACHINE_ARN": arn,
                "MAGG_SFN_PREFIX": s3_server.bucket("contract-of-sfn").url("any"),
            }
        )
        yield
        lambda_service.remove("any-function-of-sfn")
