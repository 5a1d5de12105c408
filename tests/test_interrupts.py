"""Ctrl-C gives control back at once, and deaths of workers or of the client lose nothing."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from random import Random

import interrupted_run
import pytest
from cell_faults import assert_complete, assert_no_false_done, cells_of, done_cells

from magg.store.inspect import describe

BACKENDS = ("local", "processes")
SLOW_S = 4.0


class Victim:
    """A run in a process of its own, of whose cells all but three are slow."""

    def __init__(self, tmp_path, small, backend, seconds=SLOW_S, progress="events"):
        folder = tmp_path / f"attempts-{time.time_ns()}"
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

    def kinds(self):
        return [told["kind"] for told in self.told]

    def interrupt(self, everybody=False):
        """Press Ctrl-C; a terminal sends it to the workers too."""
        (os.killpg if everybody else os.kill)(self.process.pid, signal.SIGINT)
        return time.time()

    def workers(self):
        tasks = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text()
        found = [int(pid) for pid in tasks.split()]
        return [pid for pid in found if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()]


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
    time.sleep(0.2)
    pressed = run.interrupt(everybody)
    assert run.until("control")["at"] - pressed < 3.0
    notices = [told["message"] for told in run.told if told["kind"] == "notice"]
    assert len(notices) == 1
    assert f"interrupted: 3 of {len(small.cells)} cells are done and kept" in notices[0]
    assert "the same call continues" in notices[0]
    if backend == "local":
        assert "2 calls may still run until their cells or this process" in notices[0]
    else:
        assert "worker processes are ended" in notices[0]
    assert run.kinds()[-2:] == ["finished", "control"]
    time.sleep(0.3)
    pressed = run.interrupt()
    run.process.wait(5)
    assert time.time() - pressed < 3.0
    finished = {told["cell"] for told in run.told if told["kind"] == "cell"}
    assert finished <= done_cells(run.store)
    assert_no_false_done(run.store, small.cells)
    assert small.run(run.store)["cells_skipped"] >= 3
    assert_complete(run.store, small.cells)


@pytest.mark.parametrize("backend", BACKENDS)
def test_an_interrupted_process_ends_without_a_second_interrupt(victim, small, backend):
    run = victim(backend, seconds=1.0)
    run.until("cell", 3)
    time.sleep(0.2)
    pressed = run.interrupt()
    run.until("control")
    assert run.process.wait(10) == 130
    assert time.time() - pressed < 10.0
    kept = len(done_cells(run.store))
    assert kept >= 3
    assert describe(run.store)["cells"]["failed"] == 0
    assert small.run(run.store)["cells_skipped"] == kept
    assert_complete(run.store, small.cells)


def test_a_run_under_test_ends_when_the_test_dies(victim):
    run = victim("processes", seconds=30.0)
    run.until("cell", 3)
    assert len(run.workers()) == 2
    run.process.stdin.close()  # as when pytest is killed
    assert run.process.wait(5) == -signal.SIGKILL
    deadline = time.monotonic() + 5.0
    while time.monotonic() < deadline:
        try:
            os.killpg(run.process.pid, 0)
        except ProcessLookupError:
            return
        time.sleep(0.01)
    raise AssertionError("workers are left behind")


def test_what_still_runs_after_an_interrupt_is_kept_if_the_process_goes_on(
    small, tmp_path, monkeypatch
):
    interrupted_run.slow_threads(2, 0.5, monkeypatch.setattr)
    store = tmp_path / "s.zarr"

    def press(event):
        if type(event).__name__ == "CellFinished":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        small.run(store, max_workers=4, progress=press)
    right_after = len(done_cells(store))
    time.sleep(1.0)
    assert right_after < len(done_cells(store)) <= 6
    small.run(store)
    assert_complete(store, small.cells)


def test_the_bar_is_closed_after_an_interrupt(victim):
    run = victim("local", seconds=1.0, progress="bar")
    run.until("ready")
    time.sleep(1.0)
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
    run.process.communicate(timeout=5)  # waits for its workers, which hold its pipes
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
            os.kill(pid, signal.SIGKILL)
    run.until("end")
    assert run.process.wait(10) == 0
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
        time.sleep(0.3)
        assert all(future.done() for future in submitted)
    assert sum(future.cancelled() for future in submitted) > 0 or len(submitted) < 4
    assert set(cells_of(tmp_path / "s.zarr")) == set(small.cells)
