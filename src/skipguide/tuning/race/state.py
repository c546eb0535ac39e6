"""The state of a race: its rules, its rounds, who stands where, and who left it and why."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np

from skipguide.stats.estimate import Estimate
from skipguide.tuning.objective.scores import Floats

BASELINE = "cfg"  # the role of CFG alone, which never goes
LOWER = "cfg-low"  # the role of CFG alone at another scale
AT_THE_SAME_PRICE = "cfg-price"  # the role of CFG alone with as many passes, in more steps


class Racer(Protocol):
    """A candidate as the race reads it."""

    @property
    def name(self) -> str: ...

    @property
    def role(self) -> str: ...

    @property
    def passes(self) -> float: ...

    @property
    def title(self) -> str: ...


@dataclass(frozen=True)
class RaceRules:
    """The rules of a race.

    Args:
        round_size: prompts of a round.
        alpha: the chance that the best of all is ever found to be behind, or below a floor, because
            of chance.
        floors: (metric, share) each, as in `ObjectiveSpec`, by the metric's name in the scores.
        lower: the metrics with a floor that are better lower.
        max_passes: forward passes that the clips of the race may take; None: no limit.
        free: candidates whose clips cost nothing, for they are there: of an earlier race on the
            same prompts.
        seeds: clips of a candidate on a prompt.
        max_rounds: after which the race is over, because the hours for it are; None: no limit.
        halve: whether a limit is shared by halving, where it does not suffice for all candidates on
            all prompts: after each of log2 k equal parts of it the worse half is set aside.
    """

    round_size: int = 4
    alpha: float = 0.05
    floors: tuple[tuple[str, float], ...] = ()
    lower: tuple[str, ...] = ()
    max_passes: float | None = None
    free: tuple[str, ...] = ()
    seeds: int = 1
    halve: bool = True
    max_rounds: int | None = None

    def __post_init__(self) -> None:
        for name in ("round_size", "seeds"):
            if getattr(self, name) < 1:
                raise ValueError(
                    f"{name} of a race must be at least 1, but got {getattr(self, name)}. Raise it."
                )
        if not 0 < self.alpha < 1:
            raise ValueError(
                f"alpha of a race must be between 0 and 1, but got {self.alpha:g}. Pass 0.05."
            )

    def level(self, candidates: int) -> float:
        """Return alpha for each of the comparisons that one of so many candidates is in.

        They are with each other one, for anybody may lead, and with each floor.
        """
        return self.alpha / max(1, candidates - 1 + len(self.floors))


@dataclass(frozen=True)
class Standing:
    """A candidate after a round.

    The intervals are always-valid ones (`stats.sequences`); they have no ends as long as there are
    too few prompts.

    Args:
        mean: of its values on the prompts so far.
        to_cfg: its difference to CFG alone; None for CFG alone itself.
        to_leader: its difference to the leader; None for the leader itself.
        floors: how far each metric with a floor is above it, in units of the metric.
    """

    name: str
    mean: float
    to_cfg: Estimate | None
    to_leader: Estimate | None
    floors: Mapping[str, Estimate]


@dataclass(frozen=True)
class Exit:
    """The exit of a candidate, with the reason in a sentence with its numbers.

    `kind` is "behind" or "floor" where its interval shows it, "set aside" where what is left of the
    budget is for better ones, and "no values" where none of its clips could be measured.
    """

    name: str
    round: int
    kind: Literal["behind", "floor", "set aside", "no values"]
    reason: str


@dataclass(frozen=True)
class Round:
    """A round: its prompts, and what was known after it.

    Args:
        number: from 1.
        standings: of all who took part, best first.
        exits: of those who went after it.
    """

    number: int
    prompts: tuple[int, ...]
    leader: str
    standings: tuple[Standing, ...]
    exits: tuple[Exit, ...]


@dataclass(frozen=True)
class RaceState:
    """A race as it stands.

    Args:
        rounds: that are finished.
        active: who is still in, in the order of the candidates.
        leader: the candidate with the largest mean difference to CFG alone, or CFG alone; None
            before the first round.
        tied: who is still in and not distinguishable from the leader, the leader among them,
            cheapest first.
        exits: who went, and why.
        wanted: the (name, prompt) pairs of the next round that have no value yet.
        over: whether no more clips are wanted.
        why: why it is over, a sentence; "" if it is not.
        passes: forward passes of all rounds, with the one that is going on.
    """

    rounds: tuple[Round, ...]
    active: tuple[str, ...]
    leader: str | None
    tied: tuple[str, ...]
    exits: tuple[Exit, ...]
    wanted: tuple[tuple[str, int], ...]
    over: bool
    why: str
    passes: float

    @property
    def prompts(self) -> tuple[int, ...]:
        """The prompts of all finished rounds."""
        return tuple(prompt for one in self.rounds for prompt in one.prompts)

    def standing(self, name: str) -> Standing | None:
        """Return the last standing of a candidate; None if it took part in no finished round."""
        found = (one for row in reversed(self.rounds) for one in row.standings if one.name == name)
        return next(found, None)

    def to_dict(self) -> dict[str, Any]:
        """Return it ready for JSON."""
        return {
            "rounds": [_round(one) for one in self.rounds],
            "active": list(self.active),
            "leader": self.leader,
            "tied": list(self.tied),
            "exits": [vars(one) for one in self.exits],
            "wanted": [list(pair) for pair in self.wanted],
            "over": self.over,
            "why": self.why,
            "passes": self.passes,
        }


def _round(one: Round) -> dict[str, Any]:
    return {
        "number": one.number,
        "prompts": list(one.prompts),
        "leader": one.leader,
        "standings": [_standing(row) for row in one.standings],
        "exits": [vars(gone) for gone in one.exits],
    }


def _standing(row: Standing) -> dict[str, Any]:
    return {
        "name": row.name,
        "mean": finite(row.mean),
        "to_cfg": estimate_to_dict(row.to_cfg),
        "to_leader": estimate_to_dict(row.to_leader),
        "floors": {metric: estimate_to_dict(found) for metric, found in row.floors.items()},
    }


def floor_of(share: float, baseline: Floats, is_lower: bool) -> Floats:
    """Return the floor of each prompt, from the values `(P,)` of CFG alone.

    It is `share` of them. Where their mean is below 0, or a metric is better lower, that would be
    a raise, and it is 1 / `share` of them.
    """
    known = baseline[np.isfinite(baseline)]
    is_negative = len(known) > 0 and float(known.mean()) < 0
    return baseline * (share if is_negative == is_lower else 1 / share)


def estimate_to_dict(found: Estimate | None) -> dict[str, Any] | None:
    """Return an estimate ready for JSON: value, low, high, and how many prompts it is of."""
    if found is None:
        return None
    return {"value": finite(found.value), "low": found.low, "high": found.high, "n": found.count}


def finite(value: float) -> float | None:
    """Return a number, or None for nan and infinity, which JSON has not."""
    return value if math.isfinite(value) else None
