"""What a run is to do: which cells, on which grid, into which store. A dry run stops here."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from magg.access import Reach, reach_of
from magg.catalog import Catalog
from magg.catalog.index import GranuleIndex
from magg.cell import CellTask
from magg.config import PipelineConfig, coarser_orders, compile_statistics, grid_of
from magg.credentials import Access
from magg.errors import CatalogError, ConfigError
from magg.granules.packing import is_without_rows, pack
from magg.grid import Grid, from_decimal
from magg.statistics import used_columns
from magg.store import records, schema, template
from magg.store.levels import Holdings, levels_of
from magg.store.marks import list_marks
from magg.store.open import normalise, told_of

OnGranuleError = Literal["fail", "skip"]


@dataclass(frozen=True)
class Plan:
    """Everything that a run needs to know before it starts.

    Parameters
    ----------
    config : PipelineConfig
    catalog : Catalog
    grid : Grid
    store : str
        Absolute path, or URL.
    cells : tuple of str
        Decimal Morton ids of the cells to work on, those with the most granules first.
    on_granule_error : {"fail", "skip"}
        Whether a granule that cannot be read makes its cells errors, or is left out and named.
    region : str, optional
        AWS region of the store's bucket.
    overwrite : bool
        Start an existing store again.
    reach : Reach, optional
        How granules of Earthdata are reached; others are read by their names alone.
    index : GranuleIndex, optional
        What is known of granules, and true.
    """

    config: PipelineConfig
    catalog: Catalog
    grid: Grid
    store: str
    cells: tuple[str, ...]
    on_granule_error: OnGranuleError = "fail"
    region: str | None = None
    overwrite: bool = False
    reach: Reach | None = field(default=None, compare=False)
    index: GranuleIndex | None = field(default=None, compare=False)

    def task(self, cell: str, chunks: template.Chunks) -> CellTask:
        """Return the task of a cell.

        Parameters
        ----------
        cell : str
        chunks : Chunks
            Which chunk of the store is whose.
        """
        granules, access = self.catalog.cells[cell], Access()
        if self.reach is not None:
            granules, access = self.reach.of(cell)
        return CellTask(
            cell=cell,
            granules=granules,
            config=self.config,
            grid=self.grid,
            store=self.store,
            chunk=chunks.of[from_decimal(cell)],
            parents=len(chunks.of),
            making=chunks.making,
            digest=self.digest(cell),
            on_granule_error=self.on_granule_error,
            region=self.region,
            access=access,
            coarser=chunks.has,
            in_full=chunks.in_full,
            layouts=self._layouts(cell),
        )

    @functools.cached_property
    def columns(self) -> frozenset[str]:
        """The columns that the statistics use."""
        return used_columns(compile_statistics(self.config))

    def _layouts(self, cell: str) -> str:
        """Return what the index says of a cell's granules, for its task."""
        if self.index is None:
            return ""
        entries = [self.index.entries.get(granule) for granule in self.catalog.cells[cell]]
        return pack(entries, from_decimal(cell), self.config.data_source, self.columns)

    def without_rows(self, cells: Iterable[str]) -> frozenset[str]:
        """Return those of some cells in which no granule has a row, as far as the index tells."""
        if self.index is None:
            return frozenset()
        entries, source = self.index.entries, self.config.data_source
        empty = {cell: from_decimal(cell) for cell in cells}
        with_rows = {
            word
            for entry in entries.values()
            for beam in entry.beams
            if beam.name in source.groups
            for word in beam.cells.tolist()
        }
        return frozenset(
            cell
            for cell, word in empty.items()
            if word not in with_rows
            and all(
                is_without_rows(entries.get(granule), word, source, self.columns)
                for granule in self.catalog.cells[cell]
            )
        )

    def digest(self, cell: str) -> str:
        """Return what stands for the inputs of a cell."""
        return records.inputs_digest(self.config, self.grid, self.catalog.cells[cell])

    def unfinished(self) -> tuple[str, ...]:
        """Return the cells that have no record made from the same inputs; costs one listing."""
        if self.overwrite:
            return self.cells  # what the store holds is lost, or was when it was prepared
        marks = list_marks(self.store, self.region)
        accept_partial = self.on_granule_error == "skip"
        wanted = Holdings(coarser_orders(self.config), self.config.output.state)
        return tuple(
            cell
            for cell in self.cells
            if not marks.is_done(
                cell, self.digest(cell), accept_partial=accept_partial, wanted=wanted
            )
        )

    def prepare_store(self) -> template.Chunks:
        """Make the store ready; see `magg.store.template.prepare`."""
        with told_of(self.store):
            return template.prepare(
                self.store,
                self.config,
                self.grid,
                self.catalog.words,
                region=self.region,
                catalog_digest=self.catalog.digest,
                sources=self.catalog.metadata.get("variables"),
                overwrite=self.overwrite,
            )

    def describe(self) -> dict[str, Any]:
        """Return what a dry run reports, as plain data."""
        granules = [len(self.catalog.cells[cell]) for cell in self.cells]
        arrays = schema.array_specs(self.config, self.grid, {})
        size = sum(array.dtype.itemsize for array in arrays)
        leaves = self.grid.children * len(self.catalog)
        levels = levels_of(self.grid, coarser_orders(self.config))
        coarser = sum(len(level.ids(self.catalog.words)) for level in levels)
        state = template.state_size(self.config)
        return {
            "granules": len({g for cell in self.cells for g in self.catalog.cells[cell]}),
            "granules_per_cell_min": min(granules, default=0),
            "granules_per_cell_mean": float(np.mean(granules or 0)),
            "granules_per_cell_max": max(granules, default=0),
            "parent_order": self.grid.parent_order,
            "child_order": self.grid.child_order,
            "child_cells": leaves,
            "coarser_orders": [level.order for level in levels],
            "output_bytes": size * (leaves + coarser) + state * leaves,
            **({"cells_without_rows": len(self.without_rows(self.cells))} if self.index else {}),
        }


def make_plan(
    config: PipelineConfig,
    catalog: str | Path | Catalog | None = None,
    store: str | Path | None = None,
    *,
    max_cells: int | None = None,
    morton_cell: str | int | None = None,
    part: str | None = None,
    on_granule_error: OnGranuleError = "fail",
    region: str | None = None,
    overwrite: bool = False,
    cells_run_in: str | None = None,
) -> Plan:
    """Check the arguments of a run against each other and make its plan.

    Reads the catalog and the metadata of an existing store; writes nothing. ``cells_run_in`` is
    the AWS region of the workers where that is not this machine's.

    Raises
    ------
    ConfigError
        If neither the call nor the config says where the catalog or the store is, or a number is
        impossible.
    CatalogError
        If the catalog is wrong, does not fit the config, or does not hold ``morton_cell``.
    StoreError
        If the store exists and this run cannot continue it.
    """
    if not isinstance(config, PipelineConfig):
        raise ConfigError("run() takes a PipelineConfig; make one with magg.load_config(...)")
    if max_cells is not None and (isinstance(max_cells, bool) or max_cells < 1):
        raise ConfigError(f"max_cells must be at least 1, not {max_cells!r}")
    if on_granule_error not in get_args(OnGranuleError):
        raise ConfigError(f"on_granule_error must be 'fail' or 'skip', not {on_granule_error!r}")
    found = _catalog(config, catalog)
    grid = grid_of(config, found.parent_order)
    if grid.parent_order != found.parent_order:
        raise CatalogError(
            f"the catalog is of parent order {found.parent_order}, the config says "
            f"{grid.parent_order}; make the catalog anew with that order, or change "
            "output.grid.parent_order"
        )
    target = store if store is not None else config.output.store
    if not target:
        raise ConfigError("no store is given; pass store=... or set output.store in the config")
    path = normalise(target)
    with told_of(path):
        template.check(path, config, grid, region=region, overwrite=overwrite)
    chosen = [found.select(morton_cell)] if morton_cell is not None else list(found.cells)
    chosen = chosen[:max_cells]
    # The longest cells first, so that none of them starts when all others are done.
    chosen.sort(key=lambda cell: -len(found.cells[cell]))
    if part is not None:
        if overwrite:
            raise ConfigError("overwrite would delete what the other parts make; run without it")
        number, parts = _part(part)
        chosen = chosen[number - 1 :: parts]  # of every size some, so that parts take equally long
    reach = reach_of(found, chosen, config.data_source.access, cells_run_in)
    return Plan(
        config, found, grid, path, tuple(chosen), on_granule_error, region, overwrite, reach
    )


def _part(part: str) -> tuple[int, int]:
    found = re.fullmatch(r"(\d{1,9})/(\d{1,9})", str(part))
    number, parts = map(int, found.groups()) if found else (0, 0)
    if not 1 <= number <= parts:
        raise ConfigError(f"part must be such as '3/12', from 1/12 to 12/12, not {part!r}")
    return number, parts


def _catalog(config: PipelineConfig, catalog: str | Path | Catalog | None) -> Catalog:
    wanted = catalog if catalog is not None else config.catalog
    if isinstance(wanted, Catalog):
        return wanted
    if not wanted:
        raise ConfigError("no catalog is given; pass catalog=... or set catalog in the config")
    return Catalog.load(wanted)
