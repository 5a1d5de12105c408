"""Kept states give coarser cells what their rows would, whatever is merged with what."""

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from magg.statistics import (
    Statistic,
    aggregate,
    aggregate_levels,
    compile_statistic,
    from_state,
    merge_states,
    mergeable,
    register_statistic,
    state_specs,
    unregister_statistic,
    why_not_mergeable,
)
from magg.statistics.reductions import REDUCTIONS

PARAMS = {
    "average": {"weights": "w"},
    "var": {"ddof": 1},
    "nanstd": {"ddof": 1},
    "quantile": {"q": 0.3},
    "percentile": {"q": 90},
    "nanquantile": {"q": 0.75},
    "nanpercentile": {"q": 5},
}
EXACT = {"len", "count", "count_nonzero", "any", "all"} | {
    *("min", "max", "amin", "amax", "ptp", "nanmin", "nanmax"),
}
APPROXIMATE = {
    *("median", "quantile", "percentile", "nanmedian", "nanquantile", "nanpercentile"),
}
EXPRESSIONS = {
    "sigma": ("1 / np.sqrt(np.sum(1 / w**2))", "exact"),
    "scatter": ("np.sqrt(np.mean((x - np.mean(x))**2))", "exact"),
    "share": ("np.sum(x > 2000) / len(x)", "exact"),
    "size": ("len(x)", "exact"),
    "iqr": ("np.quantile(x, 0.75) - np.quantile(x, 0.25)", "approximate"),
    "above": ("np.max(x) - np.median(x)", "approximate"),
    "mad": ("np.median(np.abs(x - np.median(x)))", "none"),
    "farthest": ("np.max(np.abs(x - np.mean(x)))", "none"),
    "skew": ("np.mean((x - np.mean(x))**3) / np.std(x)**3", "none"),
    "spread": ("np.var(np.abs(x - np.median(x)))", "none"),
}


def compiled(**declarations):
    return {
        name: compile_statistic(name, Statistic(**{"dtype": "float64", **declaration}), ["x", "w"])
        for name, declaration in declarations.items()
    }


ALL = compiled(
    **{
        name: {"function": name, "source": "x", "params": PARAMS.get(name, {})}
        for name in sorted(REDUCTIONS)
    },
    **{name: {"expression": text} for name, (text, _) in EXPRESSIONS.items()},
)
MERGED = {name: compiled for name, compiled in ALL.items() if mergeable(ALL)[name] == "exact"}


@pytest.fixture
def own_function():
    register_statistic("half_range", lambda values: (values.max() - values.min()) / 2)
    yield compiled(own={"function": "half_range", "source": "x"})
    unregister_statistic("half_range")


def observations(seed, cells=64, size=3000, missing=0.0, dtype="f8"):
    rng = np.random.default_rng(seed)
    child = (rng.random(size) ** 3 * cells).astype("u2")
    x = rng.normal(2000, 30, size).astype(dtype)
    if x.dtype.kind == "f":
        x[rng.random(size) < missing] = np.nan
    w = rng.uniform(0.1, 5, size)
    w[rng.random(size) < 0.2] = 0
    return child, {"x": x, "w": w}


def states(statistics, child, columns, cells):
    """The states of cells, without digests, which only the coarsest level has."""
    return aggregate_levels(statistics, child, columns, cells, 0, state=True)[0].state


def assert_same(found, expected, columns, rtol=1e-11):
    """Compare float64 statistics; variances are judged by what was squared."""
    largest = np.nanmax(np.abs(columns["x"].astype(float)), initial=0)
    for name, values in found.items():
        if name in EXACT:
            np.testing.assert_array_equal(values, expected[name], err_msg=name)
        else:
            atol = 1e-28 * largest**2 if "var" in name else 1e-14 * largest
            atol = max(atol, 1e-9) if name in ("nanstd", "std", "scatter") else atol
            np.testing.assert_allclose(
                values, expected[name], rtol=rtol, atol=atol, equal_nan=True, err_msg=name
            )


# Which statistics merge --------------------------------------------------------------------------


def test_every_built_in_statistic_is_exact_but_those_of_order():
    how = mergeable(ALL)
    for name in REDUCTIONS:
        assert how[name] == ("approximate" if name in APPROXIMATE else "exact"), name


@pytest.mark.parametrize("name", EXPRESSIONS)
def test_an_expression_merges_as_far_as_what_it_is_made_of(name):
    assert mergeable(ALL)[name] == EXPRESSIONS[name][1]


def test_what_does_not_merge_says_why(own_function):
    reasons = why_not_mergeable({**ALL, **own_function})
    assert set(reasons) == {"mad", "farthest", "skew", "spread", "own"}
    assert "all observations of a cell at once" in reasons["own"]
    assert "median is taken over values that compare observations" in reasons["mad"]


# What is kept ------------------------------------------------------------------------------------


def test_statistics_share_states_with_readable_names():
    statistics = compiled(
        mean={"function": "mean", "source": "x"},
        sum={"expression": "np.sum(x)"},
        std={"function": "std", "source": "x"},
        var={"function": "var", "source": "x", "params": {"ddof": 1}},
        median={"function": "median", "source": "x"},
        q90={"function": "percentile", "source": "x", "params": {"q": 90}},
    )
    specs = {spec.name: spec for spec in state_specs(statistics)}
    names = sorted(specs)
    assert names[0].startswith("deviations_x_")
    assert names[1:] == ["digest_x", "rows", "sum_x"]
    assert [specs[name].is_digest for name in names] == [False, True, False, False]
    assert specs["rows"].dtype == np.int64
    assert specs["sum_x"].dtype == np.float64
    assert "sum of square(subtract(x, " in specs[names[0]].words


def test_the_number_of_rows_is_always_kept():
    statistics = compiled(high={"function": "max", "source": "x"})
    assert [spec.name for spec in state_specs(statistics)] == ["max_x", "rows"]


def test_what_does_not_merge_keeps_nothing(own_function):
    statistics = {**own_function, "mad": ALL["mad"]}
    assert [spec.name for spec in state_specs(statistics)] == ["rows"]


def test_names_of_different_states_differ():
    specs = state_specs(ALL)
    assert len({spec.name for spec in specs}) == len(specs)
    assert all(spec.name.isidentifier() for spec in specs)


def test_names_are_the_same_in_every_process():
    code = (
        "from magg.statistics import *\n"
        "one = Statistic(function='average', source='x', params={'weights': '1 / w**2'})\n"
        "print(*[spec.name for spec in state_specs({'a': compile_statistic('a', one, 'xw')})])"
    )
    told = {
        subprocess.run(
            [sys.executable, "-c", code],
            capture_output=True,
            text=True,
            check=True,
            env={"PYTHONPATH": ":".join(sys.path), "PYTHONHASHSEED": seed},
        ).stdout
        for seed in ("1", "2")
    }
    assert told == {"rows sum_w_0997e3d4 sum_w_x_00037bab\n"}


def test_cells_without_rows_hold_what_changes_nothing():
    child, columns = observations(1, missing=0.97, size=300)  # some cells have nothing but NaN
    state = states(MERGED, child, columns, 64)
    nothing = {spec.name: spec.empty(64) for spec in state_specs(MERGED)}
    both = {name: np.stack([state[name], nothing[name]], 1).reshape(128, -1) for name in state}
    both = {name: array.reshape(128, *state[name].shape[1:]) for name, array in both.items()}
    merged = merge_states(MERGED, both, np.arange(0, 128, 2))
    for name, array in merged.items():
        np.testing.assert_array_equal(array, state[name], err_msg=name)


# Merging -----------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    st.integers(0, 2**31),
    st.sampled_from([0.0, 0.3, 0.97]),
    st.sampled_from(["f8", "f4", "i4"]),
    st.data(),
)
def test_cells_merge_in_any_order_and_grouping(seed, missing, dtype, data):
    child, columns = observations(seed, missing=missing, dtype=dtype)
    expected = aggregate(MERGED, np.zeros_like(child), columns, 1)
    state = states(MERGED, child, columns, 64)
    rng = np.random.default_rng(seed)
    while (cells := len(state["rows"])) > 1:
        order = rng.permutation(cells)
        firsts = rng.random(cells) < data.draw(st.sampled_from([0.2, 0.5, 0.8]))
        firsts[0] = True
        state = {name: array[order] for name, array in state.items()}
        state = merge_states(MERGED, state, np.flatnonzero(firsts))
    assert_same(from_state(MERGED, state), expected, columns)


@pytest.mark.parametrize("missing", [0.0, 0.2])
def test_states_give_what_the_rows_give_at_every_order(missing):
    child, columns = observations(2, cells=256, size=20_000, missing=missing)
    levels = aggregate_levels(ALL, child, columns, 256, 4, state=True)
    merged = levels[0].state
    for level in levels[1:]:
        cells = len(merged["rows"]) // 4
        merged = merge_states(ALL, merged, np.arange(cells) * 4)
        for state in (merged, level.state):
            found = from_state(MERGED, state)
            assert set(found) == set(MERGED)
            assert_same(found, level.values, columns)


def test_quantiles_of_merged_parents_are_near_those_of_all_rows():
    parents = [observations(seed, size=40_000) for seed in range(8)]
    for number, (_, columns) in enumerate(parents):
        columns["x"] += 20 * number
    state = [
        aggregate_levels(ALL, child, columns, 64, 3, state=True)[-1].state
        for child, columns in parents
    ]
    together = {name: np.concatenate([one[name] for one in state]) for name in state[0]}
    found = from_state(ALL, merge_states(ALL, together, np.array([0])))
    every = np.sort(np.concatenate([columns["x"] for _, columns in parents]))
    for name, q in (("median", 0.5), ("quantile", 0.3), ("percentile", 0.9), ("nanmedian", 0.5)):
        rank = np.searchsorted(every, found[name][0]) / every.size
        assert abs(rank - q) < 0.002, name
    assert set(ALL) - set(found) == {"mad", "farthest", "skew", "spread"}


def test_variance_survives_a_large_mean():
    rng = np.random.default_rng(1)
    child = np.arange(4000).astype("u2") // 10
    x = 1e9 + rng.normal(0, 1, 4000)
    statistics = compiled(var={"function": "var", "source": "x"})
    state = states(statistics, child, {"x": x}, 400)
    found = from_state(statistics, merge_states(statistics, state, np.array([0])))
    assert found["var"][0] == pytest.approx(np.var(x), rel=1e-6)


def test_weights_of_zero_merge_to_what_the_rows_give():
    statistics = compiled(mean={"function": "average", "source": "x", "params": {"weights": "w"}})
    columns = {"x": np.array([1.0, 5.0, 7.0]), "w": np.array([0.0, 0.0, 2.0])}
    state = states(statistics, np.array([0, 0, 1], "u2"), columns, 4)
    assert np.isnan(from_state(statistics, state)["mean"][0])
    assert from_state(statistics, merge_states(statistics, state, np.array([0])))["mean"][0] == 7


# What states give --------------------------------------------------------------------------------


def test_empty_cells_hold_the_fill_value_and_count_zero():
    statistics = compiled(
        count={"function": "count", "source": "x", "dtype": "int32"},
        high={"function": "max", "source": "x", "dtype": "int16", "fill_value": -9},
    )
    child, x = np.array([1, 1, 6], "u2"), np.array([3, 4, 5])
    state = states(statistics, child, {"x": x}, 12)
    found = from_state(statistics, merge_states(statistics, state, np.array([0, 4, 8])))
    assert found["count"].tolist() == [2, 1, 0]
    assert found["high"].tolist() == [4, 5, -9]
    assert found["high"].dtype == np.int16
    assert found["count"].dtype == np.int32


def test_statistics_whose_states_are_missing_are_absent():
    child, columns = observations(3)
    state = states(MERGED, child, columns, 64)
    few = {name: state[name] for name in ("rows", "max_x", "sum_x")}
    merged = merge_states(MERGED, few, np.array([0]))
    assert set(merged) == set(few)
    assert set(from_state(MERGED, merged)) == {"len", "count", "size", "max", "amax", "sum", "mean"}


def test_a_deviation_without_its_mean_is_not_merged():
    child, columns = observations(4)
    state = states(MERGED, child, columns, 64)
    del state["sum_x"]
    merged = merge_states(MERGED, state, np.array([0]))
    assert "sum_x" not in merged
    assert not {"var", "std", "mean"} & set(from_state(MERGED, merged))
    assert "nanvar" in from_state(MERGED, merged)
