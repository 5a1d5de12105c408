"""kill -9 of the whole run before, during or after any change of the store."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from random import Random

import pytest
import storage_seams
from cell_faults import assert_complete, assert_no_false_done, cells_of, reads_as_done

from magg import Catalog

KILLED = -signal.SIGKILL
WHEN = ("before", "during", "after")


class Forks:
    """Runs in forks of one warm process."""

    def __init__(self, folder):
        self._folder = folder
        self._process = subprocess.Popen(
            [sys.executable, storage_seams.__file__],
            env={"PYTHONPATH": ":".join(sys.path)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def run(self, store, catalog, kill=0, when="before", *, pyramid=False, **options):
        """Run; return the exit status, and how many operations there were where it ended well."""
        status = self._folder / "status.json"
        status.unlink(missing_ok=True)
        order = {"store": str(store), "catalog": str(catalog), "kill": kill, "when": when}
        order |= {"status": str(status), "options": options, "pyramid": pyramid}
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        code = int(self._process.stdout.readline())
        told = json.loads(status.read_text()) if code == 0 else None
        assert not (told and told["errors"])
        return code, told["operations"] if told else None

    def close(self):
        self._process.stdin.close()
        try:
            assert self._process.wait(30) == 0
        finally:
            self._process.kill()
            self._process.wait()


@pytest.fixture(scope="module")
def forks(tmp_path_factory):
    forks = Forks(tmp_path_factory.mktemp("forks"))
    yield forks
    forks.close()


@pytest.fixture(scope="module")
def place(small, tmp_path_factory):
    """Return a folder with the catalogs, and stores to begin with."""
    folder = tmp_path_factory.mktemp("kills")
    half = small.part(*range(0, len(small.cells), 2))
    small.catalog.save(folder / "all.json")
    half.save(folder / "half.json")
    fewer = {cell: granules[:1] for cell, granules in small.catalog.cells.items()}
    Catalog(10, fewer).save(folder / "older.json")
    small.run(folder / "half.zarr", catalog=half)
    small.run(folder / "all.zarr")
    small.run(folder / "older.zarr", catalog=Catalog(10, fewer))
    return folder


SITUATIONS = {
    # what is there, what is called and killed, what is called next
    "new": (None, {}, {}),
    "growth": ("half.zarr", {}, {}),
    "newer granules": ("older.zarr", {}, {}),
    "overwrite": ("all.zarr", {"overwrite": True}, {}),
    "overwrite twice": ("older.zarr", {"overwrite": True}, {"overwrite": True}),
    "one worker": (None, {"max_workers": 1}, {}),
}


def begin(place, store, name):
    shutil.rmtree(store, ignore_errors=True)
    before, options, then = SITUATIONS[name]
    if before is not None:
        shutil.copytree(place / before, store)
    return options, then


def moments(forks, place, store, name):
    options, _ = begin(place, store, name)
    code, operations = forks.run(store, place / "all.json", **options)
    assert code == 0
    return [(number, when) for number in range(1, operations + 1) for when in WHEN]


def check_a_kill(forks, small, place, store, name, number, when):
    options, then = begin(place, store, name)
    code, _ = forks.run(store, place / "all.json", number, when, **options)
    assert code in (0, KILLED)
    if name == "newer granules":
        older = Catalog.load(place / "older.json")
        of_older = cells_of(place / "older.zarr")
        assert_no_false_done(store, of_older, reads_as_done(small, store, older))
    assert_no_false_done(store, small.cells, reads_as_done(small, store))
    summary = small.run(store, **then)
    assert summary["cells_error"] == 0
    assert_complete(store, small.cells)
    return code == KILLED


@pytest.mark.parametrize("name", SITUATIONS)
def test_a_kill_at_some_moments_loses_nothing(forks, small, place, tmp_path, name):
    store = tmp_path / "s.zarr"
    chosen = Random(name).sample(moments(forks, place, store, name), 6)
    kills = [check_a_kill(forks, small, place, store, name, *moment) for moment in chosen]
    assert sum(kills) >= 5


@pytest.mark.slow
@pytest.mark.parametrize("name", SITUATIONS)
def test_a_kill_at_any_moment_loses_nothing(forks, small, place, tmp_path, name, record_property):
    store = tmp_path / "s.zarr"
    everywhere = moments(forks, place, store, name)
    # The template is where moments differ most; cells are all alike.
    chosen = everywhere[:90:4] + Random(name).sample(everywhere[90:], 12)
    kills = [check_a_kill(forks, small, place, store, name, *moment) for moment in chosen]
    record_property("kills", sum(kills))


@pytest.mark.parametrize("seed", range(3))
def test_a_run_that_is_killed_again_and_again_comes_to_its_end(forks, small, place, tmp_path, seed):
    store, rng = tmp_path / "s.zarr", Random(seed)
    code, kills = KILLED, 0
    while code != 0:
        moment = rng.randint(40, 150), rng.choice(WHEN)
        code, _ = forks.run(store, place / "all.json", *moment)
        assert_no_false_done(store, small.cells)
        kills += code == KILLED
        assert kills < 60
    assert kills > 0
    assert_complete(store, small.cells)


def test_an_overwrite_that_was_killed_may_be_followed_by_a_smaller_catalog(
    forks, small, place, tmp_path
):
    store, half = tmp_path / "s.zarr", Catalog.load(place / "half.json")
    for number in range(1, 160, 20):
        shutil.rmtree(store, ignore_errors=True)
        shutil.copytree(place / "all.zarr", store)
        forks.run(store, place / "half.json", number, "before", overwrite=True)
        assert_no_false_done(store, small.cells)
        assert small.run(store, catalog=half)["cells_error"] == 0
        assert_no_false_done(store, small.cells)
        assert Path(store).exists()
