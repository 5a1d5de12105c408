"""Catalogs from local granules, and catalogs as JSON files.

The JSON is an object with ``version``, ``metadata`` (``parent_order``, ``total_cells`` and whatever
else is known), ``folders`` and ``granules`` (see `magg.catalog.links`), and ``catalog`` (decimal
Morton id to numbers of granules). Version 1, which has no ``version``, names the granules in each
cell.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from magg.catalog.links import GranuleInfo, pack, unpack
from magg.config import DataSource
from magg.errors import CatalogError, GranuleError, GranuleNotFoundError, GridError
from magg.granules import GranuleLayout, granule_layout, open_source
from magg.grid import Grid, to_decimal

VERSION = 2

Cells = dict[str, tuple[str, ...]]
Info = dict[str, GranuleInfo]


def scan(
    paths: str | Path | Iterable[str | Path], parent_order: int, source: DataSource
) -> tuple[Cells, dict[str, Any]]:
    """Return the cells of granules, by where their rows really are, and metadata.

    See `magg.catalog.Catalog.from_files` for the arguments and errors.
    """
    Grid(parent_order, parent_order)
    granules = list(_expand([paths] if isinstance(paths, str | Path) else paths))
    if not granules:
        raise CatalogError("no granule was given")
    repeated = [granule for granule, times in Counter(granules).items() if times > 1]
    if repeated:
        raise CatalogError(f"given twice: {', '.join(repeated)}")
    cells: dict[str, list[str]] = {}
    attributes: dict[str, dict[str, str]] = {}
    unlocated, elsewhere = 0, []
    for granule in granules:
        layout = granule_layout(granule, source, parent_order)
        words = layout.cells()
        for word in words:
            cells.setdefault(to_decimal(word), []).append(granule)
        if not len(words):
            elsewhere.append(granule)
        unlocated += layout.unlocated
        _gather_attributes(layout, source, attributes)
    if not cells:
        raise CatalogError(f"none of the {len(granules)} granules has a row with a valid position")
    metadata: dict[str, Any] = {"source": "files", "variables": attributes}
    if unlocated:
        metadata["rows_unlocated"] = unlocated
    if elsewhere:
        metadata["granules_without_rows"] = elsewhere
    return {cell: tuple(found) for cell, found in cells.items()}, metadata


def read(location: str | Path) -> tuple[int, Cells, dict[str, Any], Info]:
    """Return the parent order, cells, metadata and granules that a catalog's JSON holds.

    See `magg.catalog.Catalog.load` for the errors.
    """
    try:
        with open_source(str(location)) as source:
            text = bytes(source.read(0, source.size))
    except GranuleNotFoundError:
        raise FileNotFoundError(f"there is no catalog at {location}") from None
    except GranuleError as error:
        raise CatalogError(f"the catalog cannot be read: {error}") from None
    try:
        return _from_document(json.loads(text, object_pairs_hook=_without_doubles))
    except (CatalogError, GridError) as error:
        raise CatalogError(f"{location}: {error}") from None
    except ValueError as error:
        raise CatalogError(f"{location} is not JSON: {error}") from None


def write(path: str | Path, cells: Cells, metadata: dict[str, Any], info: Info) -> Path:
    """Write a catalog's JSON, whole or not at all, and return where it is."""
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    # A rename is atomic, so that a reader never meets half a catalog.
    unfinished = target.with_name(f".{target.name}.part")
    unfinished.write_text(_as_text(cells, metadata, info), encoding="utf-8")
    return unfinished.replace(target)


def _as_text(cells: Cells, metadata: dict[str, Any], info: Info) -> str:
    """Return JSON with a line for every granule and every cell."""
    granules = sorted({granule for inside in cells.values() for granule in inside})
    number = {granule: n for n, granule in enumerate(granules)}
    numbered = {cell: [number[granule] for granule in inside] for cell, inside in cells.items()}
    parts = [f'"version": {VERSION}', f'"metadata": {json.dumps(metadata, indent=1)}']
    for name, rows in pack(granules, info).items():
        lines = ",\n".join(json.dumps(row, separators=(",", ":")) for row in rows)
        parts.append(f'"{name}": [\n{lines}\n]')
    lines = ",\n".join(
        f"{json.dumps(cell)}:{json.dumps(inside, separators=(',', ':'))}"
        for cell, inside in numbered.items()
    )
    return "{\n" + ",\n".join([*parts, f'"catalog": {{\n{lines}\n}}']) + "\n}\n"


def _from_document(document: object) -> tuple[int, Cells, dict[str, Any], Info]:
    if not isinstance(document, dict):
        raise CatalogError("a catalog is an object with 'metadata' and 'catalog'")
    version = document.get("version", 1)
    if version not in (1, VERSION):
        raise CatalogError(
            f"the catalog is of version {version!r}, and this magg reads up to {VERSION}; "
            "update magg, or make the catalog anew"
        )
    metadata, cells = document.get("metadata"), document.get("catalog")
    if not isinstance(metadata, dict):
        raise CatalogError("'metadata' is missing; it must hold at least parent_order")
    if not isinstance(cells, dict):
        raise CatalogError("'catalog' is missing; it must map decimal Morton ids to granules")
    order = metadata.pop("parent_order", None)
    if not isinstance(order, int) or isinstance(order, bool):
        raise CatalogError("metadata.parent_order is missing or not a whole number")
    Grid(order, order)
    for cell, granules in cells.items():
        if not isinstance(granules, list):
            raise CatalogError(f"cell {cell}: its granules must be a list")
    total = metadata.pop("total_cells", len(cells))
    metadata.pop("total_granules", None)
    if total != len(cells):
        raise CatalogError(
            f"metadata.total_cells is {total}, but there are {len(cells)} cells: "
            "the file is incomplete or was edited; make it anew"
        )
    if version == 1:
        return order, {cell: tuple(granules) for cell, granules in cells.items()}, metadata, {}
    names, info = unpack(document)
    return order, dict(_named(cells, names)), metadata, info


def _named(cells: dict[str, list[Any]], names: list[str]) -> Iterator[tuple[str, tuple[str, ...]]]:
    for cell, numbers in cells.items():
        if not all(type(n) is int and 0 <= n < len(names) for n in numbers):
            raise CatalogError(f"cell {cell}: names a granule that is not there; make it anew")
        yield cell, tuple([names[n] for n in numbers])


def _without_doubles(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Refuse a key that stands twice, of which JSON would silently keep the last."""
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        raise CatalogError(f"{next(k for k in keys if keys.count(k) > 1)!r} stands twice")
    return found


def _expand(paths: Iterable[str | Path]) -> Iterator[str]:
    """Turn folders into their granules and local paths into absolute ones."""
    for path in paths:
        if "://" in str(path):
            yield str(path)
        elif Path(path).is_dir():
            yield from map(str, sorted(Path(path).absolute().rglob("*.h5")))
        else:
            yield str(Path(path).absolute())


def _gather_attributes(
    layout: GranuleLayout, source: DataSource, found: dict[str, dict[str, str]]
) -> None:
    """Keep units and names of the columns from the first granule that has them."""
    for beam in layout.beams:
        for name in source.columns:
            dataset = beam.datasets.get(name)
            attributes = dataset.attributes if dataset else {}
            wanted = ("units", "long_name")
            kept: dict[str, str] = {key: attributes[key] for key in wanted if key in attributes}
            if kept:
                found.setdefault(name, kept)
