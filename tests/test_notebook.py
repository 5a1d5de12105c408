"""What notebooks show, in the IPython that shows it."""

from __future__ import annotations

import json
import pickle
from collections import Counter
from dataclasses import replace
from html.parser import HTMLParser

import pytest
import yaml
from IPython.core.interactiveshell import InteractiveShell

import magg
from magg.catalog import Catalog
from magg.html import pieces
from magg.notebook import summary_html

SIGNED = "https://me:pw@host/g.h5?X-Amz-Signature=0123abcd&A-userid=me"
VOID = {"meta", "br"}


class Balanced(HTMLParser):
    """Makes sure that every tag is closed, and notes which there are and what they say."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.said = [], Counter(), []
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.tags[tag] += 1
        self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open[-1:] != ["style"]:
            self.said.append(data)


def said(text):
    return " ".join(Balanced(text).said)


@pytest.fixture
def shell(monkeypatch):
    """Return an IPython with a display of its own, as a kernel has one."""
    shell = InteractiveShell()
    monkeypatch.setattr("IPython.get_ipython", lambda: shell)
    shell.display_formatter.active_types = ["text/plain", "text/html", "image/png"]
    return shell


def shown(shell, value):
    return shell.display_formatter.format(value)[0]


@pytest.fixture
def small_run(config, catalog, tmp_path):
    def called(**options):
        return magg.run(
            config, catalog=catalog, store=tmp_path / "s.zarr", progress=False, **options
        )

    return called


# --- the summary -----------------------------------------------------------------------------


def test_a_summary_is_shown_as_a_table_and_is_a_plain_dict(shell, small_run):
    summary = small_run(max_cells=1)
    html = shown(shell, summary)["text/html"]
    assert f"{summary['total_obs']:,}" in said(html)
    assert summary["results"][0]["cell"] in said(html)
    assert type(summary) is dict
    assert json.loads(json.dumps(summary)) == pickle.loads(pickle.dumps(summary)) == summary  # noqa: S301
    assert yaml.safe_load(yaml.safe_dump(summary)) == summary


def test_a_dry_run_is_shown_as_a_plan(shell, small_run):
    html = shown(shell, small_run(dry_run=True))["text/html"]
    assert "dry run" in said(html)
    assert "would work on" in said(html)


def test_other_dicts_are_shown_as_before(shell, small_run):
    class Shown(dict):
        def _repr_html_(self):
            return "<b>mine</b>"

    small_run(dry_run=True)
    assert set(shown(shell, {"total_cells": 1})) == {"text/plain"}
    assert set(shown(shell, Counter("abc"))) == {"text/plain"}
    assert shown(shell, Shown(a=1))["text/html"] == "<b>mine</b>"


def test_how_the_user_shows_dicts_stays(shell, small_run):
    shell.display_formatter.formatters["text/html"].for_type(dict, lambda _: "<i>theirs</i>")
    assert shown(shell, small_run(dry_run=True))["text/html"] == "<i>theirs</i>"


def test_failures_are_told_escaped_and_without_secrets(small_run):
    summary = small_run(max_cells=1)
    summary["cells_error"] = 12
    message = f"<script>alert(1)</script> {SIGNED}"
    summary["errors"] = [{"cell": "-6", "type": "GranuleError", "message": message}] * 12
    summary["granules_skipped"] = [{"granule": SIGNED, "error": "damaged", "cells": ["-6"]}]
    html = summary_html(summary)
    assert "script" not in Balanced(html).tags
    assert "<script>alert(1)</script>" in said(html)
    assert "and 2 more failed" in said(html)
    assert "damaged" in said(html)
    for secret in ("0123abcd", "pw@", "A-userid"):
        assert secret not in html


def test_what_is_no_summary_is_an_error():
    with pytest.raises(ValueError, match="no summary"):
        summary_html({"a": 1})


# --- config, catalog, maps -------------------------------------------------------------------


def test_a_config_shows_its_statistics_columns_and_grid(shell, config):
    html = shown(shell, config)["text/html"]
    for word in (*config.statistics, *config.data_source.columns, *config.data_source.groups, "12"):
        assert word in said(html)
    odd = replace(config, catalog=SIGNED + "<b>")
    assert "b" not in Balanced(odd._repr_html_()).tags
    assert "0123abcd" not in odd._repr_html_()


def test_a_catalog_shows_what_it_holds(shell, catalog):
    html = shown(shell, catalog)["text/html"]
    assert f"{len(catalog)} of order 6" in said(html)
    assert any(cell in said(html) for cell in catalog.cells)
    signed = Catalog(6, {"-6134114": (SIGNED,)})
    assert "0123abcd" not in signed._repr_html_()
    assert "-6134114" in said(signed._repr_html_())


def test_a_map_is_shown_as_a_picture(shell, antarctic_store):
    figure = magg.plot(antarctic_store.path)
    assert shown(shell, figure)["image/png"].startswith(b"\x89PNG")


def test_tables_take_any_text():
    html = pieces.card("<t>", "&", pieces.table(["<a>"], [[None], ["\"'<&"]]), pieces.rows([]))
    assert said(html).split() == ["<t>", "&", "<a>", "\"'<&"]
