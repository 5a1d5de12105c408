"""The references that the documentation takes from the code leave nothing out."""

from __future__ import annotations

import argparse
import dataclasses
import importlib.util
import re

from docs_blocks import ROOT

from magg import config
from magg.cli import _parser

_SPEC = importlib.util.spec_from_file_location("docs_pages", ROOT / "scripts" / "docs_pages.py")
assert _SPEC is not None
assert _SPEC.loader is not None
docs_pages = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(docs_pages)

CLASSES = [
    each
    for each in vars(config).values()
    if dataclasses.is_dataclass(each) and each.__name__ not in ("Grid", "Compiled")
]


def entries(text: str) -> dict[str, str]:
    """Return the terms of the definition lists of a page, and what is said of each."""
    parts = re.split(r"^`(.+)`$\n:   ", text, flags=re.MULTILINE)
    return {
        term: re.split(r"\n\n#|\n\n```", said)[0].strip()
        for term, said in zip(parts[1::2], parts[2::2], strict=True)
    }


def test_every_key_of_a_config_is_in_the_reference_with_a_description():
    found = entries(docs_pages.config_reference())
    assert sorted(found) == sorted(docs_pages.config_keys())
    # A class that has no list of parameters describes all of its keys in its first sentence.
    briefly = {
        field.name
        for each in CLASSES
        for field in dataclasses.fields(each)
        if not docs_pages.parameters(each)
    }
    assert len(briefly) <= 12
    for key, said in found.items():
        kind, _, description = said.partition(".*")
        assert kind.startswith("*"), key
        assert len(description.strip()) > 3 or key.rpartition(".")[2] in briefly, key


def test_every_class_of_a_config_is_in_the_reference():
    named = {key.rpartition(".")[2] for key in docs_pages.config_keys()}
    fields = {field.name for each in CLASSES for field in dataclasses.fields(each)}
    assert len(CLASSES) >= 12
    assert fields == named


def test_defaults_of_keys_are_told():
    found = entries(docs_pages.config_reference())
    assert "default `drop`" in found["data_source.variables.<name>.missing"]
    assert "default `false`" in found["output.state"]
    assert "optional" in found["output.grid.parent_order"].splitlines()[0]
    assert "default" not in found["output.grid.child_order"].splitlines()[0]
    assert "[keys](#data_source)" in found["data_source"]


def test_every_option_of_every_command_is_in_the_reference():
    text = docs_pages.command_reference()
    for name, parser in leaves(_parser()):
        section = re.search(rf"^## `{name}` .*?(?=^## |\Z)", text, re.MULTILINE | re.DOTALL)
        assert section, name
        for action in parser._actions:
            for option in action.option_strings:
                if option not in ("-h", "--help", "--debug"):
                    assert option in section[0], f"{name} {option}"
        assert parser.description in re.sub(r"\\(.)", r"\1", section[0])


def leaves(parser: argparse.ArgumentParser) -> list[tuple[str, argparse.ArgumentParser]]:
    inner = [a for a in parser._actions if isinstance(a, argparse._SubParsersAction)]
    found = [leaf for action in inner for each in action.choices.values() for leaf in leaves(each)]
    return found if inner else [(parser.prog, parser)]


def test_pages_take_what_their_marks_stand_for():
    class Page:
        pass

    text = docs_pages.on_page_markdown(
        "<!-- file: CONTRIBUTING.md -->\n![A picture](flow.svg)\n[there](../magg/config.py)",
        page=Page(), config=None, files=None,
    )  # fmt: skip
    assert text.startswith("# Contributing")
    assert '<svg class="flow"' in text
    assert "](files/magg/config.py)" in text
