"""Simulated repeats of `skipguide tune` on exhaustive maps: what it finds, and what it claims.

A repeat runs the race that tune runs (`skipguide.tuning.race`) on values of published clips instead
of new ones, with the shortlist of a real scan of the model. Two designs:

- Power: half of the prompts, drawn anew in each repeat, choose; the other half judge. The
  exhaustive search chooses by every cell on every prompt of the first half, the race by a
  twentieth of these clips. What either picks is judged on prompts that chose nothing.
- Honesty: prompts are drawn with replacement, those of the race and those that are kept back apart
  from each other, so that the mean of a cell over all prompts of the map is the truth. Where the
  labels of the cells are permuted within each drawn prompt, the truth is exactly 0.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from skipguide.method.terms import explicit_layers
from skipguide.paper.experiments import SKIPS, STUDIES
from skipguide.paper.tune_maps import CellMap, Floats
from skipguide.stats import intervals
from skipguide.stats.estimate import Estimate
from skipguide.tuning.answer import Answer, answer, finalists
from skipguide.tuning.race import Race, RaceRules, RaceState
from skipguide.tuning.scores import ScoreTable

Indices = NDArray[np.intp]
REPEATS = 200
SHARE = 0.05  # of the clips of the exhaustive search
HELD_BACK = 1 / 3  # of the prompts, as in tune
PASSES = {"cfg": 1.0, "scan": 1.5}  # only their order matters: of the tied the cheapest is taken
BASELINE = "cfg"


@dataclass(frozen=True)
class Setting:
    """A candidate of a simulated race."""

    name: str
    role: str
    passes: float


def settings(cells: Sequence[int]) -> list[Setting]:
    """Return CFG alone and some cells, named by their numbers."""
    alone = Setting(BASELINE, "cfg", PASSES["cfg"])
    return [alone, *(Setting(str(cell), "scan", PASSES["scan"]) for cell in cells)]


class Draw:
    """The values of the settings on prompts that were drawn; only what is asked for is seen.

    Args:
        values: `(1 + cells, P)`, CFG alone first.
        columns: of `values`, one for each prompt drawn; the same one may come more than once.
    """

    def __init__(self, values: Floats, columns: Sequence[int], label: str):
        self.values, self.columns, self.label = values, columns, label
        self.seen: dict[str, dict[int, float]] = {}

    def look(self, name: str, prompt: int) -> None:
        """Generate and measure a clip, so to speak."""
        row = 0 if name == BASELINE else 1 + int(name)
        value = float(self.values[row, self.columns[prompt]])
        self.seen.setdefault(name, {})[prompt] = value

    @property
    def clips(self) -> int:
        """How many clips have been seen."""
        return sum(map(len, self.seen.values()))

    def scores(self) -> ScoreTable:
        """Return what has been seen."""
        return ScoreTable(self.label, self.seen)


def race(draw: Draw, cells: Sequence[int], prompts: Sequence[int], clips: int) -> RaceState:
    """Run a race of CFG alone and some cells to its end, on at most so many clips."""
    rules = RaceRules()
    entrants = settings(cells)
    # Every clip counts as one pass, so that the limit is one of clips.
    priced = [dataclasses.replace(one, passes=1.0) for one in entrants]
    contest = Race(priced, prompts, dataclasses.replace(rules, max_passes=float(clips)))
    while True:
        state = contest.state(draw.scores())
        if state.over or not state.wanted:
            return state
        for name, prompt in state.wanted:
            draw.look(name, prompt)


# --- power ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Choice:
    """A rule's choice in one repeat: weights of the rows `(1 + cells,)`, and the clips it took."""

    weights: Floats
    clips: int


RULES = {
    "exhaustive": "exhaustive search",
    "tune": "scan and race",
    "scan": "the scan's first, no clip",
    "random": "a random layer and skip",
    "middle": "the middle layer",
    "none": "no STG",
}


@dataclass(frozen=True)
class Power:
    """What the rules pick, on prompts that chose nothing.

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
        """By which share of the objective scan and race fall short of exhaustive search."""
        return relative_loss(self.objective, self.means["exhaustive"], self.to_exhaustive.value)

    @property
    def most_shortfall(self) -> float:
        """The same at the worse end of its interval."""
        low = self.to_exhaustive.low
        return relative_loss(
            self.objective, self.means["exhaustive"], -math.inf if low is None else low
        )


def relative_loss(objective: str, mean: float, difference: float) -> float:
    """Return the share that is lost; of a log likelihood, of the likelihood itself."""
    return 1 - math.exp(difference) if objective == "likelihood" else -difference / mean


def power(
    one: CellMap, objective: str, shortlist: Sequence[int], repeats: int = REPEATS, seed: int = 0
) -> Power:
    """Repeat the choice of a layer.

    Args:
        shortlist: cells of the map in the order of a scan.
    """
    values, generator = one.values[objective], np.random.default_rng(seed)
    rows, prompts = values.shape
    half = prompts // 2
    chosen = {rule: np.zeros((repeats, rows)) for rule in RULES}
    clips = {rule: np.zeros(repeats) for rule in RULES}
    judges = np.zeros((repeats, prompts))
    for repeat in range(repeats):
        order = generator.permutation(prompts)
        judges[repeat, order[half:]] = 1 / (prompts - half)
        for rule, choice in _choices(one, values, order[:half], shortlist, objective).items():
            chosen[rule][repeat], clips[rule][repeat] = choice.weights, choice.clips
    return _summarize_power(one, objective, values, chosen, clips, judges)


def _choices(
    one: CellMap, values: Floats, columns: Indices, shortlist: Sequence[int], objective: str
) -> dict[str, Choice]:
    """Return what every rule chooses by some prompts."""
    rows, exhaustive = len(values), (len(values) - 1) * len(columns)
    draw = Draw(values, columns.tolist(), objective)
    state = race(draw, shortlist, range(len(columns)), math.floor(SHARE * exhaustive))
    return {
        "exhaustive": Choice(_one(rows, 1 + int(values[1:, columns].mean(1).argmax())), exhaustive),
        "tune": Choice(_one(rows, _row(state.leader)), draw.clips),
        "scan": Choice(_one(rows, 1 + shortlist[0]), 0),
        "random": Choice(np.array([0.0, *np.full(rows - 1, 1 / (rows - 1))]), 0),
        "middle": Choice(_middle(one), 0),
        "none": Choice(_one(rows, 0), 0),
    }


def _row(name: str | None) -> int:
    return 0 if name in (None, BASELINE) else 1 + int(name or 0)


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


@dataclass(frozen=True)
class Honesty:
    """What tune claims on prompts that chose nothing.

    Args:
        prompts: of a repeat, those that race and those that are kept back.
        permuted: whether the labels of the cells were permuted, so that nothing helps or harms.
        won: repeats whose race was led by a cell, for which there is an interval.
        claimed: the share of all repeats in which a gain is claimed.
        wrongly: the same where the cell that was chosen does not help on all prompts of the map.
        covered: of those that won, the share whose interval of the gain holds the true difference.
        best: the largest true difference of a cell of the shortlist.
    """

    map: CellMap
    objective: str
    prompts: tuple[int, int]
    permuted: bool
    repeats: int
    won: int
    claimed: Estimate
    wrongly: Estimate
    covered: Estimate | None
    best: float


@dataclass(frozen=True)
class Claim:
    """One repeat: whether a cell won, a gain was claimed, and the interval holds the truth."""

    won: bool
    claimed: bool
    true: float
    covered: bool


def honesty(
    one: CellMap, objective: str, shortlist: Sequence[int], prompts: int,
    permuted: bool = False, repeats: int = REPEATS, seed: int = 0,
) -> Honesty:  # fmt: skip
    """Repeat tune with prompts drawn with replacement, a third of which is kept back."""
    back = round(prompts * HELD_BACK)
    generator = np.random.default_rng(seed)
    claims = list(
        _claims(one, objective, shortlist, prompts - back, back, permuted, repeats, generator)
    )
    won = [claim for claim in claims if claim.won]
    truth = one.differences(objective).mean(1)[list(shortlist)]
    return Honesty(
        one, objective, (prompts - back, back), permuted, repeats, len(won),
        intervals.share([float(claim.claimed) for claim in claims]),
        intervals.share([float(claim.claimed and claim.true <= 0) for claim in claims]),
        intervals.share([float(claim.covered) for claim in won]) if won else None,
        0.0 if permuted else float(truth.max()),
    )  # fmt: skip


def _claims(
    one: CellMap, objective: str, shortlist: Sequence[int], racing: int, back: int,
    permuted: bool, repeats: int, generator: np.random.Generator,
) -> Iterator[Claim]:  # fmt: skip
    values = one.values[objective]
    for _ in range(repeats):
        columns = generator.integers(values.shape[1], size=racing + back)
        drawn = values[:, columns]
        if permuted:
            drawn = generator.permuted(drawn, axis=0)
        draw = Draw(drawn, range(racing + back), objective)
        truth = np.zeros(len(values)) if permuted else values.mean(1) - values[0].mean()
        yield _claim(draw, shortlist, racing, back, truth)


def _claim(draw: Draw, shortlist: Sequence[int], racing: int, back: int, truth: Floats) -> Claim:
    entrants = settings(shortlist)
    state = race(draw, shortlist, range(racing), racing * len(entrants))
    held_back = range(racing, racing + back)
    for name in finalists(state, entrants):
        for prompt in held_back:
            draw.look(name, prompt)
    return judge_answer(answer(entrants, state, draw.scores(), held_back), truth)


def judge_answer(found: Answer, truth: Floats) -> Claim:
    """Compare an answer with the true differences `(1 + cells,)` to CFG alone."""
    row = _row(found.winner)
    estimate = None if found.gain is None else found.gain.difference.estimate
    if row == 0 or estimate is None:
        return Claim(False, False, 0.0, True)
    true = float(truth[row])
    low, high = estimate.low, estimate.high
    held = low is None or high is None or low <= true <= high
    return Claim(True, found.verdict == "use", true, held)
