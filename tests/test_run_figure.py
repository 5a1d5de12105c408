"""The figure of a run: what it says of cells, observations, cost and failures."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.collections import PolyCollection

import magg
from magg.cli import main
from magg.errors import StoreNotFoundError
from magg.maps.timeline import lanes
from magg.store.history import history
from magg.store.records import read_record


def entry(cell, began, ended, status="data", observations=10, attempts=1, **more):
    return {
        "cell": cell,
        "status": status,
        "observations": observations,
        "duration_s": ended - began,
        "ended_s": ended,
        "attempts": attempts,
        **more,
    }


def made_up(*entries, **more):
    errors = [
        {"cell": e["cell"], "type": "GranuleError", "message": f"line\n{e['cell']} $x_1$"}
        for e in entries
        if e["status"] == "error"
    ]
    return {
        "total_cells": len(entries),
        "cells_error": len(errors),
        "total_obs": sum(e["observations"] for e in entries),
        "retries": sum(e["attempts"] - 1 for e in entries),
        "wall_time_s": 12.0,
        "backend": "local",
        "dry_run": False,
        "errors": errors,
        "results": list(entries),
        **more,
    }


TWO_LANES = (
    entry("-6134111", 1.0, 4.0, observations=1_000),
    entry("-6134112", 1.5, 5.0, "error", 0, attempts=3),
    entry("-6134113", 4.0, 9.0, observations=500, attempts=2),
    entry("-6134114", 5.0, 6.0, "empty", 0),
)


def words_in(figure):
    texts = [*figure.texts, *(text for axes in figure.axes for text in axes.texts)]
    legends = [axes.get_legend() for axes in figure.axes if axes.get_legend()]
    texts += [text for legend in legends for text in legend.get_texts()]
    return [text.get_text() for text in texts]


def axes_named(figure, name):
    return next(axes for axes in figure.axes if axes.get_title(loc="left") == name)


def test_each_cell_is_a_bar_from_its_start_to_its_end_in_a_lane_of_its_own():
    figure = magg.plot_summary(made_up(*TWO_LANES))
    axes = axes_named(figure, "Cells")
    (bars,) = (c for c in axes.collections if isinstance(c, PolyCollection))
    boxes = [path.get_extents() for path in bars.get_paths()]
    spans = {(round(box.x0, 3), round(box.x1, 3), round((box.y0 + box.y1) / 2)) for box in boxes}
    assert spans == {(1.0, 4.0, 0), (1.5, 5.0, 1), (4.0, 9.0, 0), (5.0, 6.0, 1)}
    assert axes.get_ylabel() == "2 at once"
    assert {"with data", "empty", "failed", "tried more than once"} <= set(words_in(figure))


def test_failures_and_further_attempts_are_marked_where_they_ended():
    axes = axes_named(magg.plot_summary(made_up(*TWO_LANES)), "Cells")
    marks = {line.get_marker(): line.get_xdata().tolist() for line in axes.lines}
    assert marks == {"x": [5.0], "o": [5.0, 9.0]}


def test_observations_and_cost_grow_to_what_the_summary_says():
    paid = [dict(e, cost_usd_so_far=0.5 * (n + 1)) for n, e in enumerate(TWO_LANES)]
    paid.sort(key=lambda e: e["ended_s"])
    figure = magg.plot_summary(made_up(*paid, estimated_cost_usd=2.0))
    (line,) = axes_named(figure, "Observations").lines
    assert line.get_ydata().tolist() == [0, 1_000, 1_000, 1_000, 1_500, 1_500]
    (cost,) = axes_named(figure, "Estimated cost (US$)").lines
    assert cost.get_xdata()[-2] == 9.0
    assert "$2.00" in words_in(figure)
    free = magg.plot_summary(made_up(*TWO_LANES))
    assert [axes.get_title(loc="left") for axes in free.axes] == [
        "Cells", "Cells ended", "Observations",
    ]  # fmt: skip


def test_the_facts_and_failures_are_told_in_words():
    words = words_in(magg.plot_summary(made_up(*TWO_LANES), title="January"))
    assert {"January", "of 4 cells done", "3", "1,500", "12 s", "on local"} <= set(words)
    assert "-6134112 GranuleError: line -6134112 $x_1$" in words


def test_failures_hide_secrets_and_end_somewhere():
    summary = made_up(*(entry(f"-{n}", 0, 1, "error", 0) for n in range(30)))
    summary["errors"][0]["message"] = "https://h/x?X-Amz-Signature=abcdef " + "long " * 100
    words = words_in(magg.plot_summary(summary))
    assert "and 22 more" in words
    assert not any("abcdef" in word for word in words)
    assert max(map(len, words)) < 150


def test_a_run_that_had_nothing_to_do_says_so():
    words = words_in(magg.plot_summary(made_up(total_cells=5)))
    assert "No cell was worked on" in words


def test_what_is_no_summary_is_an_error():
    with pytest.raises(ValueError, match="no summary of a run"):
        magg.plot_summary({"cells": 3})
    old = made_up(*TWO_LANES)
    del old["results"][0]["ended_s"]
    with pytest.raises(ValueError, match="ended_s"):
        magg.plot_summary(old)
    with pytest.raises(StoreNotFoundError):
        magg.plot_summary("/nowhere/s.zarr")


@given(cells=st.lists(st.tuples(st.floats(0, 100), st.floats(0.01, 50)), min_size=1, max_size=40))
@settings(max_examples=100, deadline=None)
def test_lanes_never_overlap_and_are_as_few_as_can_be(cells):
    began, length = np.array(cells).T
    ended = began + length
    chosen = lanes(began, ended)
    moment = 0.01 * ended.max()
    for lane in range(chosen.max() + 1):
        order = np.argsort(began[chosen == lane])
        starts, ends = began[chosen == lane][order], ended[chosen == lane][order]
        assert (starts[1:] >= ends[:-1] - moment - 1e-9).all()
    others = [((began <= t) & (ended > t + moment)) for t in began]
    for number, one in enumerate(others):
        one[number] = True
    assert chosen.max() + 1 <= max(int(np.count_nonzero(one)) for one in others)


# --- real runs -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def ran(config, catalog, tmp_path_factory):
    store = tmp_path_factory.mktemp("run") / "s.zarr"
    return magg.run(config, catalog=catalog, store=store, progress=False), store


def test_a_summary_tells_when_each_cell_ended_and_after_how_many_attempts(ran):
    summary, _ = ran
    ended = [e["ended_s"] for e in summary["results"]]
    assert ended == sorted(ended)
    assert 0 < ended[0] <= ended[-1] <= summary["wall_time_s"]
    assert {e["attempts"] for e in summary["results"]} == {1}
    json.dumps(summary)


def test_the_records_of_a_store_tell_the_same_story(ran):
    summary, store = ran
    moments = history(str(store))
    assert {m.cell for m in moments} == {e["cell"] for e in summary["results"]}
    for moment in moments:
        assert moment.observations == read_record(str(store), moment.cell).observations
    figure = magg.plot_summary(store)
    assert [a.get_title(loc="left") for a in figure.axes] == ["Cells ended", "Observations"]
    (line,) = axes_named(figure, "Observations").lines
    assert line.get_ydata()[-1] == summary["total_obs"]


def test_the_command_line_draws_a_run_from_its_summary_or_its_store(ran, tmp_path, capsys):
    summary, store = ran
    (tmp_path / "summary.json").write_text(json.dumps(summary))
    for told in (tmp_path / "summary.json", store):
        picture = tmp_path / f"{told.name}.png"
        assert main(["plot", str(told), "--summary", "-o", str(picture)]) == 0
        assert picture.read_bytes().startswith(b"\x89PNG")
    (tmp_path / "summary.json").write_text("[1]")
    assert main(["plot", str(tmp_path / "summary.json"), "--summary"]) == 2
    assert "no summary" in capsys.readouterr().err
