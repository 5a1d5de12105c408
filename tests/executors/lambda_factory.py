"""Makes the LambdaExecutor that the contract's checks use, each in a process of its own."""

from __future__ import annotations

from magg.executors import LambdaExecutor

FUNCTION = "any-function"


def make(max_workers=None):
    workers = {} if max_workers is None else {"max_workers": max_workers}
    return LambdaExecutor(FUNCTION, codec="pickle", **workers)
