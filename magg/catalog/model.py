"""The catalog: parent cells to granules, checked on load."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from magg.catalog import files
from magg.config import PipelineConfig, load_config
from magg.errors import CatalogError, GridError, UnknownCellError
from magg.grid import Words, centres, from_decimal, separation

PROBLEMS_SHOWN = 10
NEAR_CELLS_SHOWN = 3


@dataclass(frozen=True)
class Catalog:
    """The granules that cross each parent cell.

    Parameters
    ----------
    parent_order : int
        HEALPix order of the cells.
    cells : dict of str to tuple of str
        Decimal Morton id to the paths or URLs of its granules, both sorted (cells in Morton
        order), so that equal catalogs give equal stores.
    metadata : dict
        What is known beside: where it comes from, dates, area. Plain data.

    Raises
    ------
    CatalogError
        If an id is malformed or of another order, a granule stands twice in a cell, a cell has no
        granule, or there is no cell at all; lists all problems.
    """

    parent_order: int
    cells: dict[str, tuple[str, ...]]
    metadata: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        problems = list(_problems(self.cells, self.parent_order))
        if problems:
            shown = problems[:PROBLEMS_SHOWN]
            if len(problems) > len(shown):
                shown.append(f"and {len(problems) - len(shown)} more")
            raise CatalogError("the catalog is wrong:\n  " + "\n  ".join(shown))
        by_word = sorted(self.cells, key=lambda cell: from_decimal(cell))
        ordered = {cell: tuple(sorted(self.cells[cell])) for cell in by_word}
        object.__setattr__(self, "cells", ordered)

    def __len__(self) -> int:
        return len(self.cells)

    def __repr__(self) -> str:
        return (
            f"<Catalog: {len(self)} cells of order {self.parent_order}, "
            f"{len(self.granules)} granules>"
        )

    @property
    def granules(self) -> tuple[str, ...]:
        """All granules, sorted, each once."""
        return tuple(sorted({granule for granules in self.cells.values() for granule in granules}))

    @property
    def words(self) -> Words:
        """Morton words of the cells, ascending."""
        return np.array([from_decimal(cell) for cell in self.cells], dtype=np.uint64)

    @property
    def digest(self) -> str:
        """SHA-256 of the cells and their granules."""
        text = json.dumps([self.parent_order, self.cells], separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()

    def select(self, cell: str | int) -> str:
        """Return the id of a cell of this catalog.

        Raises
        ------
        UnknownCellError
            If the catalog does not hold the cell; names the nearest ones that it holds.
        """
        wanted = str(cell)
        if wanted in self.cells:
            return wanted
        try:
            word = from_decimal(wanted, self.parent_order)
        except GridError as error:
            raise UnknownCellError(str(error)) from None
        lat, lon = centres(self.words)
        (here_lat,), (here_lon,) = centres(np.array([word], dtype=np.uint64))
        apart = separation(here_lat, here_lon, lat, lon)
        ids = list(self.cells)
        near = ", ".join(
            f"{ids[i]} ({apart[i] * 111.2:.0f} km)" for i in np.argsort(apart)[:NEAR_CELLS_SHOWN]
        )
        raise UnknownCellError(f"cell {wanted} is not in the catalog; the nearest are {near}")

    @classmethod
    def load(cls, location: str | Path) -> Catalog:
        """Load a catalog from a JSON file or URL.

        Parameters
        ----------
        location : str or Path
            A path, or an ``s3://`` or ``https://`` URL.

        Raises
        ------
        CatalogError
            If it is not a catalog, or a wrong one.
        FileNotFoundError
            If nothing is there.
        """
        parent_order, cells, metadata = files.read(location)
        try:
            return cls(parent_order, cells, metadata)
        except CatalogError as error:
            raise CatalogError(f"{location}: {error}") from None

    @classmethod
    def from_files(
        cls,
        paths: str | Path | Iterable[str | Path],
        parent_order: int = 6,
        config: PipelineConfig | str | None = None,
    ) -> Catalog:
        """Make a catalog of granules by where their rows really are.

        Parameters
        ----------
        paths : path or iterable of paths
            Granules (paths or URLs); a folder stands for all ``.h5`` files below it.
        parent_order : int, default 6
        config : PipelineConfig or str, default "atl06"
            Says where the coordinates are.

        Raises
        ------
        GranuleError
            If a granule cannot be read; names it.
        CatalogError
            If there is no granule, or none has a row with a valid position.
        """
        if not isinstance(config, PipelineConfig):
            config = load_config(config or "atl06")
        return cls(parent_order, *files.scan(paths, parent_order, config.data_source))

    def save(self, path: str | Path) -> Path:
        """Write the catalog as JSON, whole or not at all, and return where it is."""
        metadata = {
            **self.metadata,
            "parent_order": self.parent_order,
            "total_cells": len(self),
            "total_granules": len(self.granules),
        }
        return files.write(path, self.cells, metadata)


def _problems(cells: Mapping[str, Sequence[str]], parent_order: int) -> Iterable[str]:
    if not cells:
        yield "it holds no cell"
    for cell, granules in cells.items():
        try:
            from_decimal(cell, parent_order)
        except GridError as error:
            yield str(error)
        if not granules:
            yield f"cell {cell} has no granule"
        if not all(isinstance(granule, str) and granule for granule in granules):
            yield f"cell {cell}: every granule must be a path or URL"
        elif len(set(granules)) < len(granules):
            twice = next(g for g in granules if list(granules).count(g) > 1)
            yield f"cell {cell} names granule {twice} twice"
