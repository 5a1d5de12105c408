"""Declarations are checked when they are compiled, and errors name the key at fault."""

import pickle
from pathlib import Path

import numpy as np
import pytest
import yaml

import magg
from magg.errors import StatisticError
from magg.statistics import Statistic, aggregate, compile_statistic

COLUMNS = ["h_li", "s_li"]


def compile_it(**declaration):
    return compile_statistic("it", Statistic(**declaration), COLUMNS)


def test_the_built_in_config_compiles():
    path = Path(magg.__file__).parent / "configs" / "atl06.yaml"
    variables = yaml.safe_load(path.read_text())["aggregation"]["variables"]
    compiled = {
        name: compile_statistic(name, Statistic(**declaration), COLUMNS)
        for name, declaration in variables.items()
    }
    assert compiled["h_mean"].columns == {"h_li", "s_li"}
    assert compiled["h_sigma"].columns == {"s_li"}
    assert compiled["count"].dtype == np.int32
    assert np.isnan(compiled["h_mean"].fill)


@pytest.mark.parametrize("function", ["mean", "np.mean", "numpy.mean"])
def test_functions_may_carry_the_prefix_of_numpy(function):
    compiled = compile_it(function=function, source="h_li")
    assert compiled.node.key == compile_it(expression="np.mean(h_li)").node.key


def test_a_function_and_the_same_expression_are_one_computation():
    function = compile_it(function="average", source="h_li", params={"weights": "1 / s_li**2"})
    expression = compile_it(expression="np.average(h_li, weights=1.0 / s_li**2)")
    assert function.node.key == expression.node.key


@pytest.mark.parametrize("q", [0.25, "0.25", "1 / 4", "np.sqrt(0.0625)"])
def test_text_that_is_a_number_is_a_number(q):
    compiled = compile_it(function="quantile", source="h_li", params={"q": q})
    assert compiled.node.key == compile_it(expression="np.quantile(h_li, 0.25)").node.key


def test_average_without_weights_is_the_mean():
    mean = compile_it(function="mean", source="h_li")
    assert compile_it(function="average", source="h_li").node.key == mean.node.key


def test_columns_need_not_be_identifiers_to_be_sources():
    compiled = compile_statistic("it", Statistic("max", source="h-li"), ["h-li"])
    assert aggregate({"it": compiled}, np.zeros(1, "u2"), {"h-li": np.ones(1)}, 1)["it"] == [1]


def test_compiled_statistics_survive_pickling():
    compiled = compile_it(function="quantile", source="h_li", params={"q": 0.25})
    other = pickle.loads(pickle.dumps(compiled))  # noqa: S301
    rows = {"h_li": np.array([1.0, 5.0])}
    result = aggregate({"it": other}, np.zeros(2, "u2"), rows, 1)
    assert result["it"].tolist() == [2.0]


@pytest.mark.parametrize(
    ("declaration", "field", "message"),
    [
        ({}, "function", "give a function or an expression"),
        (
            {"function": "mean", "expression": "np.mean(h_li)"},
            "expression",
            "either function or expression, not both",
        ),
        ({"expression": "1 / s_li"}, "expression", "gives one value per observation, not one"),
        ({"expression": "1.0"}, "expression", "'1.0' gives a constant, not one value per child"),
        ({"expression": "np.mean(h)"}, "expression", "unknown column 'h'"),
        ({"expression": "np.quantile(h_li, 2)"}, "expression", "q of quantile must be a number"),
        ({"expression": "np.mean(h_li)", "params": {"q": 1}}, "params", "has no params"),
        ({"function": "mean"}, "source", "mean needs a source"),
        ({"function": "len"}, "source", "len needs a source"),
        ({"function": "mean", "source": "h"}, "source", "unknown column 'h'"),
        ({"function": "mean", "source": "h_l"}, "source", "did you mean 'h_li'?"),
        ({"function": "men", "source": "h_li"}, "function", "did you mean 'mean'?"),
        ({"function": "zzz", "source": "h_li"}, "function", "magg.register_statistic"),
        ({"function": "sqrt", "source": "h_li"}, "function", "unknown function 'sqrt'"),
        (
            {"function": "scipy.stats.skew", "source": "h_li"},
            "function",
            "magg.register_statistic('skew', scipy.stats.skew) and name it 'skew' here",
        ),
        ({"function": "os.system", "source": "h_li"}, "function", "not imported by dotted path"),
        (
            {"function": "average", "source": "h_li", "params": {"weights": "1 / s_l"}},
            "params.weights",
            "unknown column 's_l'; did you mean 's_li'?",
        ),
        (
            {"function": "average", "source": "h_li", "params": {"weight": "s_li"}},
            "params.weight",
            "average takes weights, not 'weight'",
        ),
        (
            {"function": "average", "source": "h_li", "params": {"weights": 2}},
            "params.weights",
            "weights of average must be one value per observation, not a constant",
        ),
        (
            {"function": "average", "source": "h_li", "params": {"weights": "np.sum(s_li)"}},
            "params.weights",
            "must be one value per observation, not one value per child cell",
        ),
        ({"function": "quantile", "source": "h_li"}, "params.q", "quantile needs q"),
        (
            {"function": "quantile", "source": "h_li", "params": {"q": 1.5}},
            "params.q",
            "q of quantile must be a number from 0 to 1, not 1.5",
        ),
        (
            {"function": "quantile", "source": "h_li", "params": {"q": "s_li"}},
            "params.q",
            "must be a number from 0 to 1, not one value per observation",
        ),
        (
            {"function": "var", "source": "h_li", "params": {"ddof": True}},
            "params.ddof",
            "ddof of var cannot be True",
        ),
        (
            {"function": "max", "source": "h_li", "params": {"axis": 0}},
            "params.axis",
            "max takes no parameters, not 'axis'",
        ),
    ],
)
def test_errors_name_the_key_at_fault(declaration, field, message):
    with pytest.raises(StatisticError) as caught:
        compile_it(**declaration)
    assert caught.value.field == field
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("dtype", "fill_value", "expected"),
    [
        ("float32", None, np.float32("nan")),
        ("float64", "NaN", np.float64("nan")),
        ("float32", "-Infinity", np.float32("-inf")),
        ("float32", -9999.9, np.float32(-9999.9)),
        ("float16", 1, np.float16(1)),
        ("int32", None, np.int32(0)),
        ("int16", -32768, np.int16(-32768)),
        ("int8", 5.0, np.int8(5)),
        ("uint64", 2**64 - 1, np.uint64(2**64 - 1)),
        ("int64", "-1", np.int64(-1)),
    ],
)
def test_the_fill_value_is_a_scalar_of_the_dtype(dtype, fill_value, expected):
    fill = Statistic(dtype=dtype, fill_value=fill_value).fill
    assert type(fill) is type(expected)
    np.testing.assert_array_equal(fill, expected)


@pytest.mark.parametrize(
    ("dtype", "fill_value"),
    [
        ("int16", 40000),
        ("uint8", -1),
        ("int32", "NaN"),
        ("int32", float("nan")),
        ("int32", float("inf")),
        ("int32", 0.5),
        ("uint64", 2**64),
        ("float32", 1e300),
        ("float16", 70000),
        ("float64", 10**400),
        ("float64", "none"),
        ("float64", True),
        ("int32", False),
    ],
)
def test_a_fill_value_that_the_dtype_cannot_hold_is_an_error(dtype, fill_value):
    with pytest.raises(StatisticError, match=f"{dtype} cannot hold the fill value") as caught:
        compile_it(function="max", source="h_li", dtype=dtype, fill_value=fill_value)
    assert caught.value.field == "fill_value"


@pytest.mark.parametrize(
    "dtype",
    ["bool", "complex64", "object", "O", "str", "U5", "datetime64[ns]", "f4,f4", "float", "", "no"],
)
def test_a_dtype_that_outputs_cannot_have_is_an_error(dtype):
    if dtype == "float":  # a name that numpy knows as float64
        assert compile_it(function="max", source="h_li", dtype=dtype).dtype == np.float64
        return
    with pytest.raises(StatisticError, match="not a dtype of outputs; use float16") as caught:
        compile_it(function="max", source="h_li", dtype=dtype)
    assert caught.value.field == "dtype"
