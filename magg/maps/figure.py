"""The figure: panels side by side, their colour bars, title and caption."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from magg.errors import require_extra
from magg.grid import centres
from magg.maps.cells import Cells, Variable, coarsened, read_cells
from magg.maps.panel import (
    GROUND,
    INK,
    QUIET,
    as_image,
    as_polygons,
    colour,
    draw_bar,
    draw_graticule,
    draw_scale,
    order_of_image,
)
from magg.projections import Floats, Projection, View, distance, projection_for, side_km
from magg.results.axis import open_root
from magg.store.open import DEFAULT_REGION

if TYPE_CHECKING:
    import zarr
    from matplotlib.figure import Figure

    from magg.catalog import Catalog
    from magg.maps.picture import Picture

MOST_POLYGONS = 20_000  # a million of them would take minutes to draw, an image takes a second

_LEFT, _RIGHT, _BETWEEN, _TOP, _BELOW = 0.8, 0.75, 1.15, 0.95, 1.35  # margins, inches
_PANEL_WIDTH, _MOST_ACROSS, _BELOW_ROW = 4.8, 3, 1.75


def plot(
    store: str | os.PathLike[str] | zarr.Group,
    path: str | os.PathLike[str] | None = None,
    *,
    variables: Sequence[str] = ("h_mean", "count"),
    order: int | None = None,
    within: Any = None,
    region: str | None = DEFAULT_REGION,
    title: str | None = None,
    dpi: int = 150,
) -> Figure:
    """Draw maps of a store's variables, side by side, three in a row at most.

    Cells without a value are not drawn. Up to 20,000 cells are drawn as their polygons; more
    are drawn as an image, in which a pixel has the colour of the cell that holds its centre.
    Where cells are smaller than pixels, those of a coarser order take their place, each with the
    mean of its cells (the caption then says so), so that no cell falls between the pixels.

    Parameters
    ----------
    store : str, path or zarr.Group
        Where the store is, or its root group if it is open.
    path : str or path, optional
        Write the figure there, in the format of its suffix (``.png``, ``.pdf``, ...).
    variables : sequence of str
        What to draw. Integers get a logarithmic scale; limits are the 2nd and 98th percentile.
    order : int, optional
        Which of the orders in the store; the finest unless given.
    within : optional
        Draw a part of the Earth only: a box, a polygon or a cell, as `magg.open_results` takes it.
    region : str, default "us-west-2"
        AWS region of the store's bucket.
    title : str, optional
        A title in place of the name of the grid.
    dpi : int
        Dots an inch.

    Returns
    -------
    matplotlib.figure.Figure
        Free of pyplot: it need not be closed, and the backend in use stays as it is. Notebooks
        show it.

    Raises
    ------
    MissingExtraError
        If matplotlib is not installed.
    StoreNotFoundError
        If there is no store.
    StoreError
        If the store lacks a variable or the order.
    ValueError
        If no variable is named, or matplotlib does not write files of the path's suffix.
    """
    if not variables:
        raise ValueError("name at least one variable to draw")
    check_matplotlib()
    cells = read_cells(open_root(store, region), variables, order, within)
    return _finished(cells, path, variables, title, dpi)


def plot_catalog(
    catalog: Catalog,
    path: str | os.PathLike[str] | None = None,
    *,
    title: str | None = None,
    dpi: int = 150,
) -> Figure:
    """Draw a map of how many granules a catalog names in each cell.

    Parameters, result and errors are those of `plot`.
    """
    check_matplotlib()
    counts = np.array([len(granules) for granules in catalog.cells.values()], dtype=np.float64)
    granules = Variable("granules", "Granules", counts, counts=True)
    cells = Cells(catalog.parent_order, catalog.words, [granules], None)
    name = catalog.metadata.get("short_name", "")
    heading = title or f"{name} granules per cell of order {catalog.parent_order}".strip()
    return _finished(cells, path, ["granules"], heading, dpi)


def check_matplotlib() -> None:
    """Raise the error that names the extra where matplotlib is not installed."""
    try:
        import matplotlib.backends.backend_agg
        import matplotlib.figure  # noqa: F401
    except ImportError as error:
        raise require_extra("matplotlib", "plot") from error


def _finished(
    cells: Cells,
    path: str | os.PathLike[str] | None,
    variables: Sequence[str],
    title: str | None,
    dpi: int,
) -> Figure:
    """Return the figure of some cells, or of none, and write it where that is wanted."""
    from magg.maps.picture import Picture

    if cells.words.size:
        return _draw(cells, title, dpi).written(path)
    figure = Picture(6.4, 3.6, dpi)
    text = f"No cells with data\n{', '.join(variables)} at order {cells.order}"
    figure.text(0.5, 0.5, text, ha="center", va="center", color=INK, linespacing=1.6)
    return figure.written(path)


def _draw(cells: Cells, title: str | None, dpi: int) -> Picture:
    """Return the figure of some cells."""
    from magg.maps.picture import Picture

    lat, lon = centres(cells.words)
    projection = projection_for(lat, lon, side_km(cells.order))
    view = _view(*projection.forward(lat, lon), side_km(cells.order), projection)
    high = _PANEL_WIDTH * (view[3] - view[2]) / (view[1] - view[0])
    across = min(len(cells.variables), _MOST_ACROSS)
    down = math.ceil(len(cells.variables) / across)
    width = _LEFT + across * _PANEL_WIDTH + (across - 1) * _BETWEEN + _RIGHT
    height = _TOP + down * high + (down - 1) * _BELOW_ROW + _BELOW
    figure = Picture(width, height, dpi)

    if cells.words.size <= MOST_POLYGONS:
        drawn, paint = cells, as_polygons(cells, projection, view)
    else:
        pixel = (view[1] - view[0]) / (_PANEL_WIDTH * dpi)
        drawn = coarsened(cells, order_of_image(cells.order, pixel))
        paint = as_image(drawn, projection, view, pixel)
    for number, variable in enumerate(drawn.variables):
        left = (_LEFT + number % across * (_PANEL_WIDTH + _BETWEEN)) / width
        rows_below = down - 1 - number // across
        base = _BELOW + rows_below * (high + _BELOW_ROW)
        axes = figure.add_axes((left, base / height, _PANEL_WIDTH / width, high / height))
        axes.set(xlim=view[:2], ylim=view[2:], xticks=[], yticks=[], facecolor=GROUND)
        axes.set_title(variable.name, loc="left", fontsize=10, color=INK, fontweight="bold", pad=18)
        axes.spines[:].set(color=INK, linewidth=0.8)
        draw_graticule(axes, projection, view)
        cmap, norm = colour(variable)
        mappable = paint(axes, variable.values, cmap, norm)
        draw_scale(axes, projection, view)
        place = (left, (base - 0.6) / height, _PANEL_WIDTH / width, 0.13 / height)
        draw_bar(figure, figure.add_axes(place), mappable, variable)

    heading = title or f"HEALPix order {cells.order}, cells of {distance(side_km(cells.order))}"
    start = _LEFT / width
    figure.text(start, 1 - 0.4 / height, heading, fontsize=14, fontweight="bold", color=INK)
    caption = _caption(cells, drawn, projection)
    figure.text(start, 0.16 / height, caption, fontsize=8, color=QUIET)
    return figure


def _caption(cells: Cells, drawn: Cells, projection: Projection) -> str:
    parts = [f"{cells.words.size:,} cell{'s' * (cells.words.size != 1)} with data"]
    if cells.observations is not None:
        parts.append(f"{cells.observations:,} observation{'s' * (cells.observations != 1)}")
    if drawn.order != cells.order:
        parts.append(f"drawn as pixels, means over cells of order {drawn.order}")
    elif drawn is not cells:
        parts.append("drawn as pixels")
    return "  ·  ".join([*parts, projection.name])


def _view(x: Floats, y: Floats, side: float, projection: Projection) -> View:
    """Return the extent of a map: the data with a margin, and not too slender to look at.

    The margin is wider below, where the scale bar is.
    """
    spans = [float(np.ptp(v)) for v in (x, y)]
    middles = [float(v.min() + v.max()) / 2 for v in (x, y)]
    longest = max(*spans, 6 * side)
    half_x, half_y = (max(span, 0.55 * longest) * 0.54 + side for span in spans)
    west, east, south, north = projection.extent
    return (
        max(west, middles[0] - half_x),
        min(east, middles[0] + half_x),
        max(south, middles[1] - half_y - 0.12 * half_x),
        min(north, middles[1] + half_y),
    )
