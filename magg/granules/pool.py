"""What all reads of a process share: threads for ranges, and a bound on the memory in flight.

Cells run beside each other, and each reads many granules. Threads and bytes are therefore counted
for the process, not for a cell: however many granules a cell has, and however many cells run, at
most 64 ranges are on their way, and at most half of ``MAGG_READ_MEMORY`` (MiB, 256 by default) is
taken by the rows of remote granules that are not yet complete, and half by coordinates of remote
granules that are being located. Rows that are complete belong to their cell's result.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from typing import TypeVar

from magg.errors import ConfigError

# Enough to hide the latency of a store: 64 ranges of 50 kB every 40 ms are 80 MB/s.
RANGE_THREADS = 64
# Granules opened and laid out beside each other; they wait for ranges, which is why these threads
# are not those of the ranges.
GRANULE_THREADS = 24
MEMORY_VARIABLE = "MAGG_READ_MEMORY"
DEFAULT_MEMORY = 256  # MiB

T = TypeVar("T")


def read_memory() -> int:
    """Return how many bytes reads in flight may take in this process.

    Raises
    ------
    ConfigError
        If ``MAGG_READ_MEMORY`` is not a number of MiB from 16 on.
    """
    text = os.environ.get(MEMORY_VARIABLE, "").strip() or str(DEFAULT_MEMORY)
    if not text.isascii() or not text.isdigit() or int(text) < 16:
        raise ConfigError(f"{MEMORY_VARIABLE} must be a number of MiB from 16 on, not {text!r}")
    return int(text) << 20


class Budget:
    """Bytes that may be taken at the same time.

    Whoever holds bytes must be able to give them back without taking any more: then nobody waits
    for ever. What exceeds the whole limit is let through while nothing else is held.

    Parameters
    ----------
    limit : int
    """

    def __init__(self, limit: int) -> None:
        self.limit, self.held = limit, 0
        self._given = threading.Condition()

    def try_take(self, nbytes: int) -> bool:
        """Take bytes if they are there now; tell whether they were."""
        with self._given:
            if not self._fits(nbytes):
                return False
            self.held += nbytes
            return True

    def take(self, nbytes: int) -> None:
        """Take bytes, waiting until they are there."""
        with self._given:
            self._given.wait_for(lambda: self._fits(nbytes))
            self.held += nbytes

    def give(self, nbytes: int) -> None:
        """Give bytes back."""
        with self._given:
            self.held -= nbytes
            self._given.notify_all()

    @contextmanager
    def taken(self, nbytes: int) -> Iterator[None]:
        """Hold bytes for the duration of a block, waiting for them first."""
        self.take(nbytes)
        try:
            yield
        finally:
            self.give(nbytes)

    def _fits(self, nbytes: int) -> bool:
        return not self.held or self.held + nbytes <= self.limit


class Pool:
    """The threads and the memory of one process.

    Attributes
    ----------
    ranges, granules : ThreadPoolExecutor
    rows, coordinates : Budget
        Of their own each, because who lays out a granule must never wait for who reads rows.
    """

    def __init__(self) -> None:
        self.ranges = ThreadPoolExecutor(RANGE_THREADS, "magg-range", initializer=_mark)
        self.granules = ThreadPoolExecutor(GRANULE_THREADS, "magg-granule")
        self.rows, self.coordinates = Budget(read_memory() // 2), Budget(read_memory() // 2)


def shared() -> Pool:
    """Return the pool of this process, made when it is first needed."""
    global _pool
    with _lock:
        if _pool is None:
            _pool = Pool()
        return _pool


def run_all(jobs: Sequence[Callable[[], T]]) -> list[T]:
    """Run jobs in the threads for ranges and return what they return, in order.

    A job may call this itself; its own jobs then run in its thread. The first error ends it: jobs
    that wait are dropped, and those that run are waited for.
    """
    if len(jobs) < 2 or getattr(_thread, "is_range", False):
        return [job() for job in jobs]
    return results([shared().ranges.submit(job) for job in jobs])


def results(futures: Sequence[Future[T]]) -> list[T]:
    """Return the results of jobs; see `run_all` for errors."""
    try:
        return [future.result() for future in futures]
    except BaseException:
        give_up(futures)
        raise


def give_up(futures: Sequence[Future[T]]) -> None:
    """Drop the jobs that wait, and wait for those that run."""
    for future in futures:
        future.cancel()
    wait(futures)


_thread = threading.local()
_pool: Pool | None = None
_lock = threading.Lock()


def _mark() -> None:
    _thread.is_range = True


def _forget() -> None:
    """Forget the pool: after a fork its threads, and the holder of its lock, do not exist."""
    global _pool, _lock
    _pool, _lock = None, threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
