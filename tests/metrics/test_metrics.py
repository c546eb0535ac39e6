"""Metrics of sets of features: against other people's programs (references/metrics.json) and closed
forms."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from skipguide.lab import judge as lab_judge
from skipguide.metrics.frechet import Moments, frechet_distance
from skipguide.metrics.inception import Predictions, inception_score, split_scores
from skipguide.metrics.kernel import Grams, Polynomial, kernel_distance
from skipguide.metrics.neighbours import Distances, neighbours
from skipguide.metrics.vendi import vendi_score
from support.references import metrics_upstream as upstream

Tensor = torch.Tensor
FOUND: dict[str, Any] = json.loads(
    (Path(upstream.__file__).parent / "metrics.json").read_text(encoding="utf-8")
)
CASES = list(upstream.CASES)


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def distance(x: Tensor, y: Tensor) -> float:
    return frechet_distance(Moments.from_features(x), Moments.from_features(y))


# --- Frechet distance -----------------------------------------------------------------------------


@pytest.mark.parametrize("case", CASES)
def test_frechet_distance_is_that_of_scipy_and_of_the_lab(case: str) -> None:
    """scipy's root of a matrix without full rank is itself only right to 1e-5 or so; the lab's way
    needs no root."""
    x, y = upstream.features_of(case)
    assert distance(x, y) == pytest.approx(
        FOUND["frechet"][case], rel=1e-9 if case == "plain" else 1e-5
    )
    assert distance(x, y) == pytest.approx(lab_judge.frechet(x, y), rel=1e-10)


def test_frechet_distance_of_two_gaussians() -> None:
    """Covariances with the same axes: |m_a - m_b|^2 + sum of (root a - root b)^2."""
    axes = torch.linalg.qr(drawn(6, 6)).Q
    spreads = torch.tensor([[4.0, 1, 9, 0.25, 1, 0], [1, 1, 16, 4, 0, 0.5]], dtype=torch.float64)
    means = drawn(2, 6, seed=1)
    count = 100
    a, b = (
        Moments(count, mean, (count - 1) * axes @ torch.diag(spread) @ axes.T)
        for mean, spread in zip(means, spreads, strict=True)
    )
    expected = (means[0] - means[1]).square().sum() + (
        spreads[0].sqrt() - spreads[1].sqrt()
    ).square().sum()
    assert frechet_distance(a, b) == pytest.approx(float(expected), rel=1e-12)


def test_frechet_distance_to_itself_is_nothing_and_it_is_symmetric() -> None:
    x, y = upstream.features_of("wide")
    assert distance(x, x) == pytest.approx(0, abs=1e-9 * float(x.square().sum()))
    assert distance(x, y) == pytest.approx(distance(y, x), rel=1e-9)


def test_frechet_distance_does_not_care_for_order_or_axes() -> None:
    x, y = upstream.features_of("plain")
    turn = torch.linalg.qr(drawn(8, 8)).Q
    assert distance(x.flip(0), y) == pytest.approx(distance(x, y), rel=1e-12)
    assert distance(x @ turn + 5, y @ turn + 5) == pytest.approx(distance(x, y), rel=1e-9)


def test_moments_of_float32_are_taken_in_float64() -> None:
    """Around 1e4 float32 has three digits after the point: a covariance summed there would be
    noise."""
    x = (drawn(500, 4) + 1e4).float()
    assert torch.allclose(Moments.from_features(x).covariance, x.double().T.cov(), rtol=1e-9)


@pytest.mark.parametrize("parts", [(60,), (1, 59), (20, 1, 30, 9)])
def test_merged_moments_are_those_of_all(parts: tuple[int, ...]) -> None:
    x = upstream.features_of("plain")[0] + 1e3
    first, *others = (Moments.from_features(chunk) for chunk in x.split(parts))
    merged = sum(others, first)
    assert merged.count == 60
    assert torch.allclose(merged.mean, x.mean(0), rtol=1e-13)
    assert torch.allclose(merged.covariance, x.T.cov(), rtol=1e-9)


def test_rank_of_a_covariance() -> None:
    assert Moments.from_features(drawn(30, 30)).rank_deficient
    assert not Moments.from_features(drawn(31, 30)).rank_deficient


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        (((9, 3), (9, 4)), "features must have one width, but got 3 and 4. Use"),
        (((1, 3), (9, 3)), "needs at least 2 feature vectors, but got 1. Add"),
    ],
)
def test_frechet_distance_refuses(shapes: tuple[tuple[int, int], ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        distance(drawn(*shapes[0]), drawn(*shapes[1]))


# --- Inception Score ------------------------------------------------------------------------------


@pytest.mark.parametrize("epsilon", [0.0, 1e-7])
def test_inception_score_of_certain_classes_is_their_number(epsilon: float) -> None:
    certain = torch.eye(7).repeat(5, 1)
    assert inception_score(Predictions.from_probabilities(certain, epsilon)) == pytest.approx(
        7, rel=1e-6
    )


@pytest.mark.parametrize(
    "p", [torch.full((9, 4), 0.25), torch.tensor([[0.7, 0.2, 0.1]]).repeat(9, 1)]
)
def test_inception_score_of_equal_predictions_is_one(p: Tensor) -> None:
    assert inception_score(Predictions.from_probabilities(p)) == pytest.approx(1, rel=1e-7)


def test_inception_score_by_its_definition() -> None:
    """The sum of TGAN's script, video by video and class by class."""
    p = drawn(20, 5).softmax(1)
    marginal = [float(p[:, k].mean()) for k in range(5)]
    terms = [
        float(v) * (math.log(float(v) + 1e-7) - math.log(marginal[k] + 1e-7))
        for row in p
        for k, v in enumerate(row)
    ]
    assert inception_score(Predictions.from_probabilities(p, 1e-7)) == pytest.approx(
        math.exp(sum(terms) / 20), rel=1e-12
    )


def test_merged_predictions_are_those_of_all() -> None:
    p = drawn(40, 5).softmax(1)
    first, *others = (Predictions.from_probabilities(chunk) for chunk in p.split([7, 30, 3]))
    assert inception_score(sum(others, first)) == pytest.approx(
        inception_score(Predictions.from_probabilities(p)), rel=1e-13
    )


def test_predictions_of_two_protocols_are_not_merged() -> None:
    p = drawn(4, 5).softmax(1)
    with pytest.raises(ValueError, match=r"must have one epsilon, but got 0\.0 and 1e-07"):
        _ = Predictions.from_probabilities(p) + Predictions.from_probabilities(p, 1e-7)


def test_split_scores() -> None:
    p = torch.eye(3).repeat_interleave(
        4, 0
    )  # every 4th: one of each class; and all parts are alike
    assert split_scores(p, 4) == pytest.approx((3, 0), abs=1e-12)
    both = torch.cat([torch.eye(2)[[0, 0]], torch.eye(2)[[0, 1]]])[
        [0, 2, 1, 3]
    ]  # the parts are 0 0 and 0 1
    assert split_scores(both, 2) == pytest.approx((1.5, 0.5))
    with pytest.raises(
        ValueError, match="splits must be from 1 to the number of videos, 12, but got 13"
    ):
        split_scores(p, 13)


# --- kernel distance ------------------------------------------------------------------------------


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("kernel", [Polynomial(2, 0.0), Polynomial(3, 1.0)])
def test_biased_kernel_distance_is_that_of_jedi(case: str, kernel: Polynomial) -> None:
    expected = FOUND["mmd"][case][f"{kernel.degree}, {kernel.constant:g}"]
    assert kernel_distance(
        Grams.from_features(*upstream.features_of(case), kernel), unbiased=False
    ) == pytest.approx(expected)


def test_unbiased_kernel_distance_by_its_definition() -> None:
    """Pair by pair, none with itself."""
    x, y = drawn(7, 3), drawn(5, 3, seed=1)

    def k(a: Tensor, b: Tensor) -> float:
        return (float(a @ b) / 3 + 1) ** 3

    within = [
        sum(k(a, b) for i, a in enumerate(s) for j, b in enumerate(s) if i != j)
        / len(s)
        / (len(s) - 1)
        for s in (x, y)
    ]
    between = sum(k(a, b) for a in x for b in y) / 35
    assert kernel_distance(Grams.from_features(x, y)) == pytest.approx(
        sum(within) - 2 * between, rel=1e-12
    )


def test_kernel_distance_of_halves_of_one_set_is_zero_on_average() -> None:
    """The biased one is not: that is what it is called for."""
    x = drawn(60, 3)
    orders = [
        torch.randperm(60, generator=torch.Generator().manual_seed(seed)) for seed in range(300)
    ]
    grams = [Grams.from_features(x[order[:30]], x[order[30:]]) for order in orders]
    unbiased = torch.tensor([kernel_distance(gram) for gram in grams])
    biased = torch.tensor([kernel_distance(gram, unbiased=False) for gram in grams])
    error = float(unbiased.std()) / 300**0.5
    assert abs(float(unbiased.mean())) < float(biased.mean()) / 5 + 3 * error
    assert float(biased.mean()) > 10 * error


def test_kernel_distance_refuses_one_video() -> None:
    with pytest.raises(ValueError, match=r"needs at least 2 videos a side, but got 1\. Add"):
        kernel_distance(Grams.from_features(drawn(1, 3), drawn(5, 3)))


# --- precision, recall, density, coverage ---------------------------------------------------------


@pytest.mark.parametrize("case", CASES)
def test_neighbours_are_those_of_prdc(case: str) -> None:
    found = neighbours(Distances.from_features(*upstream.features_of(case)))
    assert vars(found) == pytest.approx(FOUND["prdc"][case], rel=1e-12)


def line(*points: float) -> Tensor:
    return torch.tensor(points, dtype=torch.float64)[:, None]


def test_neighbours_of_points_on_a_line() -> None:
    """Reference 0, 1, 3 has radii 1, 1, 2 for k = 1; generated 0.5, 2.5, 9 has radii 2, 2, 6.5."""
    found = neighbours(Distances.from_features(line(0.5, 2.5, 9), line(0, 1, 3)), k=1)
    assert found.precision == pytest.approx(2 / 3)  # 9 is beyond everything
    assert found.recall == 1  # 3 is within 2 of 2.5
    assert found.density == pytest.approx((2 + 1 + 0) / 3)  # 0.5: of 0 and 1; 2.5: of 3
    assert found.coverage == 1


@pytest.mark.parametrize(("shift", "expected"), [(0.0, (1, 1, 1)), (1e3, (0, 0, 0))])
def test_neighbours_of_a_copy_and_of_what_is_far_away(
    shift: float, expected: tuple[float, ...]
) -> None:
    x = drawn(40, 5)
    found = neighbours(Distances.from_features(x + shift, x))
    assert (found.precision, found.recall, found.coverage) == expected


def test_neighbours_of_vectors_that_are_near_each_other_and_far_from_zero() -> None:
    """By a matrix product all of these would be at distance 0, or rather at that of rounding."""
    x, y = upstream.features_of("plain")
    found = neighbours(Distances.from_features(1e4 + 1e-6 * x, 1e4 + 1e-6 * y))
    assert vars(found) == pytest.approx(FOUND["prdc"]["plain"], rel=1e-12)


def test_a_collapsed_set_is_precise_and_covers_little() -> None:
    x = drawn(200, 4)
    found = neighbours(Distances.from_features(x[:1] + 1e-3 * drawn(200, 4, seed=1), x))
    assert found.precision == 1
    assert found.recall < 0.05
    assert found.coverage < 0.1


def test_neighbours_refuse_too_few() -> None:
    with pytest.raises(
        ValueError, match=r"5 nearest neighbours need more than 5 videos a side, but got 5\. Add"
    ):
        neighbours(Distances.from_features(drawn(5, 2), drawn(9, 2)))


# --- Vendi score ----------------------------------------------------------------------------------


@pytest.mark.parametrize("case", CASES)
def test_vendi_score_is_that_of_its_authors(case: str) -> None:
    assert vendi_score(upstream.features_of(case)[0]) == pytest.approx(
        FOUND["vendi"][case], rel=1e-10
    )


@pytest.mark.parametrize(
    ("features", "expected"),
    [
        (torch.eye(6) * 3, 6),
        (torch.ones(9, 4), 1),
        (torch.eye(4).repeat_interleave(5, 0), 4),
        (
            torch.tensor([[1.0, 0], [1, 0], [1, 0], [0, 1]]),
            4 / 3**0.75,
        ),  # exp of the entropy of 3/4, 1/4
    ],
    ids=["orthogonal", "alike", "groups", "uneven"],
)
def test_vendi_score_counts_what_is_different(features: Tensor, expected: float) -> None:
    assert vendi_score(features) == pytest.approx(expected, rel=1e-9)


def test_vendi_score_refuses_a_vector_of_zeros() -> None:
    with pytest.raises(
        ValueError, match="must have a direction, but got no features or a vector of zeros"
    ):
        vendi_score(torch.zeros(3, 4))
