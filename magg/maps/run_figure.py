"""The figure of a run: when its cells ran, how observations and cost grew, and what failed."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from magg.errors import StoreError
from magg.maps.figure import check_matplotlib
from magg.maps.panel import FAINT, GROUND, INK, QUIET
from magg.maps.timeline import Timeline, lanes, of_moments, of_summary
from magg.results.axis import open_root, parents_of
from magg.store.history import history
from magg.store.open import DEFAULT_REGION

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from magg.maps.picture import Picture

COLOURS = {"data": "#2a788e", "empty": "#b3bec7", "error": "#c8102e"}
NAMES = {"data": "with data", "empty": "empty", "error": "failed"}
AMBER = "#e08a00"
FAILURES_SHOWN = 8
LINE = 138  # characters of a failure that fit

_WIDTH, _MARGIN, _TILES, _LANES, _CURVES, _GAP = 10.0, 0.75, 1.45, 2.6, 1.6, 0.75  # inches


def plot_summary(
    summary: Mapping[str, Any] | str | os.PathLike[str],
    path: str | os.PathLike[str] | None = None,
    *,
    region: str | None = DEFAULT_REGION,
    title: str | None = None,
    dpi: int = 150,
) -> Figure:
    """Draw what a run did: its cells over time, observations, cost and failures.

    Each bar is the last attempt at a cell, in as many lanes as cells ran at once. The records of
    a store know when its cells were done, in however many runs, but not when they began nor what
    was tried again or spent.

    Parameters
    ----------
    summary : dict, str or path
        What `magg.run` returned; or where a store is, whose records are then read.
    path : str or path, optional
        Write the figure there, in the format of its suffix (``.png``, ``.pdf``, ...).
    region : str, default "us-west-2"
        AWS region of the store's bucket.
    title : str, optional
        In place of "Run".
    dpi : int
        Dots an inch.

    Returns
    -------
    matplotlib.figure.Figure
        As that of `plot`.

    Raises
    ------
    MissingExtraError
        If matplotlib is not installed.
    StoreNotFoundError, StoreError
        If there is no store.
    ValueError
        If it is no summary, or one of an older magg.
    """
    check_matplotlib()
    if isinstance(summary, Mapping):
        timeline = of_summary(summary)
    else:
        place = os.fspath(summary)
        parents = parents_of(open_root(place, region))
        if parents is None:
            raise StoreError(f"{place} is a Zarr store, but none of magg")
        timeline = of_moments(history(place, region), len(parents))
    return _draw(timeline, title or timeline.title, dpi).written(path)


def _draw(timeline: Timeline, title: str, dpi: int) -> Picture:
    from magg.maps.picture import Picture

    drawn = timeline.ended.size > 0
    has_lanes = drawn and timeline.began is not None
    failures = timeline.failures[:FAILURES_SHOWN]
    listed = 0.35 + 0.22 * (len(failures) + (len(timeline.failures) > len(failures)))
    height = _TILES + (_LANES + _GAP) * has_lanes + (_CURVES + _GAP) * drawn
    height += listed * bool(failures) + 0.5 * (not drawn)
    figure = Picture(_WIDTH, height, dpi)
    left, wide = _MARGIN / _WIDTH, 1 - 2 * _MARGIN / _WIDTH

    figure.text(left, 1 - 0.4 / height, title, fontsize=14, fontweight="bold", color=INK)
    for number, (value, what) in enumerate(timeline.facts):
        x, failed = left + number * wide / 6, what == "failed" and value != "0"
        figure.text(
            x, 1 - 0.82 / height, value, fontsize=13, color=COLOURS["error"] if failed else INK
        )
        figure.text(x, 1 - 1.04 / height, what, fontsize=8, color=QUIET)
    if not drawn:
        figure.text(left, 0.25 / height, "No cell was worked on", fontsize=10, color=INK)
        return figure

    base = height - _TILES
    if has_lanes:
        base -= _LANES
        _draw_lanes(figure.add_axes((left, base / height, wide, _LANES / height)), timeline)
        base -= _GAP
    base -= _CURVES
    panels = _curves(timeline)
    each = (wide - 0.09 * (len(panels) - 1)) / len(panels)
    for number, (name, paint) in enumerate(panels):
        place = (left + number * (each + 0.09), base / height, each, _CURVES / height)
        axes = figure.add_axes(place)
        _dress(axes, name, timeline)
        paint(axes)
    _list_failures(figure, timeline, failures, (base - _GAP) / height)
    return figure


def _draw_lanes(axes: Axes, timeline: Timeline) -> None:
    """Draw a bar for each cell, and marks where it failed or was tried more than once."""
    from matplotlib.collections import PolyCollection
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    began, ended = timeline.began, timeline.ended
    assert began is not None  # noqa: S101 - for the type checker; `_draw` asks
    lane = lanes(began, ended)
    count = int(lane.max()) + 1
    half = 0.5 if count > 60 else 0.4
    _dress(axes, "Cells", timeline)
    axes.set_ylim(count - 0.4, -0.6)
    scale = _unit(timeline)[0]
    began, ended = began / scale, ended / scale
    corners = [(began, -half), (ended, -half), (ended, half), (began, half)]
    bars = np.stack([np.stack([x, lane + dy], axis=-1) for x, dy in corners], axis=1)
    colours = [COLOURS[status] for status in timeline.status]
    axes.add_collection(
        PolyCollection(
            list(bars),
            facecolors=colours,
            edgecolors=GROUND if count <= 60 else "none",
            linewidths=0.6,
        )
    )
    failed, again = timeline.status == "error", timeline.attempts > 1
    axes.plot(ended[failed], lane[failed], "x", color=INK, markersize=5, clip_on=False)
    axes.plot(
        ended[again], lane[again], "o", markersize=5, clip_on=False,
        markerfacecolor="white", markeredgecolor=AMBER, markeredgewidth=1.4,
    )  # fmt: skip
    axes.set_ylabel(f"{count:,} at once", fontsize=8, color=QUIET)
    axes.set_yticks([])
    present = [status for status in COLOURS if (timeline.status == status).any()]
    keys: list[Patch | Line2D] = [Patch(color=COLOURS[s], label=NAMES[s]) for s in present]
    if again.any():
        keys.append(
            Line2D([], [], marker="o", linestyle="", markerfacecolor="white", markersize=5,
                   markeredgecolor=AMBER, markeredgewidth=1.4, label="tried more than once")
        )  # fmt: skip
    axes.legend(
        handles=keys, loc="lower right", bbox_to_anchor=(1.0, 1.0), ncols=4, frameon=False,
        fontsize=8, labelcolor=QUIET, borderaxespad=0.2, handlelength=1.2,
    )  # fmt: skip


def _curves(timeline: Timeline) -> list[tuple[str, Callable[[Axes], None]]]:
    """Return what grows over time: a title, and what paints it into axes."""
    from matplotlib.ticker import MaxNLocator

    def cells(axes: Axes) -> None:
        order = [status for status in COLOURS if (timeline.status == status).any()]
        counts = [np.cumsum(timeline.status == status) for status in order]
        x = _times(timeline)
        for status, top in zip(order, np.cumsum(counts, axis=0), strict=True):
            axes.fill_between(
                x,
                np.concatenate([[0], top, top[-1:]]),
                step="post",
                color=COLOURS[status],
                linewidth=0,
                zorder=3 - order.index(status) / 10,
            )
        axes.set_ylim(0, 1.05 * timeline.ended.size)
        axes.yaxis.set_major_locator(MaxNLocator(4, integer=True))

    def grown(values: Any, colour: str, as_text: Any = None) -> Callable[[Axes], None]:
        def paint(axes: Axes) -> None:
            if as_text is not None:
                axes.yaxis.set_major_formatter(as_text)
            y = np.append(values, values[-1])
            axes.step(_times(timeline), y, where="post", color=colour, linewidth=1.6)
            axes.set_ylim(0, 1.05 * max(float(np.nanmax(values)), 1e-9))

        return paint

    total = np.append(0, np.cumsum(timeline.observations))
    found = [("Cells ended", cells), ("Observations", grown(total, COLOURS["data"]))]
    if timeline.cost is not None and np.isfinite(timeline.cost).any():
        cost = np.append(0.0, timeline.cost)
        found.append(("Estimated cost (US$)", grown(cost, AMBER, "{x:,.2f}")))
    return found


def _times(timeline: Timeline) -> Any:
    """Return the start, when each cell ended, and the end of the axis: what came last shows too."""
    first, last = _limits(timeline)
    if timeline.began is not None:
        return np.concatenate([[first], timeline.ended / _unit(timeline)[0], [last]])
    return _dates(np.concatenate([timeline.ended[:1], timeline.ended, [last]]))


def _limits(timeline: Timeline) -> tuple[float, float]:
    """Return where the time axis begins and ends: in the unit of a run, or seconds since 1970."""
    last = float(timeline.ended.max())
    if timeline.began is not None:
        return 0.0, 1.01 * max(last / _unit(timeline)[0], 1e-3)
    # All may have ended within one second, which is no range of dates.
    margin = max(30.0, 0.02 * (last - float(timeline.ended.min())))
    return float(timeline.ended.min()) - margin, last + margin


def _dates(seconds: Any) -> Any:
    return np.asarray(seconds).astype("datetime64[s]")


def _unit(timeline: Timeline) -> tuple[float, str]:
    """Return the seconds and the name of the unit that suits the time axis of a run."""
    units = ((3600.0, "hours"), (60.0, "minutes"))
    return next((unit for unit in units if timeline.ended.max() > 3 * unit[0]), (1.0, "seconds"))


def _dress(axes: Axes, name: str, timeline: Timeline) -> None:
    """Give axes their title, colours and time axis."""
    from matplotlib.dates import AutoDateLocator, ConciseDateFormatter
    from matplotlib.ticker import EngFormatter

    axes.set_facecolor(GROUND)
    axes.set_title(name, loc="left", fontsize=10, color=INK, fontweight="bold")
    axes.spines[:].set_visible(False)
    axes.spines["bottom"].set(visible=True, color=INK, linewidth=0.8)
    axes.tick_params(labelsize=8, colors=INK, length=3, width=0.6)
    axes.grid(axis="x", color=FAINT, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.yaxis.set_major_formatter(EngFormatter(sep=" "))
    if timeline.began is None:
        locator = AutoDateLocator(maxticks=5)  # type: ignore[no-untyped-call]
        axes.xaxis.set_major_locator(locator)
        axes.xaxis.set_major_formatter(
            ConciseDateFormatter(locator)  # type: ignore[no-untyped-call]
        )
        axes.set_xlabel("UTC", fontsize=8, color=QUIET)
        axes.xaxis.get_offset_text().set(size=8, color=QUIET)
        axes.set_xlim(*_dates(_limits(timeline)))
    else:
        axes.set_xlim(*_limits(timeline))
        axes.set_xlabel(f"{_unit(timeline)[1]} since the run began", fontsize=8, color=QUIET)


def _list_failures(figure: Picture, timeline: Timeline, shown: list[str], top: float) -> None:
    if not shown:
        return
    height = figure.get_figheight()
    left = _MARGIN / _WIDTH
    figure.text(left, top, "Failures", fontsize=10, color=INK, fontweight="bold", va="bottom")
    lines = [line if len(line) <= LINE else f"{line[: LINE - 1]}…" for line in shown]
    if len(timeline.failures) > len(shown):
        lines.append(f"and {len(timeline.failures) - len(shown):,} more")
    for number, line in enumerate(lines):
        figure.text(
            left,
            top - (0.1 + 0.22 * number) / height,
            line,
            fontsize=8,
            color=INK,
            va="top",
            parse_math=False,
        )
