"""LithopsExecutor keeps the contract of executors, on lithops' localhost backend."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from magg.testing import ExecutorTests

# Found and not imported: other tests need it to be imported in folders of their own.
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(importlib.util.find_spec("lithops") is None, reason="needs lithops"),
]


class TestLithopsExecutor(ExecutorTests):
    factory = "lithops_factory:make"
    time_limit = 180.0  # every call is a process that imports lithops
    many = 12

    @pytest.fixture(autouse=True, scope="class")
    @classmethod
    def home(cls, tmp_path_factory):
        """Keep the cache of runtimes out of the user's home."""
        here = Path(__file__).parent
        cls.environment = {
            "HOME": str(tmp_path_factory.mktemp("home")),
            "USER": "magg",
            "PYTHONPATH": f"{here.parents[1]}:{here}",
        }
