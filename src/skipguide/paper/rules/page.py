"""Write the numbers of the rules and docs/rules.md from them."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from importlib import resources
from pathlib import Path

from skipguide.lab.training_loop import atomic_path
from skipguide.method import rule_table
from skipguide.paper.reuse import page as reuse_page
from skipguide.paper.reuse.study import RowResult, Study
from skipguide.paper.rules import rows
from skipguide.paper.tables import format_estimate
from skipguide.paper.why_page import FIELD

_NOT_MADE = "not made yet: `skipguide paper rules`"
_COLUMNS = (
    "way", "clips", "passes a step", "away from CFG", "all read right", "less CFG's",
    "Frechet less CFG's",
)  # fmt: skip


def studies(folder: Path, clips: int) -> list[Study]:
    """Return the study of all rules and restarts, and that of what there is without CFG."""
    return [Study(folder, rows.MODEL, clips, several) for several in (rows.ROWS, rows.WITHOUT_CFG)]


def write(orders: Sequence[Study], docs: Path) -> Path:
    """Write what studies found to `docs/rules/`, and the page anew.

    Rows that are not whole yet are left out.

    Raises:
        ValueError: if clips are missing of one of the first two rows of a study.
    """
    for order in orders:
        _write_numbers(order, docs)
    return fill(docs)


def _write_numbers(order: Study, docs: Path) -> None:
    made = [
        row for row in order.rows if all(order.path(row, i).is_file() for i in order.batches(row))
    ]
    if made[:2] != list(order.rows[:2]):
        raise ValueError(
            f"the numbers need {order.rows[0].name} and {order.rows[1].name}, but"
            f" {order.folder} lacks clips of them. Run the command without --made-only."
        )
    whole = dataclasses.replace(order, rows=tuple(made))
    reuse_page.write_numbers(whole, numbers_path(docs, order.rows[0]))


def numbers_path(docs: Path, first: rows.Row = rows.ROWS[0]) -> Path:
    """Return where the numbers of the study with this first row are."""
    end = "" if first.cfg else "-without-cfg"
    return docs / "rules" / f"lab-{rows.MODEL}{end}.json"


def fill(docs: Path) -> Path:
    """Fill the page from the numbers that are in a folder."""
    found = reuse_page.read_numbers(numbers_path(docs))
    alone = reuse_page.read_numbers(numbers_path(docs, rows.WITHOUT_CFG[0]))
    fields = {
        "rules": lambda: list(rule_rows()),
        "measured rules": lambda: _table(found, [rows.ROWS[1], *rows.RULES]),
        "measured restarts": lambda: _table(found, rows.RESTARTS),
        "measured NAG": lambda: _table(found, [rows.ROWS[1], *rows.NAG_ROWS]),
        "measured without CFG": lambda: _table(alone, rows.WITHOUT_CFG),
    }
    template = resources.files("skipguide.paper.rules").joinpath("page.md").read_text("utf-8")
    path = docs / "rules.md"
    with atomic_path(path) as part:
        text = FIELD.sub(lambda match: "\n".join(fields[match.group(1)]()), template)
        part.write_text(text, encoding="utf-8")
    return path


def rule_rows() -> Iterator[str]:
    """Yield the table of method/rule_table.py in Markdown."""
    yield "| name | class | D | passes | source | tested against | when |"
    yield "|---|---|---|---|---|---|---|"
    for row in rule_table.ROWS:
        cells = [
            f"`{row.name}`", f"`{row.kind.__name__}`", row.equation.replace("|", "\\|"), row.passes,
            row.source, row.oracle, row.use,
        ]  # fmt: skip
        yield f"| {' | '.join(cells)} |"


def _table(found: Sequence[RowResult], wanted: Sequence[rows.Row]) -> list[str]:
    known = {row.name: row for row in found}
    if not known:
        return [_NOT_MADE]
    headings = [column.replace("CFG", found[0].name) for column in _COLUMNS]
    lines = [f"| {' | '.join(headings)} |", "|---|" + "--:|" * (len(headings) - 1)]
    for name in dict.fromkeys((found[0].name, *(row.name for row in wanted))):
        if name in known:
            lines.append(f"| {' | '.join(_cells(known[name], name == found[0].name))} |")
    return lines


def _cells(row: RowResult, plain: bool) -> list[str]:
    return [
        row.name,
        str(row.clips),
        f"{row.passes:.2f}",
        "0" if plain else format_estimate(row.away, 2),
        format_estimate(row.right, 3),
        "" if plain else format_estimate(row.right_change, 3, signed=True),
        "" if plain else format_estimate(row.frechet_change, 1, signed=True),
    ]
