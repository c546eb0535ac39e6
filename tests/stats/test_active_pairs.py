"""Pairs that tell most, against numerical integration and raters whose taste is known."""

from __future__ import annotations

import itertools
from collections import Counter

import numpy as np
import pytest

from skipguide.stats import active_pairs, intervals
from skipguide.stats.preference import Duel
from support.simulated_raters import compare


def votes_on(settings: int, prompts: int = 5, each: int = 2, seed: int = 3) -> list[Duel]:
    random = np.random.default_rng(seed)
    return [
        Duel(i, j, float(random.choice([0, 0.5, 1], p=[0.3, 0.1, 0.6])), prompt)
        for prompt in range(prompts)
        for i, j in itertools.combinations(range(settings), 2)
        for _ in range(each)
    ]


def integrated(
    duels: list[Duel], settings: int, spread: float, own: float
) -> dict[str, np.ndarray]:
    """Integrate the model itself on a grid of differences to the last setting.

    The deviations of a prompt are integrated by Gauss and Hermite's rule, at each point of the
    grid.
    """
    free = settings - 1
    covariance = np.eye(free) + 1  # of differences to the last one, in units of the variance
    line = np.linspace(-5, 5, 61 if free == 2 else 401)
    grid = np.stack(np.meshgrid(*[line] * free, indexing="ij"), -1).reshape(-1, free)
    nodes, weights = np.polynomial.hermite_e.hermegauss(12)
    around = np.stack(np.meshgrid(*[nodes] * free, indexing="ij"), -1).reshape(-1, free)
    mass = np.prod(np.meshgrid(*[weights] * free, indexing="ij"), 0).reshape(-1)
    around = around @ (own * np.linalg.cholesky(covariance)).T
    log = -np.einsum("gi,ij,gj->g", grid, np.linalg.inv(covariance), grid) / (2 * spread**2)
    for prompt in {duel.cluster for duel in duels}:
        at = np.pad(grid[:, None] + around, ((0, 0), (0, 0), (0, 1)))
        chance = np.zeros(at.shape[:2])
        for duel in duels:
            if duel.cluster == prompt:
                apart = at[..., duel.first] - at[..., duel.second]
                chance -= duel.score * np.log1p(np.exp(-apart))
                chance -= (1 - duel.score) * np.log1p(np.exp(apart))
        log += np.log(np.exp(chance) @ mass)
    density = np.exp(log - log.max())
    density /= density.sum()
    mean = density @ grid
    at = np.pad(grid, ((0, 0), (0, 1)))
    ahead = (at >= at.max(1, keepdims=True) - 1e-9).astype(float)  # on the diagonals two are
    return {
        "mean": mean,
        "deviation": (density @ (grid - mean) ** 2) ** 0.5,
        "best": density @ (ahead / ahead.sum(1, keepdims=True)),
    }


@pytest.mark.parametrize("settings", [2, 3])
@pytest.mark.parametrize("own", [0.01, 0.7])
def test_the_posterior_is_the_integral_of_the_model(settings: int, own: float) -> None:
    duels = votes_on(settings)
    expected = integrated(duels, settings, 1.0, own)
    found = active_pairs.posterior(duels, range(settings), 1.0, (own,))
    differences = [found.difference(i, settings - 1) for i in range(settings - 1)]
    means, deviations = np.array(differences).T
    np.testing.assert_allclose(means, expected["mean"], atol=0.05)
    np.testing.assert_allclose(deviations, expected["deviation"], rtol=0.05)
    np.testing.assert_allclose(found.chances, expected["best"], atol=0.02)


def test_votes_on_one_prompt_say_less_than_on_many() -> None:
    def deviation(prompts: int) -> float:
        duels = [Duel(0, 1, float(i % 3 > 0), i % prompts) for i in range(24)]
        return active_pairs.posterior(duels, (0, 1), prompt_spreads=(0.7,)).difference(0, 1)[1]

    assert deviation(1) > 1.5 * deviation(24)


def test_the_likeliest_spread_of_prompts_is_taken() -> None:
    """Raters who always agree on a prompt, and prompts that do not, against coins."""
    alike = [Duel(0, 1, float(prompt % 2), prompt) for prompt in range(12) for _ in range(6)]
    coins = [Duel(0, 1, float(i % 2), prompt) for prompt in range(12) for i in range(6)]
    assert active_pairs.posterior(alike, (0, 1)).prompt_spread == 1.0
    assert active_pairs.posterior(coins, (0, 1)).prompt_spread == 0.25


def test_the_win_rate_is_that_of_a_new_prompt() -> None:
    found = active_pairs.posterior([], (0, 1), prompt_spreads=(1.0,))
    drawn = np.random.default_rng(0).normal(0.8, 2**0.5, 400_000)
    assert found.win_rate(0.8) == pytest.approx((1 / (1 + np.exp(-drawn))).mean(), abs=0.005)


def test_information_is_the_entropy_that_an_answer_takes_away() -> None:
    """Of two settings with a known difference of strengths, from its definition."""
    found = active_pairs.posterior([Duel(0, 1, 1.0, 0)] * 3, (0, 1), prompt_spreads=(0.3,))
    mean, deviation = found.difference(0, 1)
    apart = mean + deviation * np.random.default_rng(5).standard_normal(400_000)
    wins = found.win_rate(apart)

    def entropy(share: float) -> float:
        return float(-share * np.log(share) - (1 - share) * np.log(1 - share))

    first, won = (apart > 0).mean(), wins.mean()
    after = won * entropy((wins * (apart > 0)).mean() / won)
    after += (1 - won) * entropy(((1 - wins) * (apart > 0)).mean() / (1 - won))
    best = active_pairs.information_about_best(found, [(0, 1)])
    assert best == pytest.approx([entropy(first) - after], abs=0.01)


def test_two_that_are_both_behind_tell_nothing_of_the_best() -> None:
    """0 and 1 are far ahead of 2 and 3, each pair of which is as even as the other."""
    duels = [
        Duel(strong, weak, 1.0, prompt)
        for strong in (0, 1)
        for weak in (2, 3)
        for prompt in range(9)
    ]
    found = active_pairs.posterior(duels, range(4))
    pairs = list(itertools.combinations(range(4), 2))
    best = dict(zip(pairs, active_pairs.information_about_best(found, pairs), strict=True))
    assert best[2, 3] < 0.05 * best[0, 1]
    assert found.win_rate(found.difference(2, 3)[0]) == pytest.approx(0.5, abs=0.01)
    assert active_pairs.rank_pairs(found, pairs, {})[0] == (0, 1)


def test_the_first_votes_go_round_all_pairs() -> None:
    pairs = list(itertools.combinations(range(4), 2))
    shown = Counter[tuple[int, int]]()
    for _ in pairs:
        found = active_pairs.posterior([], range(4))
        shown[active_pairs.rank_pairs(found, pairs, shown)[0]] += 1
    assert set(shown.values()) == {1}
    assert len(shown) == len(pairs)


def test_the_best_is_found_with_fewer_votes_than_by_random_pairs() -> None:
    told, random = compare(12, settings=6, at_once=4, most=120)
    logs = np.log([a.votes / b.votes for a, b in zip(told, random, strict=True)])
    ratio = intervals.mean(logs)
    assert ratio.high is not None
    assert ratio.high < 0
    assert np.mean([one.loss for one in told]) < 0.15
    assert np.mean([one.loss for one in told]) <= np.mean([one.loss for one in random]) + 0.05


def test_what_cannot_be_fitted_is_refused() -> None:
    with pytest.raises(ValueError, match="two or more different settings, but got"):
        active_pairs.posterior([], (3,))
    with pytest.raises(ValueError, match="larger than 0"):
        active_pairs.posterior([], (0, 1), 0.0)
