"""CloudFormation's intrinsic functions, as far as magg's template uses them."""

from __future__ import annotations

import functools
import re
from typing import Any

import yaml

from magg.deploy.settings import load_template

PSEUDO = {
    "AWS::Partition": "aws",
    "AWS::Region": "us-west-2",
    "AWS::AccountId": "123456789012",
}
ABSENT = object()


def as_list(value: Any) -> list[Any]:
    """Return a list, which one alone may stand for."""
    return value if isinstance(value, list) else [value]


@functools.cache
def document() -> dict[str, Any]:
    """Return the template, which nobody may change."""
    return yaml.safe_load(load_template())


class Template:
    """The template with parameters filled in.

    Parameters
    ----------
    parameters : dict of str to str
        Those that are not given have their defaults.
    """

    def __init__(self, **parameters: str) -> None:
        self.document = document()
        unknown = parameters.keys() - self.document["Parameters"].keys()
        assert not unknown, f"no parameters of the template: {unknown}"
        defaults = {k: str(p["Default"]) for k, p in self.document["Parameters"].items()}
        self.values = {**defaults, **parameters, **PSEUDO}

    def resources(self) -> dict[str, Any]:
        """Return the resources whose conditions hold, resolved."""
        return {
            name: self.resolve(one)
            for name, one in self.document["Resources"].items()
            if "Condition" not in one or self.holds(one["Condition"])
        }

    def holds(self, condition: Any) -> bool:
        """Evaluate a condition, or the name of one."""
        if isinstance(condition, str):
            return self.holds(self.document["Conditions"][condition])
        ((function, argument),) = condition.items()
        if function == "Condition":
            return self.holds(argument)
        if function == "Fn::Not":
            return not self.holds(argument[0])
        if function == "Fn::And":
            return all(map(self.holds, argument))
        assert function == "Fn::Equals", function
        return self.resolve(argument[0]) == self.resolve(argument[1])

    def resolve(self, node: Any) -> Any:
        """Return a part of the template without functions."""
        if isinstance(node, list):
            return [one for part in node if (one := self.resolve(part)) is not ABSENT]
        if not isinstance(node, dict):
            return node
        if len(node) == 1:
            ((function, argument),) = node.items()
            if function == "Ref":
                return ABSENT if argument == "AWS::NoValue" else self.values.get(argument, argument)
            if function.startswith("Fn::"):
                return getattr(self, "_" + function[4:].lower())(argument)
        resolved = {key: self.resolve(part) for key, part in node.items()}
        return {key: part for key, part in resolved.items() if part is not ABSENT}

    def _if(self, argument: list[Any]) -> Any:
        condition, yes, no = argument
        return self.resolve(yes if self.holds(condition) else no)

    def _split(self, argument: list[Any]) -> list[str]:
        return self.resolve(argument[1]).split(argument[0])

    def _getatt(self, argument: list[str]) -> str:
        return ".".join(argument)

    def _sub(self, argument: Any) -> str:
        text, own = argument if isinstance(argument, list) else (argument, {})
        known = self.values | {key: self.resolve(part) for key, part in own.items()}
        return re.sub(r"\$\{([\w:]+)\}", lambda found: known[found[1]], text)
