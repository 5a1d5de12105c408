"""Scripted faults at cells, in this process or in workers, and how to compare what came of them.

Importable by spawned workers, which get the path of their parent.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field, replace
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import zarr

import magg.cell
from magg import Catalog, load_config, run
from magg.executors.base import begin_worker
from magg.grid import from_decimal, to_decimal
from magg.plan import make_plan
from magg.store.inspect import child_orders, parent_cells
from magg.store.marks import list_marks
from magg.testing import Track, simulate_granule

PARENT_ORDER, CHILD_ORDER = 10, 11


@dataclass(frozen=True)
class Small:
    """A catalog of a dozen cells that take milliseconds each, and what they come to."""

    config: object
    catalog: Catalog
    granules: list[Path]
    cells: dict

    def run(self, store, **options):
        return run(self.config, **({"catalog": self.catalog, "store": store} | options))

    def part(self, *numbers, **changed):
        """Return a catalog of some of the cells."""
        ids = list(self.catalog.cells)
        chosen = {ids[number]: self.catalog.cells[ids[number]] for number in numbers}
        return Catalog(PARENT_ORDER, chosen | changed)


def small_orders(config):
    grid = replace(config.output.grid, parent_order=PARENT_ORDER, child_order=CHILD_ORDER)
    return replace(config, output=replace(config.output, grid=grid))


def make_small(folder):
    granules = [
        simulate_granule(folder / f"g{n}.h5", Track(-75.5, -101 + 0.3 * n, segments=300), seed=n)
        for n in range(3)
    ]
    config = small_orders(load_config("atl06"))
    catalog = Catalog.from_files(granules, parent_order=PARENT_ORDER)
    run(config, catalog=catalog, store=folder / "reference.zarr", progress=False)
    return Small(config, catalog, granules, cells_of(folder / "reference.zarr"))


def cells_of(store):
    """Return the bytes of every variable of each parent cell of a store."""
    root = zarr.open_group(str(store), mode="r")
    child = child_orders(root)[-1]
    group, parents = root[str(child)], parent_cells(root)
    # A run that was killed while it grew the store leaves room that no cell has taken.
    room = len(parents) * 4 ** (child - PARENT_ORDER)
    arrays = {n: array[:room].reshape(len(parents), -1) for n, array in sorted(group.arrays())}
    return {
        to_decimal(word): {name: values[chunk].tobytes() for name, values in arrays.items()}
        for chunk, word in enumerate(parents)
    }


def done_cells(store):
    return set(list_marks(str(store)).done)


def assert_complete(store, expected):
    """Check that a store holds exactly the cells expected, all done and equal to the bit."""
    held = cells_of(store)
    root = zarr.open_group(str(store))
    child = child_orders(root)[-1]
    lengths = {array.shape for _, array in root[str(child)].arrays()}
    assert lengths == {(len(expected) * 4 ** (child - PARENT_ORDER),)}
    assert set(held) == set(expected)
    assert done_cells(store) == set(expected)
    assert [cell for cell in expected if held[cell] != expected[cell]] == []


def assert_no_false_done(store, expected, done=None):
    """Check that each cell that reads as done is equal to the expected one to the bit."""
    if not (Path(store) / "zarr.json").exists():
        assert not done_cells(store)
        return
    done = done_cells(store) if done is None else done
    if done:
        held = cells_of(store)
        assert [cell for cell in done if held[cell] != expected[cell]] == []


def reads_as_done(small, store, catalog=None):
    """Return the cells that the next run would skip."""
    plan = make_plan(small.config, catalog or small.catalog, store)
    return set(plan.cells) - set(plan.unfinished())


@dataclass(frozen=True)
class Script:
    """What happens to each attempt of a cell; attempts are counted in a folder by all workers."""

    folder: str
    faults: dict[str, tuple[str, ...]] = field(default_factory=dict)

    def fault(self, cell):
        for number, fault in enumerate(self.faults.get(cell, ())):
            with contextlib.suppress(FileExistsError):
                os.close(os.open(f"{self.folder}/{cell}.{number}", os.O_CREAT | os.O_EXCL))
                return fault
        return "none"

    def attempts(self, cell):
        return len(list(Path(self.folder).glob(f"{cell}.*")))


def process(script, task):
    """Do what the script says to a worker, and process the cell."""
    fault, _, argument = script.fault(task.cell).partition(":")
    FAULTS[fault](argument)
    return magg.cell.process_cell(task)


def die_while_writing(_):
    write_chunks = magg.cell.write_chunks

    def partly(path, order, chunk, values, **options):
        first = dict(list(values.items())[:3])
        write_chunks(path, order, chunk, first, **options)
        os.kill(os.getpid(), signal.SIGKILL)

    magg.cell.write_chunks = partly


def raise_(name):
    raise {"SystemExit": SystemExit, "Unpicklable": UnpicklableError}[name](name)


class UnpicklableError(Exception):
    def __reduce__(self):
        raise TypeError("cannot pickle this")


FAULTS = {
    "none": lambda _: None,
    "exit": lambda _: os._exit(1),
    "kill": lambda _: os.kill(os.getpid(), signal.SIGKILL),
    "kill-while-writing": die_while_writing,
    "sleep": lambda seconds: time.sleep(float(seconds)),
    "raise": raise_,
}


class FaultyPool(ProcessPoolExecutor):
    """The processes of magg, with a script."""

    def __init__(self, script, max_workers=2):
        context = get_context("spawn")
        super().__init__(max_workers, mp_context=context, initializer=begin_worker)
        self.script = script

    def submit(self, fn, task):
        return super().submit(process, self.script, task)


def words_of_cells(cells):
    return np.array(sorted(from_decimal(cell) for cell in cells), dtype=np.uint64)
