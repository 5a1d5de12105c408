"""YAML text to plain data, with the line of every key and with doubled keys refused."""

from __future__ import annotations

from typing import Any

from magg.errors import ConfigError


def parse(text: str, name: str) -> tuple[Any, dict[str, int]]:
    """Parse YAML and say where everything is.

    Parameters
    ----------
    text : str
        A YAML document of plain values.
    name : str
        What to call it in an error.

    Returns
    -------
    data : object
        What ``yaml.safe_load`` returns.
    lines : dict of str to int
        Dotted path of every key or item to its line, counted from 1.

    Raises
    ------
    ConfigError
        If the text is not YAML, or a key stands twice in one mapping (YAML would keep only the
        last one without a word).
    """
    import yaml

    lines: dict[str, int] = {}
    problems: list[str] = []

    def visit(node: yaml.Node, path: str) -> None:
        if isinstance(node, yaml.MappingNode):
            for key, value in node.value:
                place = f"{path}.{key.value}".lstrip(".")
                line = key.start_mark.line + 1
                if place in lines:
                    problems.append(f"{place}: stands on line {lines[place]} and on line {line}")
                lines[place] = line
                visit(value, place)
        elif isinstance(node, yaml.SequenceNode):
            for index, value in enumerate(node.value):
                place = f"{path}.{index}".lstrip(".")
                lines[place] = value.start_mark.line + 1
                visit(value, place)

    try:
        data = yaml.safe_load(text)
        root = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}" if mark else ""
        what = getattr(error, "problem", None) or "it cannot be parsed"
        raise ConfigError(f"{name}{where} is not valid YAML: {what}") from None
    if root is not None:
        visit(root, "")
    if problems:
        raise ConfigError(
            f"{name} has doubled keys:\n  " + "\n  ".join(problems), problems=problems
        )
    return data, lines
