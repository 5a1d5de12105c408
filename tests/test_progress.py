from __future__ import annotations

import io
import logging

import pytest

from magg import progress
from magg.events import (
    CellFinished,
    GranuleSurveyed,
    IndexFinished,
    IndexStarted,
    Notice,
    RunFinished,
    RunStarted,
)
from magg.progress import Bar, LogLines, make_listener


def play(listener, cells=40, errors=7):
    listener(RunStarted(cells, 2, "local", "s.zarr"))
    for i in range(cells):
        failed = i < errors
        error = f"GranuleError: lost [bold]{i}.h5" if failed else None
        listener(CellFinished(str(i), "error" if failed else "data", 10, error))
    listener(Notice("throttled"))
    listener(RunFinished({}))


def test_log_lines_tell_the_start_the_failures_and_the_state(caplog):
    caplog.set_level(logging.INFO, "magg")
    play(LogLines())
    told = caplog.text
    assert "40 cells to do, 2 done before (local)" in told
    assert told.count("failed: GranuleError") == 7
    assert "40 of 40 cells, 400 observations, 7 errors" in told
    assert len(caplog.records) < 40


def test_the_bar_shows_cells_observations_errors_and_closes(monkeypatch):
    from rich import console as rich_console

    out, real = io.StringIO(), rich_console.Console
    monkeypatch.setattr(
        rich_console,
        "Console",
        lambda **_: real(file=out, force_terminal=True, width=140, color_system=None),
    )
    bar = Bar()
    play(bar)
    told = out.getvalue()
    assert "40/40" in told
    assert "400 obs" in told
    assert "7 errors" in told
    assert "lost [bold]0.h5" in told
    assert "further errors are in the summary" in told
    assert "throttled" in told
    assert bar._progress.live.is_started is False


def test_false_is_silent_and_a_callable_hears_everything(capsys, caplog):
    heard = []
    play(make_listener(False))
    play(make_listener(heard.append), cells=3)
    assert len(heard) == 6
    assert capsys.readouterr() == ("", "")
    assert not caplog.records


@pytest.mark.parametrize(("watched", "kind"), [(True, Bar), (False, LogLines)])
def test_none_decides_by_who_is_watching(monkeypatch, watched, kind):
    monkeypatch.setattr(progress, "_is_watched", lambda: watched)
    assert isinstance(make_listener(None), kind)
    assert isinstance(make_listener(True), Bar)


class Shown:
    """What a notebook would show: the last of the bundles under each display."""

    def __init__(self):
        self.bundles = []

    def display(self, bundle, *, raw, display_id):
        assert raw
        assert display_id
        self.bundles.append(bundle)
        number = len(self.bundles) - 1
        shown = self.bundles

        class Handle:
            def update(self, bundle, *, raw):
                assert raw
                shown[number] = bundle

        return Handle()


@pytest.fixture
def notebook(monkeypatch):
    pytest.importorskip("IPython.display")
    shown = Shown()
    monkeypatch.setattr("IPython.display.display", shown.display)
    monkeypatch.setattr(progress, "in_notebook", lambda: True)
    return shown.bundles


@pytest.mark.parametrize("asked", [None, True])
def test_a_notebook_keeps_one_line_and_what_went_wrong(notebook, asked):
    play(make_listener(asked))
    (bundle,) = notebook
    line = bundle["text/plain"]
    assert line.startswith("40 of 40 cells · 2 done before · 400 observations · 7 failed · ")
    assert line.endswith(" s on local")
    html = bundle["text/html"]
    assert "<progress" not in html
    assert "lost [bold]0.h5" in html
    assert html.count("lost [bold]") == 5
    assert "further errors are in the summary" in html
    assert "throttled" in html


def test_a_notebook_shows_a_bar_and_the_time_left_while_a_run_goes_on(notebook, monkeypatch):
    monkeypatch.setattr("magg.html.live.INTERVAL_S", 0.0)
    listen = make_listener(None)
    listen(RunStarted(4, 0, "lambda", "s.zarr"))
    assert notebook[0]["text/plain"] == "0 of 4 cells"
    listen(CellFinished("a<b>", "error", 0, "lost <b>all</b>", 1.5))
    assert '<progress value="1" max="4"' in notebook[0]["text/html"]
    assert "<b>" not in notebook[0]["text/html"]
    assert notebook[0]["text/plain"].startswith("1 of 4 cells · 1 failed · about $1.50 · ")
    assert notebook[0]["text/plain"].endswith(" left")


def test_a_notebook_shows_the_survey_and_the_run_below_each_other(notebook):
    listen = make_listener(None)
    listen(IndexStarted(2, 1, "local"))
    listen(GranuleSurveyed("a.h5"))
    listen(GranuleSurveyed("b.h5", "gone"))
    listen(IndexFinished())
    play(listen, cells=3, errors=0)
    survey, run = [bundle["text/plain"] for bundle in notebook]
    assert survey.startswith("2 of 2 granules surveyed · 1 done before · 1 failed · ")
    assert "granule b.h5 cannot be surveyed: gone" in notebook[0]["text/html"]
    assert run.startswith("3 of 3 cells")
    assert "gone" not in notebook[1]["text/html"]
