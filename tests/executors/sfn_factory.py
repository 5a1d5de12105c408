"""Makes the StepFunctionsExecutor that the contract's checks use, each in its own process."""

from __future__ import annotations

import os

from magg.executors import StepFunctionsExecutor


def make(max_workers=None):
    workers = {} if max_workers is None else {"max_workers": max_workers}
    return StepFunctionsExecutor(
        os.environ["MAGG_STATE_MACHINE_ARN"],
        os.environ["MAGG_SFN_PREFIX"],
        codec="pickle",
        window_s=0.1,
        poll_s=0.05,
        **workers,
    )
