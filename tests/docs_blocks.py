"""The blocks of code in the documentation."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGES = sorted([*(ROOT / "docs").glob("*.md"), ROOT / "README.md", ROOT / "CONTRIBUTING.md"])
PAGES.append(ROOT / "lithops_config" / "README.md")
_FENCE = re.compile(r'^( *)```(\w*)(?: title="([^"]*)")?(.*)$')


@dataclass(frozen=True)
class Block:
    """One block; ``title`` says why it is not run like the others, if it is not."""

    page: Path
    line: int
    language: str
    title: str
    code: str

    @property
    def place(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def blocks(page: Path, *languages: str) -> list[Block]:
    """Return the blocks of a page in these languages, or all of them."""
    found, begun, body = [], None, []
    for number, line in enumerate(page.read_text(encoding="utf-8").splitlines(), 1):
        fence = _FENCE.match(line)
        if begun is None and fence:
            assert not fence[4], f"{page.name}:{number}: {fence[4]!r} means nothing on a fence"
            begun, body = (number, fence), []
        elif begun is not None and line.strip() == "```":
            first, opening = begun
            code = "\n".join(text.removeprefix(opening[1]) for text in body)
            found.append(Block(page, first, opening[2], opening[3] or "", f"{code}\n"))
            begun = None
        else:
            body.append(line)
    assert begun is None, f"{page.name}:{begun[0]}: this block never ends"
    return [block for block in found if not languages or block.language in languages]


def all_blocks(*languages: str) -> list[Block]:
    return [block for page in PAGES for block in blocks(page, *languages)]
