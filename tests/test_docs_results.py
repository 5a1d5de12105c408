"""The page on results: every block of Python runs, in order, as written."""

from __future__ import annotations

import re
import shlex
import warnings
from pathlib import Path

import pytest

from magg import run
from magg.cli import _parser

PAGE = Path(__file__).parents[1] / "docs" / "results.md"


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL)


@pytest.fixture
def demo(config, catalog, tmp_path, monkeypatch):
    """Go where a demonstration left its store, or one much like it."""
    place = tmp_path / "magg-demo"
    run(config, catalog=catalog, store=place / "store.zarr", progress=False)
    catalog.save(place / "catalog.json")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_every_block_of_python_runs(demo):
    namespace = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for block in blocks("python"):
            exec(compile(block, str(PAGE), "exec"), namespace)  # noqa: S102
    made = {"map.png", "run.png", "history.png", "cells.parquet", "heights.tif"}
    assert made <= {path.name for path in demo.iterdir()}
    assert len(namespace["frame"])


def test_every_command_is_one_that_there_is():
    lines = [line for block in blocks("console") for line in block.splitlines()]
    commands = [line.partition(">")[0] for line in lines if line.startswith("magg ")]
    assert len(commands) > 8
    for command in commands:
        assert _parser().parse_args(shlex.split(command)[1:]).command
