"""Every order of real granules agrees with NumPy over their observations."""

import numpy as np
import pytest
from reference import atl06_statistics, observations

from magg import load_config
from magg.config import compile_statistics
from magg.statistics import aggregate_levels, from_state, merge_states

EXACT = ("count", "h_min", "h_max", "h_q25", "h_q50", "h_q75")


@pytest.fixture(scope="module")
def parents(real_granules):
    """The rows of each parent cell: child cells within it, heights and errors."""
    parent, child, h, s = observations(real_granules)
    return {
        int(cell): (child[parent == cell] & np.uint64(4095), h[parent == cell], s[parent == cell])
        for cell in np.unique(parent)
    }


@pytest.fixture(scope="module")
def levels(parents):
    statistics = compile_statistics(load_config("atl06"))
    return {
        cell: aggregate_levels(
            statistics,
            child.astype("u2"),
            {"h_li": h.astype("f4"), "s_li": s.astype("f4")},
            4096,
            6,
            state=True,
        )
        for cell, (child, h, s) in parents.items()
    }


@pytest.mark.parametrize("level", range(7))
def test_every_order_down_to_the_parent_is_that_of_the_observations(parents, levels, level):
    for parent, (child, h, s) in parents.items():
        expected = atl06_statistics(child >> np.uint64(2 * level), h, s)
        found = levels[parent][level].values
        cells = np.array(sorted(expected))
        np.testing.assert_array_equal(np.flatnonzero(found["count"]), cells)
        for name, values in found.items():
            exact = np.array([expected[cell][name] for cell in cells])
            if name in EXACT:
                np.testing.assert_array_equal(values[cells], exact.astype(values.dtype))
            else:
                atol = 1e-28 * np.abs(h).max() ** 2  # a variance of equal heights
                np.testing.assert_allclose(values[cells], exact, rtol=1.2e-7, atol=atol)


def test_states_of_parents_give_what_all_observations_give(parents, levels):
    statistics = compile_statistics(load_config("atl06"))
    states = [levels[parent][-1].state for parent in parents]
    together = {name: np.concatenate([state[name] for state in states]) for name in states[0]}
    found = from_state(statistics, merge_states(statistics, together, np.array([0])))
    _, h, s = (np.concatenate(column) for column in zip(*parents.values(), strict=True))
    expected = atl06_statistics(np.zeros(h.size, dtype=int), h, s)[0]
    assert set(found) == set(expected)
    for name in ("count", "h_min", "h_max", "h_mean", "h_sigma", "h_variance"):
        assert found[name][0] == pytest.approx(expected[name], rel=1.2e-7), name
    ordered = np.sort(h)
    for name, q in (("h_q25", 0.25), ("h_q50", 0.5), ("h_q75", 0.75)):
        rank = np.searchsorted(ordered, found[name][0])
        assert abs(rank / h.size - q) < 0.002, name
