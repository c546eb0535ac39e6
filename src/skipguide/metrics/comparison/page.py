"""The comparison as one HTML file that needs nothing else: no script, no font, no network."""

from __future__ import annotations

import html
from collections.abc import Iterator, Sequence

from skipguide.metrics.comparison.layout import CellText, Panel, caption, headings, panels
from skipguide.metrics.comparison.table import Comparison

_ARROWS = {
    "up": ' <span title="higher is better">↑</span>',
    "down": ' <span title="lower is better">↓</span>',
    "": "",
}
_STYLE = """
:root { color-scheme: light dark; --line: #8886; --quiet: #767676; }
body { font: 15px/1.45 system-ui, sans-serif; margin: 2rem auto; max-width: 110rem;
  padding: 0 1rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
thead { border-top: 2px solid; border-bottom: 1px solid; }
tbody { border-bottom: 1px solid var(--line); }
tbody:last-child { border-bottom: 2px solid; }
th, td { padding: .3rem .8rem; text-align: right; vertical-align: top; white-space: nowrap; }
th:first-child { text-align: left; position: sticky; left: 0; background: Canvas; }
tbody th { font-weight: normal; white-space: normal; min-width: 8rem; }
tbody th[scope=rowgroup] { font-style: italic; padding-top: .8rem; }
thead th { white-space: normal; max-width: 9rem; vertical-align: bottom; }
sup { line-height: 0; }
small { display: block; color: var(--quiet); }
p, ul { max-width: 60rem; }
"""


def write_page(table: Comparison) -> str:
    """Return the page."""
    title = html.escape(f"Comparison of {table.run}")
    titles = "".join(
        f'<th scope="col">{html.escape(one.title)}{_ARROWS[one.arrow]}</th>'
        for one in headings(table)
    )
    bodies = "\n".join(_body(panel, len(table.metrics) + 1) for panel in panels(table))
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{title}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n<h1>{title}</h1>\n"
        '<div class="wide"><table>\n'
        f'<thead><tr><th scope="col">setting</th>{titles}</tr></thead>\n{bodies}\n</table></div>\n'
        f"<p>{html.escape(' '.join(caption(table)))}</p>\n{''.join(_notes(table.notes))}"
        "</body>\n</html>\n"
    )


def _body(panel: Panel, width: int) -> str:
    title = (
        f'<tr><th scope="rowgroup" colspan="{width}">{html.escape(panel.title)}</th></tr>\n'
        if panel.title
        else ""
    )
    rows = "\n".join(
        f'<tr><th scope="row">{html.escape(name)}</th>{"".join(map(_cell, cells))}</tr>'
        for name, cells in panel.rows
    )
    return f"<tbody>\n{title}{rows}\n</tbody>"


def _cell(cell: CellText) -> str:
    value = html.escape(cell.value)
    value = f"<strong>{value}</strong>" if cell.bold else value
    star = '<sup title="p &lt; 0.05">*</sup>' if cell.star else ""
    below = f"[{html.escape(cell.interval)}]" if cell.interval else ""
    below = f"(&times;{cell.ratio})" if cell.ratio else below
    return f"<td>{value}{star}{f'<small>{below}</small>' if below else ''}</td>"


def _notes(notes: Sequence[str]) -> Iterator[str]:
    if notes:
        items = "\n".join(f"<li>{html.escape(note)}</li>" for note in notes)
        yield f"<p>Missing:</p>\n<ul>\n{items}\n</ul>\n"
