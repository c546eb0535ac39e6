"""The result of a tuning as data: gains, floors, who raced, and the answer, ready for JSON."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from skipguide.stats.estimate import Estimate
from skipguide.stats.paired import Difference
from skipguide.tuning.answer.verdicts import Verdict
from skipguide.tuning.race.state import finite

_ROUNDING = 1e-9  # of a floor


@dataclass(frozen=True)
class Gain:
    """The difference of a setting to CFG alone in one metric, on prompts that chose nothing.

    Args:
        metric: the objective's label, or one of its parts.
        mean, baseline: of the setting and of CFG alone on these prompts.
        difference: of the two; its `count` is the number of prompts.
        without_best: the same without the prompt that speaks most for the setting; None for parts
            and floors, by which nothing is claimed.
    """

    metric: str
    mean: float
    baseline: float
    difference: Difference
    without_best: Difference | None = None

    @property
    def sign(self) -> int:
        """1 if there is more, -1 if there is less, 0 if that cannot be told.

        More is not claimed where the interval holds 0 without one of the prompts: of skewed values
        a few carry the mean, and the interval of so few prompts does not know how few they are.
        """
        found = self.difference.estimate.sign
        if found <= 0 or self.without_best is None:
            return found
        return int(self.without_best.estimate.sign > 0)


@dataclass(frozen=True)
class FloorCheck:
    """A metric with a floor, of the winner on prompts that chose nothing.

    Args:
        mean: of the winner.
        floor: the share of CFG alone's mean that must be kept, in units of the metric.
        above: how far the winner is above the floor, with its interval.
    """

    metric: str
    mean: float
    floor: float
    above: Difference

    @property
    def is_broken(self) -> bool:
        """True if the whole interval lies below the floor."""
        return self.above.estimate.sign < 0

    @property
    def is_held(self) -> bool:
        """Whether the mean is at the floor or above it, without which nothing is recommended."""
        return self.above.estimate.value >= -_ROUNDING * abs(self.floor)


@dataclass(frozen=True)
class Contestant:
    """Quality against cost of a setting that raced.

    Args:
        passes: forward passes of a clip.
        quality: the mean of the objective with its interval, on the prompts kept back where it was
            sampled there, else on those of the race that it took part in.
        difference: to CFG alone on these prompts; None for CFG alone itself.
        held_back: whether these are the prompts kept back. In the race, winners look better than
            they are.
        left: why it left the race; "" if it did not.
        title: what sentences call it.
    """

    name: str
    role: str
    passes: float
    quality: Estimate
    difference: Difference | None
    held_back: bool
    left: str = ""
    title: str = ""


@dataclass(frozen=True)
class BestSTG:
    """The best setting with STG of those measured on prompts that chose nothing.

    It is the best of the race among them: chosen by the prompts that measure it, it would look
    better than it is.

    Args:
        over_cfg: its gain over CFG alone on these prompts.
        over_winner: that over the winner; None where it is the winner itself.
    """

    name: str
    over_cfg: Gain
    over_winner: Gain | None


@dataclass(frozen=True)
class Answer:
    """The result of a tuning in words and numbers.

    Args:
        verdict: "use" the recommended setting, for it is better than CFG alone; "use CFG alone",
            for it is better or the cheapest of the tied; "not distinguishable" where another one is
            the cheapest of the tied; "not measured".
        winner: the best of the race beside CFG alone; None without a metric.
        recommended: the name of the setting to use; None without a metric.
        gain: of the winner in the objective, on prompts that chose nothing; None without a metric,
            and where nothing was sampled on them.
        parts: the same for each metric of the objective, where it has several.
        contestants: quality against cost, cheapest first.
        sentences: all of it in plain English; the first is the answer.
        best_stg: None where none with STG was measured on these prompts.
    """

    verdict: Verdict
    winner: str | None
    recommended: str | None
    metric: str
    gain: Gain | None
    parts: tuple[Gain, ...]
    floors: tuple[FloorCheck, ...]
    contestants: tuple[Contestant, ...]
    sentences: tuple[str, ...]
    best_stg: BestSTG | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return it ready for JSON."""
        return {
            "verdict": self.verdict,
            "sentences": list(self.sentences),
            "use": self.recommended,
            "winner": self.winner,
            "metric": self.metric,
            "gain": None if self.gain is None else _gain(self.gain),
            "parts": [{"metric": one.metric, **_gain(one)} for one in self.parts],
            "floors": [_floor(one) for one in self.floors],
            "best_stg": None if self.best_stg is None else _best_to_dict(self.best_stg),
            "raced": [_contestant(one) for one in self.contestants],
        }


def _gain(one: Gain) -> dict[str, Any]:
    found = one.difference.estimate
    return {
        "value": finite(found.value), "low": found.low, "high": found.high, "n": found.count,
        "mean": finite(one.mean), "baseline": finite(one.baseline), "p": one.difference.p,
        "holds_without_best": one.sign == found.sign,
    }  # fmt: skip


def _best_to_dict(one: BestSTG) -> dict[str, Any]:
    over = None if one.over_winner is None else _gain(one.over_winner)
    return {"name": one.name, "gain": _gain(one.over_cfg), "over_winner": over}


def _floor(one: FloorCheck) -> dict[str, Any]:
    found = one.above.estimate
    return {
        "metric": one.metric, "value": finite(one.mean), "floor": finite(one.floor),
        "low": None if found.low is None else one.floor + found.low,
        "high": None if found.high is None else one.floor + found.high,
        "held": one.is_held, "broken": one.is_broken, "n": found.count,
    }  # fmt: skip


def _contestant(one: Contestant) -> dict[str, Any]:
    found = None if one.difference is None else one.difference.estimate
    return {
        "name": one.name, "title": one.title or one.name, "role": one.role, "passes": one.passes,
        "value": finite(one.quality.value), "low": one.quality.low, "high": one.quality.high,
        "n": one.quality.count,
        "difference": None if found is None else finite(found.value),
        "difference_low": None if found is None else found.low,
        "difference_high": None if found is None else found.high,
        "held_back": one.held_back, "left": one.left,
    }  # fmt: skip
