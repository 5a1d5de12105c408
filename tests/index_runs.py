"""What tests of runs with a granule index share: stores to compare, catalogs as if from CMR."""

from __future__ import annotations

import gzip
import json
from concurrent.futures import Executor, ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from magg import Catalog
from magg.grid import nested_ids, to_decimal, words_of
from magg.store.open import object_names, open_objects


def contents(store):
    """Return every object of a store by name, without what tells the time and the making."""
    objects, held = open_objects(store), {}
    for name in object_names(objects):
        data = bytes(objects.get(name).bytes())
        if name.startswith(".magg/made/"):
            continue
        if name.startswith(".magg/cells/"):
            folder, _, record = name.rpartition("/")
            name = f"{folder}/{record.partition('.')[2]}"
            data = json.loads(data)
            del data["time"]
        held[name] = data
    return held


def assert_same_store(one, other):
    one, other = contents(one), contents(other)
    assert one.keys() == other.keys()
    assert [name for name in one if one[name] != other[name]] == []


def told(summary):
    """Return what a summary says that does not depend on the way."""
    names = (
        "total_cells", "cells_with_data", "cells_empty", "cells_error", "total_obs", "rows_read",
        "rows_dropped", "rows_unlocated",
    )  # fmt: skip
    return {name: summary[name] for name in names}


def padded(catalog, beside=3):
    """Return a catalog as footprints would give: all granules in all cells, and cells beside."""
    order = catalog.parent_order
    ids = {int(nested) for nested in nested_ids(catalog.words, order)}
    ids |= {max(ids) + number for number in range(1, beside + 1)}
    words = words_of(np.array(sorted(ids)), order)
    cells = {to_decimal(word): catalog.granules for word in words}
    return Catalog(order, cells, catalog.metadata)


def exact(catalog):
    """Return the cells that have rows, by another catalog of the same granules."""
    return set(Catalog.from_files(catalog.granules, catalog.parent_order).cells)


class Counting(Executor):
    """Threads that tell what was submitted to them."""

    def __init__(self, workers=2):
        self._pool = ThreadPoolExecutor(workers)
        self._max_workers = workers
        self.submitted = []

    def submit(self, function, task):
        self.submitted.append((function.__name__, getattr(task, "cell", None)))
        return self._pool.submit(function, task)

    def shutdown(self, wait=True, *, cancel_futures=False):
        self._pool.shutdown(wait, cancel_futures=cancel_futures)

    @property
    def cells(self):
        return [cell for name, cell in self.submitted if name == "process_cell"]

    @property
    def surveys(self):
        return sum(name == "survey_granule" for name, _ in self.submitted)


@pytest.fixture
def counting():
    executor = Counting()
    yield executor
    executor.shutdown()


@pytest.fixture
def saved(catalog, tmp_path):
    """Return a padded catalog that is saved, without an index."""
    made = padded(catalog)
    made.save(tmp_path / "catalog.json")
    return made


def index_lines(place):
    """Return the lines of an index."""
    return gzip.decompress(Path(place).read_bytes()).decode().splitlines()


def write_lines(place, lines):
    Path(place).write_bytes(gzip.compress("\n".join(lines).encode() + b"\n"))
