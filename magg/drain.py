"""Cells through an executor: submit, drain, try again, back up stragglers, quarantine.

A future that raises means infrastructure (a worker died, a call was throttled), and a result may
say that its failure will pass: such cells are tried again after a wait, as
`magg.executors.retry` decides. When a pool of processes breaks, every cell in flight fails with
it though only one is to blame; they then run one at a time until the culprit is alone.
"""

from __future__ import annotations

import heapq
import itertools
import queue
import time
from collections import Counter, deque
from collections.abc import Callable, Collection, Generator, Iterable, Iterator
from concurrent.futures import BrokenExecutor, Executor, Future
from dataclasses import dataclass, field, replace
from typing import Any, Generic, TypeVar

from magg.catalog.surveying import Surveyed
from magg.cell import CellResult, failed, process_cell
from magg.errors import BackendError
from magg.executors.retry import ADVICE, Kind, Policy, backoff, is_straggler, should_retry
from magg.failure import CellFailure

# What is drained are cells of a run, or granules of which an index is made.
ResultT = TypeVar("ResultT", CellResult, Surveyed)
TICK_S = 1.0
# So many pools of which no process ever returned a result: the fault is not the cells'.
POOLS_GIVEN_UP_AFTER = 5
CALLERS_POOL = "the executor is broken; pass a new one and run again"
DEADLY_ADVICE = (
    "its worker died each time, for want of memory perhaps: give workers more memory, use fewer "
    "workers, or use a finer parent order so that cells are smaller"
)
OWN_POOL = (
    "worker processes die before they return anything; where a script calls run(), it must do so "
    "under `if __name__ == '__main__':`, and there must be memory for so many workers"
)


class Pool:
    """An executor, and how to make another one where it broke and is magg's own.

    Parameters
    ----------
    executor : concurrent.futures.Executor
    make : callable, optional
        Makes another one like it; left out for an executor that the caller handed in.
    """

    def __init__(self, executor: Executor, make: Callable[[], Executor] | None = None) -> None:
        self.executor = executor
        self.generation = 0
        self.has_worked = False
        self._make = make

    @property
    def is_own(self) -> bool:
        """Whether magg made the executor, and ends it."""
        return self._make is not None

    def renew(self, generation: int) -> bool:
        """Replace a broken executor, unless that has been done; tell whether one works now."""
        if self._make is None:
            return False
        if generation == self.generation:
            if not self.has_worked and self.generation >= POOLS_GIVEN_UP_AFTER:
                return False
            self.executor.shutdown(wait=False, cancel_futures=True)
            self.executor = self._make()
            self.generation += 1
        return True

    def given_up(self, error: BrokenExecutor) -> BackendError:
        """Return the error of a cell for which there is no executor any more."""
        advice = OWN_POOL if self.is_own else CALLERS_POOL
        return BackendError(f"{str(error).rstrip('.')}: {advice}")


@dataclass(frozen=True)
class _Call:
    """One submission of a cell."""

    cell: str
    began: float
    generation: int
    alone: bool


@dataclass
class Drain(Generic[ResultT]):
    """The state of a run's cells; iterate `results` once.

    Parameters
    ----------
    pool : Pool
    cells : iterable of str
        In the order in which they should start.
    make_task : callable
        Cell to task; called when a slot frees, so that what is in the task is fresh.
    in_flight : int
        Submissions at once.
    policy : Policy
    backups : bool
        Submit stragglers a second time; the first result wins.
    notify : callable
        Told in words what the user should know.
    on_refused : callable
        Told of a cell whose credentials were refused, before its next task is made.
    function, fail : callable
        What is submitted with each task, and what makes the result of one that raises.
    near : collection of str
        Cells for which nothing is to be read: ``near_executor`` does them, not the pool.
    near_executor : concurrent.futures.Executor, optional
    """

    pool: Pool
    cells: Iterable[str]
    make_task: Callable[[str], Any]
    in_flight: int
    policy: Policy = field(default_factory=Policy)
    backups: bool = False
    notify: Callable[[str], None] = lambda _: None
    on_refused: Callable[[str], None] = lambda _: None
    function: Callable[[Any], ResultT] = process_cell  # type: ignore[assignment]
    fail: Callable[..., ResultT] = failed  # type: ignore[assignment]
    near: Collection[str] = frozenset()
    near_executor: Executor | None = None
    retries: int = 0
    running: dict[Future[ResultT], _Call] = field(default_factory=dict)

    def __post_init__(self) -> None:
        # A queue filled by callbacks costs the same per cell however many are waiting.
        self._finished: queue.SimpleQueue[Future[ResultT] | str] = queue.SimpleQueue()
        self._fresh = deque(self.cells)
        self._total = len(self._fresh)
        self._later: list[tuple[float, int, str]] = []
        # Cells that were running when a pool broke, and those that broke one alone.
        self._suspects: deque[str] = deque()
        self._suspected: set[str] = set()
        self._guilty: set[str] = set()
        self._in_quarantine = False
        self._failures: Counter[str] = Counter()
        self._futures: dict[str, list[Future[ResultT]]] = {}
        self._settled: set[str] = set()
        self._durations: list[float] = []
        self._order = itertools.count()

    def results(self) -> Generator[ResultT, None, None]:
        """Yield the result of every cell, once, as they come."""
        try:
            while True:
                yield from self._fill()
                if len(self._settled) == self._total:
                    return  # a straggler that lost may still be running
                yield from self._next()
        finally:
            for future in self.running:
                future.cancel()

    def attempts(self, result: CellResult) -> int:
        """Return how often a cell was tried until it had its result."""
        return self._failures[result.cell] + (result.error is None)

    def tell(self, message: str) -> None:
        """Have a message told between results, whichever thread it comes from."""
        self._finished.put(message)

    def _fill(self) -> Iterator[ResultT]:
        """Submit what there is room for."""
        while (cell := self._choose()) is not None:
            yield from self._submit(cell)

    def _choose(self) -> str | None:
        if self._is_full():
            return None
        if self._later and self._later[0][0] <= time.monotonic():
            cell = heapq.heappop(self._later)[2]
            if cell not in self._guilty:
                return cell
            self._suspects.append(cell)
        if self._suspects:
            if self.running:
                return None
            self._in_quarantine = True
            return self._suspects.popleft()
        return self._fresh.popleft() if self._fresh else None

    def _is_full(self) -> bool:
        return self._in_quarantine or len(self.running) >= self.in_flight

    def _submit(self, cell: str) -> Iterator[ResultT]:
        generation, alone = self.pool.generation, self._in_quarantine
        executor = self.near_executor if cell in self.near else None
        try:
            future = (executor or self.pool.executor).submit(self.function, self.make_task(cell))
        except BrokenExecutor as error:
            if self.pool.renew(generation):
                yield from self._submit(cell)
                return
            result = self.fail(cell, self.pool.given_up(error))
        except Exception as error:  # noqa: BLE001 - a broken executor must not lose the summary
            result = self.fail(cell, error)
        else:
            self.running[future] = _Call(cell, time.monotonic(), generation, alone)
            self._futures.setdefault(cell, []).append(future)
            future.add_done_callback(self._finished.put)
            return
        if alone:
            self._in_quarantine = False
        yield from self._retry_or_end(result)

    def _next(self) -> Iterator[ResultT]:
        """Wait for the next future, or until a cell is due again, and settle it."""
        timeout = TICK_S if self.backups else None
        if self._later and not self._is_full() and not self._suspects:
            due = max(0.0, self._later[0][0] - time.monotonic())
            timeout = due if timeout is None else min(timeout, due)
        try:
            future = self._finished.get(timeout=timeout)
        except queue.Empty:
            yield from self._back_up()
            return
        if isinstance(future, str):
            self.notify(future)
            return
        call = self.running.pop(future, None)
        if call is None:
            return
        self._futures[call.cell].remove(future)
        if call.alone:
            self._in_quarantine = False
        if call.cell not in self._settled:
            yield from self._settle(future, call)

    def _settle(self, future: Future[ResultT], call: _Call) -> Iterator[ResultT]:
        try:
            result = future.result()
            if not isinstance(result, CellResult | Surveyed):
                raise BackendError(f"the executor returned {type(result).__name__}, no CellResult")
        except KeyboardInterrupt:
            raise
        except BrokenExecutor as error:
            yield from self._broken(call, error)
        except BaseException as error:  # noqa: BLE001 - executors hand on whatever was raised
            yield from self._retry_or_end(self.fail(call.cell, error, Kind.TRANSIENT))
        else:
            self.pool.has_worked = True
            if result.error is None:
                self._durations.append(time.monotonic() - call.began)
            yield from self._retry_or_end(result)

    def _broken(self, call: _Call, error: BrokenExecutor) -> Iterator[ResultT]:
        cell = call.cell
        if not self.pool.renew(call.generation):
            yield from self._retry_or_end(self.fail(cell, self.pool.given_up(error)))
        elif call.alone or self.in_flight == 1:
            self._guilty.add(cell)
            if cell in self._suspected:
                self._suspected.discard(cell)
                self._failures[cell] += 1  # the time when it did not run alone
            yield from self._retry_or_end(self.fail(cell, error, Kind.TRANSIENT))
        elif not self._futures[cell]:
            if not self._suspects:
                self.notify("a worker died; the cells that were running are tried one at a time")
            self._suspects.append(cell)
            self._suspected.add(cell)

    def _retry_or_end(self, result: ResultT) -> Iterator[ResultT]:
        if result.error is None:
            yield self._end(result)
            return
        cell, kind = result.cell, result.error.kind
        if self._futures.get(cell):
            return  # a second submission of the same cell is still running
        self._failures[cell] += 1
        if should_retry(kind, self._failures[cell], self.policy):
            self.retries += 1
            if kind is Kind.CREDENTIALS:
                self.on_refused(cell)
            due = time.monotonic() + backoff(self._failures[cell], self.policy)
            heapq.heappush(self._later, (due, next(self._order), cell))
            return
        yield self._end(replace(result, error=self._advised(cell, result.error)))

    def _end(self, result: ResultT) -> ResultT:
        self._settled.add(result.cell)
        for future in list(self._futures.get(result.cell, ())):
            future.cancel()
        return result

    def _back_up(self) -> Iterator[ResultT]:
        """Submit stragglers a second time."""
        if not self.backups or self._fresh or self._later or self._suspects:
            return
        now = time.monotonic()
        for call in list(self.running.values()):
            if call.cell in self._settled or len(self._futures[call.cell]) > 1:
                continue
            ran = now - call.began
            if not is_straggler(ran, self._durations, self._total, self.policy):
                return  # those after it were submitted later
            self.notify(f"cell {call.cell} has run for {ran:.0f} s; it is submitted once more")
            yield from self._submit(call.cell)

    def _advised(self, cell: str, error: CellFailure) -> CellFailure:
        """Add to an error what was tried and what helps."""
        attempts = self._failures[cell]
        notes = [f"tried {attempts} times"] if attempts > 1 else []
        if cell in self._guilty:
            notes.append(DEADLY_ADVICE)
        elif error.kind in ADVICE:
            notes.append(ADVICE[error.kind])
        return replace(error, message=f"{error.message} ({'; '.join(notes)})") if notes else error
