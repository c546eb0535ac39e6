"""The smallest difference that so many prompts can show.

A difference of two settings on the same prompts and noise is a mean of n paired differences, and
its 95 % interval has a half width of about 2 standard deviations over the square root of n. The
standard deviations of known metrics were measured on the lab models (docs/tune.md); once a run has
clips, its own take their place."""

from __future__ import annotations

from collections.abc import Mapping
from statistics import NormalDist

from skipguide.stats.quantiles import t_quantile
from skipguide.tuning.objective import ObjectiveSpec

# Standard deviations of the paired differences of clips between a setting and CFG alone: medians
# over the settings of the lab models.
KNOWN: Mapping[str, float] = {"right": 0.23, "likelihood": 0.13, "sharpness": 0.03, "motion": 0.09}
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


def sentence(spec: ObjectiveSpec, prompts: int) -> str:
    """Return what so many prompts can resolve, in a sentence."""
    if prompts < 2:
        return "So few prompts show no difference at all."
    names = [metric for metric, _ in spec.metrics if isinstance(metric, str)]
    short = {name: name.rpartition(":")[2] for name in names}
    known = {name: KNOWN[own] for name, own in short.items() if own in KNOWN}
    count = f"{prompts} prompts a setting show"
    if not known:
        least = smallest(1.0, prompts)
        return (
            f"{count} differences above {least:.2f} standard deviations of the paired differences,"
            f" whatever these are ({smallest(1.0, prompts, power=True):.2f} in 80 % of the cases)."
        )
    parts = [
        f"of {short[name]} above {_round(smallest(deviation, prompts))}"
        for name, deviation in known.items()
    ]
    usual = "usually" if spec.measures else ""
    return f"{count} {usual} differences {', '.join(parts)}."


def _round(value: float) -> str:
    return f"{value:.2g}".removeprefix("0")
