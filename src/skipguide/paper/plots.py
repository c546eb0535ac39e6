"""The figures of the report.

Lines differ by markers and styles and cells show their numbers, so that grey is enough.
"""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from skipguide.lab import training_loop
from skipguide.method.protocols import PlainData
from skipguide.paper import experiments, figure2, figure3
from skipguide.paper.analysis import MEASURES, Results
from skipguide.paper.experiments import Experiment
from skipguide.paper.figure2 import Alignment
from skipguide.paper.map_reliability import best_cell, describe_reliability, measure_reliability
from skipguide.paper.rows import Row
from skipguide.stats import intervals
from skipguide.stats.estimate import Estimate

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

STYLES = (("o", "-", "0.0"), ("s", "--", "0.35"), ("^", ":", "0.55"))  # marker, line, grey
# where scales are written, so that lines that meet keep them apart
LABEL_OFFSETS = ((-5, -11, "right"), (5, 5, "left"), (5, -11, "left"))
TICKS = (-30, -10, -5, 0, 5, 10, 30, 60)  # of the change of a distance along a scale
MAP_MEASURES = ("frechet", "right", "motion_amount", "vendi")
DPI = 110


def save(figure: Figure, path: Path) -> None:
    """Save a figure as PNG, the same bytes for the same numbers."""
    with training_loop.atomic_path(path) as part:
        figure.savefig(
            part, format="png", dpi=DPI, bbox_inches="tight", metadata={"Software": None}
        )


def _new_figure(width: float, height: float) -> Figure:
    from matplotlib.figure import Figure  # without pyplot there is no state and no window

    return Figure(figsize=(width, height))


# --- Figure 4 -------------------------------------------------------------------------------------


def has_scales(results: Results, chosen: Sequence[Experiment]) -> bool:
    """Tell whether some row has a point in `plot_scales`."""
    common = _common_results(results, chosen)
    return any(common.estimate(row, "frechet") for one in chosen for row in one.rows)


def _common_results(results: Results, chosen: Sequence[Experiment]) -> Results:
    return results.restrict_to([row for experiment in chosen for row in experiment.rows])


def plot_scales(results: Results, chosen: Sequence[Experiment]) -> Figure:
    """Plot quality against Frechet distance, and how the distance changes along each scale.

    There is one line for each experiment; its label says how many of its rows are made.
    """
    figure = _new_figure(13, 5)
    plane, along = figure.subplots(1, 2)
    results = _common_results(results, chosen)
    for experiment, style, place in zip(chosen, STYLES, LABEL_OFFSETS, strict=False):
        _plot_plane(plane, results, experiment, style, place)
        _plot_along_scale(along, results, experiment, style)
    plane.set_xlabel("share of clips whose prompt is read right (higher is better)")
    plane.set_ylabel("Frechet distance on the judge's features (lower is better)")
    along.set_xlabel("scale: of CFG from 1, of STG from 0")
    along.set_ylabel("Frechet distance less that of the line's first point")
    along.axhline(0, color="0.8", linewidth=0.8, zorder=0)
    along.set_yscale("symlog", linthresh=10)  # shows changes of a few units beside large ones
    along.set_yticks(TICKS, [f"{tick:g}" for tick in TICKS])
    plane.legend(fontsize=8)
    clips = max((len(found) for found in results.clips.values()), default=0)
    figure.suptitle(f"{results.model}, {clips} clips a row", y=0.95)
    return figure


def _plot_plane(
    axes: Axes, results: Results, experiment: Experiment, style: tuple[str, str, str],
    place: tuple[int, int, str]
) -> None:  # fmt: skip
    points = [
        (row, results.estimate(row, "right"), results.estimate(row, "frechet"))
        for row in experiment.rows
    ]
    known = [(row, x, y) for row, x, y in points if x is not None and y is not None]
    if not known:
        return
    bars = {
        "xerr": _error_bars([x for _, x, _ in known]),
        "yerr": _error_bars([y for _, _, y in known]),
    }
    _plot_line(
        axes,
        [x.value for _, x, _ in known],
        [y.value for _, _, y in known],
        bars,
        style,
        _title_of_part(experiment, len(known)),
    )
    right, up, side = place
    for row, x, y in known[:: max(len(known) - 1, 1)]:  # both ends; the points between are in order
        name = f"STG {row.terms[0].scale:g}" if row.terms else f"CFG {row.guidance_scale:g}"
        at: PlainData = dict(xytext=(right, up), textcoords="offset points", ha=side)
        axes.annotate(name, (x.value, y.value), fontsize=8, color=style[2], **at)


def _plot_along_scale(
    axes: Axes, results: Results, experiment: Experiment, style: tuple[str, str, str]
) -> None:
    first = experiment.rows[0]
    points = [
        (_line_position(row, experiment), results.difference(row, first, "frechet"))
        for row in experiment.rows
    ]
    known = [(scale, found) for scale, found in points if found is not None]
    if known:
        bars = {"yerr": _error_bars([found for _, found in known])}
        _plot_line(
            axes,
            [scale for scale, _ in known],
            [found.value for _, found in known],
            bars,
            style,
            _title_of_part(experiment, len(known)),
        )


def _title_of_part(experiment: Experiment, made: int) -> str:
    """Return the title, with how many of its rows are made where these are not all."""
    rows = len(experiment.rows)
    return experiment.title if made == rows else f"{experiment.title} ({made} of {rows} rows)"


def _line_position(row: Row, experiment: Experiment) -> float:
    """Return the x of a row: the scale of the first term, or of CFG if no row has a term."""
    if row.terms:
        return row.terms[0].scales(1)[0]
    return 0.0 if any(other.terms for other in experiment.rows) else row.guidance_scale


def _plot_line(
    axes: Axes, x: Sequence[float], y: Sequence[float], bars: dict[str, list[list[float]]],
    style: tuple[str, str, str], label: str
) -> None:  # fmt: skip
    marker, line, grey = style
    axes.errorbar(
        x, y, xerr=bars.get("xerr"), yerr=bars.get("yerr"), marker=marker, linestyle=line,
        color=grey, ecolor="0.8", elinewidth=0.8,
        label=label
    )  # fmt: skip


def _error_bars(estimates: Sequence[Estimate]) -> list[list[float]]:
    found = [
        (0.0, 0.0) if e.low is None or e.high is None else (e.value - e.low, e.high - e.value)
        for e in estimates
    ]
    return [[low for low, _ in found], [high for _, high in found]]


# --- maps -----------------------------------------------------------------------------------------


def count_cells(results: Results, experiment: Experiment) -> int:
    """Count the cells of a layer map that have a difference from the row without STG."""
    common = results.restrict_to(experiment.rows)
    made = sum(common.clips_of(row) is not None for row in experiment.rows[1:])
    return made if common.clips_of(experiment.rows[0]) is not None else 0


def plot_layers(results: Results, experiment: Experiment) -> Figure:
    """Plot every layer and skip of a layer map, minus the row without STG.

    Numbers are bold if the interval excludes 0. Above each map is its reliability; the best cell is
    framed only where that says that there is one. Cells that are not made are empty.
    """
    made, most = count_cells(results, experiment), len(experiment.rows) - 1
    part = "" if made == most else f" ({made} of {most} cells)"
    study, results = experiments.STUDIES[results.model], results.restrict_to(experiment.rows)
    figure = _new_figure(1.5 + 0.85 * len(study.layers), 1.3 * len(MAP_MEASURES) + 0.8)
    for axes, name in zip(
        figure.subplots(len(MAP_MEASURES), 1, squeeze=False)[:, 0], MAP_MEASURES, strict=True
    ):
        measure = MEASURES[name]
        cells = [
            [
                results.difference(
                    experiments.layer_map_row(experiment.rows[0], layer, skip),
                    experiment.rows[0],
                    name,
                )
                for layer in study.layers
            ]
            for skip in experiments.SKIPS
        ]
        goodness = {1: ", higher is better", -1: ", lower is better"}.get(measure.better, "")
        if not any(cell for line in cells for cell in line):
            goodness = ": not made yet"
        _plot_heatmap(
            axes, cells, list(map(str, study.layers)), list(experiments.SKIPS), measure.digits
        )
        reliable = ""
        if (found := measure_reliability(results, experiment, name)) is not None:
            reliable = f"; reliability {describe_reliability(found)}"
        axes.set_title(f"{measure.title}{goodness}{reliable}", fontsize=9, loc="left")
        if (best := best_cell(results, experiment, name)) is not None:
            _frame_cell(axes, experiment.rows.index(best) - 1, len(study.layers))
    clips = max((len(found) for found in results.clips.values()), default=0)
    figure.suptitle(
        f"{results.model}: {experiment.title}, less {experiment.rows[0].label}, {clips} clips a"
        f" cell{part}",
        fontsize=10,
    )
    figure.tight_layout()
    return figure


def _frame_cell(axes: Axes, number: int, columns: int) -> None:
    """Draw a frame around a cell; they are counted line by line."""
    from matplotlib.patches import Rectangle

    i, j = divmod(number, columns)
    axes.add_patch(Rectangle((j - 0.46, i - 0.46), 0.92, 0.92, fill=False, linewidth=1.8))


def _plot_heatmap(
    axes: Axes, cells: Sequence[Sequence[Estimate | None]], columns: list[str], rows: list[str],
    digits: int
) -> None:  # fmt: skip
    values = torch.tensor(
        [[float("nan") if e is None else e.value for e in line] for line in cells]
    )
    # Differences within the usual interval get no strong colour.
    reach = [
        (e.high - e.low) / 2
        for line in cells
        for e in line
        if e and e.low is not None and e.high is not None
    ]
    largest = max(
        values.nan_to_num().abs().max().item(), statistics.median(reach) if reach else 0.0, 1e-9
    )
    # The ends of the colour map are left out, so that numbers stay legible.
    axes.imshow(values.numpy(), cmap="PuOr", vmin=-1.6 * largest, vmax=1.6 * largest, aspect="auto")
    axes.set_xticks(range(len(columns)), columns, fontsize=8)
    axes.set_yticks(range(len(rows)), rows, fontsize=8)
    for i, j in itertools.product(range(len(rows)), range(len(columns))):
        if (estimate := cells[i][j]) is not None:
            weight = "bold" if estimate.sign else "normal"
            text = f"{estimate.value:+.{digits}f}"
            axes.text(j, i, text, ha="center", va="center", fontsize=7, fontweight=weight)


# --- Figure 2 -------------------------------------------------------------------------------------


def plot_cosines(model: str, found: Alignment) -> Figure:
    """Plot the mean cosine of the cond prediction's error and c - p, per direction and noise level.

    CFG's c - u comes last.
    """
    cells = [[intervals.mean(clips) for clips in line] for line in found.column("cosine")]
    names = [
        f"{'CFG, c - u' if skip == figure2.UNCOND[0] else skip} {layer}"
        for skip, layer in found.directions
    ]
    figure = _new_figure(8, 0.26 * len(names) + 1)
    axes = figure.subplots()
    _plot_heatmap(axes, cells, [f"{level:g}" for level in found.levels], names, 3)
    axes.set_xlabel("noise level")
    axes.set_title(
        f"{model}: cosine of the error e and c - p on {found.values.shape[2]} real clips",
        fontsize=10,
    )
    return figure


# --- Figure 3 -------------------------------------------------------------------------------------


def finished_strips(results: Results) -> list[Row]:
    """Return the rows of Figure 3 whose strips exist."""
    return [
        row
        for row in experiments.figure3_rows(results.model)
        if figure3.strip_path(results.place, row).exists()
    ]


def plot_strips(results: Results) -> Figure:
    """Plot one prompt over a range of scales."""
    from matplotlib.image import imread

    rows = finished_strips(results)
    figure = _new_figure(8, 1.25 * len(rows))
    for axes, row in zip(figure.subplots(len(rows), 1, squeeze=False)[:, 0], rows, strict=True):
        axes.imshow(imread(figure3.strip_path(results.place, row)), interpolation="nearest")
        axes.set_title(row.label, fontsize=8, loc="left", pad=2)
        axes.set_axis_off()
    wanted = len(experiments.figure3_rows(results.model))
    if len(rows) < wanted:
        figure.suptitle(f"{len(rows)} of {wanted} scales", fontsize=9)
    return figure
