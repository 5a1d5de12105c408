"""Users' own statistics: registered, installed, called once per child cell that has rows."""

import importlib.metadata

import numpy as np
import pytest

from magg.errors import StatisticError
from magg.statistics import (
    Statistic,
    aggregate,
    compile_statistic,
    register_statistic,
    unregister_statistic,
)

CHILD = np.array([3, 3, 1, 3, 1], dtype=np.uint16)
ROWS = {
    "h": np.array([1, 2, 10, 4, 30], dtype=np.float32),
    "s": np.array([1, 1, 2, 1, 2], dtype=np.int16),
}


@pytest.fixture
def register():
    """Register under a name, and forget it after the test."""
    names = []

    def register(name, function):
        names.append(name)
        return register_statistic(name, function)

    yield register
    for name in names:
        unregister_statistic(name)


def returning(value):
    def function(values):
        return value

    return function


def run(function, **declaration):
    statistic = Statistic(function, source="h", dtype="float64", **declaration)
    compiled = compile_statistic("h_own", statistic, list(ROWS))
    return aggregate({"h_own": compiled}, CHILD, ROWS, 5)["h_own"]


def test_it_is_called_once_per_child_cell_that_has_rows(register):
    calls = []

    def collect(values):
        calls.append(values)
        return values.sum()

    register("collect", collect)
    np.testing.assert_array_equal(run("collect"), [np.nan, 40, np.nan, 7, np.nan])
    assert [call.tolist() for call in calls] == [[10, 30], [1, 2, 4]]
    assert all(call.dtype == np.float64 for call in calls)


def test_text_params_become_arrays_of_the_cell_and_numbers_stay(register):
    def weighted(values, weights, scale, exact, literal, middle):
        assert weights.shape == values.shape == middle.shape
        assert weights.dtype == np.float64
        assert (exact, literal) == (True, 0.25)
        return scale * np.sum(values * weights) + middle[0]

    register("weighted", weighted)
    params = {"weights": "1 / s", "scale": 2, "exact": True, "literal": "0.25"}
    result = run("weighted", params={**params, "middle": "np.median(h)"})
    np.testing.assert_array_equal(result, [np.nan, 60, np.nan, 16, np.nan])


def test_it_may_work_in_place_without_harm_to_others(register):
    def destroy(values):
        values[:] = -1
        return 0

    register("destroy", destroy)
    statistics = {
        name: compile_statistic(name, Statistic(name, source="h"), ["h"])
        for name in ("destroy", "mean", "max")
    }
    result = aggregate(statistics, CHILD, ROWS, 5)
    assert result["mean"][1] == 20
    assert result["max"][3] == 4


@pytest.mark.parametrize("value", [1, 1.5, np.float32(1.5), np.int64(2), True, np.bool_(1)])
def test_any_scalar_number_may_be_returned(register, value):
    register("fixed", returning(value))
    assert run("fixed")[1] == value


def test_a_zero_dimensional_array_is_a_number(register):
    register("fixed", returning(np.array(2.5)))
    assert run("fixed")[1] == 2.5


@pytest.mark.parametrize("value", ["1", None, np.ones(1), [1], 1j, np.array("1")])
def test_anything_else_returned_is_an_error(register, value):
    register("wrong", returning(value))
    with pytest.raises(StatisticError, match="statistic 'h_own': wrong must return a number"):
        run("wrong")


def test_what_it_raises_is_named(register):
    def fail(values):
        raise KeyError("nowhere")

    register("fail", fail)
    message = "statistic 'h_own': fail raised KeyError: 'nowhere'"
    with pytest.raises(StatisticError, match=message) as caught:
        run("fail")
    assert isinstance(caught.value.__cause__, KeyError)


def test_params_that_it_does_not_take_are_an_error_when_compiled(register):
    register("plain", returning(0))
    with pytest.raises(StatisticError, match=r"plain cannot be called so: .*'factor'") as caught:
        run("plain", params={"factor": 2})
    assert caught.value.field == "params"


def test_functions_without_a_signature_are_taken_as_they_are(register):
    register("builtin_max", max)
    assert run("builtin_max")[1] == 30


def test_two_outputs_may_use_it_with_different_numbers(register):
    register("times", lambda values, factor: values.sum() * factor)
    statistics = {
        str(factor): compile_statistic(
            str(factor), Statistic("times", source="h", params={"factor": factor}), ["h"]
        )
        for factor in (1, 2, True)
    }
    result = aggregate(statistics, CHILD, ROWS, 5)
    assert [result[name][1] for name in ("1", "2", "True")] == [40, 80, 40]


def test_register_is_a_decorator_too():
    try:

        @register_statistic("decorated")
        def decorated(values):
            return 5

        assert decorated(None) == 5
        assert run("decorated")[3] == 5
    finally:
        unregister_statistic("decorated")


def test_registering_again_replaces(register):
    register("twice", returning(1))
    register_statistic("twice", returning(2))
    assert run("twice")[1] == 2


def test_forgotten_is_unknown():
    register_statistic("passing", returning(1))
    unregister_statistic("passing")
    with pytest.raises(StatisticError, match="unknown function 'passing'"):
        run("passing")
    with pytest.raises(StatisticError, match="no statistic 'passing' is registered"):
        unregister_statistic("passing")


def test_a_registered_name_is_suggested(register):
    register("roughness", returning(1))
    with pytest.raises(StatisticError, match="did you mean 'roughness'"):
        run("roughnes")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("mean", "'mean': that is a built-in function"),
        ("nanstd", "built-in"),
        ("sqrt", "built-in"),
        ("two words", "not an identifier"),
        ("scipy.stats.skew", "not an identifier"),
        ("", "not an identifier"),
        ("lambda", "not an identifier"),
    ],
)
def test_names_are_identifiers_that_do_not_shadow(name, message):
    with pytest.raises(StatisticError, match=message):
        register_statistic(name, returning(1))


def test_only_functions_can_be_registered():
    with pytest.raises(StatisticError, match="'five' must be a function, not 5"):
        register_statistic("five", 5)


# Installed under an entry point -----------------------------------------------------------------


def halve(values):
    return values.sum() / 2


@pytest.fixture
def installed(monkeypatch):
    """Pretend that a package installed two statistics, one of which is broken."""
    points = importlib.metadata.EntryPoints(
        importlib.metadata.EntryPoint(name, value, "magg.statistics")
        for name, value in {
            "halve": f"{__name__}:halve",
            "broken": "no_such_module:function",
        }.items()
    )
    lookups = []

    def entry_points(**selection):
        lookups.append(selection)
        return points.select(**selection)

    monkeypatch.setattr(importlib.metadata, "entry_points", entry_points)
    return lookups


def test_installed_statistics_are_found_by_name(installed):
    np.testing.assert_array_equal(run("halve"), [np.nan, 20, np.nan, 3.5, np.nan])


def test_entry_points_are_not_looked_up_for_what_is_known(installed, register):
    register("own", returning(1))
    run("own")
    run("mean")
    assert not installed


def test_an_installed_statistic_that_cannot_be_loaded_is_an_error(installed):
    with pytest.raises(StatisticError, match="'broken' is installed as no_such_module:function"):
        run("broken")


def test_an_installed_name_is_suggested(installed):
    with pytest.raises(StatisticError, match="did you mean 'halve'"):
        run("halv")
