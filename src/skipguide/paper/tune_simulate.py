"""Repeat a tune run on values that are known: whom it picks, for how many clips, and its claims.

With the values of every cell on many prompts, as an exhaustive map has them, a repeat draws prompts
and runs the same race and the same answer as `skipguide tune` does (`race.Race`, `answer.answer`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from skipguide.tuning.answer import answer, finalists
from skipguide.tuning.race import BASELINE, Race, RaceRules
from skipguide.tuning.scores import Floats, ScoreTable

Ints = NDArray[np.int64]
CFG_ALONE = -1  # in the place of a cell


@dataclass(frozen=True)
class SimulatedRacer:
    """A candidate of a simulated race; its name is the number of its cell."""

    name: str
    role: str
    passes: float


@dataclass(frozen=True)
class Simulated:
    """What came of R repeats.

    Args:
        winners: the cell that is best in the race beside CFG alone, `(R,)`; CFG_ALONE where none is
            left.
        leaders: the cell, or CFG_ALONE, that leads the race, `(R,)`.
        picks: the cell, or CFG_ALONE, that is recommended, `(R,)`.
        claimed: whether the verdict is "use", i.e. that the pick is better than CFG alone, `(R,)`.
        gains, lows, highs: of the winner over CFG alone on the prompts kept back, with the ends of
            its interval, `(R,)`; nan where there is none.
        race_clips, clips: that were sampled for the race, and in all, `(R,)`.
        truth: the mean difference of each cell to CFG alone over all prompts, `(cells,)`.
    """

    winners: Ints
    leaders: Ints
    picks: Ints
    claimed: NDArray[np.bool_]
    gains: Floats
    lows: Floats
    highs: Floats
    race_clips: Ints
    clips: Ints
    truth: Floats

    @property
    def winner_truth(self) -> Floats:
        """The true gain of the winner of each repeat, `(R,)`; 0 for CFG alone."""
        return np.append(self.truth, 0.0)[self.winners]

    @property
    def pick_truth(self) -> Floats:
        """The true gain of what each repeat recommends, `(R,)`; 0 for CFG alone."""
        return np.append(self.truth, 0.0)[self.picks]

    @property
    def coverage(self) -> float:
        """The share of the intervals that hold the true gain of the winner."""
        known = np.isfinite(self.lows)
        held = (self.lows <= self.winner_truth) & (self.winner_truth <= self.highs)
        return float(held[known].mean()) if known.any() else math.nan


def simulate(
    values: ArrayLike, baseline: ArrayLike, order: Sequence[int], *,
    clips: int, held_back: int, repeats: int = 200, seed: int = 0,
    passes: ArrayLike | None = None, baseline_passes: float = 1.0,
    rules: RaceRules | None = None, replacement: bool = False,
) -> Simulated:  # fmt: skip
    """Run a race and its answer on prompts drawn from those that all values are known of.

    Args:
        values: of each cell on each prompt, `(cells, prompts)`; larger is better.
        baseline: of CFG alone, `(prompts,)`.
        order: the cells that race, as the scan orders them.
        clips: the most that the race may sample, those of CFG alone among them.
        held_back: prompts on which the winner is compared with CFG alone.
        passes: forward passes of a clip of each cell, `(cells,)`, relative to those of
            `baseline_passes`; None: 1.5 each. They say what is cheap; the budget is in clips.
        rules: other rules of the race; its budget is `clips`.
        replacement: draw prompts with replacement, so that intervals are of a mean over many more
            prompts than there are; without, a repeat that uses most prompts knows the truth.

    Raises:
        ValueError: if there are not enough prompts.
    """
    table, base = np.asarray(values, np.float64), np.asarray(baseline, np.float64)
    cost = np.full(len(table), 1.5) if passes is None else np.asarray(passes, np.float64)
    most = max(1, clips // 2)  # prompts that the race can come to with two candidates
    if not replacement and held_back >= table.shape[1]:
        raise ValueError(
            f"the prompts kept back must be fewer than the {table.shape[1]} that have values, but"
            f" got {held_back}. Keep back fewer."
        )
    rng = np.random.default_rng(seed)
    racers = [
        SimulatedRacer("cfg", BASELINE, baseline_passes),
        *(SimulatedRacer(str(cell), "scan", float(cost[cell])) for cell in order),
    ]
    rows = []
    for _ in range(repeats):
        drawn = (
            rng.integers(0, table.shape[1], most + held_back)
            if replacement
            else rng.permutation(table.shape[1])[: most + held_back]
        )
        rows.append(_repeat(table[:, drawn], base[drawn], racers, held_back, clips, rules))
    columns = {name: np.asarray([row[name] for row in rows]) for name in rows[0]}
    return Simulated(**columns, truth=(table - base).mean(1))


def _repeat(
    table: Floats, base: Floats, racers: Sequence[SimulatedRacer], held_back: int, clips: int,
    rules: RaceRules | None,
) -> dict[str, float]:  # fmt: skip
    """Return the values of one repeat by the fields of `Simulated`."""
    prompts = range(held_back, table.shape[1])
    # The budget is in clips: while it races, each clip costs 1.
    race = Race(
        [replace(one, passes=1.0) for one in racers], prompts,
        replace(rules or RaceRules(), max_passes=float(clips)),
    )  # fmt: skip
    state = race.state(_table(table, base, racers))
    names = finalists(state, racers)
    sampled = _table(table, base, racers, dict.fromkeys(names, held_back))
    found = answer(racers, state, sampled, range(held_back), race.rules)
    gain = found.gain.difference.estimate if found.gain else None
    low, high = (None, None) if gain is None else (gain.low, gain.high)
    return {
        "winners": _cell(found.winner),
        "leaders": _cell(state.leader),
        "picks": _cell(found.recommended),
        "claimed": found.verdict == "use",
        "gains": math.nan if gain is None else gain.value,
        "lows": math.nan if low is None else low,
        "highs": math.nan if high is None else high,
        "race_clips": round(state.passes),
        "clips": round(state.passes) + len(names) * held_back,
    }


def _table(
    table: Floats, base: Floats, racers: Sequence[SimulatedRacer],
    held_back: dict[str, int] | None = None,
) -> ScoreTable:  # fmt: skip
    """Return all values, or with `held_back` only those of the finalists on these prompts too."""
    values = {}
    for one in racers:
        row = base if one.role == BASELINE else table[int(one.name)]
        first = 0 if held_back is None or one.name in held_back else len(row)
        values[one.name] = {i: float(row[i]) for i in range(first, len(row))}
    return ScoreTable("value", values)


def _cell(name: str | None) -> int:
    return CFG_ALONE if name is None or name == "cfg" else int(name)
