"""A pool of threads that wait: how it ends, what it keeps, how many threads it has."""

from __future__ import annotations

import gc
import subprocess
import sys
import textwrap
import threading
import time
import weakref
from concurrent.futures import CancelledError, wait

import pytest

from magg.executors.threads import WaitingThreadPool

# Against hangs alone; everything here takes milliseconds.
PATIENCE_S = 120.0
BEGIN = "import os, threading, time\nfrom magg.executors.threads import WaitingThreadPool\n"


def run_script(text):
    """Run a program to its end; return what it printed."""
    program = BEGIN + textwrap.dedent(text)
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S, check=False)
    assert done.stderr == ""
    assert done.returncode == 0
    return done.stdout


def eventually(condition):
    deadline = time.monotonic() + PATIENCE_S
    while not condition() and time.monotonic() < deadline:
        gc.collect()
        time.sleep(0.001)
    return condition()


def pool_threads(pool):
    return [thread for thread in threading.enumerate() if thread.name.startswith(f"{pool._name}-")]


class Value:
    """Something that can be referred to weakly."""


@pytest.fixture
def pool():
    with WaitingThreadPool(4) as made:
        yield made


def test_a_pool_needs_a_thread():
    for workers in (0, -1):
        with pytest.raises(ValueError, match="greater than 0"):
            WaitingThreadPool(workers)


def test_results_and_errors_come_back(pool):
    assert pool.submit(divmod, 7, 2).result(PATIENCE_S) == (3, 1)
    assert pool.submit(int, "ff", base=16).result(PATIENCE_S) == 255
    with pytest.raises(ZeroDivisionError):
        pool.submit(divmod, 7, 0).result(PATIENCE_S)
    with pytest.raises(SystemExit):  # a call that wants to leave ends itself, not the thread
        pool.submit(sys.exit, 3).result(PATIENCE_S)
    assert list(pool.map(abs, [-1, -2, -3])) == [1, 2, 3]


def test_threads_are_started_as_needed_and_used_again(pool):
    for _ in range(20):
        pool.submit(int).result(PATIENCE_S)
        assert eventually(lambda: pool._idle._value == 1)
    assert len(pool_threads(pool)) == 1


def test_there_are_never_more_threads_than_workers(pool):
    gate = threading.Barrier(4)
    futures = [pool.submit(gate.wait, PATIENCE_S) for _ in range(40)]
    assert len(pool_threads(pool)) == 4
    assert sorted(future.result(PATIENCE_S) for future in futures) == sorted([0, 1, 2, 3] * 10)
    assert len(pool_threads(pool)) == 4


def test_calls_that_wait_for_each_other_all_run(pool):
    for _ in range(50):  # a thread counted as idle that is not would leave one of them waiting
        gate = threading.Barrier(4)
        futures = [pool.submit(gate.wait, PATIENCE_S) for _ in range(4)]
        assert {future.result(PATIENCE_S) for future in futures} == {0, 1, 2, 3}


def test_a_system_without_more_threads_makes_do_with_those_there_are(pool, monkeypatch):
    blocked, start = threading.Event(), threading.Thread.start
    first = pool.submit(blocked.wait, PATIENCE_S)

    def refuse(thread):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    others = [pool.submit(abs, -number) for number in range(3)]
    monkeypatch.setattr(threading.Thread, "start", start)
    blocked.set()
    assert first.result(PATIENCE_S)
    assert [future.result(PATIENCE_S) for future in others] == [0, 1, 2]
    assert len(pool_threads(pool)) == 1


def test_nothing_is_taken_after_shutdown(pool):
    pool.shutdown()
    with pytest.raises(RuntimeError, match="after shutdown"):
        pool.submit(int)


def test_shutdown_waits_for_what_was_submitted():
    pool, done = WaitingThreadPool(2), []
    for number in range(6):
        pool.submit(lambda n: (time.sleep(0.01), done.append(n)), number)
    pool.shutdown()
    assert sorted(done) == list(range(6))
    assert pool_threads(pool) == []


def test_shutdown_cancels_what_has_not_begun():
    pool, begun, leave = WaitingThreadPool(1), threading.Event(), threading.Event()

    def work():
        begun.set()
        return leave.wait(PATIENCE_S)

    running = pool.submit(work)
    assert begun.wait(PATIENCE_S)
    waiting = [pool.submit(int) for _ in range(5)]
    pool.shutdown(wait=False, cancel_futures=True)
    assert wait(waiting, PATIENCE_S).not_done == set()
    assert all(future.cancelled() for future in waiting)
    leave.set()
    assert running.result(PATIENCE_S)
    assert eventually(lambda: pool_threads(pool) == [])


def test_a_cancelled_call_is_not_run():
    with WaitingThreadPool(1) as pool:
        leave, ran = threading.Event(), []
        pool.submit(leave.wait, PATIENCE_S)
        future = pool.submit(ran.append, 1)
        assert future.cancel()
        leave.set()
        with pytest.raises(CancelledError):
            future.result(PATIENCE_S)
    assert ran == []


def test_a_pool_that_is_dropped_ends_its_threads():
    pool = WaitingThreadPool(3)
    gate = threading.Barrier(3)
    wait([pool.submit(gate.wait, PATIENCE_S) for _ in range(3)], PATIENCE_S)
    names, gone = f"{pool._name}-", weakref.ref(pool)
    del pool
    assert eventually(lambda: gone() is None)
    assert eventually(lambda: not any(t.name.startswith(names) for t in threading.enumerate()))


def test_a_pool_that_is_dropped_still_runs_what_it_has():
    leave = threading.Event()
    pool = WaitingThreadPool(1)
    futures = [pool.submit(leave.wait, PATIENCE_S), pool.submit(abs, -3)]
    gone = weakref.ref(pool)
    del pool
    leave.set()
    assert [future.result(PATIENCE_S) for future in futures] == [True, 3]
    assert eventually(lambda: gone() is None)


@pytest.mark.parametrize("fails", [False, True])
def test_no_reference_to_arguments_results_or_errors_is_kept(pool, fails):
    def work(value, keyword):
        if fails:
            raise KeyError(value)
        return value

    value, keyword = Value(), Value()
    gone = [weakref.ref(value), weakref.ref(keyword)]
    future = pool.submit(work, value, keyword=keyword)
    wait([future], PATIENCE_S)
    del value, keyword, future
    assert eventually(lambda: all(ref() is None for ref in gone))
    assert len(pool_threads(pool)) == 1  # that waits, and would keep what it did last


def test_the_thread_of_an_error_keeps_no_reference_without_the_garbage_collector(pool):
    def work(value):
        raise KeyError(value)

    value = Value()
    gone = weakref.ref(value)
    gc.disable()
    try:
        future = pool.submit(work, value)
        wait([future], PATIENCE_S)
        del value, future
        deadline = time.monotonic() + PATIENCE_S
        while gone() is not None and time.monotonic() < deadline:
            time.sleep(0.001)
        assert gone() is None
    finally:
        gc.enable()


def test_the_end_of_python_waits_for_what_was_submitted():
    printed = run_script("""
        pool = WaitingThreadPool(2)
        for n in range(4):
            pool.submit(lambda n: (time.sleep(0.05), os.write(1, b"%d\\n" % n)), n)
    """)
    assert sorted(printed.split()) == ["0", "1", "2", "3"]


def test_the_end_of_python_waits_even_for_a_pool_that_was_dropped():
    printed = run_script("""
        WaitingThreadPool(1).submit(lambda: (time.sleep(0.1), print("done", flush=True)))
    """)
    assert printed == "done\n"


def test_a_program_that_tidies_up_at_its_end_finds_its_calls_finished():
    printed = run_script("""
        import atexit
        atexit.register(print, "tidied", flush=True)
        pool = WaitingThreadPool(1)
        pool.submit(lambda: (time.sleep(0.1), print("done", flush=True)))
    """)
    assert printed.split() == ["done", "tidied"]


def test_a_pool_that_is_left_behind_does_not_keep_python():
    printed = run_script("""
        begun = threading.Event()
        pool = WaitingThreadPool(2)
        pool.submit(lambda: (begun.set(), time.sleep(600), print("late", flush=True)))
        begun.wait()
        pool.shutdown(wait=False, cancel_futures=True)
        print("left", flush=True)
    """)
    assert printed == "left\n"


def test_other_pools_are_waited_for_when_one_is_left_behind():
    printed = run_script("""
        left, kept = WaitingThreadPool(1), WaitingThreadPool(1)
        left.submit(time.sleep, 600)
        kept.submit(lambda: (time.sleep(0.1), print("kept", flush=True)))
        left.shutdown(wait=False, cancel_futures=True)
    """)
    assert printed == "kept\n"
