"""The parts that all written tables share: columns, digits, cells and captions."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from skipguide.files.text import format_count
from skipguide.metrics.comparison.table import ComparedRow, Comparison

DASH = "-"
COST_TITLES = {"passes_per_step": "passes/step", "seconds_per_step": "s/step"}
MOST_DIGITS = 6


@dataclass(frozen=True)
class Heading:
    """The title of a column, and where better is: up, down or ""."""

    title: str
    arrow: str


@dataclass(frozen=True)
class CellText:
    """One cell: a number, its interval "0.1, 0.2" or ratio "1.12" or "", and how it is marked."""

    value: str
    interval: str = ""
    ratio: str = ""
    bold: bool = False
    star: bool = False

    @property
    def beside(self) -> str:
        """The interval or the ratio as plain text behind the number, with a space before it."""
        if self.interval:
            return f" [{self.interval}]"
        return f" (x{self.ratio})" if self.ratio else ""


@dataclass(frozen=True)
class Panel:
    """Rows under one title: the settings of a model, or their differences from its baseline."""

    title: str
    rows: tuple[tuple[str, tuple[CellText, ...]], ...]


def headings(table: Comparison) -> list[Heading]:
    """Return the heading of each measure."""
    better = {row.metric: (row.better, row.kind) for row in table.rows}
    arrows = {"higher": "up", "lower": "down"}
    return [
        Heading(
            COST_TITLES.get(name, name.replace("_", " ")),
            "" if better[name][1] == "cost" else arrows.get(better[name][0] or "", ""),
        )
        for name in table.metrics
    ]


def panels(table: Comparison) -> list[Panel]:
    """Return the values of each model, then the differences from its baseline."""
    found = []
    for model in table.models:
        several = len(table.models) > 1
        values = [
            (name, tuple(_value_cell(table, table.row(model, name, m)) for m in table.metrics))
            for name in table.settings(model)
        ]
        found.append(Panel(model if several else "", tuple(values)))
        found += _differences(table, model, f"{model}, difference" if several else "Difference")
    return found


def _differences(table: Comparison, model: str, title: str) -> Iterator[Panel]:
    baseline = next(row.baseline for row in table.rows if row.model == model)
    rows = []
    for name in table.settings(model):
        own = [table.row(model, name, metric) for metric in table.metrics]
        if any(row.diff is not None for row in own):
            rows.append((name, tuple(_difference_cell(table, row) for row in own)))
    if rows:
        yield Panel(f"{title} from {baseline}", tuple(rows))


def _value_cell(table: Comparison, row: ComparedRow) -> CellText:
    if row.mean is None:
        return CellText(DASH)
    digits = _digits(table, row.metric)
    ratio = "" if row.ratio is None or row.is_baseline else f"{row.ratio:.2f}"
    interval = _interval(row.low, row.high, digits)
    return CellText(f"{row.mean:.{digits}f}", interval, ratio, bool(row.bold))


def _difference_cell(table: Comparison, row: ComparedRow) -> CellText:
    if row.diff is None:
        return CellText(DASH)
    digits = _digits(table, row.metric)
    interval = _interval(row.diff_low, row.diff_high, digits, "+")
    return CellText(f"{row.diff:+.{digits}f}", interval, star=row.is_significant)


def _interval(low: float | None, high: float | None, digits: int, sign: str = "") -> str:
    if low is None or high is None:
        return ""
    return f"{low:{sign}.{digits}f}, {high:{sign}.{digits}f}"


def _digits(table: Comparison, metric: str) -> int:
    """Return how many digits after the point a column has: two of half its usual interval.

    Without intervals these are four digits of the largest number.
    """
    rows = [row for row in table.rows if row.metric == metric and row.mean is not None]
    halves = [
        (high - low) / 2
        for row in rows
        for low, high in ((row.low, row.high), (row.diff_low, row.diff_high))
        if low is not None and high is not None and high > low
    ]
    if halves:
        return _clip(1 - math.floor(math.log10(statistics.median(halves))))
    largest = max((abs(row.mean) for row in rows if row.mean), default=1.0)
    four = _clip(3 - math.floor(math.log10(largest)))
    whole = all(float(row.mean or 0).is_integer() for row in rows)
    return 0 if whole else four


def _clip(digits: int) -> int:
    return min(max(digits, 0), MOST_DIGITS)


# --- captions -------------------------------------------------------------------------------------


def caption(table: Comparison) -> list[str]:
    """Return what the numbers are, a sentence each."""
    return [
        *_what(table),
        *_intervals(table),
        *_difference_sentences(table),
        *_bold_sentences(table),
    ]


def _what(table: Comparison) -> Iterator[str]:
    for model in table.models:
        rows = [row for row in table.rows if row.model == model and row.kind != "votes"]
        counts = {(row.n_prompts, row.n_clips) for row in rows if row.n_clips is not None}
        prompts = max((count[0] or 0 for count in counts), default=0)
        clips = max((count[1] or 0 for count in counts), default=0)
        fewer = "" if len(counts) < 2 else " at most"
        yield (
            f"{model}: {format_count(clips, 'video')} a setting of"
            f" {format_count(prompts, 'prompt')}{fewer}, the same prompts and noise seeds in all."
        )


def _intervals(table: Comparison) -> Iterator[str]:
    if any(row.low is not None for row in table.rows):
        kinds = {row.kind for row in table.rows if row.low is not None}
        parts = ["means and shares over prompts (videos of one prompt are one cluster)"]
        parts += ["sets by the jackknife over prompts"] if "set" in kinds else []
        yield f"In brackets 95 % intervals: {'; '.join(parts)}."
    elif any(row.kind != "cost" for row in table.rows):
        yield "No intervals: too few prompts."
    if any(row.kind == "cost" for row in table.rows):
        yield (
            "Seconds per step are medians; (x) is the ratio to the baseline on the same prompts and"
            " seeds."
        )
    if any(row.statistic == "strength" for row in table.rows):
        yield "Strengths are Bradley and Terry's, of mean 0; a tie is half a win."


def _difference_sentences(table: Comparison) -> Iterator[str]:
    if not any(row.diff is not None for row in table.rows):
        return
    yield (
        "Differences are of pairs of videos of the same prompt and seed, clustered by prompt; of"
        " wins, from one half."
    )
    if not table.comparisons:
        return
    stars = "p < 0.05 (two-sided)"
    over = {
        "table": f"over all {format_count(table.comparisons, 'comparison')} of this table",
        "metric": "over the comparisons of each measure of a model",
        "none": "",
    }[table.adjust]
    if over:
        yield f"* {stars}, corrected by Holm {over}; the intervals are of each comparison alone."
    else:
        yield (
            f"* {stars}, of each comparison alone: nothing is corrected for"
            f" {format_count(table.comparisons, 'comparison')}."
        )


def _bold_sentences(table: Comparison) -> Iterator[str]:
    if any(row.bold is not None for row in table.rows):
        yield (
            "Bold: the best of its column, and all that cannot be told from it (paired, p >= 0.05,"
            " corrected by Holm over the comparisons with the best)."
        )
    # Wins are against the baseline alone; the strengths beside them compare all.
    wins = ("votes", "share")
    judged = [
        row
        for row in table.rows
        if row.better and row.kind != "cost" and (row.kind, row.statistic) != wins
    ]
    without = [
        name
        for name in dict.fromkeys(row.metric for row in judged)
        if all(row.bold is None for row in judged if row.metric == name)
    ]
    if without:
        yield f"Nothing is bold where no differences could be tested: {', '.join(without)}."


MARK = " (b)"  # where nothing can be bold


def plain_cell(cell: CellText) -> str:
    """Return a cell for terminals: 0.812 [0.790, 0.834] (b)."""
    return f"{cell.value}{cell.beside}{' *' if cell.star else ''}{MARK if cell.bold else ''}"


def text_lines(table: Comparison) -> Iterator[Sequence[str]]:
    """Yield the rows of all panels for terminals; a row of one cell is a title."""
    arrows = {"up": " ^", "down": " v", "": ""}
    yield ("", *(one.title + arrows[one.arrow] for one in headings(table)))
    for panel in panels(table):
        if panel.title:
            yield (panel.title,)
        for name, cells in panel.rows:
            yield (name, *map(plain_cell, cells))


def text_caption(table: Comparison) -> list[str]:
    """Return the caption for terminals."""
    arrows = "^ more is better, v less is better."
    said = [text.replace("Bold:", f"{MARK.strip()}:", 1) for text in caption(table)]
    return [*said, arrows] if any(one.arrow for one in headings(table)) else said
