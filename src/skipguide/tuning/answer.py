"""The answer: what the winner gains on prompts that chose nothing, and what to use."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from skipguide.stats.paired import Difference
from skipguide.tuning.race import Racer, RaceState
from skipguide.tuning.scores import ScoreTable

Verdict = Literal["use", "not distinguishable", "use CFG alone", "not measured"]


@dataclass(frozen=True)
class Gain:
    """How much more of something a setting has than CFG alone, on prompts that chose nothing.

    Args:
        metric: the objective's label, or one of its parts or floors.
        mean, baseline: of the setting and of CFG alone on these prompts.
        better: which sign is good: "higher" or "lower".
    """

    metric: str
    mean: float
    baseline: float
    difference: Difference
    better: Literal["higher", "lower"] = "higher"


@dataclass(frozen=True)
class Contestant:
    """Quality against cost of a setting that raced.

    Args:
        passes: forward passes of a clip.
        mean: of the objective on the prompts of the race that it took part in.
        prompts: how many these are.
        raced: its difference to CFG alone there; winners look better there than they are.
        held_back: the same on prompts that chose nothing; None if it was not sampled there.
        left: why it left the race; "" if it did not.
    """

    name: str
    role: str
    passes: float
    mean: float
    prompts: int
    raced: Difference | None
    held_back: Difference | None
    left: str = ""


@dataclass(frozen=True)
class Answer:
    """What tune found.

    Args:
        verdict: what the gain of the winner over CFG alone says.
        winner: the name of the leader of the race; None without a metric.
        recommended: the name of the setting to use; None without a metric.
        gain: of the winner in the objective, on prompts that chose nothing; None without a metric.
        parts, floors: the same for each metric of the objective, and for those with floors.
        contestants: quality against cost, cheapest first.
        sentences: all of it in plain English.
    """

    verdict: Verdict
    winner: str | None
    recommended: str | None
    gain: Gain | None
    parts: tuple[Gain, ...]
    floors: tuple[Gain, ...]
    contestants: tuple[Contestant, ...]
    sentences: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return it ready for JSON."""
        raise NotImplementedError


def finalists(state: RaceState, candidates: Sequence[Racer]) -> tuple[str, ...]:
    """Return whom to sample on the prompts that were kept back.

    These are the leader, the cheapest of those tied with it, CFG alone, and CFG at the same price.
    """
    raise NotImplementedError


def answer(
    candidates: Sequence[Racer],
    state: RaceState,
    scores: ScoreTable,
    held_back: Sequence[int],
    floors: Sequence[tuple[str, float]] = (),
) -> Answer:
    """Compare the winner of a race with CFG alone on prompts that chose nothing.

    Args:
        candidates: all that raced.
        state: of the race, over.
        scores: with the values of the `finalists` on the prompts kept back.
        held_back: the ids of the prompts that were kept back.
        floors: (metric, share) each.
    """
    raise NotImplementedError


def nothing_measured(candidates: Sequence[Racer], prompts: int) -> Answer:
    """Return the answer where no metric is given: the shortlist was sampled, not judged."""
    raise NotImplementedError
