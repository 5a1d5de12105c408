"""CPython's own tests of executors, taken from the interpreter that has them (3.13 and newer).

Left out is what looks inside CPython's threads and processes. Three tests write a script that
imports a pool by its name; here they play scenes of `magg.testing.contract.exits` instead.
"""

# ruff: noqa: PT009 - authors of backends may have no pytest

from __future__ import annotations

import importlib
import sys
import tempfile
import unittest
from pathlib import Path
from typing import Any

from magg.testing.contract.case import ContractCase

MIXINS = {
    "ExecutorTest": "executor",
    "WaitTests": "test_wait",
    "AsCompletedTests": "test_as_completed",
    "ExecutorShutdownTest": "test_shutdown",
}
PACKAGE = "test.test_concurrent_futures"


def load_cases() -> dict[str, type[ContractCase]]:
    """Return CPython's mixins as cases by their name, or one that says why there are none."""
    try:
        support: Any = importlib.import_module("test.support")
        support.SHORT_TIMEOUT = 10.0
        mixins = {
            name: getattr(importlib.import_module(f"{PACKAGE}.{module}"), name)
            for name, module in MIXINS.items()
        }
    except (ImportError, AttributeError, unittest.SkipTest) as error:
        return {"Absent": type("Absent", (_Absent,), {"reason": str(error)})}
    cases = {}
    for name, mixin in mixins.items():
        base = _Exits if name == "ExecutorShutdownTest" else ContractCase
        cases[name] = type(name, (base, mixin), {"worker_count": 5, "workers": 5})
    return cases


class _Absent(ContractCase):
    """Stands for CPython's tests where the interpreter has none that fit."""

    reason: str

    def setUp(self) -> None:
        """Make no executor."""

    def tearDown(self) -> None:
        """Shut down no executor."""

    def test_mixins(self) -> None:
        """CPython's own tests hold."""
        version = ".".join(map(str, sys.version_info[:3]))
        self.skipTest(
            f"Python {version} here has no {PACKAGE} that can be used ({self.reason}); "
            "run on a Python 3.13 that has its test package for CPython's part"
        )


class _Exits(ContractCase):
    """The three tests of CPython that write a script."""

    def test_interpreter_shutdown(self) -> None:
        """A call that is running when the interpreter ends is finished."""
        self._leaves_a_file("leave_file")

    def test_hang_gh83386(self) -> None:
        """shutdown(wait=False) hangs at exit neither the process nor the call."""
        self._leaves_a_file("leave_file_no_wait")

    def _leaves_a_file(self, scene: str) -> None:
        self.needs_shared_files()
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "called")
            code, said = self.at_exit(scene, str(path))
            self.assertEqual((code, said), (0, ""))
            self.assertEqual(path.read_text(), "called\n")

    def test_submit_after_interpreter_shutdown(self) -> None:
        """Submitting when the interpreter is ending raises RuntimeError."""
        _, said = self.at_exit("submit_late")
        self.assertIn("RuntimeError", said)
