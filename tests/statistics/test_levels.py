"""Every order agrees with plain NumPy over the observations of its cells."""

import tracemalloc
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from magg.errors import StatisticError
from magg.statistics import (
    Statistic,
    aggregate,
    aggregate_levels,
    compile_statistic,
    register_statistic,
    unregister_statistic,
)
from magg.statistics.digests import at_ranks
from magg.statistics.reductions import REDUCTIONS

PARAMS = {
    "average": {"weights": "w"},
    "var": {"ddof": 1},
    "nanstd": {"ddof": 1},
    "quantile": {"q": 0.3},
    "percentile": {"q": 90},
    "nanquantile": {"q": 0.75},
    "nanpercentile": {"q": "5"},
}
# To the last bit, whatever the order is.
EXACT = {"len", "count", "count_nonzero", "min", "max", "amin", "amax", "nanmin", "nanmax"} | {
    *("ptp", "any", "all", "quantile", "percentile", "median"),
    *("nanquantile", "nanpercentile", "nanmedian"),
}
EXPRESSIONS = {
    "sigma": lambda x, w: 1 / np.sqrt(np.sum(1 / w**2)),
    "iqr": lambda x, w: np.quantile(x, 0.75) - np.quantile(x, 0.25),
    "mad": lambda x, w: np.median(np.abs(x - np.median(x))),
    "farthest": lambda x, w: np.max(np.abs(x - np.mean(x))),
    "skew": lambda x, w: np.mean((x - np.mean(x)) ** 3) / np.std(x) ** 3,
    "above": lambda x, w: np.sum(x > np.mean(x)) / len(x),
    "outer": lambda x, w: np.max(np.abs(x - np.median(x)) / np.median(np.abs(x - np.median(x)))),
    "of_products": lambda x, w: np.quantile(x * w, 0.1),
    "spread": lambda x, w: np.var(np.abs(x - np.median(x))),
    "two_columns": lambda x, w: np.median(w) / np.median(x),
}
TEXTS = {
    "sigma": "1 / np.sqrt(np.sum(1 / w**2))",
    "iqr": "np.quantile(x, 0.75) - np.quantile(x, 0.25)",
    "mad": "np.median(np.abs(x - np.median(x)))",
    "farthest": "np.max(np.abs(x - np.mean(x)))",
    "skew": "np.mean((x - np.mean(x))**3) / np.std(x)**3",
    "above": "np.sum(x > np.mean(x)) / len(x)",
    "outer": "np.max(np.abs(x - np.median(x)) / np.median(np.abs(x - np.median(x))))",
    "of_products": "np.quantile(x * w, 0.1)",
    "spread": "np.var(np.abs(x - np.median(x)))",
    "two_columns": "np.median(w) / np.median(x)",
}


def compiled(declarations):
    return {
        name: compile_statistic(name, Statistic(dtype="float64", **declaration), ["x", "w"])
        for name, declaration in declarations.items()
    }


BUILT_IN = compiled(
    {
        name: {"function": name, "source": "x", "params": PARAMS.get(name, {})}
        for name in sorted(REDUCTIONS)
    }
)
WRITTEN = compiled({name: {"expression": text} for name, text in TEXTS.items()})


def built_in(name, x, w):
    """What plain NumPy makes of the float64 rows x and weights w of a cell."""
    if name in ("len", "count"):
        return len(x)
    if name == "average":
        return np.average(x, weights=w) if w.sum() else np.nan
    params = {key: float(value) for key, value in PARAMS.get(name, {}).items()}
    return getattr(np, name)(x, **params)


def check(child, x, w, children, levels, statistics=BUILT_IN, reference=built_in):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        results = aggregate_levels(statistics, child, {"x": x, "w": w}, children, levels)
    assert not caught
    assert len(results) == levels + 1
    for order, result in enumerate(results):
        check_order(child >> 2 * order, x, w, children >> 2 * order, result, reference)


def check_order(cell, x, w, cells, result, reference):
    order = np.argsort(cell, kind="stable")
    there, starts = np.unique(cell[order], return_index=True)
    parts = list(
        zip(
            np.split(x[order].astype(np.float64), starts[1:]),
            np.split(w[order].astype(np.float64), starts[1:]),
            strict=True,
        )
    )
    empty = np.setdiff1d(np.arange(cells), there)
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        largest = np.array([np.nanmax(np.abs(part), initial=0) for part, _ in parts])
        for name, values in result.values.items():
            assert values.shape == (cells,)
            expected = np.array([reference(name, *part) for part in parts], dtype=np.float64)
            found = values[there]
            if name in EXACT:
                np.testing.assert_array_equal(found, expected, err_msg=name)
            else:
                # Sums that cancel are judged by what was summed, variances by what was squared.
                scale = {"sum": np.bincount(cell)[there] * largest, "var": 1e-16 * largest**2}
                scale = scale.get(name.removeprefix("nan"), largest)
                close = np.isclose(found, expected, rtol=1e-11, atol=0, equal_nan=True)
                close |= np.abs(found - expected) <= 1e-14 * scale
                assert close.all(), (name, found[~close], expected[~close])
            if name in ("len", "count"):
                assert not values[empty].any()
            else:
                assert np.isnan(values[empty]).all()


@st.composite
def rows(draw):
    size = draw(st.integers(1, 400))
    levels = draw(st.integers(0, 4))
    children = 4**levels * draw(st.sampled_from([1, 3, 4]))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    skew = draw(st.sampled_from([1.0, 4.0, 20.0]))
    child = (rng.random(size) ** skew * children).astype(draw(st.sampled_from(["u2", "u4"])))
    if draw(st.booleans()):
        child = np.repeat(child, 40)
    x = rng.normal(draw(st.sampled_from([0.0, 2000.0])), draw(st.sampled_from([0, 30])), child.size)
    x = x.astype(draw(st.sampled_from(["f8", "f4", "f2", "i4", "i2", ">f4"])))
    if x.dtype.kind == "f":
        x[rng.random(child.size) < draw(st.sampled_from([0.0, 0.1, 0.9, 1.0]))] = np.nan
    w = rng.uniform(0.1, 5, child.size).astype(draw(st.sampled_from(["f8", "f4"])))
    w[rng.random(child.size) < draw(st.sampled_from([0.0, 0.5, 1.0]))] = 0
    return child, x, w, children, levels


@settings(max_examples=100, deadline=None, derandomize=True)
@given(rows(), st.sampled_from([0, 4, 1200]), st.sampled_from([1, 50, 700, 10**6]))
def test_every_statistic_of_every_order_agrees_with_numpy(data, sorted_rows, band_rows):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("magg.statistics.selection.SORTED_ROWS", sorted_rows)
        patch.setattr("magg.statistics.bands.BAND_ROWS", band_rows)
        check(*data)


@pytest.mark.parametrize("band_rows", [500, 20_000, 10**6])
@pytest.mark.parametrize("layout", ["runs", "shuffled", "one cell", "every cell"])
@pytest.mark.parametrize(
    ("statistics", "reference"),
    [(BUILT_IN, built_in), (WRITTEN, lambda name, x, w: EXPRESSIONS[name](x, w))],
    ids=["built-in", "expressions"],
)
def test_many_blocks_agree_with_numpy(monkeypatch, layout, statistics, reference, band_rows):
    monkeypatch.setattr("magg.statistics.bands.BAND_ROWS", band_rows)
    rng = np.random.default_rng(1)
    children, size = 256, 90_000
    child = {
        "runs": np.repeat(rng.integers(0, children, 1500), 60),
        "shuffled": (rng.random(size) ** 2 * children),
        "one cell": np.full(size, 17),
        "every cell": np.arange(size) % children,
    }[layout].astype(np.uint16)
    x, w = rng.normal(200, 30, size), rng.uniform(0.1, 1, size)
    check(child, x, w, children, 4, statistics, reference)


def test_functions_of_users_own_get_all_rows_of_a_cell_of_every_order():
    register_statistic("power_mean", lambda values, p, weights: np.mean(values**p) + weights.max())
    try:
        declaration = {"function": "power_mean", "source": "x", "params": {"p": 3, "weights": "w"}}
        compared = {**declaration, "params": {"p": 2, "weights": "x - np.mean(x)"}}
        rng = np.random.default_rng(4)
        child = rng.integers(0, 64, 40_000).astype("u2")
        x, w = rng.random(child.size), rng.random(child.size)

        def reference(name, x, w):
            if name == "whole":
                return np.mean(x**3) + w.max()
            return np.mean(x**2) + (x - x.mean()).max()

        statistics = compiled({"whole": declaration, "compared": compared})
        check(child, x, w, 64, 3, statistics, reference)
    finally:
        unregister_statistic("power_mean")


def test_what_a_users_own_function_raises_for_a_coarse_cell_is_told():
    def picky(values):
        if values.size > 2:
            raise ValueError("too many")
        return 1.0

    register_statistic("picky", picky)
    try:
        statistics = compiled({"mine": {"function": "picky", "source": "x"}})
        child, x = np.array([0, 1, 2], "u2"), np.zeros(3)
        with pytest.raises(StatisticError, match=r"statistic 'mine': picky raised .*too many"):
            aggregate_levels(statistics, child, {"x": x}, 4, 1)
    finally:
        unregister_statistic("picky")


def test_the_first_level_is_what_aggregate_gives():
    rng = np.random.default_rng(5)
    child = (rng.random(50_000) ** 2 * 256).astype("u2")
    columns = {"x": rng.normal(2000, 30, child.size).astype("f4"), "w": rng.random(child.size)}
    declared = {
        "n": Statistic(function="count", source="x", dtype="int32"),
        "low": Statistic(function="min", source="x", dtype="int16", fill_value=-1),
        "mean": Statistic(function="average", source="x", params={"weights": "w"}),
        "q": Statistic(function="quantile", source="x", params={"q": 0.9}, fill_value=-9999),
    }
    statistics = {name: compile_statistic(name, one, columns) for name, one in declared.items()}
    expected = aggregate(statistics, child, columns, 256)
    for levels in (0, 1, 4):
        values = aggregate_levels(statistics, child, columns, 256, levels)[0].values
        for name, array in expected.items():
            np.testing.assert_array_equal(values[name], array)
            assert values[name].dtype == array.dtype


def test_coarse_values_have_the_declared_dtypes_and_fill_values():
    statistics = {
        "n": compile_statistic("n", Statistic("len", source="x", dtype="int16"), ["x"]),
        "top": compile_statistic(
            "top", Statistic("max", source="x", dtype="int8", fill_value=-1), ["x"]
        ),
    }
    child, x = np.array([0, 1, 9], "u2"), np.array([5, 7, 300])
    levels = aggregate_levels(statistics, child, {"x": x}, 16, 2)
    assert [level.values["n"].tolist() for level in levels[1:]] == [[2, 0, 1, 0], [3]]
    assert [level.values["top"].tolist() for level in levels[1:]] == [[7, -1, -1, -1], [-1]]
    assert levels[2].values["top"].dtype == np.int8


def test_extremes_of_large_integers_are_exact_at_every_order():
    x = np.array([2**62 + 1, 2**62 + 3, 2**62 + 2])
    statistics = {"top": compile_statistic("top", Statistic("max", source="x", dtype="int64"), "x")}
    levels = aggregate_levels(statistics, np.array([0, 5, 15], "u2"), {"x": x}, 16, 2)
    assert levels[2].values["top"].tolist() == [2**62 + 3]


def test_a_count_that_overflows_in_a_coarse_cell_is_an_error():
    statistics = {"n": compile_statistic("n", Statistic("len", source="x", dtype="int8"), ["x"])}
    child = np.repeat(np.arange(4), 100).astype("u2")
    assert aggregate(statistics, child, {"x": np.zeros(400)}, 4)["n"].tolist() == [100] * 4
    with pytest.raises(StatisticError, match=r"400 observations.*int8.*larger dtype"):
        aggregate_levels(statistics, child, {"x": np.zeros(400)}, 4, 1)


def test_no_rows_give_empty_cells_at_every_order():
    none = np.zeros(0)
    levels = aggregate_levels(
        BUILT_IN, none.astype("u2"), {"x": none, "w": none}, 64, 3, state=True
    )
    for order, level in enumerate(levels):
        assert level.values["count"].tolist() == [0] * (64 >> 2 * order)
        assert np.isnan(level.values["median"]).all()
        assert not level.state["rows"].any()


def test_states_are_given_only_if_asked_for_and_digests_only_of_the_coarsest_order():
    child, columns = np.array([0, 3], "u2"), {"x": np.array([1.0, 2.0]), "w": np.ones(2)}
    assert not any(level.state for level in aggregate_levels(BUILT_IN, child, columns, 16, 2))
    levels = aggregate_levels(BUILT_IN, child, columns, 16, 2, state=True)
    assert ["digest_x" in level.state for level in levels] == [False, False, True]
    assert levels[2].state["digest_x"][0, :3].tolist() == [[1, 1], [2, 1], [0, 0]]
    assert [level.state["sum_x"].shape for level in levels] == [(16,), (4,), (1,)]


@pytest.mark.parametrize("band_rows", [2000, 30_000, 10**6])
@pytest.mark.parametrize("layout", ["even", "skewed", "alike"])
def test_the_digest_of_a_parent_cell_gives_ranks_to_a_thousandth(monkeypatch, layout, band_rows):
    monkeypatch.setattr("magg.statistics.bands.BAND_ROWS", band_rows)
    rng = np.random.default_rng(6)
    size, children = 200_000, 1024
    share = rng.random(size) ** (8 if layout == "skewed" else 1)
    child = np.sort((share * children).astype("u2"))
    if layout == "alike":
        x = np.tile(np.arange(200.0), size // 200)
        child = np.repeat(np.arange(size // 200), 200).astype("u2")
    else:
        x = child * 3.0 + rng.normal(size=size)
    statistics = compiled({"q": {"function": "median", "source": "x"}})
    levels = aggregate_levels(statistics, child, {"x": x}, children, 5, state=True)
    digest, ordered = levels[-1].state["digest_x"][0], np.sort(x)
    ranks = np.linspace(0, size - 1, 2001)
    found = at_ranks(digest, ranks)
    lowest = np.searchsorted(ordered, found, "left") - 1
    highest = np.searchsorted(ordered, found, "right")
    assert max((lowest - ranks).max(), (ranks - highest).max()) / size < 0.001
    assert digest[:, 1].sum() == size
    assert [found[0], found[-1]] == [x.min(), x.max()]


@pytest.mark.parametrize(("children", "levels"), [(16, 3), (15, 1), (16, -1)])
def test_orders_that_do_not_fit_the_child_cells_are_an_error(children, levels):
    with pytest.raises(StatisticError, match=f"{children} child cells"):
        aggregate_levels({}, np.zeros(0, "u2"), {}, children, levels)


def test_rows_handed_in_are_not_changed():
    rng = np.random.default_rng(7)
    child = rng.integers(0, 16, 3000).astype("u2")
    columns = {"x": rng.random(3000), "w": rng.random(3000)}
    before = [array.copy() for array in (child, *columns.values())]
    for array in (child, *columns.values()):
        array.flags.writeable = False
    aggregate_levels({**BUILT_IN, **WRITTEN}, child, columns, 16, 2, state=True)
    for array, copy in zip((child, *columns.values()), before, strict=True):
        np.testing.assert_array_equal(array, copy)


@pytest.mark.parametrize(
    ("declarations", "bytes_a_row"),
    [
        ({"q": "np.quantile(x, 0.3)", "m": "np.median(w)", "s": "np.std(x)"}, 0),
        ({"far": "np.max(np.abs(x - np.mean(x)))", "sum": "np.sum(x * w)"}, 0),
        # What is ordered differs from order to order, and is float64.
        ({"mad": "np.median(np.abs(x - np.median(x)))"}, 8),
    ],
)
def test_memory_is_bounded_but_for_what_has_to_be_sorted_anew_for_every_order(
    declarations, bytes_a_row
):
    rng = np.random.default_rng(8)
    size = 2_000_000
    child = np.repeat(rng.integers(0, 4096, size // 100), 100).astype("u2")
    columns = {"x": rng.random(size, dtype="f4"), "w": rng.random(size, dtype="f4")}
    statistics = compiled({name: {"expression": text} for name, text in declarations.items()})
    tracemalloc.start()
    aggregate_levels(statistics, child, columns, 4096, 6)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < bytes_a_row * size + 12e6
