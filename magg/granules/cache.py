"""A bounded cache that computes each value once, however many threads ask for it together."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from concurrent.futures import CancelledError, Future
from typing import Generic, Protocol, TypeVar


class Sized(Protocol):
    """A value that knows its memory."""

    @property
    def nbytes(self) -> int:
        """Bytes, about."""
        ...


ValueT = TypeVar("ValueT", bound=Sized)


class OnceCache(Generic[ValueT]):
    """Values by key, least recently used leaving first; errors are never kept.

    Parameters
    ----------
    limit : int
        Bytes that all kept values together may take. The latest value is kept even if it alone
        takes more.
    leaving : callable, optional
        Called with the key and the value of what leaves for want of room, before it is gone.
    """

    def __init__(
        self, limit: int, leaving: Callable[[Hashable, ValueT], None] | None = None
    ) -> None:
        self.limit, self._leaving = limit, leaving
        self.clear()

    def clear(self) -> None:
        """Forget everything (also after a fork, where the lock's holder does not exist)."""
        self._lock = threading.Lock()
        self._kept: OrderedDict[Hashable, ValueT] = OrderedDict()
        self._running: dict[Hashable, Future[ValueT]] = {}
        self.nbytes = 0

    def __len__(self) -> int:
        return len(self._kept)

    def get(self, key: Hashable, compute: Callable[[], ValueT]) -> ValueT:
        """Return the value of a key; compute it unless it is kept or being computed.

        An exception of ``compute`` reaches everyone who waits for it.
        """
        while True:
            with self._lock:
                if key in self._kept:
                    self._kept.move_to_end(key)
                    return self._kept[key]
                future = self._running.get(key)
                mine = future is None
                if future is None:
                    future = self._running[key] = Future()
            if mine:
                return self._computed(key, future, compute)
            try:
                return future.result()
            except CancelledError:  # whoever computed it was interrupted: take over
                continue

    def peek(self, key: Hashable) -> ValueT | None:
        """Return the value of a key if it is kept; compute nothing."""
        with self._lock:
            if key not in self._kept:
                return None
            self._kept.move_to_end(key)
            return self._kept[key]

    def put(self, key: Hashable, value: ValueT) -> None:
        """Keep a value that was computed elsewhere, in place of any other."""
        self.discard(key)
        with self._lock:
            self._keep(key, value)

    def discard(self, key: Hashable) -> None:
        """Forget a value, if it is kept."""
        with self._lock:
            value = self._kept.pop(key, None)
            if value is not None:
                self.nbytes -= value.nbytes

    def _computed(
        self, key: Hashable, future: Future[ValueT], compute: Callable[[], ValueT]
    ) -> ValueT:
        try:
            value = compute()
        except BaseException as error:
            with self._lock:
                self._running.pop(key, None)
            if isinstance(error, Exception):
                future.set_exception(error)
            else:  # Ctrl-C belongs to the thread that it reached, not to those that wait
                future.cancel()
            raise
        with self._lock:
            self._running.pop(key, None)
            self._keep(key, value)
        future.set_result(value)
        return value

    def _keep(self, key: Hashable, value: ValueT) -> None:
        """Add a value and let others leave; the lock is held."""
        self._kept[key] = value
        self.nbytes += value.nbytes
        while self.nbytes > self.limit and len(self._kept) > 1:
            oldest, left = self._kept.popitem(last=False)
            self.nbytes -= left.nbytes
            if self._leaving is not None:
                self._leaving(oldest, left)
