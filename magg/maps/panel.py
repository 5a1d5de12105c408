"""How one panel of a map is painted: its cells, their colours, the graticule and the scale."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from magg.grid import centres, locate, prefixes
from magg.maps.cells import Cells, Variable
from magg.projections import (
    Floats,
    Projection,
    View,
    distance,
    graticule,
    place_label,
    side_km,
)
from magg.results.outlines import outlines, points_a_side

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize
    from matplotlib.figure import Figure

    Paint = Callable[[Axes, Floats, str, Normalize], ScalarMappable]

INK, QUIET, FAINT, GROUND = "#1f2d38", "#5b6b77", "#c3ccd3", "#f4f6f8"


def as_polygons(cells: Cells, projection: Projection, view: View) -> Paint:
    """Return a function that paints values, shape (n,), in the outlines of n cells."""
    from matplotlib.collections import PolyCollection

    lat, lon = outlines(cells.words, points_a_side(cells.order, cells.words.size), cells.order)
    middle, _ = projection.forward(*centres(cells.words))
    x, y = projection.forward(lat, lon)
    x = projection.close_up(x, middle[:, np.newaxis])
    which, shift = projection.copies(x)
    covered = which.size * side_km(cells.order) ** 2 / ((view[1] - view[0]) * (view[3] - view[2]))
    rings = np.stack([x[which] + shift[:, np.newaxis], y[which]], axis=-1)

    def paint(axes: Axes, values: Floats, cmap: str, norm: Normalize) -> ScalarMappable:
        has = np.isfinite(values[which])
        # Edges of the faces' colour close the hairlines that antialiasing leaves between them.
        drawn = PolyCollection(
            list(rings[has]), edgecolors="face", linewidths=0.2, cmap=cmap, norm=norm
        )
        drawn.set(array=values[which][has], rasterized=True, zorder=_zorder(covered))
        axes.add_collection(drawn, autolim=False)
        return drawn

    return paint


def order_of_image(finest: int, pixel: float) -> int:
    """Return the finest order whose cells are seen in an image with pixels of so many kilometres.

    They are wider than 1.4 pixels, about the diagonal of one, so that (nearly) every cell holds
    the centre of a pixel.
    """
    return max(0, min(finest, math.floor(math.log2(side_km(0) / (1.4 * pixel)))))


def as_image(cells: Cells, projection: Projection, view: View, pixel: float) -> Paint:
    """Return a function that paints values of `coarsened` cells, shape (n,), in pixels.

    A pixel looks up the cell that holds its centre.
    """
    west, east, south, north = view
    x, y = np.meshgrid(
        np.arange(west + pixel / 2, east, pixel), np.arange(north - pixel / 2, south, -pixel)
    )
    lat, lon = projection.inverse(x, y)
    wanted = prefixes(locate(lat.ravel(), lon.ravel()), cells.order).reshape(x.shape)
    drawn = prefixes(cells.words, cells.order)
    place = np.minimum(np.searchsorted(drawn, wanted), drawn.size - 1)
    hit = drawn[place] == wanted
    extent = (west, west + pixel * x.shape[1], north - pixel * x.shape[0], north)

    def paint(axes: Axes, values: Floats, cmap: str, norm: Normalize) -> ScalarMappable:
        return axes.imshow(
            np.where(hit, values[place], np.nan),
            extent=extent,
            interpolation="nearest",
            aspect="auto",
            cmap=cmap,
            norm=norm,
            zorder=_zorder(hit.mean()),
        )

    return paint


def _zorder(covered: float) -> float:
    """Return where cells that cover so much are drawn: fields below the graticule, tracks above."""
    return 0.0 if covered > 0.25 else 1.0


def colour(variable: Variable) -> tuple[str, Normalize]:
    """Return a colour map and limits that outliers do not stretch: the 2nd to 98th percentile."""
    from matplotlib.colors import LogNorm, Normalize

    values = variable.values[np.isfinite(variable.values)]
    if variable.counts and values.min(initial=1) > 0:
        low, high = np.percentile(values, [2, 98]) if values.size else (1.0, 10.0)
        return "plasma", LogNorm(*((low, high) if high > 2 * low else (low / 2, high * 2)))
    low, high = np.percentile(values, [2, 98]) if values.size else (0.0, 1.0)
    return "viridis", Normalize(*((low, high) if high > low else (low - 0.5, high + 0.5)))


def draw_bar(figure: Figure, axes: Axes, mappable: ScalarMappable, variable: Variable) -> None:
    """Fill axes of a figure with the colour bar of a variable."""
    from matplotlib.colors import LogNorm
    from matplotlib.ticker import LogLocator

    bar = figure.colorbar(mappable, cax=axes, orientation="horizontal", extend="both")
    bar.outline.set_visible(False)
    if isinstance(mappable.norm, LogNorm):
        bar.set_ticks(LogLocator(subs=(1.0, 2.0, 5.0)))
        axes.xaxis.set_major_formatter(lambda x, _: f"{x:,.0f}" if x >= 1 else "")
    bar.minorticks_off()
    axes.tick_params(labelsize=8, colors=INK, length=3, width=0.6)
    bar.set_label(variable.label, fontsize=9, color=INK)


def draw_graticule(axes: Axes, projection: Projection, view: View) -> None:
    """Draw meridians and parallels, labelled at the edges of the map."""
    anchors = {
        "left": (-4, 0, "right", "center"),
        "right": (4, 0, "left", "center"),
        "bottom": (0, -4, "center", "top"),
        "top": (0, 4, "center", "bottom"),
        "inside": (0, 0, "center", "center"),
    }
    taken: list[tuple[str, float, float]] = []
    for line in graticule(projection, view):
        axes.plot(line.x, line.y, color=FAINT, linewidth=0.6, zorder=0.5)
        place = place_label(line, view)
        if place is None or any(_too_close(place, other, view) for other in taken):
            continue
        taken.append(place)
        edge, x, y = place
        dx, dy, across, along = anchors[edge]
        text = axes.annotate(
            line.label,
            (x, y),
            (dx, dy),
            textcoords="offset points",
            ha=across,
            va=along,
            fontsize=8,
            color=QUIET,
            annotation_clip=False,
        )
        if edge == "inside":
            text.set_bbox({"facecolor": GROUND, "edgecolor": "none", "pad": 1})


def draw_scale(axes: Axes, projection: Projection, view: View) -> None:
    """Draw a scale bar of a round length in the lower left corner.

    There is none where the scale differs by more than a quarter across the map.
    """
    if projection.distortion(view) > 1.25:
        return
    west, east, south, _ = view
    wide = east - west
    power = 10.0 ** math.floor(math.log10(wide / 4))
    length = max(step * power for step in (1, 2, 5) if step * power <= wide / 4)
    start, at = west + 0.04 * wide, south + 0.035 * wide
    axes.plot(
        [start, start + length], [at, at], color=INK, linewidth=2, solid_capstyle="butt", zorder=4
    )
    axes.annotate(
        distance(length),
        (start + length / 2, at),
        (0, 4),
        textcoords="offset points",
        ha="center",
        fontsize=8,
        color=INK,
        zorder=4,
        bbox={"facecolor": GROUND, "edgecolor": "none", "pad": 0.5, "alpha": 0.8},
    )


def _too_close(a: tuple[str, float, float], b: tuple[str, float, float], view: View) -> bool:
    """Return whether two labels on the same edge would run into each other."""
    across = abs(a[1] - b[1]) / (view[1] - view[0])
    along = abs(a[2] - b[2]) / (view[3] - view[2])
    return a[0] == b[0] and across < 0.1 and along < 0.05
