"""Numbers agree with plain NumPy, cell by cell, whatever the rows look like."""

import threading
import warnings
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from magg.errors import StatisticError
from magg.statistics import Statistic, aggregate, compile_statistic
from magg.statistics.reductions import REDUCTIONS

EXACT = {"len", "count", "count_nonzero", "min", "max", "amin", "amax", "nanmin", "nanmax"} | {
    *("any", "all", "quantile", "percentile", "median"),
    *("nanquantile", "nanpercentile", "nanmedian"),
}
PARAMS = {
    "average": {"weights": "w"},
    "var": {"ddof": 1},
    "quantile": {"q": 0.3},
    "percentile": {"q": 90},
    "nanstd": {"ddof": 1},
    "nanquantile": {"q": 0.75},
    "nanpercentile": {"q": "5"},
}
NAMES = sorted(REDUCTIONS)


def reference(name, x, w):
    """What plain NumPy makes of the float64 rows x and weights w of a cell."""
    if name in ("len", "count"):
        return len(x)
    if name == "average":
        return np.average(x, weights=w) if w.sum() else np.nan
    params = {key: float(value) for key, value in PARAMS.get(name, {}).items()}
    return getattr(np, name)(x, **params)


def compiled(**statistics):
    return {
        name: compile_statistic(name, statistic, ["x", "w"])
        for name, statistic in statistics.items()
    }


ALL = compiled(
    **{
        name: Statistic(function=name, source="x", params=PARAMS.get(name, {}), dtype="float64")
        for name in NAMES
    }
)


def single(child, columns, children=16, **declaration):
    statistics = compiled(it=Statistic(**declaration))
    child = np.asarray(child, dtype=np.uint16)
    columns = {name: np.asarray(values) for name, values in columns.items()}
    return aggregate(statistics, child, columns, children)["it"]


def check_all(child, x, w, children):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        results = aggregate(ALL, child, {"x": x, "w": w}, children)
    assert not caught
    order = np.argsort(child, kind="stable")
    cells, starts = np.unique(child[order], return_index=True)
    empty = np.setdiff1d(np.arange(children), cells)
    for name in NAMES:
        values = np.split(x[order].astype(np.float64), starts[1:])
        weights = np.split(w[order].astype(np.float64), starts[1:])
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")
            expected = [reference(name, *cell) for cell in zip(values, weights, strict=True)]
            largest = np.array([np.nanmax(np.abs(value), initial=0) for value in values])
        result = results[name]
        assert result.shape == (children,)
        if name in EXACT:
            np.testing.assert_array_equal(result[cells], expected, err_msg=name)
        else:
            # Sums that cancel are judged by what was summed, zero variances by what was squared.
            scale = {"sum": np.bincount(child)[cells] * largest, "var": 1e-16 * largest**2}
            scale = scale.get(name.removeprefix("nan"), largest)
            close = np.isclose(result[cells], expected, rtol=1e-12, atol=0, equal_nan=True)
            with np.errstate(invalid="ignore"):
                close |= np.abs(result[cells] - expected) <= 1e-14 * scale
            assert close.all(), (name, result[cells][~close], np.array(expected)[~close])
        if name in ("len", "count"):
            assert not result[empty].any()
        else:
            assert np.isnan(result[empty]).all()


@st.composite
def rows(draw):
    size = draw(st.integers(1, 300))
    children = draw(st.sampled_from([1, 4, 64, 4096]))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    skew = draw(st.sampled_from([1.0, 4.0, 20.0]))
    child = (rng.random(size) ** skew * children).astype(draw(st.sampled_from(["u2", "u4"])))
    if draw(st.booleans()):
        child = np.repeat(child, 40)
    x = rng.normal(draw(st.sampled_from([0.0, 2000.0])), draw(st.sampled_from([0, 30])), child.size)
    x = x.astype(draw(st.sampled_from(["f8", "f4", "f2", "i4", "i2", ">f4"])))
    missing = draw(st.sampled_from([0.0, 0.1, 0.9, 1.0]))
    if x.dtype.kind == "f":
        x[rng.random(child.size) < missing] = np.nan
    w = rng.uniform(0.1, 5, child.size).astype(draw(st.sampled_from(["f8", "f4"])))
    w[rng.random(child.size) < draw(st.sampled_from([0.0, 0.5, 1.0]))] = 0
    return child, x, w, children


@settings(max_examples=60, deadline=None, derandomize=True)
@given(rows())
def test_every_statistic_agrees_with_numpy_cell_by_cell(data):
    check_all(*data)


@pytest.mark.parametrize("layout", ["runs", "shuffled", "one cell", "every cell"])
def test_many_blocks_agree_with_numpy(layout):
    rng = np.random.default_rng(1)
    children, size = 400, 90_000
    child = {
        "runs": np.repeat(rng.integers(0, children, 1500), 60),
        "shuffled": (rng.random(size) ** 2 * children),
        "one cell": np.full(size, 17),
        "every cell": np.arange(size) % children,
    }[layout].astype(np.uint16)
    check_all(child, rng.normal(2000, 30, size), rng.uniform(0.1, 1, size), children)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(
    st.lists(st.floats(width=64), min_size=1, max_size=12),
    st.floats(0, 1),
    st.sampled_from(["quantile", "nanquantile"]),
)
def test_quantiles_equal_numpys_bit_by_bit_even_with_infinities(values, q, function):
    x = np.array(values)
    result = single(
        np.zeros(x.size), {"x": x}, function=function, source="x", params={"q": q}, dtype="float64"
    )[0]
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        expected = getattr(np, function)(x, q)
    np.testing.assert_array_equal(result, expected)


def test_no_rows_give_empty_cells():
    results = aggregate(ALL, np.zeros(0, "u2"), {"x": np.zeros(0), "w": np.zeros(0)}, 8)
    assert set(results) == set(NAMES)
    assert not results["count"].any()
    assert np.isnan(results["mean"]).all()


def test_no_statistics_give_no_outputs():
    assert aggregate({}, np.zeros(3, "u2"), {}, 8) == {}


def test_order_of_rows_within_runs_and_of_runs_is_irrelevant():
    rng = np.random.default_rng(2)
    child = np.repeat(rng.integers(0, 50, 100), 50).astype(np.uint16)
    columns = {"x": rng.normal(2000, 30, child.size), "w": rng.random(child.size)}
    shuffle = rng.permutation(child.size)
    one = aggregate(ALL, child, columns, 50)
    other = aggregate(ALL, child[shuffle], {k: v[shuffle] for k, v in columns.items()}, 50)
    for name in NAMES:
        np.testing.assert_allclose(one[name], other[name], rtol=1e-12)


def test_rows_handed_in_are_not_changed():
    child, x = np.zeros(5, "u2"), np.array([3.0, 1.0, 2.0, 5.0, 4.0])
    for array in (child, x):
        array.flags.writeable = False
    aggregate(ALL, child, {"x": x, "w": x}, 1)


def test_float32_heights_lose_nothing_to_float32_arithmetic():
    x = np.full(100_000, 2000.1, dtype=np.float32)
    mean = single(np.zeros(x.size), {"x": x}, function="mean", source="x", dtype="float64")[0]
    assert mean == pytest.approx(float(x[0]), rel=1e-14)


def test_variance_survives_a_large_mean():
    x = 1e9 + np.array([1.0, 2.0, 3.0, 4.0])
    assert single([0] * 4, {"x": x}, function="var", source="x")[0] == 1.25


def test_extremes_of_large_integers_are_exact():
    x = np.array([2**62 + 1, 2**62 + 3])
    declaration = {"function": "max", "source": "x", "dtype": "int64"}
    assert single([0, 0], {"x": x}, **declaration)[0] == 2**62 + 3


def test_columns_of_foreign_byte_order_are_ordered_by_value():
    x = np.array([2.0, 1.0, 3.0], dtype=">f4")
    assert single([0, 0, 0], {"x": x}, function="median", source="x")[0] == 2
    assert single([0, 0, 0], {"x": x}, function="quantile", source="x", params={"q": 0.0})[0] == 1


def test_several_threads_share_compiled_statistics():
    rng = np.random.default_rng(3)
    child = rng.integers(0, 64, 20_000).astype(np.uint16)
    columns = {"x": rng.normal(0, 1, child.size), "w": rng.random(child.size)}
    expected = aggregate(ALL, child, columns, 64)
    barrier = threading.Barrier(4)

    def work(_):
        barrier.wait()
        return aggregate(ALL, child, columns, 64)

    with ThreadPoolExecutor(4) as pool:
        for results in pool.map(work, range(4)):
            for name in NAMES:
                np.testing.assert_array_equal(results[name], expected[name])


# Casting to the declared dtype ------------------------------------------------------------------


def test_empty_cells_hold_the_fill_value_and_count_zero():
    declaration = {"source": "x", "dtype": "int16", "fill_value": -9}
    for function in ("len", "count"):
        np.testing.assert_array_equal(
            single([1, 1], {"x": [5, 7]}, 3, function=function, **declaration), [0, 2, 0]
        )
    result = single([1], {"x": [5]}, 2, expression="len(x)", dtype="int8", fill_value=-1)
    assert result.tolist() == [0, 1]
    result = single([1, 1], {"x": [5, 7]}, 3, function="max", **declaration)
    assert result.tolist() == [-9, 7, -9]
    assert result.dtype == np.int16


@pytest.mark.parametrize(
    ("dtype", "x", "expected"),
    [
        ("int8", 127.9, 127),
        ("int8", 128.0, -1),
        ("int8", -128.9, -128),
        ("int8", -129.0, -1),
        ("uint8", -0.5, 0),
        ("uint8", -1.0, 99),
        ("uint8", np.inf, 99),
        ("int32", np.nan, -1),
        ("int32", -np.inf, -1),
        ("int64", 2.0**63, -1),
        ("int64", -(2.0**63), -(2**63)),
        ("uint64", 2.0**64, 99),
        ("uint64", 2.0**63, 2**63),
        ("int32", np.int64(2**31), -1),
        ("int64", np.uint64(2**63), -1),
        ("uint64", np.int64(-1), 99),
        ("uint8", np.True_, 1),
    ],
)
def test_what_an_integer_dtype_cannot_hold_becomes_the_fill_value(dtype, x, expected):
    fill = 99 if dtype.startswith("u") else -1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        result = single(
            [0], {"x": [x]}, 1, function="max", source="x", dtype=dtype, fill_value=fill
        )
    assert result.tolist() == [expected]


def test_undefined_results_stay_nan_where_the_fill_value_is_nan():
    result = single([0, 1, 1], {"x": [1.0, 1.0, 3.0]}, 3, expression="log(var(x) - 1)")
    np.testing.assert_array_equal(result, [np.nan, -np.inf, np.nan])


def test_nan_becomes_a_finite_fill_value():
    result = single(
        [0, 1, 1], {"x": [1.0, 1.0, 3.0]}, 3, expression="log(var(x) - 1)", fill_value=-9999
    )
    np.testing.assert_array_equal(result, [-9999, -np.inf, -9999])


def test_a_count_that_its_dtype_cannot_hold_is_an_error_and_not_a_wrong_number():
    with pytest.raises(StatisticError, match=r"'it'.* 300 observations.*int8.*larger dtype"):
        single(np.zeros(300), {"x": np.zeros(300)}, function="len", source="x", dtype="int8")


# What does not fit together ---------------------------------------------------------------------


def test_a_child_index_beyond_the_children_is_an_error():
    with pytest.raises(StatisticError, match="child index 16 is beyond the 16 child cells"):
        single([3, 16], {"x": [1.0, 2.0]}, function="max", source="x")


def test_a_column_of_another_length_is_an_error():
    with pytest.raises(StatisticError, match=r"column 'x' has shape \(2,\).*\(3,\)"):
        single([3, 3, 3], {"x": [1.0, 2.0]}, function="max", source="x")


def test_a_column_that_is_not_given_is_an_error():
    with pytest.raises(StatisticError, match="statistic 'it' needs column 'x'"):
        single([3, 3, 3], {}, function="max", source="x")
