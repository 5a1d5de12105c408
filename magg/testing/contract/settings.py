"""What the checks need to know of an executor."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from concurrent.futures import Executor
from dataclasses import dataclass, field
from typing import cast


@dataclass(frozen=True)
class Settings:
    """How to make the executor, and how long and how hard to test it.

    Parameters
    ----------
    factory : str
        ``"package.module:function"``; called as ``function(max_workers=n)``, it returns a new
        executor. It raises ``unittest.SkipTest`` where a number of workers means nothing to it.
    time_limit : float
        Seconds that one check may take, with making the executor and the end of the process.
    many : int
        Futures at once in the checks that submit many.
    shared_files : bool
        Whether the workers see the files of the client's temporary folder.
    environment : mapping of str to str
        Variables to add to the environment of every check.
    """

    factory: str
    time_limit: float = 60.0
    many: int = 2_000
    shared_files: bool = True
    environment: Mapping[str, str] = field(default_factory=dict)

    def make(self, max_workers: int | None = None) -> Executor:
        """Return a new executor from the factory."""
        return load_factory(self.factory)(max_workers=max_workers)


def load_factory(spec: str) -> Callable[..., Executor]:
    """Import ``"package.module:function"``.

    Raises
    ------
    ValueError
        If there is no colon between module and function.
    """
    module, _, name = spec.partition(":")
    if not module or not name:
        raise ValueError(f"a factory is named 'package.module:function', not {spec!r}")
    return cast("Callable[..., Executor]", getattr(importlib.import_module(module), name))
