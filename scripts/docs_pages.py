"""What the documentation takes from the code: hooks of mkdocs, and the text of two references.

``<!-- config reference -->`` in a page stands for the keys of a config, from the typed classes of
`magg.config`; ``<!-- command reference -->`` for the commands, from their parsers. A page that
holds ``<!-- file: NAME -->`` is a file of the repository. Pictures that are SVG become part of
their page, so that they follow its theme, and links to files outside ``docs/`` lead to copies.
"""

from __future__ import annotations

import argparse
import dataclasses
import inspect
import re
import types
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
WORDS = {str: "text", int: "whole number", float: "number", bool: "true or false", Any: "anything"}


# The keys of a config -----------------------------------------------------------------------------


def config_reference() -> str:
    """Return the keys of a config as Markdown, in the order in which a config has them."""
    from magg.config import PipelineConfig

    return "\n\n".join(_sections(PipelineConfig, ""))


def config_keys() -> list[str]:
    """Return every key that a config may have, with dots; ``<name>`` is the user's own."""
    from magg.config import PipelineConfig

    return [key for place, kind in _classes(PipelineConfig, "") for key in _keys(place, kind)]


def _keys(place: str, kind: type) -> list[str]:
    return [f"{place}.{field.name}".lstrip(".") for field in dataclasses.fields(kind)]


def _classes(kind: type, place: str) -> Iterator[tuple[str, type]]:
    """Yield a class and those of its fields, each with its place in the file."""
    yield place, kind
    hints = typing.get_type_hints(kind)
    for field in dataclasses.fields(kind):
        for inner, suffix in _inner(hints[field.name]):
            yield from _classes(inner, f"{place}.{field.name}{suffix}".lstrip("."))


def _inner(hint: Any) -> Iterator[tuple[type, str]]:
    if dataclasses.is_dataclass(hint):
        yield hint, ""
    elif typing.get_origin(hint) is dict:
        yield from ((kind, ".<name>") for kind, _ in _inner(typing.get_args(hint)[1]))
    elif typing.get_origin(hint) in (types.UnionType, typing.Union):
        for option in typing.get_args(hint):
            yield from _inner(option)


def _sections(kind: type, place: str) -> Iterator[str]:
    for where, each in _classes(kind, place):
        title = f"`{where}`" if where else "The file"
        lines = [f"### {title} {{ #{_anchor(where)} }}", "", _summary(each), ""]
        told, hints = parameters(each), typing.get_type_hints(each)
        for field in dataclasses.fields(each):
            key, hint = f"{where}.{field.name}".lstrip("."), hints[field.name]
            # What has keys of its own is described there, if nowhere else.
            inner = [_summary(kind) for kind, _ in _inner(hint)]
            said = told.get(field.name) or (inner[0].partition("\n\n")[0] if inner else "")
            kind = _kind(hint, field).replace("keys", f"[keys](#{_anchor(key, hint)})")
            lines += [f"`{key}`", f":   *{kind}.*", f"    {said}".rstrip(), ""]
        yield "\n".join(lines)


def _anchor(place: str, hint: Any = None) -> str:
    """Return the anchor of the section of a place, or of what a type at that place holds."""
    suffix = next((suffix for _, suffix in _inner(hint)), "")
    return re.sub(r"[^a-z_-]+", "-", place + suffix).strip("-") or "the-file"


def _summary(kind: type) -> str:
    return _plain(inspect.getdoc(kind).split("\n\nParameters\n")[0])


def parameters(kind: type) -> dict[str, str]:
    """Return what the docstring of a class says of each of its parameters."""
    _, _, text = inspect.getdoc(kind).partition("\nParameters\n----------\n")
    told: dict[str, str] = {}
    names: list[str] = []
    for line in text.splitlines():
        if re.match(r"\w[\w, ]* :? ?", line) and not line.startswith(" "):
            names = line.partition(" : ")[0].split(", ")
        elif line.startswith(" "):
            for name in names:
                told[name] = f"{told.get(name, '')} {line.strip()}".strip()
    return {name: _plain(what) for name, what in told.items()}


def _plain(text: str) -> str:
    """Return the text of a docstring as Markdown."""
    return re.sub(r"``(.+?)``|`([\w.]+)`", lambda m: f"`{m[1] or m[2]}`", text)


def _kind(hint: Any, field: dataclasses.Field[Any]) -> str:
    words = _words(hint)
    if field.default is not dataclasses.MISSING:
        return (
            f"{words}; default {_value(field.default)}"
            if field.default is not None
            else (f"{words}; optional")
        )
    return f"{words}; optional" if field.default_factory is not dataclasses.MISSING else words


def _words(hint: Any) -> str:
    arguments = typing.get_args(hint)
    origin = typing.get_origin(hint)
    if origin in (types.UnionType, typing.Union):
        wanted = [each for each in arguments if each is not type(None)]
        wanted = [each for each in wanted if each is not int or float not in wanted]
        return " or ".join(dict.fromkeys(map(_words, wanted)))
    if origin is typing.Literal:
        return " or ".join(f"`{each}`" for each in arguments)
    if origin is tuple:
        return f"list of {_words(arguments[0])}".replace("number", "numbers")
    if origin is dict:
        return f"names to {_words(arguments[1])}"
    return "keys" if dataclasses.is_dataclass(hint) else WORDS[hint]


def _value(value: Any) -> str:
    return f"`{str(value).lower() if isinstance(value, bool) else value}`"


# The commands -------------------------------------------------------------------------------------


def command_reference() -> str:
    """Return the commands and their options as Markdown."""
    from magg.cli import _parser

    return "\n\n".join(_commands(_parser(), ""))


def _commands(parser: argparse.ArgumentParser, about: str) -> Iterator[str]:
    inner = [a for a in parser._actions if isinstance(a, argparse._SubParsersAction)]
    if not inner:
        yield "\n".join(_command(parser))
    for action in inner:
        helps = {choice.dest: choice.help or "" for choice in action._choices_actions}
        for name, each in action.choices.items():
            yield from _commands(each, helps.get(name, about))


def _command(parser: argparse.ArgumentParser) -> Iterator[str]:
    yield f"## `{parser.prog}` {{ #{parser.prog.replace(' ', '-')} }}\n"
    yield f"{_literal(parser.description or '')}\n"
    epilog = parser.epilog or ""
    if epilog.startswith("examples:\n"):
        yield "```console"
        yield inspect.cleandoc(epilog.removeprefix("examples:\n"))
        yield "```\n"
    for action in parser._actions:
        if action.dest in ("help", "debug") or action.help == argparse.SUPPRESS:
            continue
        yield f"`{_invocation(action)}`"
        yield f":   {_literal(_help(action))}\n"


def _invocation(action: argparse.Action) -> str:
    metavar = action.metavar or (
        "{" + ",".join(map(str, action.choices)) + "}" if action.choices else action.dest.upper()
    )
    if not action.option_strings:
        return str(action.metavar or action.dest) + (" ..." if action.nargs == "+" else "")
    names = ", ".join(action.option_strings)
    return names if action.nargs == 0 else f"{names} {metavar}"


def _help(action: argparse.Action) -> str:
    text = action.help or ""
    told = "default" in text or action.default in (None, False, argparse.SUPPRESS)
    return text if told or action.nargs == 0 else f"{text} (default: {action.default})"


def _literal(text: str) -> str:
    """Return text of the command line as Markdown, in which it has no marks."""
    return re.sub(r"([*_\\])", r"\\\1", text).replace("<", "&lt;")


# What mkdocs calls --------------------------------------------------------------------------------


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Return a page with all that it takes from elsewhere."""
    markdown = re.sub(
        r"<!-- file: (\S+) -->", lambda m: (ROOT / m[1]).read_text(encoding="utf-8"), markdown
    )
    markdown = markdown.replace("<!-- config reference -->", config_reference())
    markdown = markdown.replace("<!-- command reference -->", command_reference())
    markdown = re.sub(r"!\[([^\]]*)\]\((\w[\w-]*\.svg)\)", _inline, markdown)
    # Of a file of the repository's root, whose links lead into docs/.
    markdown = re.sub(r"\]\(docs/", "](", markdown)
    return re.sub(r"\]\(\.\./([^)#]+)", lambda m: f"]({_copied(m[1])}", markdown)


def on_files(files: Any, config: Any) -> Any:
    """Add the files outside ``docs/`` that pages link to."""
    from mkdocs.structure.files import File

    linked = set()
    for file in list(files.documentation_pages()):
        linked |= set(re.findall(r"\]\(\.\./([^)#]+)", file.content_string))
    for name in sorted(linked):
        place = ROOT / name
        if not place.is_file():
            raise FileNotFoundError(f"docs/ links to ../{name}, which is no file")
        files.append(File.generated(config, _copied(name), content=place.read_text("utf-8")))
    return files


def _copied(name: str) -> str:
    # With a further suffix where mkdocs would make a page of it, or leave it out.
    return f"files/{name}" + (".txt" if name.endswith((".md", ".yaml", ".json")) else "")


def _inline(picture: re.Match[str]) -> str:
    text = (ROOT / "docs" / picture[2]).read_text(encoding="utf-8")
    svg = re.sub(r"<\?xml.*?\?>|<!--.*?-->|\n\s*", " ", text, flags=re.DOTALL).strip()
    return f'<div class="picture" markdown="0">{svg}</div>'
