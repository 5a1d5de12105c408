"""The contract of an executor, as checks that authors of backends run on theirs.

In a pytest suite, subclass `ExecutorTests`. Without pytest::

    python -m magg.testing.contract package.module:function
"""

from magg.testing.contract.runner import Outcome, list_checks, run_check, run_checks
from magg.testing.contract.settings import Settings
from magg.testing.contract.suite import ExecutorTests

__all__ = ["ExecutorTests", "Outcome", "Settings", "list_checks", "run_check", "run_checks"]
