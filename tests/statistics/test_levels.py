"""Every order agrees with plain NumPy over the observations of its cells."""

import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from magg.statistics import (
    Statistic,
    aggregate_levels,
    compile_statistic,
)
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


@settings(max_examples=60, deadline=None, derandomize=True)
@given(rows(), st.sampled_from([0, 4, 1200]))
def test_every_statistic_of_every_order_agrees_with_numpy(data, sorted_rows):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("magg.statistics.selection.SORTED_ROWS", sorted_rows)
        check(*data)


@pytest.mark.parametrize("layout", ["runs", "shuffled", "one cell", "every cell"])
@pytest.mark.parametrize(
    ("statistics", "reference"),
    [(BUILT_IN, built_in), (WRITTEN, lambda name, x, w: EXPRESSIONS[name](x, w))],
    ids=["built-in", "expressions"],
)
def test_many_blocks_agree_with_numpy(layout, statistics, reference):
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
