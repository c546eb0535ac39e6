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

from skipguide.tuning.answer.answer import answer, finalists
from skipguide.tuning.objective.scores import Floats, ScoreTable
from skipguide.tuning.race.race import BASELINE, Race, RaceRules

Ints = NDArray[np.int64]
CFG_ALONE = -1  # in the place of a cell
CELL_PASSES = 1.5  # of a clip, those of CFG alone being 1: what is cheap; the budget is in clips


@dataclass(frozen=True)
class SimulatedRacer:
    """A candidate of a simulated race; its name is the number of its cell."""

    name: str
    role: str
    passes: float

    @property
    def title(self) -> str:
        """Its name: nobody reads its sentences."""
        return self.name


@dataclass(frozen=True)
class Simulated:
    """The outcome of R repeats.

    Args:
        winners: the cell that is best in the race beside CFG alone, `(R,)`; CFG_ALONE where none is
            left.
        picks: the cell, or CFG_ALONE, that is recommended, `(R,)`.
        claimed: whether the verdict is "use", i.e. that the pick is better than CFG alone, `(R,)`.
        lows, highs: ends of the interval of the winner's gain over CFG alone on the prompts kept
            back, `(R,)`; nan where there is none.
        race_clips: that were sampled for the race, `(R,)`.
        truth: the mean difference of each cell to CFG alone over all prompts, `(cells,)`.
    """

    winners: Ints
    picks: Ints
    claimed: NDArray[np.bool_]
    lows: Floats
    highs: Floats
    race_clips: Ints
    truth: Floats

    @property
    def winner_truth(self) -> Floats:
        """The true gain of the winner of each repeat, `(R,)`; 0 for CFG alone."""
        return np.append(self.truth, 0.0)[self.winners]

    @property
    def pick_truth(self) -> Floats:
        """The true gain of what each repeat recommends, `(R,)`; 0 for CFG alone."""
        return np.append(self.truth, 0.0)[self.picks]


def simulate(
    values: ArrayLike, baseline: ArrayLike, order: Sequence[int], *,
    clips: int, held_back: int, repeats: int, seed: int = 0, replacement: bool = False,
) -> Simulated:  # fmt: skip
    """Run a race and its answer on prompts drawn from those that all values are known of.

    Args:
        values: of each cell on each prompt, `(cells, prompts)`; larger is better.
        baseline: of CFG alone, `(prompts,)`.
        order: the cells that race, as the scan orders them.
        clips: the most that the race may sample, those of CFG alone among them.
        held_back: prompts on which the winner is compared with CFG alone.
        replacement: draw prompts with replacement, so that intervals are of a mean over many more
            prompts than there are; without, a repeat that uses most prompts knows the truth.

    Raises:
        ValueError: if there are not enough prompts.
    """
    table, base = np.asarray(values, np.float64), np.asarray(baseline, np.float64)
    most = max(1, clips // 2)  # prompts that the race can come to with two candidates
    if not replacement and held_back >= table.shape[1]:
        raise ValueError(
            f"the prompts kept back must be fewer than the {table.shape[1]} that have values, but"
            f" got {held_back}. Keep back fewer."
        )
    rng = np.random.default_rng(seed)
    racers = [
        SimulatedRacer("cfg", BASELINE, 1.0),
        *(SimulatedRacer(str(cell), "scan", CELL_PASSES) for cell in order),
    ]
    rows = []
    for _ in range(repeats):
        drawn = (
            rng.integers(0, table.shape[1], most + held_back)
            if replacement
            else rng.permutation(table.shape[1])[: most + held_back]
        )
        rows.append(_repeat(table[:, drawn], base[drawn], racers, held_back, clips))
    columns = {name: np.asarray([row[name] for row in rows]) for name in rows[0]}
    return Simulated(**columns, truth=(table - base).mean(1))


def _repeat(
    table: Floats, base: Floats, racers: Sequence[SimulatedRacer], held_back: int, clips: int
) -> dict[str, float]:
    """Return the values of one repeat by the fields of `Simulated`."""
    prompts = range(held_back, table.shape[1])
    # The budget is in clips: while it races, each clip costs 1.
    race = Race(
        [replace(one, passes=1.0) for one in racers], prompts,
        RaceRules(max_passes=float(clips)),
    )  # fmt: skip
    state = race.state(_table(table, base, racers))
    sampled = _table(table, base, racers, finalists(state, racers))
    found = answer(racers, state, sampled, range(held_back), race.rules)
    gain = found.gain.difference.estimate if found.gain else None
    low, high = (None, None) if gain is None else (gain.low, gain.high)
    return {
        "winners": _cell(found.winner),
        "picks": _cell(found.recommended),
        "claimed": found.verdict == "use",
        "lows": math.nan if low is None else low,
        "highs": math.nan if high is None else high,
        "race_clips": round(state.passes),
    }


def _table(
    table: Floats, base: Floats, racers: Sequence[SimulatedRacer],
    names: Sequence[str] | None = None,
) -> ScoreTable:  # fmt: skip
    """Return the values of all racers on all prompts, or with `names` those of these alone."""
    return ScoreTable(
        "value",
        {
            one.name: dict(
                enumerate((base if one.role == BASELINE else table[int(one.name)]).tolist())
            )
            for one in racers
            if names is None or one.name in names
        },
    )


def _cell(name: str | None) -> int:
    return CFG_ALONE if name is None or name == "cfg" else int(name)
