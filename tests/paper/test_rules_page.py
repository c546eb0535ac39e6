"""The page of the rules: its table is that of the code, and its numbers those of a study."""

from __future__ import annotations

from pathlib import Path

import pytest

from skipguide.lab import score_text
from skipguide.method import rule_table
from skipguide.paper.reuse import study
from skipguide.paper.rules import page, rows

DOCS = Path(__file__).parents[2] / "docs"


def test_table_of_the_page_is_that_of_the_code() -> None:
    lines = (DOCS / "rules.md").read_text("utf-8").splitlines()
    for line in page.rule_rows():
        assert line in lines, "skipguide paper rules --text-only"
    for row in rule_table.ROWS:
        assert any(line.startswith(f"| `{row.name}` | `{row.kind.__name__}` |") for line in lines)


def test_page_is_what_its_template_and_its_numbers_give(tmp_path: Path) -> None:
    (tmp_path / "rules").mkdir()
    for path in (DOCS / "rules").glob("*.json"):
        (tmp_path / "rules" / path.name).write_bytes(path.read_bytes())
    assert page.fill(tmp_path).read_text("utf-8") == (DOCS / "rules.md").read_text("utf-8")


def test_rows_are_told_apart() -> None:
    orders = page.studies(Path("runs"), 16)
    paths = [order.path(row, 0) for order in orders for row in order.rows]
    assert len(set(paths)) == len(paths) == len(rows.ROWS) + len(rows.WITHOUT_CFG)


def test_study_of_rules_is_measured_and_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(score_text, "STEPS", 2)
    short = [row for row in rows.ROWS if row.name in ("CFG", "STG", "TAG", "interval")]
    monkeypatch.setattr(rows, "ROWS", tuple(short))
    monkeypatch.setattr(rows, "WITHOUT_CFG", rows.WITHOUT_CFG[:3])
    orders = page.studies(tmp_path / "runs", 16)
    with pytest.raises(ValueError, match=r"the numbers need CFG and STG, but .* lacks clips"):
        page.write(orders, tmp_path / "docs")
    for order in orders:
        list(study.make(order))
    orders[0].path(rows.ROWS[-1], 0).unlink()  # a row that is not whole is left out
    text = page.write(orders, tmp_path / "docs").read_text("utf-8")
    tag = next(line for line in text.splitlines() if line.startswith("| TAG | 16 | 2.00 | "))
    assert tag.count("|") == 8
    assert "| interval | 16 |" not in text
    assert "| STG | 16 | 2.50 | 1.00 (1.00 to 1.00) |" in text
    assert "away from no CFG" in text
    assert "| no CFG | 16 | 1.00 | 0 |" in text
    assert "| no CFG, STG | 16 | 1.50 | 1.00 (1.00 to 1.00) |" in text
    # In joint attention the negative prompt has a stream of its own through all blocks.
    assert "| no CFG, NAG | 16 | 2.00 |" in text
