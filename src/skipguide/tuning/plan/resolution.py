"""The smallest difference that so many prompts can show.

A difference of two settings on the same prompts and noise is a mean of n paired differences, and
its 95 % interval has a half width of about 2 standard deviations over the square root of n. The
answer looks at that once. A race looks after every round, at several comparisons, by intervals that
hold at all times (`stats.sequences`) and are two to three times as wide. The standard deviations of
known metrics were measured on the lab models; once a run has clips, its own take their place.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from statistics import NormalDist

import numpy as np

from skipguide.stats import sequences
from skipguide.stats.intervals import MIN_CLUSTERS
from skipguide.stats.quantiles import t_quantile
from skipguide.tuning.objective.functions import describe
from skipguide.tuning.objective.objective import ObjectiveSpec
from skipguide.tuning.objective.scores import ScoreTable, column_of

# Standard deviations of the paired differences between a setting and CFG alone on lab-mochi. Those
# of what the judge reads are medians over the settings of docs/paper/lab-mochi-clips.csv.gz, beside
# no guidance; beside CFG at its own scale they are half of it. Those of pixels are of 12 prompts.
KNOWN: Mapping[str, float] = {
    "right": 0.32, "likelihood": 0.33, "probability": 0.16,
    "sharpness": 0.01, "motion": 0.005, "saturation": 0.03, "temporal_flickering": 0.003,
}  # fmt: skip
SUM = "the weighted sum"
FEWEST = 4  # prompts of which a standard deviation is taken
_POWER = NormalDist().inv_cdf(0.8)


def smallest(deviation: float, prompts: int, power: bool = False) -> float:
    """Return the difference whose interval on so many prompts just leaves out 0.

    Args:
        deviation: of the paired differences.
        prompts: 2 or more.
        power: the difference that is found in 80 % of the cases instead, which is larger.
    """
    quantile = t_quantile(prompts - 1) + (_POWER if power else 0.0)
    return quantile * deviation / prompts**0.5


def smallest_in_race(deviation: float, prompts: int, level: float, power: bool = False) -> float:
    """Return the difference that a race just tells after so many prompts.

    It is for differences that are normal, and the farthest of them as far away as is expected.

    Args:
        deviation: of the paired differences.
        level: the chance of an error in one comparison, as `RaceRules.level` has it.
        power: as in `smallest`.

    Returns:
        Infinity where so few prompts can never tell.
    """
    factor = sequences.half_width_factor(prompts, level)
    farthest = NormalDist().inv_cdf((prompts - 0.375) / (prompts + 0.25))  # Blom's
    squares = prompts - 1 + sequences.FURTHER * farthest**2
    return deviation * (factor * squares**0.5 + (_POWER / prompts**0.5 if power else 0.0))


def deviations_of(scores: ScoreTable, baseline: str) -> dict[str, float]:
    """Return the standard deviations of paired differences that the clips of a run have.

    Args:
        baseline: the name of CFG alone.

    Returns:
        By metric, and of a weighted sum as `SUM`, the median over the other settings; without
        those that too few prompts have.
    """
    found = {}
    of_sum = {SUM: scores.values} if len(scores.parts) > 1 else {}
    for metric, values in {**scores.parts, **of_sum}.items():
        prompts = list(values.get(baseline, {}))
        base = column_of(values, baseline, prompts)
        differences = [
            column_of(values, name, prompts) - base for name in values if name != baseline
        ]
        known = [row[np.isfinite(row)] for row in differences]
        deviations = [float(row.std(ddof=1)) for row in known if len(row) >= FEWEST]
        if deviations and float(np.median(deviations)) > 0:
            found[metric] = float(np.median(deviations))
    return found


def sentence(
    spec: ObjectiveSpec, prompts: int, measured: Mapping[str, float], level: float | None = None
) -> str:
    """Return what so many prompts can resolve, in a sentence.

    Args:
        measured: standard deviations that the clips of the run have, by metric; the known ones of
            the lab models stand for those that are not among them.
        level: of a race, as in `smallest_in_race`; None for the answer, which is looked at once.
    """
    if level is not None and not math.isfinite(smallest_in_race(1.0, prompts, level)):
        return (
            f"{prompts} prompts a setting are too few for intervals that are looked at after each"
            " round: they decide by the mean alone."
        )
    if level is None and prompts < MIN_CLUSTERS:
        return "So few prompts show no difference at all."
    known = _known(spec, measured)
    parts = [
        f"of {name} above {_round(least)} ({_round(often)} in 80 % of the cases)"
        for name, deviation in known.items()
        if deviation is not None
        for least, often in [_both(deviation, prompts, level)]
    ]
    if len(parts) < len(known) or not known:
        least, often = _both(1.0, prompts, level)
        parts.append(
            f"{'of the others ' if parts else ''}above {least:.2f} standard deviations of the"
            f" paired differences ({often:.2f} in 80 % of the cases)"
        )
    looked = ", looked at after every round" if level is not None else ""
    said = f"{prompts} prompts a setting{looked}: differences {', '.join(parts)}."
    return said + _source(spec, measured)


def _names(spec: ObjectiveSpec) -> dict[str, float]:
    """Return the weights of the metrics by their names."""
    return {describe(metric).rpartition(":")[2]: weight for metric, weight in spec.metrics}


def _known(spec: ObjectiveSpec, measured: Mapping[str, float]) -> dict[str, float | None]:
    """Return the deviations by what they are of; a sum's own, or the largest that it can have."""
    weights = _names(spec)
    found = {name: measured.get(name, KNOWN.get(name)) for name in weights}
    if len(found) < 2:
        return found
    if SUM in measured:
        return {SUM: measured[SUM], **found}
    sizes = [
        abs(weights[name]) * deviation for name, deviation in found.items() if deviation is not None
    ]
    return {f"{SUM}, at most,": sum(sizes) if len(sizes) == len(found) else None, **found}


def _both(deviation: float, prompts: int, level: float | None) -> tuple[float, float]:
    """Return the smallest difference, and the one that is found in 80 % of the cases."""
    if level is None:
        return smallest(deviation, prompts), smallest(deviation, prompts, power=True)
    race = (deviation, prompts, level)
    return smallest_in_race(*race), smallest_in_race(*race, power=True)


def _source(spec: ObjectiveSpec, measured: Mapping[str, float]) -> str:
    names = list(_names(spec))
    of_lab = [name for name in names if name not in measured and name in KNOWN]
    if not of_lab:
        return ""
    which = "" if len(of_lab) == len(names) else f" of {', '.join(of_lab)}"
    return f" The deviations{which} are those of the lab models, not of this run."


def _round(value: float) -> str:
    return f"{value:.2g}".removeprefix("0")
