"""How often intervals hold the truth, by simulation: votes and values of few prompts."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from skipguide.metrics.frechet import Moments, frechet_distance
from skipguide.stats import intervals, jackknife, preference
from skipguide.stats.estimate import Estimate
from skipguide.stats.paired import Replicates, holm, paired_difference
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


# --- differences of settings ----------------------------------------------------------------------


def settings_on_prompts(
    rng: np.random.Generator, prompts: int, seeds: int, effect: float
) -> tuple[Floats, Floats, list[int]]:
    """Draw two settings on the same prompts and seeds; prompts differ in how much one helps."""
    prompt, helps = rng.normal(size=(prompts, 1)), effect + 0.7 * rng.normal(size=(prompts, 1))
    noise = rng.normal(size=(prompts, seeds))
    first, second = (0.5 * rng.normal(size=(prompts, seeds)) for _ in range(2))
    base = prompt + noise
    return (
        (base + helps + first).ravel(), (base + second).ravel(),
        [i for i in range(prompts) for _ in range(seeds)],
    )  # fmt: skip


@pytest.mark.parametrize("prompts", PROMPTS)
@pytest.mark.parametrize("seeds", [1, 4])
def test_paired_differences_of_seeds_of_prompts(prompts: int, seeds: int) -> None:
    """With 4 seeds each, pairs that are taken for independent hold it in 74 to 79 %."""
    rng = np.random.default_rng(17)

    def clustered(by_prompt: bool) -> Estimate:
        first, second, clusters = settings_on_prompts(rng, prompts, seeds, 0.3)
        return intervals.mean_difference(first, second, clusters if by_prompt else None)

    assert coverage(lambda: clustered(True), 0.3, 400) >= LEAST
    if seeds > 1:
        assert coverage(lambda: clustered(False), 0.3, 200) < 0.85


@pytest.mark.parametrize("prompts", PROMPTS)
@pytest.mark.parametrize(("worse", "better"), [(0.0, 0.02), (0.1, 0.3), (0.0, 0.9)])
@pytest.mark.parametrize("alike", [0.0, 0.3, 1.0])
def test_differences_of_shares_of_seeds_of_prompts(
    prompts: int, worse: float, better: float, alike: float
) -> None:
    """Four pairs of each prompt; `alike` is the correlation of what happens to them."""
    rng = np.random.default_rng(19)
    clusters = [i for i in range(prompts) for _ in range(4)]

    def draw() -> Estimate:
        common = rng.random((prompts, 4)) < alike**0.5
        drawn = np.where(common, rng.random((prompts, 1)), rng.random((prompts, 4))).ravel()
        first = (drawn >= worse).astype(float)
        second = ((drawn >= worse + better) | (drawn < worse)).astype(float)
        return intervals.mean_difference(first, second, clusters)

    assert coverage(draw, better - worse, 200) >= LEAST


@pytest.mark.parametrize("times", [150, pytest.param(1000, marks=pytest.mark.long)])
def test_one_comparison_in_twenty_is_found_where_there_is_nothing_unless_they_are_corrected(
    times: int,
) -> None:
    """Ten settings against one baseline on 12 prompts with 2 seeds, none of which does anything."""
    rng = np.random.default_rng(23)
    alone, any_alone, any_corrected = 0, 0, 0
    for _ in range(times):
        shared, helps = rng.normal(size=(12, 2)), rng.normal(size=(11, 12, 1))
        values = (shared + helps + rng.normal(size=(11, 12, 2))).reshape(11, -1)
        clusters = [i for i in range(12) for _ in range(2)]
        found = [paired_difference(one, values[0], clusters).p for one in values[1:]]
        p_values = [p for p in found if p is not None]
        assert len(p_values) == 10
        alone += sum(p < 0.05 for p in p_values)
        any_alone += min(p_values) < 0.05
        any_corrected += min(holm(p_values)) < 0.05
    for words, count in (("without", any_alone), ("with", any_corrected)):
        low, high = intervals.clopper_pearson(count, times)
        print(
            f"tables with a difference {words} the correction:"
            f" {count / times:.1%} [{low:.1%}, {high:.1%}]"
        )
    assert 0.025 <= alone / (10 * times) <= 0.085
    assert any_alone / times > 0.15
    assert any_corrected / times <= 0.10  # 5 %, and three standard deviations


def test_differences_of_frechet_distances_on_the_same_prompts() -> None:
    """Of two sets from the same noise to one reference, against the closed form.

    The interval of the difference is far narrower than what the two intervals would give.
    """
    rng = np.random.default_rng(29)
    held, narrower, times = 0, 0, 40
    for _ in range(times):
        noise, reference = rng.normal(size=(160, 2)), rng.normal(size=(160, 2))
        sets = [noise + 0.1 * rng.normal(size=(160, 2)) + shift for shift in (1.0, 0.5)]
        found = [_frechet_replicates(x, reference) for x in sets]
        difference = found[0].difference(found[1]).estimate
        assert difference.low is not None
        assert difference.high is not None
        # Means 1 and 0.5 away in both dimensions; the covariances are the same in both.
        held += difference.low <= 2 * (1.0 - 0.25) <= difference.high
        apart = [
            float(jackknife.half_widths_of([torch.as_tensor(v)[:, None] for v in one.without]))
            for one in found
        ]
        narrower += (difference.high - difference.low) / 2 < 0.8 * np.hypot(apart[0], apart[1])
    assert held / times >= LEAST - 0.05
    assert narrower == times


def _frechet_replicates(x: Floats, y: Floats) -> Replicates:
    a, b = torch.from_numpy(x), torch.from_numpy(y)

    def statistic(i: torch.Tensor, j: torch.Tensor) -> torch.Tensor:
        return torch.tensor(
            [frechet_distance(Moments.from_features(a[i]), Moments.from_features(b[j]))],
            dtype=torch.float64,
        )

    found = jackknife.replicates(statistic, [range(len(a)), range(len(b))])
    assert found is not None
    value = float(statistic(torch.arange(len(a)), torch.arange(len(b))))
    return Replicates(value, tuple(one[:, 0].numpy() for one in found))


@pytest.mark.parametrize(("prompts", "each"), [(5, 1), (8, 3), (14, 1)])
def test_differences_of_strengths(prompts: int, each: int) -> None:
    rng = np.random.default_rng(31)
    strengths = (-0.8, 0.0, 0.8)
    pairs = [(i, j) for j in range(3) for i in range(j)]
    held = []
    for _ in range(50):
        duels = [
            Duel(i, j, float(rng.random() < 1 / (1 + np.exp(strengths[j] - strengths[i]))), prompt)
            for prompt in range(prompts)
            for i, j in pairs
            for _ in range(each)
        ]
        for setting, found in preference.strength_differences(duels, 0).items():
            low, high = found.estimate.low, found.estimate.high
            assert low is not None
            assert high is not None
            held.append(low <= strengths[setting] - strengths[0] <= high)
    assert np.mean(held) >= 0.88
