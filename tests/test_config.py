from __future__ import annotations

import copy

import pytest
import yaml

from magg import load_config
from magg.config import (
    Column,
    builtin_configs,
    coarser_orders,
    compile_statistics,
    get_child_order,
    get_store_path,
    grid_of,
)
from magg.errors import ConfigError

# A config as the first version of magg wrote them.
FIRST_VERSION = """
data_source:
  reader: h5coro
  groups: [gt1l, gt1r, gt2l, gt2r, gt3l, gt3r]
  coordinates:
    latitude: "/{group}/land_ice_segments/latitude"
    longitude: "/{group}/land_ice_segments/longitude"
  variables:
    h_li: "/{group}/land_ice_segments/h_li"
    s_li: "/{group}/land_ice_segments/h_li_sigma"
  quality_filter:
    dataset: "/{group}/land_ice_segments/atl06_quality_summary"
    value: 0
aggregation:
  coordinates:
    cell_ids: {dtype: uint64, fill_value: 0}
    morton: {dtype: int64, fill_value: 0}
  variables:
    count: {function: len, source: h_li, dtype: int32, fill_value: 0}
    h_min: {function: min, source: h_li, dtype: float32}
    h_mean:
      function: average
      source: h_li
      params: {weights: "1.0 / s_li**2"}
      dtype: float32
      fill_value: NaN
    h_sigma: {expression: "1.0 / np.sqrt(np.sum(1.0 / s_li**2))", dtype: float32}
    h_q25: {function: np.quantile, source: h_li, params: {q: 0.25}, dtype: float32}
output:
  grid: {type: healpix, indexing_scheme: nested, child_order: 12}
  store: s3://bucket/out.zarr
catalog: catalog.json
bounds:
  temporal: {start_date: "2023-12-18", end_date: "2024-03-18"}
"""


@pytest.fixture
def document():
    return yaml.safe_load(FIRST_VERSION)


def problems_of(document, tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(document, sort_keys=False))
    with pytest.raises(ConfigError) as caught:
        load_config(path)
    return caught.value.problems


def test_a_config_of_the_first_version_loads_unchanged(tmp_path):
    path = tmp_path / "first.yaml"
    path.write_text(FIRST_VERSION)
    config = load_config(path)
    assert get_child_order(config) == 12
    assert get_store_path(config) == "s3://bucket/out.zarr"
    assert config.catalog == "catalog.json"
    assert list(config.statistics) == ["count", "h_min", "h_mean", "h_sigma", "h_q25"]
    assert config.data_source.columns["s_li"] == Column("/{group}/land_ice_segments/h_li_sigma")


@pytest.mark.parametrize("name", ["atl06", "atl06.yaml", "atl08", "atl08.yaml"])
def test_built_in_configs_load_by_name(name):
    assert compile_statistics(load_config(name))
    assert name.removesuffix(".yaml") in builtin_configs()


def test_atl06_declares_what_the_documentation_says():
    config = load_config("atl06")
    assert list(config.statistics) == [
        "count", "h_min", "h_max", "h_mean", "h_sigma", "h_variance", "h_q25", "h_q50", "h_q75",
    ]  # fmt: skip
    assert config.data_source.quality_filter.value == 0


def test_a_file_in_the_working_directory_wins_over_a_built_in_of_its_name(
    tmp_path, monkeypatch, document
):
    document["output"]["grid"]["child_order"] = 9
    (tmp_path / "atl06.yaml").write_text(yaml.safe_dump(document))
    monkeypatch.chdir(tmp_path)
    assert get_child_order(load_config("atl06.yaml")) == 9


def test_plain_data_load_like_a_file(document):
    assert load_config(document).digest == load_config(copy.deepcopy(document)).digest


def test_all_problems_are_reported_at_once_each_with_its_place_and_a_suggestion(document, tmp_path):
    document["data_source"]["variabels"] = {}
    document["aggregation"]["variables"]["h_min"]["dtype"] = 5
    document["output"]["grid"]["child_order"] = "twelve"
    document["aggregation"]["variables"]["h_mean"]["parms"] = {}
    problems = "\n".join(problems_of(document, tmp_path))
    assert "data_source.variabels: unknown key; did you mean 'variables'?" in problems
    assert "aggregation.variables.h_min.dtype: must be text, not 5" in problems
    assert "output.grid.child_order: must be a whole number, not 'twelve'" in problems
    assert "aggregation.variables.h_mean.parms: unknown key; did you mean 'params'?" in problems


def test_problems_of_several_statistics_are_reported_at_once(document, tmp_path):
    variables = document["aggregation"]["variables"]
    variables["h_mean"]["params"]["weights"] = "1.0 / s_l**2"
    variables["h_min"]["function"] = "minn"
    variables["h_sigma"]["expression"] = "__import__('os').system('true')"
    variables["h_q25"]["params"]["q"] = 25
    problems = problems_of(document, tmp_path)
    assert len(problems) == 4
    told = "\n".join(problems)
    assert "aggregation.variables.h_mean.params.weights: unknown column 's_l'" in told
    assert "did you mean 's_li'?" in told
    assert "aggregation.variables.h_min.function: " in told
    assert "did you mean 'min'?" in told
    assert "aggregation.variables.h_sigma.expression: " in told
    assert "aggregation.variables.h_q25.params.q: " in told


def test_a_problem_names_its_line(tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text(FIRST_VERSION.replace("child_order: 12", "child_order: 99"))
    with pytest.raises(ConfigError, match=r"output\.grid: child_order .* not 99 \(line \d+\)"):
        load_config(path)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda d: d.pop("data_source"), "data_source: is missing"),
        (lambda d: d["output"]["grid"].update(type="h3"), "must be one of 'healpix'"),
        (lambda d: d["output"]["grid"].update(indexing_scheme="ring"), "must be one of 'nested'"),
        (lambda d: d["output"]["grid"].update(parent_order=13), "coarser"),
        (lambda d: d["output"]["grid"].update(child_order=True), "must be a whole number"),
        (lambda d: d["output"]["grid"].update(child_order=12.5), "must be a whole number"),
        (
            lambda d: d["output"]["grid"].update(coarsest_order=13),
            "output.grid.coarsest_order: must be between 0 and child_order (12)",
        ),
        (
            lambda d: d["output"]["grid"].update(orders=[11, 10]),
            "output.grid.orders: does not hold child_order (12)",
        ),
        (lambda d: d["output"]["grid"].update(orders=[12, 11, 11]), "names an order twice"),
        (lambda d: d["output"]["grid"].update(orders=[12, -1]), "must be between 0 and"),
        (
            lambda d: d["output"]["grid"].update(orders=[12], coarsest_order=3),
            "leave one of them out",
        ),
        (lambda d: d["output"].update(state="yes"), "output.state"),
        (lambda d: d["data_source"].update(reader="netcdf"), "must be one of 'h5py', 'h5coro'"),
        (lambda d: d["data_source"].update(groups=[]), "groups: is empty"),
        (lambda d: d["data_source"].update(groups=["gt1l", "gt1l"]), "names a beam twice"),
        (lambda d: d["data_source"].update(groups="gt1l"), "must be a list"),
        (lambda d: d["data_source"].update(variables={}), "variables: is empty"),
        (lambda d: d["data_source"]["variables"].update({"a b": "/{group}/x"}), "plain name"),
        (
            lambda d: d["data_source"]["variables"].update(h_li="/gt1l/h_li"),
            "does not hold {group}",
        ),
        (lambda d: d["aggregation"].update(variables={}), "declare at least one statistic"),
        (
            lambda d: d["aggregation"]["variables"].update(
                morton={"function": "min", "source": "h_li"}
            ),
            "morton: is not a name",
        ),
        (lambda d: d["aggregation"]["variables"]["count"].pop("function"), "function"),
        (lambda d: d["aggregation"]["variables"]["count"].update(expression="1"), "function"),
        (
            lambda d: d["aggregation"]["variables"]["h_min"].update(source="h_lee"),
            "did you mean 'h_li'",
        ),
        (lambda d: d["aggregation"]["variables"]["h_min"].update(dtype="float99"), "float99"),
        (lambda d: d["aggregation"]["variables"]["count"].update(fill_value="many"), "fill_value"),
        (lambda d: d["aggregation"]["variables"]["h_min"].update(function="os.system"), "register"),
        (lambda d: d.update(bounds={"spatail": 1}), "did you mean 'spatial'"),
        (lambda d: d["data_source"]["quality_filter"].update(value=[]), "keeps no row"),
    ],
)
def test_each_kind_of_mistake_is_named(document, tmp_path, change, words):
    change(document)
    assert words in "\n".join(problems_of(document, tmp_path))


@pytest.mark.parametrize(
    ("grid", "orders"),
    [
        ({}, ()),
        ({"orders": [12]}, ()),
        ({"orders": [6, 12, 9]}, (9, 6)),
        ({"coarsest_order": 12}, ()),
        ({"coarsest_order": 9}, (11, 10, 9)),
    ],
)
def test_coarser_orders_are_those_asked_for_and_leave_the_digest_alone(document, grid, orders):
    digest = load_config(document).digest
    document["output"]["grid"].update(grid)
    config = load_config(document)
    assert coarser_orders(config) == orders
    assert config.digest == digest


def test_a_doubled_key_is_an_error_that_names_both_lines(tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text(FIRST_VERSION + "catalog: other.json\n")
    with pytest.raises(ConfigError, match=r"catalog: stands on line \d+ and on line \d+"):
        load_config(path)


@pytest.mark.parametrize("text", ["a: [1", "a: b: c", "\t- x", "!!python/object:os.system {}"])
def test_what_is_not_plain_yaml_is_an_error_that_says_where(tmp_path, text):
    path = tmp_path / "config.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=r"config\.yaml"):
        load_config(path)


@pytest.mark.parametrize("text", ["", "just text", "[1, 2]"])
def test_a_document_that_is_no_mapping_is_an_error(tmp_path, text):
    path = tmp_path / "config.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match="must be a mapping"):
        load_config(path)


def test_a_missing_config_names_the_built_in_ones():
    with pytest.raises(FileNotFoundError, match="did you mean 'atl06'"):
        load_config("atl6")


def test_config_errors_are_value_errors():
    with pytest.raises(ValueError, match="problem"):
        load_config({})


def test_the_digest_covers_what_decides_the_numbers_and_nothing_else(document):
    base = load_config(document).digest

    def changed(change):
        other = copy.deepcopy(document)
        change(other)
        return load_config(other).digest != base

    assert not changed(lambda d: d.update(catalog="other.json"))
    assert not changed(lambda d: d["output"].update(store="elsewhere"))
    assert not changed(lambda d: d["data_source"].update(reader="h5py"))
    assert not changed(
        lambda d: d["aggregation"]["variables"]["count"].update(attrs={"units": "1"})
    )
    assert changed(lambda d: d["output"]["grid"].update(child_order=11))
    assert changed(lambda d: d["data_source"]["quality_filter"].update(value=1))
    assert changed(lambda d: d["aggregation"]["variables"]["h_q25"]["params"].update(q=0.2))


def test_the_parent_order_is_the_configs_else_the_catalogs_else_six(document):
    assert grid_of(load_config(document)).parent_order == 6
    assert grid_of(load_config(document), 5).parent_order == 5
    document["output"]["grid"]["parent_order"] = 7
    assert grid_of(load_config(document), 5).parent_order == 7
