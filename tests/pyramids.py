"""What the orders of a store must hold, computed anew from the observations or the child cells."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import zarr
from reference import atl06_statistics, observations

from magg import load_config
from magg.store import open_store

EXACT = ("count", "h_min", "h_max")
QUANTILES = {"h_q25": 0.25, "h_q50": 0.5, "h_q75": 0.75}


def with_orders(config, *, state=False, **orders):
    """Return a config that asks for coarser orders."""
    grid = replace(config.output.grid, **orders)
    return replace(config, output=replace(config.output, grid=grid, state=state))


def root_of(store):
    return zarr.open_group(open_store(store, read_only=True), mode="r")


def cells_at(store, order):
    """Return the NESTED ids of an order, and its variables."""
    group = root_of(store)[str(order)]
    arrays = {name: array[:] for name, array in group.arrays()}
    arrays.pop("morton")
    return arrays.pop("cell_ids"), arrays


def assert_equals_observations(store, granules, orders, parent_order=6, child_order=12):
    """Check every cell of every order against statistics of its observations in plain NumPy."""
    parent, child, h, s = observations(granules, parent_order, child_order)
    held = cells_at(store, child_order)[0] >> np.uint64(2 * (child_order - parent_order))
    inside = np.isin(parent, held)
    child, h, s = child[inside], h[inside], s[inside]
    assert child.size
    for order in orders:
        coarse = child >> np.uint64(2 * (child_order - order))
        expected = atl06_statistics(coarse, h, s)
        ids, variables = cells_at(store, order)
        assert len(set(ids.tolist())) == ids.size
        full = variables["count"] > 0
        assert set(ids[full].tolist()) == set(expected), order
        for name, values in variables.items():
            wanted = np.array([expected[int(cell)][name] for cell in ids[full]])
            found = values[full]
            if name in EXACT:
                np.testing.assert_array_equal(found, wanted.astype(found.dtype), f"{name} {order}")
            elif name in QUANTILES and order < parent_order:
                _assert_ranks(coarse, h, ids[full], found, QUANTILES[name])
            else:
                np.testing.assert_allclose(found, wanted, rtol=2e-7, err_msg=f"{name} {order}")
            empty = values[~full]
            assert (empty == 0).all() if name == "count" else np.isnan(empty).all()


def _assert_ranks(coarse, h, ids, found, q):
    for cell, value in zip(ids.tolist(), found.tolist(), strict=True):
        rows = np.sort(h[coarse == cell]).astype(np.float32)
        low = np.searchsorted(rows, value, "left") / rows.size
        high = np.searchsorted(rows, value, "right") / rows.size
        # A value between two observations may be one row off on either side.
        slack = 0.002 + 1 / rows.size
        assert low - slack <= q <= high + slack, (cell, q, low, high)


def atl06(**options):
    return with_orders(load_config("atl06"), **options)
