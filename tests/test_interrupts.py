"""Ctrl-C gives control back at once, and deaths of workers or of the client lose nothing."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from random import Random

import interrupted_run
import pytest
from cell_faults import assert_complete, assert_no_false_done, cells_of, done_cells

from magg.store.inspect import describe

BACKENDS = ("local", "processes")
SLOW_S = 400.0
# Against hangs, and less than a slow cell takes.
PATIENCE_S = 120.0


def until(condition):
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


class Victim:
    """A run in a process of its own, of whose cells all but three are slow."""

    def __init__(self, tmp_path, small, backend, seconds=SLOW_S, progress="events"):
        self.attempts = folder = tmp_path / f"attempts-{time.time_ns()}"
        folder.mkdir()
        catalog = small.catalog.save(tmp_path / "catalog.json")
        self.store = tmp_path / "s.zarr"
        arguments = [self.store, catalog, backend, seconds, folder, progress]
        self.process = subprocess.Popen(
            [sys.executable, interrupted_run.__file__, *map(str, arguments)],
            env={"PYTHONPATH": ":".join(sys.path), "COLUMNS": "300"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self.told = []

    def until(self, kind, count=1):
        """Read what it tells until it has told so many of a kind; return the last of them."""
        while sum(told["kind"] == kind for told in self.told) < count:
            line = self.process.stdout.readline()
            assert line, (kind, self.told, self.process.communicate())
            self.told.append(json.loads(line))
        return [told for told in self.told if told["kind"] == kind][count - 1]

    def until_slow(self, count):
        """Wait until so many slow cells have begun."""
        until(lambda: len(list(self.attempts.iterdir())) >= count)

    def kinds(self):
        return [told["kind"] for told in self.told]

    def interrupt(self, everybody=False):
        """Press Ctrl-C; a terminal sends it to the workers too."""
        (os.killpg if everybody else os.kill)(self.process.pid, signal.SIGINT)

    def workers(self):
        tasks = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text()
        return [pid for pid in map(int, tasks.split()) if b"spawn_main" in command_of(pid)]


def command_of(pid):
    """Return the command of a process, nothing if it has just ended."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return b""


@pytest.fixture
def victim(tmp_path, small):
    victims = []

    def start(*arguments, **options):
        victims.append(Victim(tmp_path, small, *arguments, **options))
        return victims[-1]

    yield start
    for started in victims:
        with started.process, contextlib.suppress(ProcessLookupError):
            os.killpg(started.process.pid, signal.SIGKILL)


@pytest.mark.parametrize("everybody", [False, True], ids=["client", "terminal"])
@pytest.mark.parametrize("backend", BACKENDS)
def test_an_interrupt_gives_control_back_and_a_second_one_ends_the_process(
    victim, small, backend, everybody
):
    run = victim(backend)
    run.until("cell", 3)
    run.until_slow(2)
    run.interrupt(everybody)
    run.until("control")  # long before the slow cells end
    notices = [told["message"] for told in run.told if told["kind"] == "notice"]
    assert len(notices) == 1
    assert f"interrupted: 3 of {len(small.cells)} cells are done and kept" in notices[0]
    assert "the same call continues" in notices[0]
    if backend == "local":
        assert "2 calls may still run until their cells or this process" in notices[0]
    else:
        assert "worker processes are ended" in notices[0]
    assert run.kinds()[-2:] == ["finished", "control"]
    run.until("ending")
    time.sleep(0.3)  # it is about to wait for its threads
    run.interrupt()
    run.process.wait(PATIENCE_S)
    finished = {told["cell"] for told in run.told if told["kind"] == "cell"}
    assert finished <= done_cells(run.store)
    assert_no_false_done(run.store, small.cells)
    assert small.run(run.store)["cells_skipped"] >= 3
    assert_complete(run.store, small.cells)


@pytest.mark.parametrize("backend", BACKENDS)
def test_an_interrupted_process_ends_without_a_second_interrupt(victim, small, backend):
    run = victim(backend, seconds=1.0)
    run.until("cell", 3)
    run.interrupt()
    run.until("control")
    assert run.process.wait(PATIENCE_S) == 130
    kept = len(done_cells(run.store))
    assert kept >= 3
    assert describe(run.store)["cells"]["failed"] == 0
    assert small.run(run.store)["cells_skipped"] == kept
    assert_complete(run.store, small.cells)


def test_a_run_under_test_ends_when_the_test_dies(victim):
    run = victim("processes")
    run.until("cell", 3)
    run.until_slow(2)
    assert len(run.workers()) == 2
    run.process.stdin.close()  # as when pytest is killed
    assert run.process.wait(PATIENCE_S) == -signal.SIGKILL
    until(lambda: not is_anybody_left(run.process.pid))


def is_anybody_left(group):
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


def test_what_still_runs_after_an_interrupt_is_kept_if_the_process_goes_on(
    small, tmp_path, monkeypatch
):
    goes_on = threading.Event()
    slow = []

    def wait():
        slow.append(threading.current_thread())
        goes_on.wait(PATIENCE_S)

    interrupted_run.slow_threads(2, wait, monkeypatch.setattr)
    store = tmp_path / "s.zarr"

    def press(event):
        if type(event).__name__ == "CellFinished":
            until(lambda: len(slow) >= 2)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        small.run(store, max_workers=4, progress=press)
    right_after = len(done_cells(store))
    goes_on.set()
    until(lambda: not any(thread.is_alive() for thread in slow))
    assert right_after < len(done_cells(store)) <= 6
    small.run(store)
    assert_complete(store, small.cells)


def test_the_bar_is_closed_after_an_interrupt(victim):
    run = victim("local", seconds=5.0, progress="bar")
    run.until_slow(1)
    run.interrupt()
    run.until("control")
    shown = run.process.stderr.read()
    assert shown.count("\x1b[?25l") == shown.count("\x1b[?25h")
    assert "are done and kept" in shown
    assert shown.endswith("\n")


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("seed", range(3))
def test_a_client_that_is_killed_loses_nothing(victim, small, backend, seed):
    rng = Random(f"{backend}{seed}")
    run = victim(backend, seconds=0.2)
    run.until("started")
    time.sleep(rng.uniform(0.0, 1.5))
    os.kill(run.process.pid, signal.SIGKILL)
    run.process.communicate(timeout=PATIENCE_S)  # waits for its workers, which hold its pipes
    if run.store.exists():
        assert_no_false_done(run.store, small.cells)
    assert small.run(run.store)["cells_error"] == 0
    assert_complete(run.store, small.cells)


@pytest.mark.parametrize("seed", range(3))
def test_workers_that_are_killed_lose_nothing(victim, small, seed):
    rng = Random(seed)
    run = victim("processes", seconds=0.2)
    run.until("cell", 1)
    for _ in range(2):
        time.sleep(rng.uniform(0.0, 0.7))
        for pid in rng.sample(workers := run.workers(), min(1, len(workers))):
            with contextlib.suppress(ProcessLookupError):  # it may be about to end by itself
                os.kill(pid, signal.SIGKILL)
    run.until("end")
    assert run.process.wait(PATIENCE_S) == 0
    finished = {t["cell"] for t in run.told if t["kind"] == "cell" and t["status"] != "error"}
    assert finished <= done_cells(run.store)
    assert_no_false_done(run.store, small.cells)
    small.run(run.store)
    assert_complete(run.store, small.cells)


def test_an_interrupt_while_the_store_is_prepared_leaves_no_lock(small, tmp_path, monkeypatch):
    from magg.store import template

    store, write = tmp_path / "s.zarr", template._write_parents

    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(template, "_write_parents", interrupted)
    with pytest.raises(KeyboardInterrupt):
        small.run(store)
    assert not (store / ".magg" / "lock").exists()
    monkeypatch.setattr(template, "_write_parents", write)
    small.run(store)
    assert_complete(store, small.cells)


def test_a_listener_that_fails_leaves_nothing_waiting_in_the_callers_executor(small, tmp_path):
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(1) as pool:
        submitted, submit = [], pool.submit

        def kept(*arguments):
            submitted.append(submit(*arguments))
            return submitted[-1]

        def failing(event):
            if type(event).__name__ == "CellFinished":
                raise ValueError("the listener is wrong")

        pool.submit = kept
        with pytest.raises(ValueError, match="listener"):
            small.run(tmp_path / "s.zarr", executor=pool, progress=failing)
        until(lambda: all(future.done() for future in submitted))
    assert sum(future.cancelled() for future in submitted) > 0 or len(submitted) < 4
    assert set(cells_of(tmp_path / "s.zarr")) == set(small.cells)
