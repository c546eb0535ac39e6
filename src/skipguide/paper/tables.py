"""Format numbers as Markdown and as CSV."""

from __future__ import annotations

import csv
import gzip
import io
import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from skipguide.lab import judge, training_loop
from skipguide.paper import analysis, measurements, models
from skipguide.paper.analysis import FEW_CLIPS, MEASURES, Measure, Results
from skipguide.paper.cost import RowTiming
from skipguide.paper.experiments import Experiment
from skipguide.paper.figure2 import COLUMNS, UNCOND, Alignment
from skipguide.paper.rows import Row
from skipguide.stats import intervals
from skipguide.stats.estimate import Estimate

SHOWN_MEASURES = ("right", "frechet", "inception", "vendi", "motion_amount", "flicker", "sharpness")
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
    titles = [MEASURES[name].title + ARROWS[MEASURES[name].better] for name in SHOWN_MEASURES]
    lines = markdown_table(
        ["", "clips", *titles, "passes", "seconds"], [_value_cells(common, row) for row in rows]
    )
    guided = [row for row in rows[1:] if row.source == "guided"]
    if guided and rows[0] == experiment.rows[0]:
        differences = [[row.label, *_difference_cells(common, row, rows[0])] for row in guided]
        lines += ["", f"Less {rows[0].label}, on the same prompts and noise:", ""]
        lines += markdown_table(["", "clips", *titles], differences)
    for remark in _remarks(results, common, experiment, rows):
        lines += ["", remark]
    return "\n".join(lines)


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


def costs_table(found: Mapping[str, RowTiming], rows: Sequence[Row]) -> str | None:
    """Format the cost of the rows of experiments.cost_rows, relative to the first of them.

    Returns:
        None if not all of them were timed together.
    """
    if not all(row.name in found for row in rows):
        return None
    base, lines = found[rows[0].name], []
    for row in rows:
        one = found[row.name]
        usual, least, most = one.ratio_to(base)
        times = "1" if row == rows[0] else f"{usual:.2f} ({least:.2f} to {most:.2f})"
        lines.append([row.label, f"{one.passes:.2f}", f"{one.median:.3f}", times])
    return "\n".join(
        markdown_table(
            ["", "passes a step", "seconds a clip", "times the first (least and most)"], lines
        )
    )


def _difference_cells(results: Results, row: Row, base: Row) -> list[str]:
    found = {name: results.difference(row, base, name) for name in SHOWN_MEASURES}
    count = max((estimate.count for estimate in found.values() if estimate), default=0)
    cells = [
        _bold(format_estimate(estimate, MEASURES[name].digits, True), estimate)
        for name, estimate in found.items()
    ]
    return [str(count), *cells]


def _bold(text: str, estimate: Estimate | None) -> str:
    return f"**{text}**" if estimate and estimate.sign else text


# --- Figure 2 -------------------------------------------------------------------------------------


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


def directions_table(found: Alignment) -> str:
    """Format every direction, over all levels."""
    rows = []
    for i, (skip, layer) in enumerate(found.directions):
        one = measure_direction(found, i, slice(None))
        name = "CFG: c - u" if skip == UNCOND[0] else f"{skip} {layer}"
        cosine = _bold(format_estimate(one.cosine, 4, True), one.cosine)
        rows.append(
            [
                name,
                f"{one.length:.3f}",
                cosine,
                f"{one.scale:+.3f}",
                f"{one.saved:.3%}",
                f"{one.both:.3f}",
            ]
        )
    heading = [
        "direction", "length of d over e", "cosine of e and d", "best scale", "error saved there",
        "cosine of both errors",
    ]  # fmt: skip
    return "\n".join(markdown_table(heading, rows))


def summarize_alignment(found: Alignment) -> str:
    """Count the cosines with an interval on one side of 0, and say the most that a step saves."""
    places = itertools.product(range(len(found.directions) - 1), range(len(found.levels)))
    cells = [measure_direction(found, i, j) for i, j in places]
    below, above = (sum(one.cosine.sign == sign for one in cells) for sign in (-1, 1))
    helpful = max((one for one in cells if one.scale > 0), key=lambda one: one.saved, default=None)
    most = (
        f"{helpful.saved:.3%} of the mean squared error, at scale {helpful.scale:.3f}"
        if helpful
        else "nothing"
    )
    return (
        f"of {len(cells)} cosines of a layer at a noise level, on {found.values.shape[2]} clips,"
        f" {below} are below 0 (a step away from the weak model lessens the error), {above} above,"
        f" the others not distinguishable from 0; the most that such a step saves is {most}"
    )


DIRECTION_COLUMNS = (
    "model", "skip", "layer", "noise", "clips", "cosine", "low", "high", "best_scale", "saved",
    "errors_cosine", "length",
)  # fmt: skip


def write_directions(found: Mapping[str, Alignment], path: Path) -> None:
    """Write every direction at every noise level."""
    rows = []
    for model, measured in found.items():
        for (i, name), (j, level) in itertools.product(
            enumerate(measured.directions), enumerate(measured.levels)
        ):
            one = measure_direction(measured, i, j)
            rest = map(_format_number, (one.scale, one.saved, one.both, one.length))
            rows.append([model, *name, level, *_estimate_cells(one.cosine), *rest])
    _write(path, DIRECTION_COLUMNS, rows)


# --- raw numbers ----------------------------------------------------------------------------------

ROW_COLUMNS = (
    "model", "experiment", "row", "label", "measure", "clips", "value", "low", "high", "base",
    "common_clips", "difference", "difference_low", "difference_high", "passes", "seconds",
)  # fmt: skip


def write_rows(
    results: Sequence[Results], experiments: Mapping[str, Sequence[Experiment]], path: Path
) -> None:
    """Write every measure of every row of every experiment.

    Each has its difference from the experiment's first row.
    """
    rows = (
        row
        for found in results
        for one in experiments[found.model]
        for row in _csv_rows(found, one)
    )
    _write(path, ROW_COLUMNS, rows)


def _write(path: Path, heading: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    with (
        training_loop.atomic_path(path) as part,
        part.open("w", newline="", encoding="utf-8") as file,
    ):
        csv.writer(file, lineterminator="\n").writerows([heading, *rows])


def _csv_rows(results: Results, experiment: Experiment) -> Iterable[list[object]]:
    base, results = experiment.rows[0], results.restrict_to(experiment.rows, experiment.first)
    for row in experiment.rows:
        if results.clips_of(row) is None or experiment.whole:
            continue
        cost = [results.passes(row), results.seconds(row)]
        for name in MEASURES:
            value, difference = results.estimate(row, name), results.difference(row, base, name)
            head = [results.model, experiment.name, row.name, row.label, name]
            yield [
                *head,
                *_estimate_cells(value),
                base.name,
                *_estimate_cells(difference),
                *map(_format_number, cost),
            ]


def _estimate_cells(estimate: Estimate | None) -> list[object]:
    if estimate is None:
        return ["", "", "", ""]
    return [estimate.count, *map(_format_number, (estimate.value, estimate.low, estimate.high))]


def _format_number(value: float | None) -> str:
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
