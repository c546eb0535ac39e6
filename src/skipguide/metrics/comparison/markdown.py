"""The comparison as Markdown, in tables that GitHub and pandoc read."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from skipguide.metrics.comparison.layout import CellText, caption, headings, panels
from skipguide.metrics.comparison.table import Comparison

_ARROWS = {"up": " ↑", "down": " ↓", "": ""}


def write_markdown(table: Comparison) -> str:
    """Return the table, its caption and its notes."""
    titles = [escape(one.title) + _ARROWS[one.arrow] for one in headings(table)]
    parts: list[str] = []
    for panel in panels(table):
        parts += [f"**{escape(panel.title)}**", ""] if panel.title else []
        parts += [_line(["", *titles]), _line(["---", *["---:"] * len(titles)])]
        parts += [_line([escape(name), *map(_cell, cells)]) for name, cells in panel.rows]
        parts.append("")
    parts += [escape(" ".join(caption(table))), ""]
    parts += list(_notes(table.notes))
    return "\n".join(parts)


def _notes(notes: Sequence[str]) -> Iterator[str]:
    if notes:
        yield from ("Missing:", "", *(f"- {escape(note)}" for note in notes), "")


def _cell(cell: CellText) -> str:
    value = f"**{cell.value}**" if cell.bold else cell.value
    return value + cell.beside + (r" \*" if cell.star else "")


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def escape(text: str) -> str:
    r"""Return text without Markdown's own signs: a setting may be named `a|b` or `*`."""
    one_line = " ".join(text.split())
    return re.sub(r"([\\`*_\[\]<>|#~])", r"\\\1", one_line)
