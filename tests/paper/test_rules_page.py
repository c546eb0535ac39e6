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
    names = [row.name for row in rows.ROWS]
    assert len(set(names)) == len(names)
    order = page.study(Path("runs"), 16)
    assert len({order.path(row, 0) for row in rows.ROWS}) == len(names)


def test_study_of_rules_is_measured_and_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(score_text, "STEPS", 2)
    short = [row for row in rows.ROWS if row.name in ("CFG", "STG", "TAG", "interval")]
    monkeypatch.setattr(rows, "ROWS", tuple(short))
    order = page.study(tmp_path / "runs", 16)
    with pytest.raises(ValueError, match=r"the numbers need CFG and STG, but .* lacks clips"):
        page.write(order, tmp_path / "docs")
    list(study.make(order))
    order.path(rows.ROWS[-1], 0).unlink()  # a row that is not whole is left out
    text = page.write(order, tmp_path / "docs").read_text("utf-8")
    tag = next(line for line in text.splitlines() if line.startswith("| TAG | 16 | 2.00 | "))
    assert tag.count("|") == 8
    assert "| interval | 16 |" not in text
    assert "| STG | 16 | 2.50 | 1.00 (1.00 to 1.00) |" in text
