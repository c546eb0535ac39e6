"""Say in a few lines what the rows of all families show together."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from skipguide.method.protocols import PlainData

NEAR = 0.05  # above the floor


def summarize(results: Sequence[PlainData]) -> list[str]:
    """Return lines about the results of `step_cost.run` for several families.

    Args:
        results: one for each family. Those without CFG are left out, for their ratios are to a
            step of c alone.
    """
    results = [result for result in results if result["cfg"] != "none"]
    full, shared = (_ratios(results, way) for way in ("full", "shared"))
    floors = [result["floor_ratio"] for result in results]
    saved = 1 - (sum(shared) - len(shared)) / (sum(full) - len(full))
    near = sum(ours - floor <= NEAR for ours, floor in zip(shared, floors, strict=True))
    batched = [result["ways"] for result in results if "batch" in result["ways"]]
    faster = sum(ways["batch"]["ratio"] < ways["shared"]["ratio"] for ways in batched)
    medians = [statistics.median(ratios) for ratios in (full, shared, floors)]
    return [
        f"Medians of {len(results)} families: a full weak pass {medians[0]:.2f}, skipguide"
        f" {medians[1]:.2f}, the floor {medians[2]:.2f}.",
        f"skipguide takes less time than the full weak pass in"
        f" {sum(ours < theirs for ours, theirs in zip(shared, full, strict=True))} rows, and saves"
        f" {saved:.0%} of what that adds to CFG, all rows together.",
        f"At most {NEAR:g} above the floor: {near} rows. exact=False is faster in {faster} of the"
        f" {len(batched)} rows that have it.",
    ]


def _ratios(results: Sequence[PlainData], way: str) -> list[float]:
    return [result["ways"][way]["ratio"] for result in results]
