"""Format numbers as Markdown and as CSV."""

from __future__ import annotations

import csv
import gzip
import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from skipguide.lab import judge, training_loop
from skipguide.paper import analysis, measurements, models
from skipguide.paper.analysis import FEW_CLIPS, MEASURES, REAL, Measure, Results
from skipguide.paper.cost import CostLine
from skipguide.paper.experiments import Experiment
from skipguide.paper.rows import Row
from skipguide.stats.estimate import Estimate

DIFFERENCE_MEASURES = (
    "right",
    "frechet",
    "inception",
    "vendi",
    "motion_amount",
    "flicker",
    "sharpness",
)
SHOWN_MEASURES = ("right", "frechet", "excess", *DIFFERENCE_MEASURES[2:])
SUMMARY_MEASURES = ("right", "frechet", "excess", "motion_amount")
ARROWS = {1: " ↑", -1: " ↓", 0: ""}
NOT_YET = "not made yet"


def format_estimate(estimate: Estimate | None, digits: int, signed: bool = False) -> str:
    """Format an estimate as "0.906 (0.880 to 0.930)", or without an interval if there is none."""
    if estimate is None:
        return NOT_YET
    form = f"{'+' if signed else ''}.{digits}f"
    if estimate.low is None or estimate.high is None:
        return f"{estimate.value:{form}}"
    return f"{estimate.value:{form}} ({estimate.low:{form}} to {estimate.high:{form}})"


def verdict(estimate: Estimate | None, measure: Measure) -> str:
    """Return the word for a difference."""
    if estimate is None:
        return NOT_YET
    if estimate.sign == 0:
        return "not distinguishable"
    up, down = verdicts(measure)
    return up if estimate.sign == (measure.better or 1) else down


def verdicts(measure: Measure) -> tuple[str, str]:
    """Return the words for a difference, the good one first."""
    return ("better", "worse") if measure.better else ("higher", "lower")


def table(results: Results, experiment: Experiment) -> str:
    """Format the rows of an experiment, and below them their differences from the first.

    Differences are bold if the interval excludes 0.
    """
    common = results.restrict_to(experiment.rows, experiment.first)
    rows = [row for row in experiment.rows if common.clips_of(row) is not None]
    if not rows:
        return "\n\n".join(_absent_rows(results, common, experiment)) or f"{NOT_YET}."
    lines = markdown_table(
        ["", "clips", *_titles(SHOWN_MEASURES), "passes", "seconds"],
        [_value_cells(common, row) for row in rows],
    )
    guided = [row for row in rows[1:] if row.source == "guided"]
    if guided and rows[0] == experiment.rows[0]:
        differences = [[row.label, *_difference_cells(common, row, rows[0])] for row in guided]
        lines += ["", f"Less {rows[0].label}, on the same prompts and noise:", ""]
        lines += markdown_table(["", "clips", *_titles(DIFFERENCE_MEASURES)], differences)
    for remark in _remarks(results, common, experiment, rows):
        lines += ["", remark]
    return "\n".join(lines)


def _titles(names: Sequence[str]) -> list[str]:
    return [MEASURES[name].title + ARROWS[MEASURES[name].better] for name in names]


def summary(found: Mapping[str, Results], experiment: Mapping[str, Experiment]) -> str:
    """Format an experiment of all models as one table of the measures that matter most.

    The last column is the difference of the distance from the model's first row.
    """
    lines = []
    for model, results in found.items():
        rows = experiment[model].rows
        common = results.restrict_to(rows, experiment[model].first)
        for row in rows:
            lines += _summary_line(common, row, rows[0])
    heading = ["", "clips", *_titles(SUMMARY_MEASURES), "Frechet less the first row's"]
    return "\n".join(markdown_table(heading, lines)) if lines else f"{NOT_YET}."


def _summary_line(results: Results, row: Row, base: Row) -> list[list[str]]:
    """Return the line of a row, or none if it has no clips."""
    if (clips := results.clips_of(row)) is None:
        return []
    values = [
        format_estimate(results.estimate(row, name), MEASURES[name].digits)
        for name in SUMMARY_MEASURES
    ]
    change = results.difference(row, base, "frechet") if row != base else None
    shown = bold(format_estimate(change, 1, True), change) if change else "-"
    return [[f"{results.model}: {row.label}", str(len(clips)), *values, shown]]


def _remarks(
    results: Results, common: Results, experiment: Experiment, rows: Sequence[Row]
) -> Iterator[str]:
    """Yield what the numbers of a table cannot say, and what is not in it."""
    if few := [row.label for row in rows if len(common.clips[row.name]) < FEW_CLIPS]:
        measured = ", of which a Frechet distance says little" if results.num_real else ""
        yield f"Fewer than {FEW_CLIPS} clips{measured}: {'; '.join(few)}."
    if not results.num_real:
        yield "No Frechet distances yet: the real clips to compare with are not made."
    elif results.num_real < models.NUM_REAL:
        yield (
            f"Frechet distances to {results.num_real} of the {models.NUM_REAL} real clips: with the"
            " others they will be different."
        )
    yield from _absent_rows(results, common, experiment)


def _absent_rows(results: Results, common: Results, experiment: Experiment) -> Iterator[str]:
    """Yield which rows have no clips, and which have none of the prompts that are compared."""
    absent = [row for row in experiment.rows if common.clips_of(row) is None]
    made = [row for row in absent if results.clips_of(row) is not None]
    if made:
        first = f" from number {experiment.first} on" if experiment.first else ""
        yield (
            f"Made, but there is no prompt{first} of which all that are made have clips:"
            f" {'; '.join(row.label for row in made)}."
        )
    if missing := [row.label for row in absent if row not in made]:
        yield f"Not made yet: {'; '.join(missing)}."


def markdown_table(heading: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Return the lines of a table in Markdown; all columns but the first are numbers."""
    return [
        _markdown_line(heading),
        _markdown_line(["---", *["---:"] * (len(heading) - 1)]),
        *map(_markdown_line, rows),
    ]


def _markdown_line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _value_cells(results: Results, row: Row) -> list[str]:
    values = [
        format_estimate(results.estimate(row, name), MEASURES[name].digits)
        for name in SHOWN_MEASURES
    ]
    passes, seconds = results.passes(row), results.seconds(row)
    guided = row.source == "guided"
    taken = [
        f"{passes:.2f}" if guided and passes else "-",
        f"{seconds:.2f}" if guided and seconds else "-",
    ]
    return [row.label, str(len(results.clips[row.name])), *values, *taken]


def costs_table(lines: Sequence[CostLine], rows: Sequence[Row]) -> str:
    """Format the cost of the rows of experiments.cost_rows, relative to the first of them."""
    cells = []
    for row, one in zip(rows, lines, strict=True):
        usual, least, most = one.times
        times = "1" if row == rows[0] else f"{usual:.2f} ({least:.2f} to {most:.2f})"
        cells.append([row.label, f"{one.passes:.2f}", f"{one.seconds:.3f}", times])
    heading = ["", "passes a step", "seconds a clip", "times the first (least and most)"]
    return "\n".join(markdown_table(heading, cells))


def _difference_cells(results: Results, row: Row, base: Row) -> list[str]:
    found = {name: results.difference(row, base, name) for name in DIFFERENCE_MEASURES}
    count = max((estimate.count for estimate in found.values() if estimate), default=0)
    cells = [
        bold(format_estimate(estimate, MEASURES[name].digits, True), estimate)
        for name, estimate in found.items()
    ]
    return [str(count), *cells]


def bold(text: str, estimate: Estimate | None) -> str:
    """Print a difference bold if its interval excludes 0."""
    return f"**{text}**" if estimate and estimate.sign else text


# --- raw numbers ----------------------------------------------------------------------------------

ROW_COLUMNS = (
    "model", "experiment", "row", "label", "measure", "clips", "value", "low", "high", "base",
    "common_clips", "difference", "difference_low", "difference_high", "passes", "seconds",
)  # fmt: skip


def write_rows(
    results: Sequence[Results], experiments: Mapping[str, Sequence[Experiment]], path: Path
) -> None:
    """Write every measure of every row of every experiment.

    Each has its difference from the experiment's first row. Of the real clips of an experiment's
    prompts there is the Frechet distance.
    """
    rows = (
        row
        for found in results
        for one in experiments[found.model]
        for row in _csv_rows(found, one)
    )
    write_csv(path, ROW_COLUMNS, rows)


def write_csv(path: Path, heading: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Write a table whole or not at all."""
    with (
        training_loop.atomic_path(path) as part,
        part.open("w", newline="", encoding="utf-8") as file,
    ):
        csv.writer(file, lineterminator="\n").writerows([heading, *rows])


def _csv_rows(results: Results, experiment: Experiment) -> Iterable[list[object]]:
    base, results = experiment.rows[0], results.restrict_to(experiment.rows, experiment.first)
    if experiment.whole:
        return
    if REAL not in experiment.rows and (floor := results.estimate(REAL, "frechet")):
        head = [results.model, experiment.name, REAL.name, REAL.label, "frechet"]
        yield [*head, *estimate_cells(floor), *[""] * 7]
    for row in experiment.rows:
        if results.clips_of(row) is None:
            continue
        cost = [results.passes(row), results.seconds(row)]
        for name in MEASURES:
            value, difference = results.estimate(row, name), results.difference(row, base, name)
            if MEASURES[name].over_real and value is None:
                continue
            head = [results.model, experiment.name, row.name, row.label, name]
            yield [
                *head,
                *estimate_cells(value),
                base.name,
                *estimate_cells(difference),
                *map(format_number, cost),
            ]


def estimate_cells(estimate: Estimate | None) -> list[object]:
    """Return the cells of an estimate: how many observations, value, low, high."""
    if estimate is None:
        return ["", "", "", ""]
    return [estimate.count, *map(format_number, (estimate.value, estimate.low, estimate.high))]


def format_number(value: float | None) -> str:
    """Format a number of a CSV file; empty if there is none."""
    return "" if value is None or value != value else f"{value:.6g}"


CLIP_COLUMNS = (
    "row",
    "clip",
    *judge.HEADS,
    "likelihood",
    *measurements.VALUES,
    "seconds",
    "cpu_seconds",
)


def write_clips(results: Results, path: Path) -> None:
    """Write one line for each clip of each row: words read right (1 or 0), measurements, cost."""
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(CLIP_COLUMNS)
    for name in results.clips:
        writer.writerows(_clip_rows(results, name))
    with (
        training_loop.atomic_path(path) as part,
        part.open("wb") as file,
        gzip.GzipFile("", "wb", 9, file, mtime=0) as packed,
    ):
        packed.write(text.getvalue().encode())


def _clip_rows(results: Results, name: str) -> Iterable[list[object]]:
    clips = results.clips[name]
    right = analysis.words_read_right(clips, results.model)
    likelihood = MEASURES["likelihood"].per_clip
    assert likelihood is not None
    logs = likelihood(clips, results.model)
    for i, number in enumerate(clips.numbers.tolist()):
        cost = clips.costs[number // models.CHUNK]
        values = [logs[i].item(), *clips.values[i].tolist(), cost.seconds, cost.cpu_seconds]
        yield [
            name,
            number,
            *(int(right[word][i]) for word in judge.HEADS),
            *(f"{value:.4g}" for value in values),
        ]
