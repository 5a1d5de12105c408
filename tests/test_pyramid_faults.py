"""For any script of faults and interrupts, coarser orders end as in the undisturbed store."""

from __future__ import annotations

from random import Random

import numpy as np
import pytest
from pyramid_faults import COARSER, make_pyramid
from pyramids import cells_at
from test_fault_property import Script, disturbed

from magg.executors.retry import Policy
from magg.store import lock, records


@pytest.fixture(scope="module")
def pyramid(tmp_path_factory):
    return make_pyramid(tmp_path_factory.mktemp("pyramid"))


@pytest.fixture(scope="module")
def expected(pyramid, tmp_path_factory):
    store = tmp_path_factory.mktemp("expected") / "s.zarr"
    pyramid.small.run(store, catalog=pyramid.small.part(*range(6)))
    return {order: by_cell(store, order) for order in COARSER}


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr("magg.runner.POLICY", Policy(base_s=0.001, cap_s=0.002))
    monkeypatch.setattr(records, "GIVE_WAY_S", 0.01)
    monkeypatch.setattr(lock, "POLL_S", 0.01)


def by_cell(store, order):
    """Return the values of each cell of an order that has any, wherever it stands."""
    ids, variables = cells_at(store, order)
    full = variables["count"] > 0
    columns = [variables[name][full].tolist() for name in sorted(variables)]
    return dict(zip(ids[full].tolist(), zip(*columns, strict=True), strict=True))


def play(pyramid, store, seed, expected):
    """Play one script to its end; return how many operations failed."""
    rng, small = Random(seed), pyramid.small
    script = Script(seed, rng.choice([0.005, 0.02, 0.05]))
    wanted = small.part(*range(6))
    older = pyramid.catalogs["older"]
    before = type(wanted)(wanted.parent_order, {cell: older.cells[cell] for cell in wanted.cells})
    for _ in range(rng.randint(2, 4)):
        catalog = before if rng.random() < 0.4 else wanted
        overwrite = {"overwrite": True} if rng.random() < 0.1 else {}
        interrupt_at = rng.randint(2, 8) if rng.random() < 0.3 else 0
        disturbed(small, store, catalog, script, interrupt_at, **overwrite)
        pyramid.assert_claims_no_more(store)
    assert small.run(store, catalog=wanted)["cells_error"] == 0
    for order in COARSER:
        found = by_cell(store, order)
        assert found.keys() == expected[order].keys()
        for cell, values in found.items():
            np.testing.assert_equal(values, expected[order][cell])
    return script.done[True]


@pytest.mark.parametrize("batch", range(2))
def test_scripts_of_faults_leave_every_order_right(pyramid, expected, tmp_path, batch):
    stores = {f"{batch}-{seed}": tmp_path / f"{seed}.zarr" for seed in range(3)}
    assert sum(play(pyramid, store, seed, expected) for seed, store in stores.items()) > 0


@pytest.mark.slow
@pytest.mark.parametrize("batch", range(6))
def test_many_scripts_of_faults_leave_every_order_right(pyramid, expected, tmp_path, batch):
    for seed in range(15):
        play(pyramid, tmp_path / f"{seed}.zarr", f"many-{batch}-{seed}", expected)
