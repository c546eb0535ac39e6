"""The reliability of a layer map in the report: whether its cells' order says anything.

Of measures that are means over clips it is computed from the clips, of numbers of whole sets
(Frechet, Vendi) from the intervals of the cells' differences, which is stricter: what all cells
share, the clips without STG, counts as an error there. See `skipguide.stats.reliability`.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from skipguide.paper.analysis import MEASURES, Results
from skipguide.paper.experiments import Experiment
from skipguide.paper.rows import Row
from skipguide.stats.estimate import Estimate
from skipguide.stats.quantiles import t_quantile
from skipguide.stats.reliability import (
    JACKKNIFE_FREEDOM,
    Reliability,
    reliability,
    reliability_of_estimates,
)

NO_SIGNAL = "this map holds no signal"


def measure_reliability(results: Results, experiment: Experiment, name: str) -> Reliability | None:
    """Measure the reliability of a layer map whose first row is the one without STG.

    Returns:
        None while cells are missing, or too few clips are there for an interval.
    """
    common = results.restrict_to(experiment.rows, experiment.first)
    base, *cells = experiment.rows
    if any(common.clips_of(row) is None for row in experiment.rows):
        return None
    if MEASURES[name].per_clip is not None:
        values = [common.values(row, name) for row in experiment.rows]
        first, *others = (np.asarray(one, np.float64) for one in values)
        return reliability(np.stack([one - first for one in others])) if len(first) > 1 else None
    return reliability_from_intervals([common.difference(row, base, name) for row in cells])


def reliability_from_intervals(cells: Sequence[Estimate | None]) -> Reliability | None:
    """Measure it of cells of which only values and intervals by the jackknife are known."""
    known = [one for one in cells if one and one.low is not None and one.high is not None]
    if len(known) < max(len(cells), 2):
        return None
    values, low, high = (
        np.array([getattr(one, part) for one in known]) for part in ("value", "low", "high")
    )
    errors = (high - low) / 2 / t_quantile(JACKKNIFE_FREEDOM)
    return reliability_of_estimates(values, errors, known[0].count)


def describe_reliability(found: Reliability | None) -> str:
    """Format a reliability as "0.92 (0.86 to 0.96)", and say so if it is none."""
    if found is None:
        return "not known yet"
    shown = f"{found.best:.2f} ({found.low:.2f} to {found.high:.2f})"
    return shown if found.has_signal else f"{shown}: {NO_SIGNAL}"


def best_cell(results: Results, experiment: Experiment, name: str) -> Row | None:
    """Return the best cell of a map; None if the map holds no signal, or nothing is better."""
    found = measure_reliability(results, experiment, name)
    if found is None or not found.has_signal or not MEASURES[name].better:
        return None
    common = results.restrict_to(experiment.rows, experiment.first)

    def gain(row: Row) -> float:
        difference = common.difference(row, experiment.rows[0], name)
        assert difference is not None
        return MEASURES[name].better * difference.value

    return max(experiment.rows[1:], key=gain)
