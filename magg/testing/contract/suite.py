"""The checks as pytest items."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from magg.testing.contract.runner import list_checks, run_check
from magg.testing.contract.settings import Settings


class ExecutorTests:
    """Tests of an executor for its author's pytest suite: subclass, and name the factory.

    Every check is an item of its own, so that ``-k``, ``-n`` and reports work as usual, and runs
    in a process of its own.

    Attributes
    ----------
    factory : str
        ``"package.module:function"``, called as ``function(max_workers=n)``.
    time_limit : float
        Seconds that one check may take.
    many : int
        Futures at once in the checks that submit many.
    shared_files : bool
        Whether the workers see the files of the client's temporary folder.
    environment : mapping of str to str
        Variables to add to the environment of the checks.
    known : mapping of str to str
        Checks that this executor cannot pass, with the reason. They are expected to fail: one that
        passes is an error, so that the list stays true.

    Examples
    --------
    >>> class TestThreads(ExecutorTests):
    ...     factory = "magg.testing.contract.factories:threads"
    """

    factory: ClassVar[str]
    time_limit: ClassVar[float] = Settings.time_limit
    many: ClassVar[int] = Settings.many
    shared_files: ClassVar[bool] = Settings.shared_files
    environment: ClassVar[Mapping[str, str]] = {}
    known: ClassVar[Mapping[str, str]] = {}

    @classmethod
    def settings(cls) -> Settings:
        """Return what the checks need to know."""
        return Settings(
            cls.factory, cls.time_limit, cls.many, cls.shared_files, dict(cls.environment)
        )

    def pytest_generate_tests(self, metafunc: Any) -> None:
        """Make an item of every check."""
        if "check" in metafunc.fixturenames:
            metafunc.parametrize("check", list_checks())

    def test_the_contract_of_an_executor(self, check: str) -> None:
        """Run a check in a process of its own."""
        import pytest

        outcome = run_check(check, self.settings())
        reason = self.known.get(check)
        if outcome.status == "skipped":
            pytest.skip(outcome.reason)
        if reason is None and not outcome.ok:
            pytest.fail(str(outcome), pytrace=False)
        if reason is not None and outcome.ok:
            pytest.fail(f"{check} passes; take it out of `known` ({reason})", pytrace=False)
        if reason is not None:
            pytest.xfail(reason)

    def test_known_failures_name_checks(self) -> None:
        """An entry in `known` that names no check would never be noticed."""
        import pytest

        # CPython's part is absent from some Pythons, but need not be from another.
        names = {*list_checks()}
        unknown = {name for name in self.known if name.startswith("magg.")} - names
        if unknown:
            pytest.fail(f"no such check: {', '.join(sorted(unknown))}", pytrace=False)
