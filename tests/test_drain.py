"""Cells through executors that fail as a script says."""

from __future__ import annotations

import re
import time
from collections import Counter
from concurrent.futures import BrokenExecutor, CancelledError, Executor, Future, ThreadPoolExecutor
from dataclasses import dataclass, field

import pytest

from magg.cell import CellFailure, CellResult
from magg.drain import POOLS_GIVEN_UP_AFTER, Drain, Pool
from magg.errors import BackendError, WorkerOutOfMemoryError, WorkerTimeoutError
from magg.executors.retry import Kind, Policy

QUICK = Policy(base_s=0.002, cap_s=0.004)


class UnpicklableError(Exception):
    def __reduce__(self):
        raise TypeError("cannot pickle this")


def returned(kind):
    return CellFailure("SomeError", "it failed", "", kind)


@dataclass
class Scripted(Executor):
    """Does to each attempt of a cell what the script says; what is not in it succeeds."""

    script: dict[str, list] = field(default_factory=dict)
    holds: int | None = None
    attempts: Counter = field(default_factory=Counter)
    most: int = 0

    def __post_init__(self):
        self.open = []

    def submit(self, fn, cell):
        self.attempts[cell] += 1
        faults = self.script.get(cell, [])
        number = self.attempts[cell] - 1
        fault = faults[number] if number < len(faults) else None
        if isinstance(fault, tuple):
            raise fault[0]
        future = Future()
        self.open.append((future, cell, fault))
        self.most = max(self.most, len(self.open))
        if self.holds is None or len(self.open) >= self.holds:
            self.release()
        return future

    def release(self):
        for future, cell, fault in self.open:
            settle(future, cell, fault)
        self.open = []


def settle(future, cell, fault):
    if isinstance(fault, CellFailure):
        future.set_result(CellResult(cell, "error", error=fault))
    elif isinstance(fault, BaseException):
        future.set_exception(fault)
    elif fault is None:
        future.set_result(CellResult(cell, "data", observations=1))
    else:
        future.set_result(fault)


def drained(executor, cells, **options):
    options = {"in_flight": 4, "policy": QUICK} | options
    pool = executor if isinstance(executor, Pool) else Pool(executor)
    drain = Drain(pool, cells, lambda cell: cell, **options)
    results = list(drain.results())
    assert sorted(result.cell for result in results) == sorted(cells)
    return {result.cell: result for result in results}, drain


PASSING = [
    ConnectionError("x"), OSError("x"), TimeoutError("x"), CancelledError(), SystemExit(1),
    GeneratorExit(), BaseException("a panic"), RuntimeError("x"), UnpicklableError("x"),
    returned(Kind.TRANSIENT), returned(Kind.CREDENTIALS), (ConnectionError("at submit"),),
]  # fmt: skip
LASTING = [
    returned(Kind.PERMANENT), returned(Kind.MEMORY), returned(Kind.TIMEOUT), MemoryError(),
    WorkerOutOfMemoryError("x"), WorkerTimeoutError("x"), TypeError("cannot pickle 'module'"),
    BackendError("too large"), (ValueError("at submit"),), None.__class__, "no result",
]  # fmt: skip


@pytest.mark.parametrize("fault", PASSING, ids=repr)
@pytest.mark.parametrize("times", [1, 2])
def test_what_passes_is_tried_again_until_it_succeeds(fault, times):
    executor = Scripted({"b": [fault] * times})
    results, drain = drained(executor, "abc")
    assert {result.status for result in results.values()} == {"data"}
    assert executor.attempts == {"a": 1, "b": times + 1, "c": 1}
    assert drain.retries == times


@pytest.mark.parametrize("fault", PASSING, ids=repr)
def test_what_does_not_pass_ends_after_three_attempts_as_data(fault):
    executor = Scripted({"b": [fault] * 9})
    results, drain = drained(executor, "abc")
    assert executor.attempts == {"a": 1, "b": 3, "c": 1}
    assert drain.retries == 2
    error = results["b"].error
    assert results["b"].status == "error"
    assert "tried 3 times" in error.message
    assert "run again" in error.message
    assert {type(value) for value in (error.type, error.message, error.traceback)} == {str}


@pytest.mark.parametrize("fault", LASTING, ids=repr)
def test_what_would_fail_again_is_tried_once(fault):
    executor = Scripted({"b": [fault] * 9})
    results, drain = drained(executor, "abc")
    assert executor.attempts["b"] == 1
    assert drain.retries == 0
    assert results["b"].status == "error"
    assert "tried" not in results["b"].error.message


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (returned(Kind.MEMORY), "more memory.*finer parent order"),
        (MemoryError(), "more memory.*finer parent order"),
        (WorkerTimeoutError("x"), "raise the time limit.*finer parent order"),
        (returned(Kind.CREDENTIALS), "renew the credentials"),
    ],
    ids=repr,
)
def test_the_message_says_what_to_change(fault, words):
    results, _ = drained(Scripted({"a": [fault] * 9}), "a")
    assert re.search(words, results["a"].error.message)


def test_an_interrupt_out_of_a_future_reaches_the_caller_and_cancels_what_waits():
    executor = Scripted({"a": [KeyboardInterrupt()]}, holds=4)
    drain = Drain(Pool(executor), "abcdefgh", lambda cell: cell, 4, QUICK)
    with pytest.raises(KeyboardInterrupt):
        list(drain.results())
    assert executor.attempts.total() == 4


def test_no_more_than_asked_for_are_in_flight_and_tasks_are_made_late():
    executor, made = Scripted(holds=5), []
    drain = Drain(Pool(executor), list(map(str, range(50))), lambda c: made.append(c) or c, 5)
    for count, _ in enumerate(drain.results()):
        assert len(made) <= count + 5 + 5
    assert executor.most == 5
    assert made == [str(number) for number in range(50)]


def test_credentials_of_a_second_attempt_are_made_anew():
    made = []
    executor = Scripted({"a": [returned(Kind.CREDENTIALS)]})
    drain = Drain(Pool(executor), "a", lambda c: made.append(c) or c, 4, QUICK)
    list(drain.results())
    assert made == ["a", "a"]


def test_waiting_for_a_retry_costs_no_cpu_even_when_no_slot_is_free():
    executor = Scripted({"a": [ConnectionError()]})
    inner = ThreadPoolExecutor(1)
    submit = executor.submit

    def slow_or_scripted(fn, cell):
        if cell == "slow":
            return inner.submit(lambda: time.sleep(1.0) or CellResult(cell, "data"))
        return submit(fn, cell)

    executor.submit = slow_or_scripted
    began = time.thread_time()
    drained(executor, ["a", "slow"], in_flight=1, policy=Policy(base_s=0.001))
    assert time.thread_time() - began < 0.2


def test_waits_are_random_and_bounded(monkeypatch):
    asked = []

    def recorded(failures, policy):
        asked.append(failures)
        return 0.0

    monkeypatch.setattr("magg.drain.backoff", recorded)
    drained(Scripted({"a": [OSError()] * 9, "b": [OSError()]}), "ab")
    assert sorted(asked) == [1, 1, 2]


def test_thousands_of_cells_cost_little_each():
    cells = [str(number) for number in range(4_500)]
    began = time.process_time()
    drained(Scripted(holds=1_500), cells, in_flight=1_500)
    assert (time.process_time() - began) / len(cells) < 1e-3


@pytest.mark.parametrize("fails_at", ["submit", "result"])
def test_a_callers_broken_executor_gives_errors_and_no_hang(fails_at):
    error = BrokenExecutor("it broke")
    fault = (error,) if fails_at == "submit" else error
    cells = [str(number) for number in range(30)]
    executor = Scripted({cell: [fault] * 9 for cell in cells})
    results, drain = drained(executor, cells)
    assert set(executor.attempts.values()) == {1}
    assert drain.retries == 0
    assert all("pass a new one" in result.error.message for result in results.values())


class Mortal(Scripted):
    """A pool that breaks as a process pool does: with one cell, all that are in flight."""

    broken = False

    def submit(self, fn, cell):
        if self.broken:
            raise BrokenExecutor("broken")
        return super().submit(fn, cell)

    def release(self):
        if any(fault == "die" for _, _, fault in self.open):
            self.broken = True
            self.open = [(f, c, BrokenExecutor("a worker died")) for f, c, _ in self.open]
        super().release()

    def shutdown(self, wait=True, *, cancel_futures=False):
        pass


def mortal_pool(script, at_once):
    attempts, pools = Counter(), []

    def make():
        pool = Mortal(script, attempts=attempts)
        pools.append(pool)
        # Suspects come alone, and a lone cell does not wait for company.
        pool.holds = at_once if len(pools) == 1 else 1
        return pool

    return Pool(make(), make), attempts, pools


@pytest.mark.parametrize("at_once", [1, 2, 4])
@pytest.mark.parametrize("cells", ["a", "ab", "abcd", "abcdefgh"])
def test_one_deadly_cell_is_an_error_after_three_attempts_and_takes_none_with_it(cells, at_once):
    at_once = min(at_once, len(cells))
    pool, attempts, pools = mortal_pool({"a": ["die"] * 99}, at_once)
    pool.has_worked = True
    results, _ = drained(pool, cells, in_flight=at_once)
    assert [cell for cell, result in results.items() if result.error] == ["a"]
    assert attempts["a"] == 3
    assert max(attempts[cell] for cell in cells) <= 3
    assert len(pools) == 4
    assert "memory" in results["a"].error.message
    assert "tried 3 times" in results["a"].error.message


def test_a_worker_that_dies_once_costs_no_cell():
    pool, attempts, _ = mortal_pool({"c": ["die"]}, 4)
    results, _ = drained(pool, "abcdefgh")
    assert not any(result.error for result in results.values())
    assert attempts.total() == 8 + 4


def test_pools_that_never_return_anything_are_given_up():
    cells = [str(number) for number in range(200)]
    pool, _, pools = mortal_pool({cell: ["die"] * 99 for cell in cells}, 4)
    results, _ = drained(pool, cells)
    assert len(pools) == POOLS_GIVEN_UP_AFTER + 1
    assert "__main__" in results["150"].error.message
