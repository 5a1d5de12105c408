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
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import BrokenExecutor, CancelledError, Executor, Future
from dataclasses import dataclass, field, replace

from magg.cell import CellFailure, CellResult, CellTask, failed, process_cell
from magg.executors.retry import ADVICE, Kind, Policy, backoff, is_straggler, should_retry

TICK_S = 1.0


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
        self._make = make

    def renew(self, generation: int) -> bool:
        """Replace a broken executor, unless that has been done; tell whether one works now."""
        if self._make is None:
            return False
        if generation == self.generation:
            self.executor.shutdown(wait=False, cancel_futures=True)
            self.executor = self._make()
            self.generation += 1
        return True


@dataclass(frozen=True)
class _Call:
    """One submission of a cell."""

    cell: str
    began: float
    generation: int
    alone: bool


@dataclass
class Drain:
    """The state of a run's cells; iterate `results` once.

    Parameters
    ----------
    pool : Pool
    cells : iterable of str
        In the order in which they should start.
    make_task : callable
        Cell to `CellTask`; called when a slot frees, so that what is in the task is fresh.
    in_flight : int
        Submissions at once.
    policy : Policy
    backups : bool
        Submit stragglers a second time; the first result wins.
    notify : callable
        Told in words what the user should know.
    """

    pool: Pool
    cells: Iterable[str]
    make_task: Callable[[str], CellTask]
    in_flight: int
    policy: Policy = field(default_factory=Policy)
    backups: bool = False
    notify: Callable[[str], None] = lambda _: None
    retries: int = 0
    running: dict[Future[CellResult], _Call] = field(default_factory=dict)

    def __post_init__(self) -> None:
        # A queue filled by callbacks costs the same per cell however many are waiting.
        self._finished: queue.SimpleQueue[Future[CellResult]] = queue.SimpleQueue()
        self._fresh = deque(self.cells)
        self._total = len(self._fresh)
        self._later: list[tuple[float, int, str]] = []
        self._suspects: deque[str] = deque()
        self._failures: Counter[str] = Counter()
        self._settled: set[str] = set()
        self._durations: list[float] = []
        self._order = itertools.count()

    def results(self) -> Iterator[CellResult]:
        """Yield the result of every cell, once, as they come."""
        try:
            while True:
                yield from self._fill()
                if not self.running and not self._waiting():
                    return
                yield from self._next()
        finally:
            for future in self.running:
                future.cancel()

    def _waiting(self) -> bool:
        return bool(self._fresh or self._later or self._suspects)

    def _fill(self) -> Iterator[CellResult]:
        """Submit what there is room for."""
        while (cell := self._choose()) is not None:
            yield from self._submit(cell, alone=bool(self._suspects or self._in_quarantine()))

    def _choose(self) -> str | None:
        if self._in_quarantine() or len(self.running) >= self.in_flight:
            return None
        if self._suspects:
            return self._suspects.popleft() if not self.running else None
        if self._later and self._later[0][0] <= time.monotonic():
            return heapq.heappop(self._later)[2]
        return self._fresh.popleft() if self._fresh else None

    def _in_quarantine(self) -> bool:
        return any(call.alone for call in self.running.values())

    def _submit(self, cell: str, *, alone: bool = False) -> Iterator[CellResult]:
        generation = self.pool.generation
        try:
            future = self.pool.executor.submit(process_cell, self.make_task(cell))
        except BrokenExecutor as error:
            if self.pool.renew(generation):
                yield from self._submit(cell, alone=alone)
            else:
                yield from self._fail(cell, error, Kind.PERMANENT)
        except Exception as error:  # noqa: BLE001 - a broken executor must not lose the summary
            yield from self._fail(cell, error, Kind.PERMANENT)
        else:
            self.running[future] = _Call(cell, time.monotonic(), generation, alone)
            future.add_done_callback(self._finished.put)

    def _next(self) -> Iterator[CellResult]:
        """Wait for the next future, or until a cell is due again, and settle it."""
        timeout = TICK_S if self.backups else None
        if self._later:
            due = max(0.0, self._later[0][0] - time.monotonic())
            timeout = due if timeout is None else min(timeout, due)
        try:
            future = self._finished.get(timeout=timeout)
        except queue.Empty:
            yield from self._back_up()
            return
        call = self.running.pop(future, None)
        if call is not None and call.cell not in self._settled:
            yield from self._settle(future, call)

    def _settle(self, future: Future[CellResult], call: _Call) -> Iterator[CellResult]:
        try:
            result = future.result()
        except (KeyboardInterrupt, GeneratorExit):
            raise
        except BrokenExecutor as error:
            yield from self._broken(call, error)
        except CancelledError as error:
            yield from self._fail(call.cell, error, Kind.PERMANENT)
        except BaseException as error:  # noqa: BLE001 - executors hand on whatever was raised
            yield from self._fail(call.cell, error, Kind.TRANSIENT)
        else:
            if result.error is None:
                self._durations.append(time.monotonic() - call.began)
            yield from self._retry_or_end(result)

    def _broken(self, call: _Call, error: BrokenExecutor) -> Iterator[CellResult]:
        if not self.pool.renew(call.generation):
            yield from self._fail(call.cell, error, Kind.PERMANENT)
        elif call.alone or self.in_flight == 1:
            yield from self._fail(call.cell, error, Kind.TRANSIENT)
        else:
            if not self._suspects:
                self.notify("a worker died; the cells that were running are tried one at a time")
            self._suspects.append(call.cell)

    def _fail(self, cell: str, error: BaseException, default: Kind) -> Iterator[CellResult]:
        yield from self._retry_or_end(failed(cell, error, default))

    def _retry_or_end(self, result: CellResult) -> Iterator[CellResult]:
        if result.error is None:
            yield self._end(result)
            return
        cell, kind = result.cell, result.error.kind
        if any(call.cell == cell for call in self.running.values()):
            return  # a second submission of the same cell is still running
        self._failures[cell] += 1
        if should_retry(kind, self._failures[cell], self.policy):
            self.retries += 1
            due = time.monotonic() + backoff(self._failures[cell], self.policy)
            heapq.heappush(self._later, (due, next(self._order), cell))
            return
        yield self._end(replace(result, error=_advised(result.error, self._failures[cell])))

    def _end(self, result: CellResult) -> CellResult:
        self._settled.add(result.cell)
        for future, call in self.running.items():
            if call.cell == result.cell:
                future.cancel()
        return result

    def _back_up(self) -> Iterator[CellResult]:
        """Submit stragglers a second time."""
        if not self.backups or self._waiting():
            return
        now = time.monotonic()
        times = Counter(call.cell for call in self.running.values())
        for call in list(self.running.values()):
            ran = now - call.began
            if times[call.cell] == 1 and is_straggler(
                ran, self._durations, self._total, self.policy
            ):
                self.notify(f"cell {call.cell} has run for {ran:.0f} s; it is submitted once more")
                yield from self._submit(call.cell)


def _advised(error: CellFailure, attempts: int) -> CellFailure:
    """Add to an error what was tried and what helps."""
    notes = [f"tried {attempts} times"] if attempts > 1 else []
    if error.kind in ADVICE:
        notes.append(ADVICE[error.kind])
    return replace(error, message=f"{error.message} ({'; '.join(notes)})") if notes else error
