"""Makes the LithopsExecutor that the contract's checks use, each in a process of its own."""

from __future__ import annotations

from magg.executors import LithopsExecutor

CONFIG = {"lithops": {"backend": "localhost"}}


def make(max_workers=None):
    return LithopsExecutor(CONFIG, max_workers=max_workers)
