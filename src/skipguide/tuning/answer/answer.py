"""The answer: the gain of the winner on prompts that chose nothing, and the setting to use.

Who wins a race looks better there than it is, for it was chosen by these values. So the gain is
that on prompts that were kept back, with the usual interval of a paired difference, which is looked
at once. The cheapest of those that cannot be told apart is recommended, and that may be CFG alone.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from skipguide.stats import intervals
from skipguide.stats.paired import paired_difference, share_against_half
from skipguide.tuning.answer import words
from skipguide.tuning.answer.result import Answer, BestSTG, Contestant, FloorCheck, Gain
from skipguide.tuning.answer.verdicts import CFG_ALONE, NOT_MEASURED, TIED, USE, Verdict
from skipguide.tuning.objective.scores import Floats, ScoreTable, column_of
from skipguide.tuning.race.state import (
    AT_THE_SAME_PRICE,
    BASELINE,
    Racer,
    RaceRules,
    RaceState,
    floor_of,
)

SAME_COST = 1.05  # what costs up to 5 % more costs the same


# --- whom to compare ------------------------------------------------------------------------------


def finalists(state: RaceState, candidates: Sequence[Racer]) -> tuple[str, ...]:
    """Return whom to sample on the prompts that were kept back.

    These are CFG alone, the best beside it, the best with STG, and the cheapest of those tied with
    the leader, as far as they are still in the race. CFG alone at the price of the best with STG
    meets them there (`race.candidates.at_price`).
    """
    ranked = ranking(state, candidates)
    with_stg = [one.name for one in ranked if not one.role.startswith(BASELINE)]
    wanted = [
        *(one.name for one in candidates if one.role == BASELINE),
        *(one.name for one in ranked[:1]),
        *with_stg[:1],
        *state.tied[:1],
    ]
    return tuple(dict.fromkeys(wanted))


def ranking(state: RaceState, candidates: Sequence[Racer]) -> list[Racer]:
    """Return the candidates that are still in beside CFG alone, best first."""
    others = [one for one in candidates if one.name in state.active and one.role != BASELINE]

    def gain(one: Racer) -> float:
        standing = state.standing(one.name)
        if standing is None or standing.to_cfg is None:
            return -np.inf
        return np.nan_to_num(standing.to_cfg.value, nan=-np.inf)

    return sorted(others, key=lambda one: (-gain(one), one.passes))


# --- the answer -----------------------------------------------------------------------------------


class _HeldBack:
    """The values on the prompts kept back."""

    def __init__(self, scores: ScoreTable, prompts: Sequence[int], baseline: str) -> None:
        self.scores, self.prompts, self.baseline = scores, list(prompts), baseline

    def is_there(self, name: str) -> bool:
        """Tell whether some prompt has a number of both a setting and CFG alone."""
        prompts = self._common(name, self.baseline)
        own, base = (self.scores.column(one, prompts) for one in (name, self.baseline))
        return bool((np.isfinite(own) & np.isfinite(base)).any())

    def has_values(self, name: str) -> bool:
        """Tell whether there are numbers; the distance of too few videos is none."""
        prompts = self._common(name)
        return bool(np.isfinite(self.scores.column(name, prompts)).any()) if prompts else False

    def _common(self, *names: str) -> list[int]:
        return [p for p in self.prompts if all(self.scores.has(name, p) for name in names)]

    def gain(self, name: str, other: str) -> Gain:
        prompts = self._common(name, other)
        own, base = (self.scores.column(one, prompts) for one in (name, other))
        found = _compare(self.scores.label, own, base)
        half = self.scores.against_half and other == self.baseline
        both = np.isfinite(own) & np.isfinite(base)
        own, base = own[both], base[both]
        if half:
            found = dataclasses.replace(found, difference=share_against_half(own))
        if len(own) < 2:
            return found
        best = int(np.argmax(own - base))
        own, base = np.delete(own, best), np.delete(base, best)
        without = share_against_half(own) if half else paired_difference(own, base)
        return dataclasses.replace(found, without_best=without)

    def part(self, metric: str, name: str) -> Gain:
        values = self.scores.parts[metric]
        own, base = (column_of(values, one, self.prompts) for one in (name, self.baseline))
        return _compare(metric, own, base)

    def floors(self, rules: RaceRules, name: str) -> tuple[FloorCheck, ...]:
        """Return how a setting stands to each floor."""
        return tuple(
            self._floor(metric, share, name, metric in rules.lower)
            for metric, share in rules.floors
        )

    def _floor(self, metric: str, share: float, name: str, lower: bool) -> FloorCheck:
        values = self.scores.floors.get(metric, {})
        own, base = (column_of(values, one, self.prompts) for one in (name, self.baseline))
        sign = -1 if lower else 1
        found = _compare(metric, sign * own, sign * floor_of(share, base, lower))
        return FloorCheck(metric, sign * found.mean, sign * found.baseline, found.difference)


def _compare(metric: str, own: Floats, base: Floats) -> Gain:
    both = np.isfinite(own) & np.isfinite(base)
    if not both.any():
        raise ValueError(
            f"the prompts kept back must have values of {metric}, but none has one of both"
            " settings. Sample and measure them first."
        )
    own, base = own[both], base[both]
    return Gain(metric, float(own.mean()), float(base.mean()), paired_difference(own, base))


def answer(
    candidates: Sequence[Racer],
    state: RaceState,
    scores: ScoreTable,
    held_back: Sequence[int],
    rules: RaceRules | None = None,
) -> Answer:
    """Compare the winner of a race with CFG alone on prompts that chose nothing.

    Args:
        candidates: all that raced.
        state: of the race, over.
        scores: with the values of the `finalists` on the prompts kept back.
        held_back: the ids of the prompts that were kept back.
        rules: of the race, for its floors.
    """
    rules = rules or RaceRules()
    baseline = next(one for one in candidates if one.role == BASELINE)
    kept = _HeldBack(scores, held_back, baseline.name)
    left = ranking(state, candidates)
    ranked = [one for one in left if kept.is_there(one.name)]
    ranked += [
        one
        for one in candidates
        if one.role == AT_THE_SAME_PRICE and one not in ranked and kept.is_there(one.name)
    ]
    rows = contestants(candidates, state, scores, kept.prompts)
    if not ranked or not kept.has_values(baseline.name):
        return _without_gain(baseline, left, state, kept, rows)
    winner = ranked[0]
    gain = kept.gain(winner.name, baseline.name)
    floors = {one.name: kept.floors(rules, one.name) for one in ranked}
    holding = [one for one in ranked if all(floor.is_held for floor in floors[one.name])]
    chosen = _recommend(holding, baseline, kept)
    own = gain if chosen is winner else kept.gain(chosen.name, baseline.name)
    verdict = _verdict(chosen, own)
    parts = [kept.part(metric, winner.name) for metric in scores.parts]
    best = _best_stg(ranked, baseline, kept)
    sentences = words.answer(
        verdict, winner, chosen, baseline, gain, parts if len(parts) > 1 else [],
        floors[winner.name], [(one, kept.gain(winner.name, one.name)) for one in ranked[1:]], best,
        own,
    )  # fmt: skip
    if scores.of_set is not None:
        names = [baseline.name, *(one.name for one in ranked)]
        sentences += scores.of_set.sentences(names, kept.prompts)
    return Answer(
        verdict, winner.name, chosen.name, scores.label, gain,
        tuple(parts) if len(parts) > 1 else (), floors[winner.name], rows, tuple(sentences), best,
    )  # fmt: skip


def _without_gain(
    baseline: Racer, left: Sequence[Racer], state: RaceState, kept: _HeldBack,
    rows: tuple[Contestant, ...],
) -> Answer:  # fmt: skip
    """Return the answer where nothing was compared with CFG alone on the prompts kept back.

    That is CFG alone where the race says so; else nothing is recommended.

    Args:
        left: who was still in the race, measured there or not.
    """
    label = kept.scores.label
    measured = kept.has_values(baseline.name)
    if not left:
        said = words.nobody(baseline.name, state, label)
    elif state.leader == baseline.name and not measured:
        said = words.cfg_leads(baseline.name, label)
    else:
        said = words.nothing_kept_back(state, left, label, len(kept.prompts), measured)
        return Answer(NOT_MEASURED, None, None, label, None, (), (), rows, said)
    return Answer(CFG_ALONE, None, baseline.name, label, None, (), (), rows, said)


def _best_stg(ranked: Sequence[Racer], baseline: Racer, kept: _HeldBack) -> BestSTG | None:
    """Return the best of the race with STG that has values on the prompts kept back.

    Args:
        ranked: who has values there beside CFG alone, best of the race first.
    """
    best = next((one for one in ranked if not one.role.startswith(BASELINE)), None)
    if best is None:
        return None
    over = None if best is ranked[0] else kept.gain(best.name, ranked[0].name)
    return BestSTG(best.name, kept.gain(best.name, baseline.name), over)


def _recommend(holding: Sequence[Racer], baseline: Racer, kept: _HeldBack) -> Racer:
    """Return the cheapest of those that cannot be told apart from the best.

    Args:
        holding: who holds all floors beside CFG alone, best first.
    """
    signs = {one.name: kept.gain(one.name, baseline.name).sign for one in holding}
    better = [one for one in holding if signs[one.name] > 0]
    if not better:
        # CFG alone is as good as any: only what is cheaper still can take its place.
        first, tied = baseline, [baseline, *(one for one in holding if signs[one.name] >= 0)]
    else:
        first, *others = better
        tied = [first]
        for one in others:
            against = kept.gain(one.name, first.name).difference.estimate.sign
            tied += [one] if against >= 0 else []
    least = min(one.passes for one in tied)
    cheap = [one for one in tied if one.passes <= SAME_COST * least]
    return first if first in cheap else min(cheap, key=lambda one: one.passes)


def _verdict(chosen: Racer, gain: Gain) -> Verdict:
    if chosen.role.startswith(BASELINE):
        return CFG_ALONE
    return USE if gain.sign > 0 else TIED


def contestants(
    candidates: Sequence[Racer], state: RaceState, scores: ScoreTable, held_back: Sequence[int]
) -> tuple[Contestant, ...]:
    """Return quality against cost of all that raced, cheapest first."""
    baseline = next(one.name for one in candidates if one.role == BASELINE)
    left = {one.name: one.reason for one in state.exits}
    found = []
    for one in candidates:
        own = [p for p in held_back if scores.has(one.name, p) and scores.has(baseline, p)]
        prompts = own or [
            p for p in state.prompts if scores.has(one.name, p) and scores.has(baseline, p)
        ]
        if not prompts:
            continue
        values, base = scores.column(one.name, prompts), scores.column(baseline, prompts)
        difference = None if one.name == baseline else paired_difference(values, base)
        found.append(
            Contestant(
                one.name, one.role, one.passes, intervals.mean(values), difference, bool(own),
                left.get(one.name, ""), one.title,
            )
        )  # fmt: skip
    return tuple(sorted(found, key=lambda row: (row.passes, -row.quality.value)))


def nothing_measured(candidates: Sequence[Racer], prompts: int) -> Answer:
    """Return the answer where no metric is given: the shortlist was sampled, not judged."""
    names = [one.name for one in candidates]
    return Answer(
        NOT_MEASURED, None, None, "", None, (), (), (), words.not_measured(names, prompts)
    )
