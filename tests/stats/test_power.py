"""The power of a study: against the exact binomial, and against real studies by the functions that
the studio prints."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from skipguide.stats import intervals, preference
from skipguide.stats.power import Design, describe, power, raters_needed
from skipguide.stats.preference import Duel

PLAIN = Design(raters=12, tasks=40, prompts=20)


def exact_power(votes: int, rate: float) -> float:
    """The chance that Clopper and Pearson's 95 % interval of independent votes lies above a half.

    Its lower end does where a fair coin would win as often in fewer than 2.5 % of the cases.
    """

    def chance(won: int, of_each: float) -> float:
        return math.comb(votes, won) * of_each**won * (1 - of_each) ** (votes - won)

    tails = np.cumsum([chance(won, 0.5) for won in range(votes, -1, -1)])[::-1]
    return sum(chance(won, rate) for won in range(votes + 1) if tails[won] < 0.025)


@pytest.mark.parametrize(("votes", "rate"), [(30, 0.8), (196, 0.6), (100, 0.4)])
def test_independent_votes_have_the_power_of_the_exact_test(votes: int, rate: float) -> None:
    design = Design(1, votes, votes, win_rate=rate, ties=0, likeness=0)
    truth = exact_power(votes, max(rate, 1 - rate))
    deviation = math.sqrt(truth * (1 - truth) / 4000)
    assert power(design, 4000) == pytest.approx(truth, abs=3 * deviation + 0.005)


def test_a_fast_side_is_that_of_the_interval() -> None:
    """Of shares near the border as well as far from it, with and without ties."""
    random = np.random.default_rng(1)
    sides = []
    for _ in range(150):
        sizes = random.integers(1, 6, random.integers(3, 12))
        sums = random.binomial(2 * sizes, random.choice([0.1, 0.3, 0.5, 0.7, 0.9, 1.0])) / 2
        values, clusters = [], []
        for cluster, (won, size) in enumerate(zip(sums, sizes, strict=True)):
            own = [1.0] * int(won) + [0.5] * int(won % 1 > 0)
            values += own + [0.0] * (size - len(own))
            clusters += [cluster] * size
        found = intervals.share(values, clusters)
        low, high = found.low or 0.0, 1.0 if found.high is None else found.high
        sides.append((low > 0.5) - (high < 0.5))
        assert intervals.side_of_share(sums, sizes.astype(float)) == sides[-1]
    assert {-1, 0, 1} <= set(sides)


@pytest.mark.long
def test_it_is_what_the_studio_would_print_of_such_studies() -> None:
    """Studies vote by vote, through `preference.win_rates`, as votes come out of a ledger."""
    design = replace(PLAIN, raters=6, tasks=20, prompts=10, win_rate=0.65)
    random = np.random.default_rng(2)
    mean = (design.win_rate - design.ties / 2) / (1 - design.ties)
    spread = 1 / design.likeness - 1
    seen = 0
    for _ in range(600):
        chances = random.beta(mean * spread, (1 - mean) * spread, design.prompts)
        duels = []
        for vote in range(design.votes):
            prompt = vote % design.prompts
            won = float(random.random() < chances[prompt])
            score = 0.5 if random.random() < design.ties else won
            duels.append(Duel(1, 2, score, prompt))
        seen += (preference.win_rates(duels)[1].low or 0.0) > 0.5
    assert power(design) == pytest.approx(seen / 600, abs=0.07)  # three deviations of 600


@pytest.mark.long
def test_more_of_anything_sees_more() -> None:
    found = power(PLAIN)
    assert 0.78 < found < 0.9
    assert describe(PLAIN, found) == (
        "At 12 raters x 40 pairs a win rate of 0.6 is seen in 8 of 10 studies."
    )
    for more in ({"raters": 24}, {"prompts": 40}, {"win_rate": 0.65}, {"likeness": 0.0}):
        assert power(replace(PLAIN, **more)) > found
    assert power(replace(PLAIN, settings=4)) < found  # six pairs share the votes
    assert power(replace(PLAIN, win_rate=0.4)) == pytest.approx(found, abs=0.03)


def test_how_many_raters_are_needed() -> None:
    needed = raters_needed(PLAIN, 0.8)
    assert needed is not None
    assert power(replace(PLAIN, raters=needed), 500) >= 0.8
    assert power(replace(PLAIN, raters=needed - 1), 500) < 0.8
    assert raters_needed(replace(PLAIN, prompts=6)) is None  # more prompts are needed, not raters
    assert power(replace(PLAIN, prompts=4, win_rate=0.9)) == 0.0  # there is no interval


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        ({"raters": 0}, "a study needs 1 or more raters, but got 0"),
        ({"settings": 1}, "a study needs 2 or more settings, but got 1"),
        ({"win_rate": 0.5}, "and not 0.5, which nothing can be seen of"),
        ({"win_rate": 0.97}, "must be from 0.05 to 0.95"),
        ({"ties": 1.0}, "the share of ties must be from 0 to below 1"),
        ({"likeness": -0.1}, "the likeness from 0 to 1"),
    ],
)
def test_designs_that_are_none_are_refused(wrong: dict[str, float], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        replace(PLAIN, **wrong)
