"""lithops in folders of the tests' own: it computes its folders when it is imported."""

from __future__ import annotations

import copyreg
import signal
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

VARIABLES = ("MAGG_LITHOPS_CONFIG", "LITHOPS_CONFIG", "LITHOPS_CONFIG_FILE")


class LithopsHome:
    """A home and a folder for temporary files, for this process and those that it starts."""

    def __init__(self, folder: Path) -> None:
        self.home, self.temporary = folder / "home", folder / "tmp"
        self.home.mkdir()
        self.temporary.mkdir()
        self.variables = {
            "HOME": str(self.home),
            "TMPDIR": str(self.temporary),
            "USER": "magg",
        }

    def left(self) -> set[str]:
        """Return what is there, but for lithops' own program, logs and list of runtimes."""
        root = self.temporary / "lithops-magg"
        own = {"lithops", ".lithops-copy.lock", "functions.log", "cleaner"}
        own |= {path.name for path in root.glob("localhost-runner*")}
        found = (path.relative_to(root) for path in root.rglob("*") if path.is_file())
        left = {path.as_posix() for path in found if path.parts[0] not in own}
        return {name for name in left if not name.startswith("storage/lithops.runtimes/")}


# Against hangs: lithops starts a process for every call.
PATIENCE_S = 300.0


@contextmanager
def ends_within(seconds: int) -> Iterator[None]:
    """End a test that hangs."""

    def end(*_):
        raise AssertionError(f"no end within {seconds} s")

    before = signal.signal(signal.SIGALRM, end)
    signal.alarm(seconds)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.fixture(scope="session")
def _lithops_folders(tmp_path_factory):
    home = LithopsHome(tmp_path_factory.mktemp("lithops"))
    with pytest.MonkeyPatch.context() as patch:
        for name, value in home.variables.items():
            patch.setenv(name, value)
        patch.setattr(tempfile, "tempdir", None)
        before = set(copyreg.dispatch_table)
        constants = pytest.importorskip("lithops.constants")
        table = copyreg.dispatch_table
        home.pickling = {kind: table[kind] for kind in set(table) - before}
    assert Path(constants.TEMP_DIR) == home.temporary, "lithops was imported before"
    assert "lithops" in sys.modules
    return home


@pytest.fixture
def lithops_home(_lithops_folders, monkeypatch):
    """Lead lithops to empty folders, without any configuration."""
    for name, value in _lithops_folders.variables.items():
        monkeypatch.setenv(name, value)
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("magg.executors.lithops.LOCAL_START_TIMEOUT_S", PATIENCE_S)
    # lithops changes how this process pickles exceptions, which other tests must not notice.
    copyreg.dispatch_table.update(_lithops_folders.pickling)
    yield _lithops_folders
    for kind in _lithops_folders.pickling:
        copyreg.dispatch_table.pop(kind, None)
