"""``magg catalog index`` and ``magg run --index``."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest

from magg import Catalog
from magg.catalog.index import place_of
from magg.cli import main
from magg.events import GranuleSurveyed, IndexFinished, IndexStarted, Notice
from magg.progress import Bar, LogLines


def test_the_command_makes_an_index_and_info_tells_of_it(saved, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "300")
    assert main(["catalog", "index", saved.location, "--quiet"]) == 0
    assert "6 of 6 in the index" in capsys.readouterr().out
    assert main(["info", saved.location]) == 0
    told = capsys.readouterr().out
    assert f"{place_of(saved.location)}, of 6 of 6 granules" in told


def test_the_command_prints_its_summary_as_json(saved, capsys):
    assert main(["catalog", "index", saved.location, "--json", "--max-workers", "1"]) == 0
    first = json.loads(capsys.readouterr().out)
    assert (first["granules_surveyed"], first["granules_known"]) == (6, 0)
    assert main(["catalog", "index", saved.location, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["granules_known"] == 6
    assert main(["catalog", "index", saved.location, "--json", "--overwrite"]) == 0
    assert json.loads(capsys.readouterr().out)["granules_surveyed"] == 6


def test_the_exit_status_tells_that_a_granule_could_not_be_surveyed(region, tmp_path, capsys):
    near = Catalog.from_files(region[:1])
    cells = {cell: (*granules, "/lost.h5") for cell, granules in near.cells.items()}
    path = str(Catalog(6, cells).save(tmp_path / "catalog.json"))
    assert main(["catalog", "index", path, "--quiet"]) == 1
    assert "/lost.h5" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["catalog", "index", "none.json"], "no catalog"),
        (["catalog", "index", "CATALOG", "--config", "none.yaml"], "built-in"),
        (["catalog", "index", "CATALOG", "--backend", "none"], "unknown backend"),
        (["catalog", "index", "CATALOG", "--max-workers", "0"], "at least 1"),
    ],
)
def test_bad_input_is_one_line_and_exit_status_two(arguments, words, saved, capsys):
    assert main([saved.location if word == "CATALOG" else word for word in arguments]) == 2
    told = capsys.readouterr().err
    assert words in told
    assert told.count("\n") == 1


def test_a_damaged_index_is_told_with_its_remedy(saved, capsys):
    Path(place_of(saved.location)).write_bytes(b"nothing")
    assert main(["catalog", "index", saved.location]) == 2
    assert "--overwrite" in capsys.readouterr().err
    assert main(["info", saved.location]) == 0
    assert "is damaged" in " ".join(capsys.readouterr().out.split())
    assert main(["catalog", "index", saved.location, "--quiet", "--overwrite"]) == 0


@pytest.mark.parametrize("word", ["auto", "build", "off"])
def test_run_takes_a_word_about_the_index(word, saved, tmp_path, capsys):
    command = ["run", "atl06", "--catalog", saved.location, "--store", str(tmp_path / "s.zarr")]
    assert main([*command, "--index", word, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["cells_error"] == 0
    assert Path(place_of(saved.location)).exists() == (word == "build")


def test_a_dry_run_tells_of_cells_without_rows(saved, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "300")
    main(["catalog", "index", saved.location, "--quiet"])
    command = ["run", "atl06", "--catalog", saved.location, "--store", str(tmp_path / "s.zarr")]
    assert main([*command, "--dry-run"]) == 0
    assert "3 cells, which need no worker" in capsys.readouterr().out


def test_help_shows_examples(capsys):
    with pytest.raises(SystemExit) as caught:
        main(["catalog", "index", "--help"])
    assert caught.value.code == 0
    assert "magg catalog index s3://bucket/catalog.json --backend lambda" in capsys.readouterr().out


def a_survey(listener, granules):
    listener(IndexStarted(granules, 2, "local"))
    for number in range(granules):
        listener(GranuleSurveyed(f"g{number}.h5", "GranuleError: lost" if number == 1 else None))
    listener(Notice("something to know"))
    listener(IndexFinished())


def test_log_lines_tell_how_a_survey_goes(caplog):
    caplog.set_level(logging.INFO, "magg")
    a_survey(LogLines(), 100)
    told = [record.getMessage() for record in caplog.records]
    assert told[0] == "100 granules to survey (local)"
    assert "granule g1.h5 cannot be surveyed: GranuleError: lost" in told
    assert "100 of 100 granules surveyed" in told
    assert "something to know" in told
    assert len(told) < 30


def test_a_bar_shows_a_survey_and_then_the_run(capsys):
    bar = Bar()
    a_survey(bar, 3)
    told = " ".join(capsys.readouterr().err.split())
    assert "granules (local)" in told
    assert "g1.h5 cannot be surveyed" in told
    assert "something to know" in told
