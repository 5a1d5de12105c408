"""The catalog: parent cells to granules, checked on load."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from magg.catalog import files, index
from magg.catalog.area import area_of
from magg.catalog.links import GranuleInfo
from magg.config import PipelineConfig, load_config
from magg.errors import CatalogError, GridError, UnknownCellError
from magg.grid import Words, centres, from_decimal, separation
from magg.html import cards

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
    info : dict of str to GranuleInfo
        HTTPS links and times of granules, as far as they are known.
    location : str, optional
        Where the catalog was loaded from or saved to, or the one that it is a subset of. Its
        granule index lies beside it.

    Raises
    ------
    CatalogError
        If an id is malformed or of another order, a granule stands twice in a cell, a cell has no
        granule, or there is no cell at all; lists all problems.
    """

    parent_order: int
    cells: dict[str, tuple[str, ...]]
    metadata: dict[str, Any] = field(default_factory=dict)
    info: dict[str, GranuleInfo] = field(default_factory=dict)
    location: str | None = field(default=None, compare=False)

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

    def _repr_html_(self) -> str:
        """Return what a notebook shows."""
        return cards.of_catalog(self)

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
        parent_order, cells, metadata, info = files.read(location)
        try:
            return cls(parent_order, cells, metadata, info, _absolute(location))
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

    @classmethod
    def from_cmr(
        cls,
        short_name: str,
        *,
        version: str | None = None,
        start_date: str | None = None,
        end_date: str | None = None,
        cycle: int | None = None,
        polygon: Any = None,
        bbox: Sequence[float] | None = None,
        parent_order: int = 6,
    ) -> Catalog:
        """Make a catalog of what NASA's CMR knows, by the footprints of the granules.

        Footprints are padded, so that a cell may name granules that have no row in it, but lacks
        none that has. Needs no login for public products.

        Parameters
        ----------
        short_name : str
            The product, such as ``"ATL06"``.
        version : str, optional
            Such as ``"007"``; the newest where left out.
        start_date, end_date : str, optional
            ISO 8601, both included.
        cycle : int, optional
            An ICESat-2 cycle in place of dates.
        polygon : mapping, str, Path or object with ``__geo_interface__``, optional
            GeoJSON or the path of such a file, or ``"antarctica"`` or ``"greenland"`` (coarse
            outlines drawn by hand).
        bbox : sequence of float, optional
            West, south, east, north in place of a polygon; west greater than east crosses the
            antimeridian.
        parent_order : int, default 6

        Raises
        ------
        CatalogError
            If the arguments do not make sense, or CMR knows no such product or no granule.
        EarthdataError
            If CMR does not answer.
        MissingExtraError
            If earthaccess is not installed.

        Examples
        --------
        >>> Catalog.from_cmr("ATL06", cycle=22, polygon="antarctica")  # doctest: +SKIP
        """
        from magg.catalog import cmr

        wanted = cmr.Wanted(short_name, version, start_date, end_date, cycle)
        cells, metadata, info = cmr.search(wanted, area_of(polygon, bbox), parent_order)
        return cls(parent_order, cells, metadata, info)

    def merge(self, *others: Catalog) -> Catalog:
        """Return a catalog of what this one and others hold.

        Raises
        ------
        CatalogError
            If they are of different parent orders.
        """
        cells = {cell: set(granules) for cell, granules in self.cells.items()}
        metadata, info = self.metadata, dict(self.info)
        for other in others:
            if other.parent_order != self.parent_order:
                raise CatalogError(
                    f"catalogs of parent orders {self.parent_order} and {other.parent_order} "
                    "cannot be merged; make them with the same one"
                )
            for cell, granules in other.cells.items():
                cells.setdefault(cell, set()).update(granules)
            metadata = _joined(metadata, other.metadata)
            info |= other.info
        merged = {cell: tuple(granules) for cell, granules in cells.items()}
        return Catalog(self.parent_order, merged, metadata, info)

    def subset(
        self,
        polygon: Any = None,
        cells: Iterable[str | int] | None = None,
        dates: tuple[str, str] | None = None,
    ) -> Catalog:
        """Return a catalog of a part of this one; what is given must all hold.

        Parameters
        ----------
        polygon : mapping, str or Path, optional
            As in `from_cmr`; the cells that it touches.
        cells : iterable of str, optional
            Decimal Morton ids.
        dates : tuple of str, optional
            First and last date, both included; granules measured then, in part at least.

        Raises
        ------
        CatalogError
            If nothing is left, a cell is not there, or the time of a granule is not known.
        """
        kept = self.cells
        if polygon is not None:
            area = area_of(polygon)
            touched = set(area.cells(self.parent_order).tolist()) if area else set()
            words = self.words.tolist()
            kept = {
                cell: granules
                for (cell, granules), word in zip(kept.items(), words, strict=True)
                if word in touched
            }
        if cells is not None:
            wanted = {self.select(cell) for cell in cells}
            kept = {cell: granules for cell, granules in kept.items() if cell in wanted}
        if dates is not None:
            then = {granule for granule in self.granules if self._measured(granule, *dates)}
            inside = {cell: tuple(g for g in each if g in then) for cell, each in kept.items()}
            kept = {cell: granules for cell, granules in inside.items() if granules}
        if not kept:
            raise CatalogError("nothing of the catalog is left: no cell is in what was asked for")
        left = {granule for granules in kept.values() for granule in granules}
        info = {granule: known for granule, known in self.info.items() if granule in left}
        return Catalog(self.parent_order, kept, self.metadata, info, self.location)

    def build_index(
        self, config: PipelineConfig | str | None = None, **options: Any
    ) -> dict[str, Any]:
        """Make the granule index beside this catalog, or bring it up to date.

        Takes, returns and raises what `magg.build_index` does after its first argument.
        """
        import magg  # which loads what stands on the floors above

        summary: dict[str, Any] = magg.build_index(self, config, **options)
        return summary

    def summary(self) -> dict[str, Any]:
        """Return what the catalog holds, in numbers and dates, as plain data.

        Where a granule index lies beside the catalog, ``index`` names its ``path``, and how many
        ``granules`` of the catalog are in it or the ``error`` that hinders its use.
        """
        counts = [len(granules) for granules in self.cells.values()]
        granules = self.granules
        times = sorted(
            time for known in self.info.values() for time in (known.start, known.end) if time
        )
        remote = [granule for granule in granules if granule.startswith("s3://")]
        names = ("short_name", "version", "cycle", "source")
        return {
            "parent_order": self.parent_order,
            "cells": len(self),
            "granules": len(granules),
            "pairs": sum(counts),
            "granules_per_cell_min": min(counts),
            "granules_per_cell_mean": sum(counts) / len(counts),
            "granules_per_cell_max": max(counts),
            "first": times[0] if times else None,
            "last": times[-1] if times else None,
            "s3_links": len(remote),
            "https_links": sum(
                granule.startswith("https://") or bool(self.info.get(granule, GranuleInfo()).https)
                for granule in granules
            ),
            **{name: self.metadata[name] for name in names if name in self.metadata},
            **index.about(self.location, granules),
        }

    def _measured(self, granule: str, first: str, last: str) -> bool:
        known = self.info.get(granule, GranuleInfo())
        if not known.start:
            raise CatalogError(
                f"{granule}: the catalog does not know when it was measured; only catalogs from "
                "CMR can be cut by dates"
            )
        # ISO 8601 sorts as text; a bare date stands for all of its day.
        return known.start[: len(last)] <= last and (known.end or known.start) >= first

    def save(self, path: str | Path) -> Path:
        """Write the catalog as JSON, whole or not at all, and return where it is."""
        metadata = {
            **self.metadata,
            "parent_order": self.parent_order,
            "total_cells": len(self),
            "total_granules": len(self.granules),
        }
        written = files.write(path, self.cells, metadata, self.info)
        object.__setattr__(self, "location", _absolute(written))  # no part of what it is
        return written


def _absolute(location: str | Path) -> str:
    return str(location) if "://" in str(location) else str(Path(location).absolute())


def _joined(one: Any, other: Any) -> Any:
    """Join metadata: what differs becomes a sorted list of all that there is."""
    if one == other:
        return one
    if isinstance(one, dict) and isinstance(other, dict):
        both = {key: _joined(one[key], other[key]) for key in one.keys() & other.keys()}
        return one | other | both
    values: list[Any] = []
    for value in (one, other):
        values += value if isinstance(value, list) else [value]
    distinct = {json.dumps(value, sort_keys=True): value for value in values}
    return [distinct[text] for text in sorted(distinct)]


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
