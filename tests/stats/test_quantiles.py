"""Quantiles against scipy 1.17.1 and closed forms."""

from __future__ import annotations

import math

import pytest

from skipguide.stats.quantiles import beta_quantile, t_quantile


@pytest.mark.parametrize(
    ("freedom", "scipy"),
    [
        (1, 12.7062047362), (2, 4.3026527297), (3, 3.1824463053), (4, 2.7764451052),
        (7, 2.3646242516), (29, 2.0452296421),
    ],
)  # fmt: skip
def test_quantiles_of_students_t(freedom: int, scipy: float) -> None:
    assert t_quantile(freedom) == pytest.approx(scipy, abs=1e-9)
    assert t_quantile(freedom, 0.025) == pytest.approx(-scipy, abs=1e-9)


@pytest.mark.parametrize(
    ("probability", "a", "b", "scipy"),
    [
        (0.025, 2.5, 8, 0.0465330214), (0.975, 0.3, 40, 0.0467929124),
        (0.025, 5, 1, 0.4781762499), (0.025, 30.5, 11.2, 0.5889687077), (0.975, 300, 0.05, 1.0),
    ],
)  # fmt: skip
def test_quantiles_of_the_beta_distribution(
    probability: float, a: float, b: float, scipy: float
) -> None:
    assert beta_quantile(probability, a, b) == pytest.approx(scipy, abs=1e-9)


def test_quantiles_in_closed_form() -> None:
    """Beta(a, 1) is the power of a uniform number, and t with 1 degree is Cauchy's."""
    assert beta_quantile(0.3, 7, 1) == pytest.approx(0.3 ** (1 / 7), rel=1e-12)
    assert beta_quantile(0.3, 1, 4000) == pytest.approx(1 - 0.7 ** (1 / 4000), rel=1e-9)
    assert t_quantile(1, 0.9) == pytest.approx(math.tan(math.pi * 0.4), rel=1e-12)
    assert t_quantile(1e9) == pytest.approx(1.959963984540054, rel=1e-6)
