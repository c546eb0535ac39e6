"""The race: rounds of prompts on the same noise, after each of which the worse go.

Pure functions of the values: nothing is read or written here, and a race that was stopped goes on
by being replayed from its values.

Who goes, after a round:

1. whose always-valid interval of a metric with a floor lies below this floor;
2. whose always-valid interval of the difference to the leader lies below 0. Both at alpha divided
   by the number of comparisons that a candidate is in, so that the best of all is ever sent away
   in at most a share alpha of all races;
3. with a budget that does not suffice for all on all prompts, the worse half after each of log2 k
   equal parts of it (sequential halving: Karnin, Koren and Somekh, Almost optimal exploration in
   multi-armed bandits, ICML 2013), but nobody for whom the rest of the budget suffices: passes
   that those who went have freed keep others in. They are set aside, which does not show that they
   are worse, and nobody is where no round follows, for nothing is saved there.

CFG alone never goes.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from skipguide.stats import sequences
from skipguide.stats.estimate import Estimate
from skipguide.tuning.objective.scores import Floats, ScoreTable, column_of
from skipguide.tuning.race import words
from skipguide.tuning.race.state import (
    BASELINE,
    Exit,
    Racer,
    RaceRules,
    RaceState,
    Round,
    Standing,
    floor_of,
)

__all__ = ["BASELINE", "Exit", "Race", "RaceRules", "RaceState", "Racer", "Round", "Standing"]

_ROUNDING = 1e-9  # of a budget in forward passes


@dataclass
class _Field:
    """The field of a race and what it has spent, as a replay carries them from round to round."""

    active: list[str]
    spent: float = 0.0
    prompts: list[int] = field(default_factory=list)
    rounds: list[Round] = field(default_factory=list)
    exits: list[Exit] = field(default_factory=list)


class Race:
    """A race of candidates on prompts.

    Args:
        candidates: one of them of the role "cfg".
        prompts: ids in the order in which they race, one that does not depend on what they show;
            those of the scan first, whose clips are there.

    Raises:
        ValueError: if there is not exactly one of the role "cfg", two have the same name, or there
            are no prompts.
    """

    def __init__(
        self, candidates: Sequence[Racer], prompts: Sequence[int], rules: RaceRules | None = None
    ) -> None:
        self.candidates, self.prompts = tuple(candidates), tuple(dict.fromkeys(prompts))
        self.rules = rules or RaceRules()
        self.passes = {one.name: one.passes for one in self.candidates}
        baselines = [one.name for one in self.candidates if one.role == BASELINE]
        if len(baselines) != 1:
            raise ValueError(
                f"a race needs one candidate that is CFG alone, but got {len(baselines)}. Add it."
            )
        if len(self.passes) < len(self.candidates):
            raise ValueError(
                "candidates of a race must have different names, but got"
                f" {', '.join(one.name for one in self.candidates)}. Rename them."
            )
        if not self.prompts:
            raise ValueError("a race needs prompts, but got none. Add prompts.")
        self.baseline = baselines[0]
        self.level = self.rules.level(len(self.candidates))

    def state(self, scores: ScoreTable) -> RaceState:
        """Replay all rounds from the values.

        A round counts as finished when each who is in has a value on each of its prompts, or a
        reason why it never will.
        """
        now = _Field([one.name for one in self.candidates])
        while True:
            prompts, why = self._next_round(now)
            if why:
                return self._result(now, scores, (), why)
            missing = [
                (name, prompt)
                for prompt in prompts
                for name in now.active
                if not scores.is_known(name, prompt)
            ]
            now.spent += self._cost(now.active) * len(prompts)
            if missing:
                return self._result(now, scores, tuple(missing), "")
            now.prompts += prompts
            self._finish_round(now, scores, prompts)

    def _cost(self, names: Sequence[str]) -> float:
        """Return the forward passes of a prompt for some candidates."""
        paid = (self.passes[name] for name in names if name not in self.rules.free)
        return sum(paid) * self.rules.seeds

    def _next_round(self, now: _Field) -> tuple[Sequence[int], str]:
        """Return the prompts of the next round, or none and why the race is over."""
        others = [name for name in now.active if name != self.baseline]
        if not others:
            return (), words.nobody_left(self.baseline)
        if len(others) == 1 and self._is_decided(now, others[0]):
            return (), words.one_left(others[0])
        if self.rules.max_rounds is not None and len(now.rounds) >= self.rules.max_rounds:
            return (), words.hours_over(len(now.prompts))
        left = self.prompts[len(now.prompts) :]
        if not left:
            return (), words.prompts_over(len(now.prompts))
        affordable = len(left)
        if self.rules.max_passes is not None:
            rest = self.rules.max_passes - now.spent
            cost = self._cost(now.active)
            affordable = math.floor(rest / cost + _ROUNDING) if cost else len(left)
            if affordable < 1:
                return (), words.budget_over(self.rules.max_passes, cost)
        return left[: min(self.rules.round_size, affordable)], ""

    def _is_decided(self, now: _Field, name: str) -> bool:
        """Tell whether the last candidate beside CFG alone has nobody left to race against.

        One that had no other opponent from the start races until it is told apart from CFG alone.
        """
        if not now.rounds or len(self.candidates) > 2:
            return bool(now.rounds)
        found = next((row.to_cfg for row in now.rounds[-1].standings if row.name == name), None)
        return found is not None and found.sign != 0

    # --- a round ----------------------------------------------------------------------------------

    def _finish_round(self, now: _Field, scores: ScoreTable, prompts: Sequence[int]) -> None:
        number = len(now.rounds) + 1
        columns = {name: scores.column(name, now.prompts) for name in now.active}
        floors = {name: self._floors(scores, name, now.prompts) for name in now.active}
        exits = [
            *self._without_values(number, columns),
            *self._below_floors(number, floors, len(now.prompts)),
        ]
        gone = {one.name for one in exits}
        leader = self._leader({n: column for n, column in columns.items() if n not in gone})
        standings = [
            Standing(
                name, _mean(column), self._compare(columns, name, self.baseline),
                self._compare(columns, name, leader), floors[name],
            )
            for name, column in columns.items()
        ]  # fmt: skip
        standings.sort(key=lambda one: -_order(one.mean))
        exits += self._behind(number, scores, standings, leader, gone, len(now.prompts))
        gone = {one.name for one in exits}
        now.active = [name for name in now.active if name not in gone]
        now.exits += exits
        now.rounds.append(Round(number, tuple(prompts), leader, tuple(standings), tuple(exits)))
        self._set_aside(now)

    def _compare(self, columns: Mapping[str, Floats], name: str, other: str) -> Estimate | None:
        if name == other:
            return None
        return _sequence(columns[name], columns[other], self.level)

    def _floors(self, scores: ScoreTable, name: str, prompts: Sequence[int]) -> dict[str, Estimate]:
        """Return how far each metric with a floor is above it."""
        if name == self.baseline:
            return {}
        found = {}
        for metric, share in self.rules.floors:
            values = scores.floors.get(metric, {})
            own = column_of(values, name, prompts)
            base = column_of(values, self.baseline, prompts)
            is_lower = metric in self.rules.lower
            floor = floor_of(share, base, is_lower)
            pair = (floor, own) if is_lower else (own, floor)
            found[metric] = _sequence(*pair, self.level)
        return found

    def _leader(self, columns: Mapping[str, Floats]) -> str:
        """Return who has the largest mean difference to CFG alone, or CFG alone; ties are cheap."""
        base = columns[self.baseline]

        def gain(name: str) -> float:
            return _mean(columns[name] - base) if name != self.baseline else 0.0

        return max(columns, key=lambda name: (_order(gain(name)), -self.passes[name]))

    # --- who goes ---------------------------------------------------------------------------------

    def _without_values(self, number: int, columns: Mapping[str, Floats]) -> list[Exit]:
        return [
            Exit(name, number, "no values", words.no_values(name, len(column)))
            for name, column in columns.items()
            if name != self.baseline and not np.isfinite(column).any()
        ]

    def _below_floors(
        self, number: int, floors: Mapping[str, Mapping[str, Estimate]], prompts: int
    ) -> list[Exit]:
        shares = dict(self.rules.floors)
        broken = {
            name: next((m for m, found in own.items() if found.sign < 0), None)
            for name, own in floors.items()
        }
        return [
            Exit(
                name, number, "floor",
                words.below_floor(name, metric, shares[metric], floors[name][metric], prompts),
            )
            for name, metric in broken.items()
            if metric is not None
        ]  # fmt: skip

    def _behind(
        self, number: int, scores: ScoreTable, standings: Sequence[Standing], leader: str,
        gone: set[str], prompts: int,
    ) -> list[Exit]:  # fmt: skip
        return [
            Exit(
                one.name, number, "behind",
                words.behind(one.name, leader, scores.label, one.to_leader, prompts),
            )
            for one in standings
            if one.to_leader is not None
            and one.to_leader.sign < 0
            and one.name != self.baseline
            and one.name not in gone
        ]  # fmt: skip

    def _set_aside(self, now: _Field) -> None:
        """Set the worse half aside after each part of a budget that does not suffice for all.

        Where no round follows even without them, they stay in.
        """
        last, keep = now.rounds[-1], self._places(now)
        others = [name for name in now.active if name != self.baseline]
        ranked = [one for one in last.standings if one.name in others]
        aside = tuple(
            Exit(
                one.name, last.number, "set aside",
                words.set_aside(one.name, last.leader, one.to_leader, len(now.prompts), keep),
            )
            for one in ranked[keep:]
            if one.name != last.leader
        )  # fmt: skip
        gone = {one.name for one in aside}
        active = [name for name in now.active if name not in gone]
        prompts, _ = self._next_round(dataclasses.replace(now, active=active))
        if not prompts:
            return
        now.active = active
        now.exits += aside
        now.rounds[-1] = dataclasses.replace(last, exits=(*last.exits, *aside))

    def _places(self, now: _Field) -> int:
        """Return how many beside CFG alone stay in after a round."""
        count, limit = len(self.candidates) - 1, self.rules.max_passes
        if limit is None or not self.rules.halve or count < 2:
            return count
        parts = math.ceil(math.log2(count))
        done = min(parts - 1, math.floor(now.spent / limit * parts + _ROUNDING))
        return max(math.ceil(count / 2**done), self._affordable(now, limit - now.spent))

    def _affordable(self, now: _Field, rest: float) -> int:
        """Return for how many, the best first, the rest of the budget suffices to the end."""
        left = len(self.prompts) - len(now.prompts)
        ranked = [row.name for row in now.rounds[-1].standings if row.name in now.active]
        others = [name for name in ranked if name != self.baseline]
        numbers = range(len(others), 0, -1)
        fits = (n for n in numbers if self._cost([self.baseline, *others[:n]]) * left <= rest)
        return next(fits, 0)

    # --- the result -------------------------------------------------------------------------------

    def _result(
        self, now: _Field, scores: ScoreTable, wanted: tuple[tuple[str, int], ...], why: str
    ) -> RaceState:
        leader, tied = None, []
        if now.rounds:
            columns = {name: scores.column(name, now.prompts) for name in now.active}
            leader = self._leader(columns)
            tied = [name for name in now.active if self._is_tied(columns, name, leader)]
        return RaceState(
            tuple(now.rounds), tuple(now.active), leader, tuple(self._by_cost(tied)),
            tuple(now.exits), wanted, not wanted, why, now.spent,
        )  # fmt: skip

    def _is_tied(self, columns: Mapping[str, Floats], name: str, leader: str) -> bool:
        found = self._compare(columns, name, leader)
        return found is None or found.sign == 0

    def _by_cost(self, names: Sequence[str]) -> list[str]:
        """Sort by forward passes; of those that cost the same, CFG alone comes first."""
        plain = {one.name: one.role.startswith(BASELINE) for one in self.candidates}
        return sorted(names, key=lambda name: (round(self.passes[name], 6), not plain[name]))


def _sequence(values: Floats, others: Floats, level: float) -> Estimate:
    both = np.isfinite(values) & np.isfinite(others)
    if not both.any():
        return Estimate(math.nan, None, None, 0, "no prompt has a value of both")
    return sequences.paired_sequence(values[both], others[both], level)


def _mean(values: Floats) -> float:
    known = values[np.isfinite(values)]
    return float(known.mean()) if len(known) else math.nan


def _order(value: float) -> float:
    """Return what to sort by: who has no value comes last."""
    return value if math.isfinite(value) else -math.inf
