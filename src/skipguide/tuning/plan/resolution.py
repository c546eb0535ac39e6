"""The smallest difference that so many prompts can show.

A difference of two settings on the same prompts and noise is a mean of n paired differences, and
its 95 % interval has a half width of about 2 standard deviations over the square root of n. The
standard deviations of known metrics were measured on the lab models; once a run has clips, its own
take their place.
"""

from __future__ import annotations

from collections.abc import Mapping
from statistics import NormalDist

import numpy as np

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


def deviations_of(scores: ScoreTable, baseline: str) -> dict[str, float]:
    """Return the standard deviations of paired differences that the clips of a run have.

    Args:
        baseline: the name of CFG alone.

    Returns:
        By metric, the median over the other settings; without those that too few prompts have.
    """
    found = {}
    for metric, values in scores.parts.items():
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


def sentence(spec: ObjectiveSpec, prompts: int, measured: Mapping[str, float]) -> str:
    """Return what so many prompts can resolve, in a sentence.

    Args:
        measured: standard deviations that the clips of the run have, by metric; the known ones of
            the lab models stand for those that are not among them.
    """
    if prompts < 2:
        return "So few prompts show no difference at all."
    names = [describe(metric).rpartition(":")[2] for metric, _ in spec.metrics]
    known = {name: measured.get(name, KNOWN.get(name)) for name in names}
    parts = [
        f"of {name} above {_round(smallest(deviation, prompts))}"
        f" ({_round(smallest(deviation, prompts, power=True))} in 80 % of the cases)"
        for name, deviation in known.items()
        if deviation is not None
    ]
    if len(parts) < len(names) or not names:
        parts.append(
            f"{'of the others ' if parts else ''}above {smallest(1.0, prompts):.2f} standard"
            " deviations of the paired differences"
            f" ({smallest(1.0, prompts, power=True):.2f} in 80 % of the cases)"
        )
    of_lab = [name for name in names if name not in measured and name in KNOWN]
    source = ""
    if of_lab:
        which = "" if len(of_lab) == len(names) else f" of {', '.join(of_lab)}"
        source = f" The deviations{which} are those of the lab models, not of this run."
    return f"{prompts} prompts a setting: differences {', '.join(parts)}.{source}"


def _round(value: float) -> str:
    return f"{value:.2g}".removeprefix("0")
