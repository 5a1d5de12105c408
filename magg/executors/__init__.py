"""Executors: where cells run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from magg.executors.base import make_executor
from magg.executors.cloud import CloudExecutor

if TYPE_CHECKING:
    from magg.executors.aws_lambda import LambdaExecutor
    from magg.executors.lithops import LithopsExecutor
    from magg.executors.stepfunctions import StepFunctionsExecutor

__all__ = [
    "CloudExecutor",
    "LambdaExecutor",
    "LithopsExecutor",
    "StepFunctionsExecutor",
    "make_executor",
]


def __getattr__(name: str) -> Any:
    if name == "LambdaExecutor":
        from magg.executors.aws_lambda import LambdaExecutor

        return LambdaExecutor
    if name == "LithopsExecutor":
        from magg.executors.lithops import LithopsExecutor

        return LithopsExecutor
    if name == "StepFunctionsExecutor":
        from magg.executors.stepfunctions import StepFunctionsExecutor

        return StepFunctionsExecutor
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
