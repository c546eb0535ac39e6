"""Paired differences against scipy, R's p.adjust and closed forms."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from skipguide.stats import intervals, jackknife, preference, quantiles
from skipguide.stats.paired import (
    Replicates,
    holm,
    paired_difference,
    share_against_half,
)
from skipguide.stats.preference import Duel

# scipy 1.17 on these: ttest_rel, with its confidence interval
FIRST = [1.3, -0.04, 1.75, 1.94, -0.95, -0.3, 1.13, 0.68, 0.98]
SECOND = [0.47, 0.0, 1.74, 1.57, -0.79, -0.47, 0.3, 0.46, 0.1]
T_TEST_P, T_TEST_INTERVAL = 0.034013221201545055, (0.03343678343495754, 0.6576743276761534)


def test_pairs_have_the_p_value_and_interval_of_the_paired_t_test() -> None:
    found = paired_difference(FIRST, SECOND)
    assert found.p == pytest.approx(T_TEST_P, rel=1e-9)
    assert (found.estimate.low, found.estimate.high) == pytest.approx(T_TEST_INTERVAL, rel=1e-9)
    assert found.estimate.value == pytest.approx(np.mean(FIRST) - np.mean(SECOND))


def test_seeds_of_one_prompt_count_as_one_prompt() -> None:
    """Of clusters of one size it is the t test of the prompts' means, not of all pairs."""
    spread = np.asarray([0.3, -0.3])
    first = (np.asarray(FIRST)[:, None] + spread).ravel()
    second = np.repeat(SECOND, 2)
    prompts = [prompt for prompt in range(9) for _ in range(2)]
    found = paired_difference(first, second, prompts)
    assert found.p == pytest.approx(T_TEST_P, rel=1e-9)
    alone = paired_difference(first, second)
    assert alone.p is not None
    assert alone.p < 0.5 * T_TEST_P


@pytest.mark.parametrize(
    ("t", "freedom", "p"),
    [
        (2.0, 7, 0.08561932856297605), (0.3, 4, 0.7791214282774598),
        (5.5, 19, 2.6350028586908895e-05), (12, 3, 0.0012450158007893362),
    ],
)  # fmt: skip
def test_tails_of_students_t_are_scipys(t: float, freedom: float, p: float) -> None:
    assert quantiles.t_tails(t, freedom) == pytest.approx(p, rel=1e-9)
    assert quantiles.t_tails(-t, freedom) == quantiles.t_tails(t, freedom)


def test_tails_of_other_laws_are_scipys() -> None:
    assert quantiles.normal_tails(1.3) == pytest.approx(0.19360096917122072, rel=1e-12)
    assert quantiles.beta_probability(0.3, 2.5, 4) == pytest.approx(0.3521975859067672, rel=1e-9)
    assert quantiles.beta_probability(0.5, 15, 6) == pytest.approx(0.020694732666015625, rel=1e-9)


@pytest.mark.parametrize(
    ("won", "of", "p"),
    [(15, 20, 0.04138946533203125), (3, 20, 0.0025768280029296875), (10, 20, 1.0),
     (12, 12, 0.00048828125)],
)  # fmt: skip
def test_one_vote_per_prompt_has_the_exact_test_of_scipy(won: int, of: int, p: float) -> None:
    """scipy.stats.binomtest, two-sided."""
    found = share_against_half([1.0] * won + [0.0] * (of - won))
    assert found.p == pytest.approx(p, rel=1e-6)
    assert found.estimate.value == pytest.approx(won / of - 0.5)
    assert found.estimate.low is not None
    assert (found.estimate.sign != 0) == (p < 0.05)


def test_p_is_below_a_twentieth_where_the_interval_leaves_out_0() -> None:
    rng = np.random.default_rng(1)
    both = set()
    for _ in range(300):
        prompts = [int(p) for p in np.repeat(np.arange(rng.integers(5, 12)), 2)]
        first, second = (rng.random(len(prompts)) for _ in range(2))
        if rng.random() < 0.5:
            first, second = first > 0.2, second > 0.5
        found = paired_difference(first, second, prompts)
        assert found.p is not None
        both.add((found.p < 0.05, found.estimate.sign != 0))
    assert both == {(True, True), (False, False)}


def test_what_cannot_be_tested_says_why() -> None:
    few = paired_difference([1.0, 2.0, 3.0, 4.0], [1.5, 2.0, 2.0, 4.5])
    assert few.p is None
    assert few.estimate.reason == "an interval needs 5 different prompts or more, but there are 4"
    same = paired_difference(np.arange(6) / 3, np.arange(6) / 3)
    assert (same.p, same.estimate.value) == (None, 0.0)
    assert "all 6 values are 0" in (same.estimate.reason or "")


@pytest.mark.parametrize("won", [(1.0, 0.0), (0.0, 1.0)])
def test_a_share_on_one_side_in_every_pair_has_a_p_value(won: tuple[float, float]) -> None:
    found = paired_difference([won[0]] * 8, [won[1]] * 8)
    assert found.p is not None
    assert found.p < 0.05
    assert found.estimate.low is not None


def test_no_pair_that_differs_is_no_evidence() -> None:
    found = paired_difference([1.0] * 8, [1.0] * 8)
    assert (found.p, found.estimate.value, found.estimate.sign) == (1.0, 0.0, 0)


# --- several comparisons --------------------------------------------------------------------------


def test_holm_is_that_of_r() -> None:
    """R 4: p.adjust(c(0.01, 0.04, 0.03, 0.005, 0.6), "holm")."""
    assert holm([0.01, 0.04, 0.03, 0.005, 0.6]) == pytest.approx([0.04, 0.09, 0.09, 0.025, 0.6])
    assert holm([0.5, 0.4]) == [0.8, 0.8]
    assert holm([]) == []


# --- numbers of sets ------------------------------------------------------------------------------


def test_the_difference_of_two_means_of_sets_is_the_paired_t_test() -> None:
    """With a group for each prompt; the mean of a reference, which both have, drops out."""
    reference = torch.tensor([0.4, 0.1, -0.3, 0.2, 0.9, 0.5, -0.1, 0.7, 0.2, 0.3])

    def of(values: list[float]) -> Replicates:
        x = torch.tensor(values, dtype=torch.float64)

        def statistic(i: torch.Tensor, j: torch.Tensor) -> torch.Tensor:
            return (x[i].mean() - reference[j].double().mean())[None]

        found = jackknife.replicates(statistic, [range(9), range(10)])
        assert found is not None
        value = float(statistic(torch.arange(9), torch.arange(10)))
        return Replicates(value, tuple(one[:, 0].numpy() for one in found))

    found = of(FIRST).difference(of(SECOND))
    assert found.p == pytest.approx(T_TEST_P, rel=1e-9)
    assert (found.estimate.low, found.estimate.high) == pytest.approx(T_TEST_INTERVAL, rel=1e-9)
    same = of(FIRST).difference(of(FIRST))
    assert (same.p, same.estimate.value) == (None, 0.0)


def test_sets_in_other_groups_are_refused() -> None:
    a, b = (Replicates(1.0, (np.arange(float(n)),)) for n in (8, 9))
    with pytest.raises(ValueError, match="divided into the same groups, but have"):
        a.difference(b)


# --- strengths ------------------------------------------------------------------------------------


def test_differences_of_strengths_are_those_of_the_strengths() -> None:
    rng = np.random.default_rng(0)
    duels = [
        Duel(i, j, float(rng.random() < 0.5 + 0.2 * (i - j)), prompt)
        for prompt in range(12)
        for i, j in ((0, 1), (0, 2), (1, 2))
    ]
    strengths = preference.bradley_terry(duels)
    found = preference.strength_differences(duels, 1)
    assert sorted(found) == [0, 2]
    for setting, difference in found.items():
        expected = strengths[setting].value - strengths[1].value
        assert difference.estimate.value == pytest.approx(expected)
        assert difference.p is not None
        assert (difference.p < 0.05) == (difference.estimate.sign != 0)
    turned = preference.strength_differences(duels, 0)[1].estimate
    mine = found[0].estimate
    assert (turned.value, turned.low) == pytest.approx((-mine.value, -(mine.high or 0)))
    assert preference.strength_differences(duels, 7) == {}


def test_effective_votes_of_independent_and_of_equal_votes() -> None:
    assert intervals.effective_votes([1.0, 0.0] * 10) == pytest.approx(20, rel=0.2)
    copies = [float(prompt % 2) for prompt in range(20) for _ in range(10)]
    prompts = [prompt for prompt in range(20) for _ in range(10)]
    assert intervals.effective_votes(copies, prompts) < 25
