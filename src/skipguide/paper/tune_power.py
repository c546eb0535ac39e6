"""Simulated repeats of `skipguide tune` on exhaustive maps: what it finds, and what it claims.

A repeat runs the race and the answer of tune (`skipguide.paper.tune_simulate`) on values of
published clips instead of new ones, with the shortlist of a real scan of the model. Two designs:

- Power: half of the prompts, drawn anew in each repeat, choose; the other half judge. The
  exhaustive search chooses by every cell on every prompt of the first half, the race by a
  twentieth of these clips. What either picks is judged on prompts that chose nothing.
- Honesty: prompts are drawn with replacement, those of the race and those that are kept back apart
  from each other, so that the mean of a cell over all prompts of the map is the truth. Where each
  prompt comes once with every rotation of the labels of its values, the truth is exactly 0 for all.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from skipguide.method.terms import explicit_layers
from skipguide.paper.experiments import SKIPS, STUDIES
from skipguide.paper.tune_maps import CellMap, Floats
from skipguide.paper.tune_simulate import Simulated, simulate
from skipguide.stats import intervals
from skipguide.stats.estimate import Estimate

Indices = NDArray[np.intp]
REPEATS = 200
SHARE = 0.05  # of the clips of the exhaustive search
HELD_BACK = 1 / 3  # of the prompts, as in tune


# --- power ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Choice:
    """A rule's choice in one repeat: weights of the rows `(1 + cells,)`, and the clips it took."""

    weights: Floats
    clips: int


RULES = {
    "exhaustive": "exhaustive search",
    "tune": "scan and race",
    "blind": "a race of as many cells drawn at random",
    "scan": "the scan's first, no clip",
    "random": "a random layer and skip",
    "middle": "the middle layer",
    "none": "no STG",
}


@dataclass(frozen=True)
class Power:
    """The picks of all rules, judged on prompts that chose nothing.

    Args:
        clips: by rule, the mean over repeats.
        means: by rule, the objective on the prompts that judge.
        gains: by rule, the same less no STG; the interval is over prompts.
        to_exhaustive: scan and race less exhaustive search, interval over prompts.
        to_middle: scan and race less the middle layer, interval over prompts.
        repeats_to_exhaustive, repeats_to_middle: the same over repeats: how well the simulation
            knows its own mean.
        picks: by cell, how often scan and race picked it.
    """

    map: CellMap
    objective: str
    repeats: int
    clips: dict[str, float]
    means: dict[str, float]
    gains: dict[str, Estimate]
    to_exhaustive: Estimate
    to_middle: Estimate
    repeats_to_exhaustive: Estimate
    repeats_to_middle: Estimate
    picks: dict[str, int]

    @property
    def shortfall(self) -> float:
        """The share of the objective by which scan and race fall short of exhaustive search."""
        return relative_loss(self.objective, self.means["exhaustive"], self.to_exhaustive.value)

    @property
    def most_shortfall(self) -> float:
        """The shortfall if the difference is as bad as its interval goes."""
        low = self.to_exhaustive.low
        return relative_loss(
            self.objective, self.means["exhaustive"], -math.inf if low is None else low
        )


def relative_loss(objective: str, mean: float, difference: float) -> float:
    """Return the share that is lost; of a log likelihood, of the likelihood itself."""
    return 1 - math.exp(difference) if objective == "likelihood" else -difference / mean


def power(one: CellMap, objective: str, shortlist: Sequence[int], repeats: int = REPEATS) -> Power:
    """Repeat the choice of a layer.

    Args:
        shortlist: cells of the map in the order of a scan.
    """
    values, generator = one.values[objective], np.random.default_rng(0)
    rows, prompts = values.shape
    half = prompts // 2
    chosen = {rule: np.zeros((repeats, rows)) for rule in RULES}
    clips = {rule: np.zeros(repeats) for rule in RULES}
    judges = np.zeros((repeats, prompts))
    for repeat in range(repeats):
        order = generator.permutation(prompts)
        judges[repeat, order[half:]] = 1 / (prompts - half)
        for rule, choice in _choices(one, values, order[:half], shortlist, repeat).items():
            chosen[rule][repeat], clips[rule][repeat] = choice.weights, choice.clips
    return _summarize_power(one, objective, values, chosen, clips, judges)


def _choices(
    one: CellMap, values: Floats, columns: Indices, shortlist: Sequence[int], seed: int
) -> dict[str, Choice]:
    """Return what every rule chooses by some prompts."""
    rows, exhaustive = len(values), (len(values) - 1) * len(columns)
    own = values[:, columns]
    budget = math.floor(SHARE * exhaustive)
    drawn = np.random.default_rng(seed).permutation(rows - 1)[: len(shortlist)].tolist()

    def race(cells: Sequence[int]) -> Choice:
        # tune compares the best of the race with CFG alone afterwards, on prompts kept back
        found = simulate(own[1:], own[0], cells, clips=budget, held_back=1, repeats=1, seed=seed)
        return Choice(_one(rows, 1 + int(found.winners[0])), int(found.race_clips[0]))

    return {
        "exhaustive": Choice(_one(rows, 1 + int(own[1:].mean(1).argmax())), exhaustive),
        "tune": race(shortlist),
        "blind": race(drawn),
        "scan": Choice(_one(rows, 1 + shortlist[0]), 0),
        "random": Choice(np.array([0.0, *np.full(rows - 1, 1 / (rows - 1))]), 0),
        "middle": Choice(_middle(one), 0),
        "none": Choice(_one(rows, 0), 0),
    }


def _one(rows: int, row: int) -> Floats:
    return np.eye(rows)[row]


def _middle(one: CellMap) -> Floats:
    """Return weights of the middle layer, or the middle two, skipped as the paper does it."""
    study = STUDIES[one.model]
    skip = study.stg if study.stg in SKIPS else "attention"
    layers = study.layers
    last = len(layers) - 1
    middle = {layers[last // 2], layers[last - last // 2]}
    found = [0.0]
    for cell in one.cells:
        term = cell.terms[0]
        found.append(float(term.skip == skip and explicit_layers(term)[0] in middle))
    return np.array(found) / sum(found)


def _summarize_power(
    one: CellMap,
    objective: str,
    values: Floats,
    chosen: dict[str, Floats],
    clips: dict[str, Floats],
    judges: Floats,
) -> Power:
    # of each rule (repeats, P): the share of each prompt in the mean that judges its choice
    parts = {rule: (weights @ values) * judges for rule, weights in chosen.items()}
    totals = {rule: found.sum(1) for rule, found in parts.items()}

    def over_prompts(rule: str, other: str) -> Estimate:
        share = (parts[rule] - parts[other]).mean(0)
        return intervals.mean(share * len(share))

    def over_repeats(rule: str, other: str) -> Estimate:
        return intervals.mean(totals[rule] - totals[other])

    found = np.bincount(chosen["tune"].argmax(1), minlength=len(values))
    names = ["no STG", *(cell.name.split("+")[1] for cell in one.cells)]
    return Power(
        one, objective, len(judges),
        {rule: float(found.mean()) for rule, found in clips.items()},
        {rule: float(found.mean()) for rule, found in totals.items()},
        {rule: over_prompts(rule, "none") for rule in RULES if rule != "none"},
        over_prompts("tune", "exhaustive"), over_prompts("tune", "middle"),
        over_repeats("tune", "exhaustive"), over_repeats("tune", "middle"),
        {names[i]: int(found[i]) for i in np.argsort(-found, kind="stable").tolist() if found[i]},
    )  # fmt: skip


# --- honesty --------------------------------------------------------------------------------------


TRUTHS = {
    "measured": "as measured",
    "none": "labels rotated: nothing helps",
    "centred": "means taken off: nothing helps",
}


@dataclass(frozen=True)
class Honesty:
    """The claims of simulated tunings, on prompts that chose nothing, against the truth.

    Args:
        prompts: of a repeat, those that race, if nobody goes, and those that are kept back.
        truth: one of TRUTHS.
        won: repeats in which STG, of whatever cell, was compared with CFG alone on these prompts.
        claimed: the share of all repeats in which a gain is claimed.
        wrongly: the same where the cell does not help on all prompts of the map.
        covered: of those that won, the share whose interval of the gain holds the true difference.
        best: the largest true difference of a cell of the shortlist.
    """

    map: CellMap
    objective: str
    prompts: tuple[int, int]
    truth: str
    repeats: int
    won: int
    claimed: Estimate
    wrongly: Estimate
    covered: Estimate | None
    best: float


def honesty(
    one: CellMap, objective: str, shortlist: Sequence[int], prompts: int,
    truth: str = "measured", repeats: int = REPEATS,
) -> Honesty:  # fmt: skip
    """Repeat tune with prompts drawn with replacement, a third of which is kept back."""
    back = round(prompts * HELD_BACK)
    values = _with_truth(one.values[objective][[0, *(1 + cell for cell in shortlist)]], truth)
    found = simulate(
        values[1:], values[0], range(len(shortlist)), clips=(prompts - back) * len(values),
        held_back=back, repeats=repeats, replacement=True,
    )  # fmt: skip
    return Honesty(
        one, objective, (prompts - back, back), truth, repeats, *_claims(found),
        best=float(found.truth.max()),
    )  # fmt: skip


def _with_truth(values: Floats, truth: str) -> Floats:
    """Return values `(settings, P)` of which the means over all prompts are as wanted."""
    if truth == "centred":
        return values - values.mean(1, keepdims=True)
    if truth == "none":
        return np.concatenate([np.roll(values, i, axis=0) for i in range(len(values))], axis=1)
    return values


def _claims(found: Simulated) -> tuple[int, Estimate, Estimate, Estimate | None]:
    """Return how many repeats have an interval, and the shares claimed, wrongly, and covered."""
    claimed = found.claimed.astype(float)
    # Sums of thousands of values round.
    helps = found.pick_truth > 1e-12
    known = np.isfinite(found.lows)
    held = (found.lows <= found.winner_truth) & (found.winner_truth <= found.highs)
    covered = intervals.share(held[known].astype(float)) if known.any() else None
    wrongly = intervals.share(claimed * ~helps)
    return int(known.sum()), intervals.share(claimed), wrongly, covered
