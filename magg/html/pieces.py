"""Tables for notebooks: HTML that suits light and dark themes and narrow columns.

Colours are those of the page around it, since no theme tells which one it is; what is quieter is
more transparent. All text is escaped here, and secrets and signatures of URLs are left out here,
so that nobody who makes a table need think of either.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from html import escape

from magg.credentials import redact

_USER_INFO = re.compile(r"(?<=://)[^/\s@]*@")

_STYLE = """
<style>
.magg{font:13px/1.5 system-ui,sans-serif;max-width:60em;border:1px solid rgba(128,128,128,.35);
border-radius:6px;padding:.7em 1em;margin:.3em 0;overflow-wrap:anywhere;color:inherit}
.magg .magg-head{font-weight:600;margin-bottom:.4em}
.magg .magg-head span{font-weight:400;opacity:.7;margin-left:.6em}
.magg table.magg-table{border-collapse:collapse;border:0;width:auto;margin:0;color:inherit;
font-size:inherit;background:transparent;table-layout:auto}
.magg table.magg-table thead,.magg table.magg-table tr{background:transparent!important;border:0}
.magg table.magg-table th,.magg table.magg-table td{text-align:left;vertical-align:top;
padding:.1em 1.2em .1em 0;border:0;background:transparent;color:inherit;max-width:none;
white-space:normal}
.magg table.magg-table th{font-weight:400;opacity:.7;white-space:nowrap}
.magg .magg-wide{overflow-x:auto}
.magg .magg-wide td:not(:last-child){white-space:nowrap!important}
.magg details{margin-top:.5em}
.magg summary{cursor:pointer;opacity:.8}
.magg .magg-note{margin-top:.35em;padding-left:.6em;border-left:3px solid currentColor}
.magg .magg-bad{border-color:#d64550}
.magg .magg-warn{border-color:#e08a00}
.magg code{font-family:ui-monospace,monospace;font-size:.95em;background:transparent;
color:inherit;padding:0}
@media(max-width:26em){.magg table.magg-rows,.magg table.magg-rows tbody,.magg table.magg-rows tr,
.magg table.magg-rows th,.magg table.magg-rows td{display:block!important}
.magg table.magg-rows th{padding:.3em 0 0!important}
.magg table.magg-rows td{padding:0!important}}
</style>
"""


def text(value: object) -> str:
    """Return a value as HTML text, escaped, without secrets and signatures of URLs."""
    return escape(_USER_INFO.sub("", redact(str(value))))


def card(title: str, subtitle: str, *parts: str) -> str:
    """Return a framed piece of HTML.

    Parameters
    ----------
    title, subtitle : str
        Plain text.
    *parts : str
        HTML, such as `rows`, `table`, `folded` and `notes` return.
    """
    head = f'<div class="magg-head">{text(title)}<span>{text(subtitle)}</span></div>'
    return f'{_STYLE}<div class="magg">{head}{"".join(parts)}</div>'


def rows(pairs: Iterable[tuple[str, object]]) -> str:
    """Return a table of labels and values; those without a value are left out."""
    lines = [
        f'<tr><th scope="row">{text(label)}</th><td>{text(value)}</td></tr>'
        for label, value in pairs
        if value not in (None, "")
    ]
    return f'<table class="magg-table magg-rows"><tbody>{"".join(lines)}</tbody></table>'


def table(columns: Sequence[str], lines: Iterable[Sequence[object]]) -> str:
    """Return a table with a head; one that is too wide scrolls by itself."""
    head = "".join(f'<th scope="col">{text(column)}</th>' for column in columns)
    body = "".join(
        "<tr>" + "".join(f"<td>{text(value)}</td>" for value in _shown(line)) + "</tr>"
        for line in lines
    )
    whole = f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody>"
    return f'<div class="magg-wide"><table class="magg-table">{whole}</table></div>'


def folded(label: str, content: str, *, is_open: bool = False) -> str:
    """Return HTML that is shown when its label is clicked."""
    return f"<details{' open' * is_open}><summary>{text(label)}</summary>{content}</details>"


def notes(kinds: Mapping[str, Iterable[str]]) -> str:
    """Return lines of plain text, by kind: ``"bad"`` or ``"warn"``."""
    return "".join(
        f'<div class="magg-note magg-{kind}">{text(line)}</div>'
        for kind, lines in kinds.items()
        for line in lines
    )


def _shown(line: Sequence[object]) -> list[object]:
    return ["" if value is None else value for value in line]
