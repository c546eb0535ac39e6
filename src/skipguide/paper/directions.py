"""Figure 2 in numbers: every direction at every noise level, and over all of them."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from skipguide.paper.figure2 import COLUMNS, UNCOND, Alignment
from skipguide.paper.tables import (
    bold,
    estimate_cells,
    format_estimate,
    format_number,
    markdown_table,
    write_csv,
)
from skipguide.stats import intervals
from skipguide.stats.estimate import Estimate

ALL_LEVELS = "all"  # in place of a noise level


@dataclass(frozen=True)
class Direction:
    """The effect of a step along d = c - p on the error e of c, at one noise level or at all.

    Args:
        cosine: of e and d; below 0, a step reduces the error.
        scale: at which the mean squared error is least; if negative, a step along d never helps.
        saved: share of the mean squared error that is removed at this scale.
        both: cosine of the errors of c and of p.
        length: of d, relative to that of e; if it is near 0, the weak prediction equals c.
    """

    cosine: Estimate
    scale: float
    saved: float
    both: float
    length: float


Directions = Mapping[tuple[str, str, str], Direction]  # by skip, layer and noise level


def measure_directions(found: Alignment) -> Directions:
    """Measure every direction at every level, and over all."""
    levels: list[tuple[str, int | slice]] = [
        (f"{level:g}", number) for number, level in enumerate(found.levels)
    ]
    return {
        (skip, layer, name): measure_direction(found, index, level)
        for index, (skip, layer) in enumerate(found.directions)
        for name, level in (*levels, (ALL_LEVELS, slice(None)))
    }


def measure_direction(found: Alignment, index: int, level: int | slice) -> Direction:
    """Measure one direction; levels have equal weights."""
    columns = {
        name: found.column(name)[index, level].reshape(-1, found.values.shape[2])
        for name in COLUMNS
    }
    product, push, error = (columns[name].mean().item() for name in ("product", "push", "error"))
    saved = product**2 / (push * error) if push else 0.0
    return Direction(
        intervals.mean(columns["cosine"].mean(0)), -product / push if push else 0.0, saved,
        columns["both"].mean().item(), (push / error) ** 0.5,
    )  # fmt: skip


# --- in the report --------------------------------------------------------------------------------


def directions_table(found: Directions) -> str:
    """Format every direction, over all levels."""
    rows = []
    for (skip, layer, level), one in found.items():
        if level != ALL_LEVELS:
            continue
        name = "CFG: c - u" if skip == UNCOND[0] else f"{skip} {layer}"
        cosine = bold(format_estimate(one.cosine, 4, True), one.cosine)
        numbers = [f"{one.scale:+.3f}", f"{one.saved:.3%}", f"{one.both:.3f}"]
        rows.append([name, f"{one.length:.3f}", cosine, *numbers])
    heading = [
        "direction", "length of d over e", "cosine of e and d", "best scale", "error saved there",
        "cosine of both errors",
    ]  # fmt: skip
    return "\n".join(markdown_table(heading, rows))


def summarize_directions(found: Directions) -> str:
    """Count the cosines with an interval on one side of 0, and say the most that a step saves."""
    cells = [
        one for (skip, _, level), one in found.items() if level != ALL_LEVELS and skip != UNCOND[0]
    ]
    below, above = (sum(one.cosine.sign == sign for one in cells) for sign in (-1, 1))
    helpful = max((one for one in cells if one.scale > 0), key=lambda one: one.saved, default=None)
    most = f"{helpful.saved:.3%}, at scale {helpful.scale:.3f}" if helpful else "nothing"
    return (
        f"of {len(cells)} cosines of a layer at a noise level, on {cells[0].cosine.count} clips,"
        f" {below} are below 0, {above} above, the others not distinguishable from 0; the most that"
        f" a step takes off the mean squared error of these clips is {most}"
    )


# --- figure-2.csv ---------------------------------------------------------------------------------

COLUMN_NAMES = (
    "model", "skip", "layer", "noise", "clips", "cosine", "low", "high", "best_scale", "saved",
    "errors_cosine", "length",
)  # fmt: skip


def write_directions(found: Mapping[str, Directions], path: Path) -> None:
    """Write the directions of all models."""
    rows: list[Sequence[object]] = []
    for model, measured in found.items():
        for key, one in measured.items():
            rest = map(format_number, (one.scale, one.saved, one.both, one.length))
            rows.append([model, *key, *estimate_cells(one.cosine), *rest])
    write_csv(path, COLUMN_NAMES, rows)


def read_directions(path: Path) -> dict[str, Directions]:
    """Read what `write_directions` wrote, by model."""
    found: dict[str, dict[tuple[str, str, str], Direction]] = {}
    with path.open(encoding="utf-8", newline="") as file:
        for line in csv.DictReader(file):
            key = (line["skip"], line["layer"], line["noise"])
            value, low, high = (
                float(line[name]) if line[name] else None for name in ("cosine", "low", "high")
            )
            assert value is not None
            scale, saved, both, length = (
                float(line[name]) for name in ("best_scale", "saved", "errors_cosine", "length")
            )
            cosine = Estimate(value, low, high, int(line["clips"]))
            measured = Direction(cosine, scale, saved, both, length)
            found.setdefault(line["model"], {})[key] = measured
    return dict(found)
