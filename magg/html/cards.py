"""What a config and a catalog look like in a notebook.

They are described by what they have, not by their classes, which live on floors above.
"""

from __future__ import annotations

from typing import Any

from magg.html.pieces import card, folded, rows, table

CELLS_SHOWN = 10


def of_config(config: Any) -> str:
    """Return a `magg.config.PipelineConfig` as HTML."""
    source, grid = config.data_source, config.output.grid
    kept = source.quality_filter
    pairs = [
        ("beams", ", ".join(source.groups)),
        ("rows kept", f"{kept.dataset} is {kept.value}" if kept else "all"),
        ("child order", grid.child_order),
        ("coarser orders", _coarser(grid)),
        ("parent order", "that of the catalog" if grid.parent_order is None else grid.parent_order),
        ("catalog", config.catalog),
        ("store", config.output.store),
    ]
    statistics = [
        (
            name,
            each.expression or each.function,
            each.source,
            ", ".join(f"{key}={value}" for key, value in each.params.items()),
            each.attrs.get("units"),
            each.dtype,
            each.fill_value,
        )
        for name, each in config.statistics.items()
    ]
    heads = ("variable", "made by", "of", "with", "units", "type", "fill")
    columns = [(name, column.path) for name, column in source.columns.items()]
    return card(
        "PipelineConfig",
        f"{len(statistics)} statistics" if len(statistics) != 1 else "1 statistic",
        rows(pairs),
        folded("statistics", table(heads, statistics), is_open=True),
        folded("columns", table(("column", "dataset"), columns)),
    )


def _coarser(grid: Any) -> str:
    if grid.coarsest_order is not None:
        return f"down to {grid.coarsest_order}"
    return ", ".join(str(order) for order in grid.orders or () if order != grid.child_order)


def of_catalog(catalog: Any) -> str:
    """Return a `magg.catalog.Catalog` as HTML."""
    about = catalog.summary()
    fewest, most = about["granules_per_cell_min"], about["granules_per_cell_max"]
    pairs = [
        ("product", " ".join(str(about.get(k) or "") for k in ("short_name", "version")).strip()),
        ("measured", f"{about['first']} to {about['last']}" if about["first"] else ""),
        ("cells", f"{about['cells']:,} of order {about['parent_order']}"),
        ("granules", f"{about['granules']:,}"),
        ("granules per cell", f"{fewest} to {most}"),
    ]
    fullest = sorted(catalog.cells, key=lambda cell: -len(catalog.cells[cell]))[:CELLS_SHOWN]
    lines = [(cell, len(catalog.cells[cell]), catalog.cells[cell][0]) for cell in fullest]
    label = "cells with the most granules" if len(catalog.cells) > len(lines) else "cells"
    cells = table(("cell", "granules", "the first of them"), lines)
    return card("Catalog", "", rows(pairs), folded(label, cells))
