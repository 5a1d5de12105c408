"""Pipeline configs: YAML to typed classes, with every problem reported at once."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal


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
    """Paths of the coordinates inside a granule, with ``{group}`` for the beam."""

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
        Column names, as statistics use them, to datasets.
    quality_filter : QualityFilter, optional
    reader : {"h5py", "h5coro"}
        Both names stand for magg's own HDF5 reader.
    """

    groups: tuple[str, ...]
    coordinates: Coordinates
    variables: dict[str, Column]
    quality_filter: QualityFilter | None = None
    reader: Literal["h5py", "h5coro"] = "h5py"
    driver: Literal["s3", "https", "local"] | None = field(default=None)
