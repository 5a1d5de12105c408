"""Every block of the documentation is what it says: commands parse, configs load, links lead on."""

from __future__ import annotations

import json
import re
import shlex
import tomllib
from collections.abc import Mapping
from pathlib import Path

import pytest
import yaml
from docs_blocks import PAGES, ROOT, all_blocks, blocks

from magg import load_config
from magg.cli import _parser
from magg.wire import unstructure

LANGUAGES = {"python", "console", "yaml", "json", "toml", "text"}
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
# Programs that the documentation lets run, beside magg.
PROGRAMS = {
    "aws", "cd", "docker", "export", "factories", "gcloud", "lithops", "sbatch", ".ci/run",
}  # fmt: skip


def commands(code: str) -> list[list[str]]:
    """Return the words of each command of a block, without comments and redirections."""
    text = re.sub(r"\\\n\s*", " ", code)
    found = []
    for line in text.splitlines():
        lexer = shlex.shlex(line, posix=True, punctuation_chars="();<>|&")
        lexer.whitespace_split = True
        words: list[str] = []
        for word in [*lexer, ";"]:
            if set(word) <= set("();|&"):
                if words:
                    found.append(words)
                words = []
            else:
                words.append(word)
    return [_plain(words) for words in found]


def _plain(words: list[str]) -> list[str]:
    while words and re.match(r"[A-Z_]+=", words[0]):
        words = words[1:]
    for mark in (">", "<", "2>"):
        if mark in words:
            words = words[: words.index(mark)]
    return words


def test_every_block_has_a_language_that_is_looked_at():
    assert {block.language for block in all_blocks()} <= LANGUAGES


@pytest.mark.parametrize("page", [p for p in PAGES if blocks(p, "console")], ids=lambda p: p.name)
def test_commands_parse(page):
    for block in blocks(page, "console"):
        for program, *arguments in filter(None, commands(block.code)):
            program = program.partition("=")[0]
            if program == "magg":
                check_magg(block.place, arguments)
            elif program.startswith("python"):
                check_python(block.place, arguments)
            elif program == "make":
                check_make(block.place, arguments)
            elif program == "pip":
                check_pip(block.place, arguments)
            else:
                assert program in PROGRAMS, f"{block.place}: {program}"


def check_magg(place: str, arguments: list[str]) -> None:
    if "..." in arguments or "--help" in arguments:
        arguments = [word for word in arguments if word != "..."]
        assert arguments[0] in command_names(), place
        return
    try:
        _parser().parse_args(arguments)
    except SystemExit:
        raise AssertionError(f"{place}: magg {' '.join(arguments)}") from None


def command_names() -> set[str]:
    return set(re.findall(r"^    (\w+) ", _parser().format_help(), re.MULTILINE))


def check_python(place: str, arguments: list[str]) -> None:
    if arguments[0] == "-m":
        assert arguments[1] in ("magg.testing.contract", "ensurepip", "mpi4py.futures"), place
    else:
        assert (ROOT / arguments[0]).is_file(), f"{place}: {arguments[0]}"


def check_make(place: str, arguments: list[str]) -> None:
    targets = re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert arguments[0] in targets, f"{place}: make {arguments[0]}"


def check_pip(place: str, arguments: list[str]) -> None:
    for word in arguments[1:]:
        named = re.fullmatch(r"magg-healpix\[([\w,]+)\]", word)
        if named:
            assert set(named[1].split(",")) <= PROJECT["optional-dependencies"].keys(), place


def test_a_command_that_does_not_exist_is_noticed():
    with pytest.raises(AssertionError, match="here:1: magg run"):
        check_magg("here:1", ["run", "atl06", "--no-such-option"])
    assert commands("A=1 magg run x \\\n  --json > f; magg info s  # so\n") == [
        ["magg", "run", "x", "--json"],
        ["magg", "info", "s"],
    ]


@pytest.mark.parametrize("block", all_blocks("yaml"), ids=lambda block: block.place)
def test_configs_load(block):
    """A part of a config must load in place of the same part of the built-in one."""
    load_config(joined(unstructure(load_config("atl06")), yaml.safe_load(block.code)))


def joined(whole: Mapping, part: Mapping) -> dict:
    both = dict(whole)
    for key, value in part.items():
        old = both.get(key)
        inner = isinstance(value, Mapping) and isinstance(old, Mapping) and key != "variables"
        both[key] = joined(old, value) if inner else value
    return both


@pytest.mark.parametrize("block", all_blocks("json", "toml"), ids=lambda block: block.place)
def test_data_can_be_read(block):
    if block.language == "json":
        json.loads(block.code)
    else:
        tomllib.loads(block.code)


def test_the_catalog_of_the_documentation_loads(tmp_path):
    from magg import Catalog

    (example,) = blocks(ROOT / "docs" / "catalogs.md", "json")
    path = tmp_path / "catalog.json"
    path.write_text(example.code)
    catalog = Catalog.load(path)
    assert len(catalog) == len(catalog.granules) == 2
    assert [known.start for known in catalog.info.values()] == ["2023-01-05T00:00:00Z"]


def test_every_page_is_in_the_navigation():
    navigation = (ROOT / "mkdocs.yml").read_text().partition("\nnav:\n")[2].partition("\nhooks:")[0]
    named = re.findall(r": ([\w-]+\.md)$", navigation, re.MULTILINE)
    assert sorted(named) == sorted(page.name for page in (ROOT / "docs").glob("*.md"))


def test_every_benchmark_is_named_on_the_page_of_performance():
    text = (ROOT / "docs" / "performance.md").read_text()
    scripts = {path.name for path in (ROOT / "benchmarks").glob("*.py")} - {"measure.py"}
    assert not {name for name in scripts if f"benchmarks/{name}" not in text}


def test_every_picture_says_what_it_shows():
    for page in PAGES:
        for text, target in re.findall(r"!\[([^\]]*)\]\(([^)]+)\)", page.read_text()):
            assert len(text) > 20, f"{page.name}: {target} has no alternative text"


def test_links_of_the_readme_lead_to_files():
    targets = re.findall(r"\]\(([^)#]+)", (ROOT / "README.md").read_text())
    missing = [t for t in targets if "://" not in t and not Path(ROOT, t).exists()]
    assert not missing
