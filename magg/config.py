"""Pipeline configs: YAML to typed classes, with every problem reported at once."""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from importlib import resources
from pathlib import Path
from typing import Any, Literal

from magg import wire, yamltext
from magg.errors import ConfigError, GridError, StatisticError
from magg.grid import Grid, order_problems
from magg.html import cards
from magg.statistics import Compiled, Statistic, compile_statistic

DEFAULT_PARENT_ORDER = 6


@dataclass(frozen=True)
class Column:
    """One dataset of a granule that statistics may use.

    Parameters
    ----------
    path : str
        Path inside the granule, with ``{group}`` for the beam.
    fill_value, valid_min, valid_max : float, optional
        Override what the dataset's own attributes say (``_FillValue``, ``missing_value``,
        ``valid_min``, ``valid_max``, ``valid_range``).
    missing : {"drop", "keep"}
        Whether a row whose value is missing is dropped, or kept with NaN in its place (for the
        ``nan`` family of functions).
    """

    path: str
    fill_value: float | None = None
    valid_min: float | None = None
    valid_max: float | None = None
    missing: Literal["drop", "keep"] = "drop"


@dataclass(frozen=True)
class Coordinates:
    """Paths of the coordinates inside a granule (degrees), with ``{group}`` for the beam."""

    latitude: str
    longitude: str


@dataclass(frozen=True)
class QualityFilter:
    """Rows are kept where ``dataset`` holds ``value`` (or one of its values)."""

    dataset: str
    value: int | float | tuple[int | float, ...] = 0


@dataclass(frozen=True)
class DataSource:
    """Where the observations are inside a granule.

    Parameters
    ----------
    groups : tuple of str
        The beams, in the order in which their rows are taken.
    coordinates : Coordinates
    variables : dict of str to Column
        Column names, as statistics use them, to datasets; a plain path stands for a `Column`.
    quality_filter : QualityFilter, optional
    reader : {"h5py", "h5coro"}
        Both names stand for magg's own HDF5 reader.
    driver : {"s3", "https", "local"}, optional
        Accepted from older configs; each granule's own link says how it is read.
    access : {"auto", "direct", "external"}
        How granules of Earthdata are read: directly from S3, which works in the region of their
        bucket alone (us-west-2), over HTTPS, which works everywhere, or whichever of them suits
        the place where the cells run.
    """

    groups: tuple[str, ...]
    coordinates: Coordinates
    variables: dict[str, str | Column]
    quality_filter: QualityFilter | None = None
    reader: Literal["h5py", "h5coro"] = "h5py"
    driver: Literal["s3", "https", "local"] | None = None
    access: Literal["auto", "direct", "external"] = "auto"

    @property
    def columns(self) -> dict[str, Column]:
        """Column names to `Column`, plain paths included."""
        return {
            name: Column(column) if isinstance(column, str) else column
            for name, column in self.variables.items()
        }


@dataclass(frozen=True)
class CoordinateVariable:
    """A coordinate of the store. Kept for older configs: both are always written, as uint64."""

    dtype: Literal["uint64", "int64"] = "uint64"
    fill_value: int = 0


@dataclass(frozen=True)
class Aggregation:
    """The statistics of a run, by the name of the variable that holds them."""

    variables: dict[str, Statistic]
    coordinates: dict[Literal["cell_ids", "morton"], CoordinateVariable] = field(
        default_factory=dict
    )


@dataclass(frozen=True)
class OutputGrid:
    """The grid of the output.

    Parameters
    ----------
    child_order : int
        Of the child cells, the units of output; 12 makes cells of about 1.6 km.
    parent_order : int, optional
        Of the parent cells, the units of work; taken from the catalog where left out.
    orders : tuple of int, optional
        All orders that the store is to hold, the child order among them.
    coarsest_order : int, optional
        In place of ``orders``: every order from this one to the child order.
    type, indexing_scheme : str
        There is no other.
    """

    child_order: int
    parent_order: int | None = None
    orders: tuple[int, ...] | None = None
    coarsest_order: int | None = None
    type: Literal["healpix"] = "healpix"
    indexing_scheme: Literal["nested"] = "nested"


@dataclass(frozen=True)
class Output:
    """Where the statistics go.

    Parameters
    ----------
    grid : OutputGrid
    store : str, optional
        A local path or ``s3://bucket/prefix``; ``run(store=...)`` overrides it.
    state : bool, default False
        Keep, beside the statistics of the child cells, what they can be merged from, so that
        `magg.build_pyramid` can make coarser orders exactly.
    """

    grid: OutputGrid
    store: str | None = None
    state: bool = False


@dataclass(frozen=True)
class Temporal:
    """Dates (ISO 8601), both included, between which granules are wanted."""

    start_date: str
    end_date: str


@dataclass(frozen=True)
class Bounds:
    """What a catalog made for this config should cover; a run itself never filters by it."""

    temporal: Temporal | None = None
    spatial: dict[str, Any] | str | None = None


@dataclass(frozen=True)
class PipelineConfig:
    """Everything that a config file says; make one with `load_config`.

    Parameters
    ----------
    catalog : str, optional
        A path or URL; ``run(catalog=...)`` overrides it.
    """

    data_source: DataSource
    aggregation: Aggregation
    output: Output
    catalog: str | None = None
    bounds: Bounds | None = None

    def _repr_html_(self) -> str:
        """Return what a notebook shows."""
        return cards.of_config(self)

    @property
    def statistics(self) -> dict[str, Statistic]:
        """The declared statistics, by variable name."""
        return self.aggregation.variables

    @functools.cached_property
    def digest(self) -> str:
        """SHA-256 of all that decides the numbers of a cell.

        Where the output goes, which catalog is read, attributes and mere synonyms leave it alone.
        """
        text = json.dumps(self.identity(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()

    def identity(self) -> dict[str, Any]:
        """Return as plain data what the digest covers."""
        source = replace(
            self.data_source, variables=dict(self.data_source.columns), reader="h5py", driver=None
        )
        statistics = {name: replace(each, attrs={}) for name, each in self.statistics.items()}
        source_data = wire.unstructure(source)
        del source_data["access"]  # the bytes are the same, whichever way they come
        return {
            "data_source": source_data,
            "statistics": wire.unstructure(statistics),
            "child_order": self.output.grid.child_order,
        }


def load_config(source: str | Path | Mapping[str, Any]) -> PipelineConfig:
    """Load a config and check all of it.

    Parameters
    ----------
    source : str, Path or mapping
        A path, the name of a built-in config (``"atl06"``, ``"atl08.yaml"``; a file of that name
        in the working directory wins), or the config as plain data.

    Raises
    ------
    ConfigError
        If anything is wrong; lists every problem with its place.
    FileNotFoundError
        If there is neither such a file nor such a built-in config.
    """
    if isinstance(source, Mapping):
        return _checked(dict(source), "config", {})
    text, name = _read(source)
    data, lines = yamltext.parse(text, name)
    return _checked(data, name, lines)


def builtin_configs() -> list[str]:
    """Return the names of the configs that ship with magg."""
    files = resources.files("magg").joinpath("configs").iterdir()
    return sorted(file.name.removesuffix(".yaml") for file in files if file.name.endswith(".yaml"))


def compile_statistics(config: PipelineConfig) -> dict[str, Compiled]:
    """Return the statistics of a config, ready to `magg.statistics.aggregate`."""
    columns = config.data_source.columns
    return {
        name: compile_statistic(name, statistic, columns)
        for name, statistic in config.statistics.items()
    }


def grid_of(config: PipelineConfig, parent_order: int | None = None) -> Grid:
    """Return the grid of a run, whose parent order is the config's, the given one or 6."""
    declared = config.output.grid
    if declared.parent_order is not None:
        parent_order = declared.parent_order
    return Grid(
        DEFAULT_PARENT_ORDER if parent_order is None else parent_order, declared.child_order
    )


def coarser_orders(config: PipelineConfig) -> tuple[int, ...]:
    """Return the orders beside the child order that a config asks for, the finest first."""
    grid = config.output.grid
    if grid.coarsest_order is not None:
        return tuple(range(grid.child_order - 1, grid.coarsest_order - 1, -1))
    return tuple(sorted(set(grid.orders or ()) - {grid.child_order}, reverse=True))


def get_child_order(config: PipelineConfig) -> int:
    """Return the order of the child cells."""
    return config.output.grid.child_order


def get_store_path(config: PipelineConfig) -> str | None:
    """Return where the config puts the store, or None."""
    return config.output.store


def _read(source: str | Path) -> tuple[str, str]:
    path = Path(source)
    if path.is_file():
        try:
            return path.read_text(encoding="utf-8"), str(path)
        except UnicodeDecodeError as error:
            raise ConfigError(f"{path} is not a text file ({error.reason})") from None
    name = str(source).removesuffix(".yaml")
    if name in builtin_configs():
        file = resources.files("magg").joinpath("configs", f"{name}.yaml")
        return file.read_text(encoding="utf-8"), f"{name}.yaml"
    raise FileNotFoundError(
        f"there is no config file {str(source)!r}, and no built-in config of that name"
        f"{wire.suggestion(name, builtin_configs())}"
    )


def _checked(data: object, name: str, lines: Mapping[str, int]) -> PipelineConfig:
    """Structure a config and gather the problems of its types, statistics and orders."""
    try:
        config = wire.structure(data, PipelineConfig)
    except wire.WireError as error:
        raise _config_error(name, error.problems, lines) from None
    problems = [
        *_source_problems(config.data_source),
        *_statistic_problems(config),
        *_grid_problems(config),
    ]
    if problems:
        raise _config_error(name, problems, lines)
    return config


def _source_problems(source: DataSource) -> list[tuple[str, str]]:
    problems = []
    if not source.groups:
        problems.append(("data_source.groups", "is empty; name at least one beam"))
    if len(set(source.groups)) < len(source.groups):
        problems.append(("data_source.groups", "names a beam twice"))
    if not source.variables:
        problems.append(("data_source.variables", "is empty; name at least one dataset"))
    paths = {
        "data_source.coordinates.latitude": source.coordinates.latitude,
        "data_source.coordinates.longitude": source.coordinates.longitude,
        **{f"data_source.variables.{name}": c.path for name, c in source.columns.items()},
    }
    if source.quality_filter:
        paths["data_source.quality_filter.dataset"] = source.quality_filter.dataset
        if source.quality_filter.value == ():
            problems.append(("data_source.quality_filter.value", "is empty: it keeps no row"))
    problems += [
        (place, f"{path!r} does not hold {{group}}, so all beams would read one dataset")
        for place, path in paths.items()
        if "{group}" not in path and len(source.groups) > 1
    ]
    problems += [
        (f"data_source.variables.{name}", "is not a plain name, so no expression could use it")
        for name in source.variables
        if not name.isidentifier()
    ]
    return problems


def _statistic_problems(config: PipelineConfig) -> list[tuple[str, str]]:
    problems = []
    if not config.statistics:
        problems.append(("aggregation.variables", "is empty; declare at least one statistic"))
    for name, statistic in config.statistics.items():
        place = f"aggregation.variables.{name}"
        if name in ("cell_ids", "morton") or not name.isidentifier():
            problems.append((place, "is not a name that a variable of the store can have"))
        try:
            compile_statistic(name, statistic, config.data_source.columns)
        except StatisticError as error:
            problems.append((f"{place}.{error.field}".rstrip("."), str(error)))
    return problems


def _grid_problems(config: PipelineConfig) -> list[tuple[str, str]]:
    grid = config.output.grid
    found = order_problems(grid.child_order, grid.orders, grid.coarsest_order)
    problems = [(f"output.grid.{key}", what) for key, what in found]
    try:
        grid_of(config)
    except GridError as error:
        problems.append(("output.grid", str(error)))
    return problems


def _config_error(
    name: str, problems: list[tuple[str, str]], lines: Mapping[str, int]
) -> ConfigError:
    told = []
    for place, what in problems:
        line = lines.get(place) or lines.get(place.rpartition(".")[0])
        told.append(f"{place or 'top level'}: {what}" + (f" (line {line})" if line else ""))
    count = "1 problem" if len(told) == 1 else f"{len(told)} problems"
    return ConfigError(f"{name} has {count}:\n  " + "\n  ".join(told), problems=told)
