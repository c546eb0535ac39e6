"""What is said of the rows of all families, of three whose numbers are round."""

from __future__ import annotations

from typing import Any

from skipguide.bench import summary


def row(full: float, shared: float, floor: float, batch: float | None = None) -> dict[str, Any]:
    ways = {"full": full, "shared": shared, **({} if batch is None else {"batch": batch})}
    measured = {name: {"ratio": ratio} for name, ratio in ways.items()}
    return {"cfg": "batched", "floor_ratio": floor, "ways": measured}


def test_summary_of_three_rows() -> None:
    """Full passes add 0.5 + 0.6 + 0.4 = 1.5, ours 0.14 + 0.61 + 0.15 = 0.9. A family without CFG
    is not counted."""
    rows = [row(1.5, 1.14, 1.1), row(1.6, 1.61, 1.5, batch=1.55), row(1.4, 1.15, 1.11, batch=1.2)]
    without_cfg = {**row(2.0, 1.9, 1.8), "cfg": "none"}
    assert summary.summarize([*rows, without_cfg]) == [
        "Medians of 3 families: a full weak pass 1.50, skipguide 1.15, the floor 1.11.",
        "skipguide takes less time than the full weak pass in 2 rows, and saves 40% of what that"
        " adds to CFG, all rows together.",
        "At most 0.05 above the floor: 2 rows. exact=False is faster in 1 of the 2 rows that have"
        " it.",
    ]
