"""The race: rounds of prompts on the same noise, after each of which the worse go.

Pure functions of the values: nothing is read or written here, and a race that was stopped goes on
by being replayed from its values.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from skipguide.tuning.scores import ScoreTable

BASELINE = "cfg"  # the role of CFG alone, which never goes


class Racer(Protocol):
    """What the race reads of a candidate."""

    @property
    def name(self) -> str: ...

    @property
    def role(self) -> str: ...

    @property
    def passes(self) -> float: ...


@dataclass(frozen=True)
class RaceRules:
    """The rules of a race.

    Args:
        round_size: prompts of a round.
        alpha: the chance that the best of all is ever sent away because of chance.
        floors: (metric, share) each, as in `ObjectiveSpec`, by the metric's name in the scores.
        lower: the metrics with a floor that are better lower.
        max_passes: forward passes that all clips of the race may take; None: no limit.
        seeds: clips of a candidate on a prompt.
    """

    round_size: int = 4
    alpha: float = 0.05
    floors: tuple[tuple[str, float], ...] = ()
    lower: tuple[str, ...] = ()
    max_passes: float | None = None
    seeds: int = 1


@dataclass(frozen=True)
class Interval:
    """A difference with its always-valid interval; an end may be infinite."""

    value: float
    low: float
    high: float
    prompts: int


@dataclass(frozen=True)
class Standing:
    """A candidate after a round.

    Args:
        mean: of its values so far.
        to_cfg: its difference to CFG alone; None for CFG alone itself.
        to_leader: its difference to the leader; None for the leader itself.
        floors: how far the metrics with floors are above them, in their units.
    """

    name: str
    mean: float
    to_cfg: Interval | None
    to_leader: Interval | None
    floors: Mapping[str, Interval]


@dataclass(frozen=True)
class Exit:
    """Why a candidate went, in a sentence with its numbers."""

    name: str
    round: int
    kind: Literal["behind", "floor", "no values"]
    reason: str


@dataclass(frozen=True)
class Round:
    """A round: its prompts, and what was known after it."""

    number: int  # from 1
    prompts: tuple[int, ...]
    leader: str
    standings: tuple[Standing, ...]
    exits: tuple[Exit, ...]


@dataclass(frozen=True)
class RaceState:
    """Where a race is.

    Args:
        rounds: that are finished.
        active: who is still in.
        leader: the name of the candidate with the largest mean; None before the first round.
        tied: who is not distinguishable from the leader, the leader among them, cheapest first.
        exits: who went, and why.
        wanted: the (name, prompt) pairs of the next round that have no value yet.
        over: whether no more clips are wanted.
        why: why it is over, a sentence; "" if it is not.
        passes: forward passes of all rounds, with the next one.
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
    def cheapest(self) -> str | None:
        """The cheapest of those that are not distinguishable from the leader."""
        return self.tied[0] if self.tied else None

    def to_dict(self) -> dict[str, Any]:
        """Return it ready for JSON."""
        raise NotImplementedError


class Race:
    """A race of candidates on prompts.

    Args:
        candidates: one of them of the role "cfg".
        prompts: ids in the order in which they race; those of the scan first, whose clips are
            there.
    """

    def __init__(
        self, candidates: Sequence[Racer], prompts: Sequence[int], rules: RaceRules | None = None
    ) -> None:
        self.candidates, self.prompts = tuple(candidates), tuple(prompts)
        self.rules = rules or RaceRules()

    def state(self, scores: ScoreTable) -> RaceState:
        """Replay all rounds from the values."""
        raise NotImplementedError
