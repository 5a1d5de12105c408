"""How the workers of an executor are shared among executions that run at the same time."""

from __future__ import annotations

import threading
from collections.abc import Callable


class Workers:
    """So many workers, of which executions hold some.

    Parameters
    ----------
    number : int
    """

    def __init__(self, number: int) -> None:
        self._free = number
        self._is_open = False
        self._changed = threading.Condition()

    def take(self, wanted: Callable[[], int]) -> Lease:
        """Wait until a worker is free, and hold as many as are wanted by then and free."""
        with self._changed:
            self._changed.wait_for(lambda: self._free or self._is_open)
            number = min(self._free, max(1, wanted()))
            self._free -= number
        return Lease(self, number)

    def open(self) -> None:
        """Let nobody wait any more."""
        with self._changed:
            self._is_open = True
            self._changed.notify_all()

    def give_back(self, number: int) -> None:
        """Take back workers that were held."""
        with self._changed:
            self._free += number
            self._changed.notify_all()


class Lease:
    """The workers that one execution holds.

    Parameters
    ----------
    workers : Workers
    number : int
    """

    def __init__(self, workers: Workers, number: int) -> None:
        self.number = number
        self._workers = workers

    def keep(self, number: int) -> None:
        """Give back all but so many."""
        spare = self.number - number
        if spare > 0:
            self.number = number
            self._workers.give_back(spare)
