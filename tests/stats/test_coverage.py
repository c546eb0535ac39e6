"""How often intervals hold the truth, by simulation: votes and values of few prompts."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from skipguide.stats import intervals, preference
from skipguide.stats.estimate import Estimate
from skipguide.stats.preference import Duel

Floats = NDArray[np.float64]
RATES = (0.1, 0.3, 0.5, 0.7, 0.9)
PROMPTS = (5, 8, 14, 30)
# Of 95 % intervals, how many must hold at least. Of 400 that hold in 95 % of all cases, 4.4
# standard deviations below.
LEAST = 0.90


def votes(
    rng: np.random.Generator, prompts: int, each: int, rate: float, alike: float, ties: float
) -> tuple[Floats, list[int]]:
    """Draw `each` votes on each prompt.

    Args:
        alike: the correlation of the votes on one prompt; 1 is one chance of 0 or 1 per prompt.
        ties: how many votes are half a win, whatever the prompt.
    """
    if alike == 1:
        chance = (rng.random(prompts) < rate).astype(float)
    elif alike == 0:
        chance = np.full(prompts, rate)
    else:
        strength = 1 / alike - 1
        chance = rng.beta(strength * rate, strength * (1 - rate), prompts)
    won = (rng.random((prompts, each)) < chance[:, None]).astype(float)
    return np.where(rng.random(won.shape) < ties, 0.5, won).ravel(), [
        prompt for prompt in range(prompts) for _ in range(each)
    ]


def coverage(draw: Callable[[], Estimate], truth: float, times: int) -> float:
    """Return how many of so many intervals hold the truth; one that is missing does not."""
    held = 0
    for _ in range(times):
        found = draw()
        held += (
            found.low is not None and found.high is not None and (found.low <= truth <= found.high)
        )
    return held / times


def share_coverage(
    prompts: int, each: int, rate: float, alike: float, ties: float, times: int
) -> float:
    rng = np.random.default_rng(7)
    return coverage(
        lambda: intervals.share(*votes(rng, prompts, each, rate, alike, ties)),
        ties / 2 + (1 - ties) * rate,
        times,
    )


@pytest.mark.parametrize("prompts", PROMPTS)
@pytest.mark.parametrize("rate", RATES)
def test_one_vote_per_prompt(prompts: int, rate: float) -> None:
    """A bootstrap held a rate of 0.7 in 79 % and of 0.9 in 39 % of the cases with 5 prompts."""
    assert share_coverage(prompts, 1, rate, 0, 0, 400) >= LEAST


@pytest.mark.parametrize(
    ("prompts", "each", "rate", "alike", "ties"),
    [
        (5, 4, 0.7, 0.3, 0.0), (5, 10, 0.8, 1.0, 0.2), (8, 10, 0.8, 1.0, 0.2),
        (14, 10, 0.1, 1.0, 0.2), (14, 3, 0.5, 0.2, 0.2), (30, 5, 0.9, 0.5, 0.0),
    ],
)  # fmt: skip
def test_several_votes_per_prompt(
    prompts: int, each: int, rate: float, alike: float, ties: float
) -> None:
    assert share_coverage(prompts, each, rate, alike, ties, 200) >= LEAST


@pytest.mark.long
@pytest.mark.parametrize("prompts", PROMPTS)
@pytest.mark.parametrize("each", [3, 10])
@pytest.mark.parametrize("alike", [0.0, 0.2, 0.5, 1.0])
def test_all_shares(prompts: int, each: int, alike: float) -> None:
    for rate in RATES:
        for ties in (0.0, 0.2):
            assert share_coverage(prompts, each, rate, alike, ties, 250) >= LEAST, (rate, ties)


def test_independent_votes_are_not_taken_for_alike() -> None:
    """30 prompts with 10 independent votes each have an interval like that of 300 votes."""
    rng = np.random.default_rng(0)
    widths = []
    for _ in range(50):
        found = intervals.share(*votes(rng, 30, 10, 0.6, 0, 0))
        assert found.low is not None
        assert found.high is not None
        widths.append(found.high - found.low)
    low, high = intervals.clopper_pearson(180, 300)
    assert np.mean(widths) < 1.2 * (high - low)


@pytest.mark.parametrize("prompts", PROMPTS)
@pytest.mark.parametrize("law", ["normal", "uniform", "beta", "gamma"])
def test_means(prompts: int, law: str) -> None:
    """Two videos of each prompt, which have half of their variance in common."""
    rng = np.random.default_rng(3)
    draw, truth = {
        "normal": (lambda: rng.normal(size=prompts), 0.0),
        "uniform": (lambda: rng.random(prompts), 0.5),
        "beta": (lambda: rng.beta(8, 2, prompts), 0.8),
        "gamma": (lambda: rng.gamma(4, size=prompts), 4.0),
    }[law]
    clusters = [*range(prompts), *range(prompts)]

    def both() -> Estimate:
        own = draw()
        spread = own.std()
        return intervals.mean(
            np.concatenate([own + rng.normal(0, spread, prompts) for _ in range(2)]), clusters
        )

    assert coverage(both, truth, 400) >= LEAST


@pytest.mark.parametrize("prompts", PROMPTS)
@pytest.mark.parametrize(
    "chances", [(0.1, 0.2, 0.4, 0.2, 0.1), (0, 0.05, 0.15, 0.3, 0.5), (0.02, 0, 0, 0.03, 0.95)]
)
def test_ratings(prompts: int, chances: tuple[float, ...]) -> None:
    rng = np.random.default_rng(5)
    truth = float(np.dot(chances, range(1, 6)))

    def draw() -> Estimate:
        given = rng.choice(np.arange(1.0, 6.0), prompts, p=chances)
        return intervals.rating(given, None, (1.0, 5.0))

    assert coverage(draw, truth, 200) >= LEAST


@pytest.mark.parametrize("prompts", PROMPTS)
@pytest.mark.parametrize(("worse", "better"), [(0.0, 0.02), (0.05, 0.05), (0.1, 0.3), (0.0, 0.9)])
def test_differences_of_shares(prompts: int, worse: float, better: float) -> None:
    """Of pairs of which some are better, some worse and the others alike."""
    rng = np.random.default_rng(11)

    def draw() -> Estimate:
        drawn = rng.random(prompts)
        return intervals.mean_difference(
            drawn >= worse, (drawn >= worse + better) | (drawn < worse)
        )

    assert coverage(draw, better - worse, 400) >= LEAST


@pytest.mark.parametrize(
    ("prompts", "each", "strengths"),
    [(5, 1, (-1.2, 1.2)), (8, 3, (-1.0, 0.0, 1.0)), (14, 1, (-1.0, 0.0, 0.3, 0.7))],
)
def test_strengths(prompts: int, each: int, strengths: tuple[float, ...]) -> None:
    """A jackknife alone held the first in 67 % of the cases."""
    rng = np.random.default_rng(13)
    pairs = [(i, j) for j in range(len(strengths)) for i in range(j)]
    held = []
    for _ in range(60):
        duels = [
            Duel(i, j, float(rng.random() < 1 / (1 + np.exp(strengths[j] - strengths[i]))), prompt)
            for prompt in range(prompts)
            for i, j in pairs
            for _ in range(each)
        ]
        for setting, found in preference.bradley_terry(duels).items():
            assert found.low is not None
            assert found.high is not None
            held.append(found.low <= strengths[setting] <= found.high)
    assert np.mean(held) >= 0.88
