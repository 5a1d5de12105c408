from __future__ import annotations

import io
import logging

import pytest

from magg import progress
from magg.events import CellFinished, Notice, RunFinished, RunStarted
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
