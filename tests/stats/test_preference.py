"""What votes say, against published numbers and other programs."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch

from skipguide.stats import preference
from skipguide.stats.preference import Duel

# Krippendorff, Computing Krippendorff's Alpha-Reliability (2011), section C: 4 observers, 12 units,
# some not judged.
KRIPPENDORFF = [
    [1, 1, 1], [2, 2, 3, 2], [3, 3, 3, 3], [3, 3, 3, 3], [2, 2, 2, 2], [1, 2, 3, 4], [4, 4, 4, 4],
    [1, 1, 2, 1], [2, 2, 2, 2], [5, 5, 5], [1, 1], [3],
]  # fmt: skip


@pytest.mark.parametrize(
    ("level", "published"), [("nominal", 0.743), ("ordinal", 0.815), ("interval", 0.849)]
)
def test_alpha_is_krippendorffs(level: preference.Level, published: float) -> None:
    assert preference.krippendorff_alpha(KRIPPENDORFF, level) == pytest.approx(published, abs=6e-4)


def test_alpha_is_none_where_nobody_judged_the_same_or_nothing_differs() -> None:
    assert preference.krippendorff_alpha([[1], [2], []], "nominal") is None
    assert preference.krippendorff_alpha([[3, 3], [3, 3]], "ordinal") is None


@pytest.mark.parametrize(
    ("table", "kappa"),
    [([[20, 5], [10, 15]], 0.4), ([[45, 15], [25, 15]], 0.1304), ([[25, 35], [5, 35]], 0.2593)],
)
def test_kappa_of_known_tables(table: list[list[int]], kappa: float) -> None:
    """The first is the common example of two readers of 50 proposals; the others have equal
    observed agreement."""
    pairs = [(a, b) for a, b in itertools.product((0, 1), (0, 1)) for _ in range(table[a][b])]
    first, second = zip(*pairs, strict=True)
    assert preference.cohen_kappa(first, second) == pytest.approx(kappa, abs=5e-5)


def test_quadratic_kappa_is_the_concordance_of_ratings() -> None:
    """Fleiss and Cohen (1973): quadratically weighted kappa is Lin's concordance with population
    moments."""
    rng = np.random.default_rng(1)
    first = rng.integers(1, 6, 80)
    second = np.clip(first + rng.integers(-1, 2, 80), 1, 5)
    covariance = np.cov(first, second, ddof=0)
    shift = (first.mean() - second.mean()) ** 2
    concordance = 2 * covariance[0, 1] / (covariance[0, 0] + covariance[1, 1] + shift)
    found = preference.cohen_kappa(first.tolist(), second.tolist(), "quadratic")
    assert found == pytest.approx(concordance, abs=1e-12)


def test_kappa_of_unequal_lists_is_refused() -> None:
    with pytest.raises(ValueError, match="must have judged the same units, but gave 1 and 2"):
        preference.cohen_kappa([1], [1, 2])
    assert preference.cohen_kappa([2, 2], [2, 2]) is None


def duels(
    seed: int = 0, prompts: int = 12, strengths: tuple[float, ...] = (-1.0, 0.0, 0.3, 0.7)
) -> list[Duel]:
    rng = np.random.default_rng(seed)
    found = []
    for prompt in range(prompts):
        for i, j in itertools.combinations(range(len(strengths)), 2):
            chance = 1 / (1 + math.exp(strengths[j] - strengths[i]))
            score = 0.5 if rng.random() < 0.1 else float(rng.random() < chance)
            found.append(Duel(i + 10, j + 10, score, prompt))
    return found


@pytest.mark.parametrize("prior", [0.0, 1.0, 4.0])
def test_strengths_are_the_most_likely_ones(prior: float) -> None:
    fought = duels()

    score = torch.tensor([duel.score for duel in fought], dtype=torch.float64)
    first = torch.tensor([duel.first - 10 for duel in fought])
    second = torch.tensor([duel.second - 10 for duel in fought])
    b = torch.zeros(4, dtype=torch.float64, requires_grad=True)
    search = torch.optim.LBFGS(
        [b], max_iter=500, tolerance_grad=1e-10, line_search_fn="strong_wolfe"
    )

    def cost() -> torch.Tensor:
        """Minus the logarithm of the likelihood, written down as such."""
        search.zero_grad()
        logits = torch.cat([b[first] - b[second], b, -b])
        weights = torch.cat([score, torch.full((8,), prior / 4, dtype=torch.float64)])
        losses = torch.cat([1 - score, torch.full((8,), prior / 4, dtype=torch.float64)])
        logarithm = torch.nn.functional.logsigmoid
        total = -(weights * logarithm(logits) + losses * logarithm(-logits)).sum()
        total.backward()
        return total

    search.step(cost)
    best = b.detach().numpy()
    found = preference.bradley_terry(fought, prior)
    values = [found[name].value for name in sorted(found)]
    assert values == pytest.approx(best - best.mean(), abs=1e-5)
    assert sum(values) == pytest.approx(0, abs=1e-9)


def test_a_setting_that_always_wins_has_a_finite_strength() -> None:
    found = preference.bradley_terry([Duel(1, 2, 1.0, i) for i in range(50)])
    assert 1 < found[1].value < 6
    assert found[1].low is not None
    assert found[2].high is not None
    assert found[2].high < 0 < found[1].low < found[1].value - 1  # 50 wins do not say how much
    assert preference.bradley_terry([]) == {}


def test_intervals_hold_the_truth_as_often_as_they_say() -> None:
    truth = (-1.0, 0.0, 0.3, 0.7)
    held = []
    for seed in range(60):
        for setting, found in preference.bradley_terry(duels(seed, prompts=40), prior=0).items():
            assert found.low is not None
            assert found.high is not None
            held.append(found.low <= truth[setting - 10] <= found.high)
    assert 0.88 < np.mean(held) < 0.99


def test_win_rates_count_ties_as_halves() -> None:
    found = preference.win_rates([Duel(1, 2, 1.0, 0), Duel(2, 1, 0.5, 0), Duel(1, 2, 1.0, 1)])
    assert (found[1].value, found[2].value, found[1].count) == (2.5 / 3, 0.5 / 3, 3)
    assert found[1].low is None
    assert found[1].reason == "an interval needs 5 different prompts or more, but there are 2"
    strengths = preference.bradley_terry([Duel(1, 2, 1.0, 0)])
    assert (strengths[1].low, strengths[1].reason) == (
        None, "an interval needs 5 different prompts or more, but there is 1",
    )  # fmt: skip


def test_a_setting_that_won_six_of_six_may_lose_the_seventh() -> None:
    """It was 1 to 1 once."""
    found = preference.win_rates([Duel(1, 2, 1.0, prompt) for prompt in range(6)])
    assert (found[1].value, found[1].high) == (1.0, 1.0)
    assert found[1].low == pytest.approx(0.025 ** (1 / 6))
    assert found[2].high == pytest.approx(1 - 0.025 ** (1 / 6))
