"""Intervals against textbooks, tables and closed forms; test_coverage.py says how often they
hold."""

from __future__ import annotations

import numpy as np
import pytest

from skipguide.stats import intervals
from skipguide.stats.estimate import Estimate


def ends(found: Estimate) -> tuple[float, float]:
    assert found.low is not None
    assert found.high is not None
    return found.low, found.high


def test_the_interval_of_a_mean_is_the_textbooks() -> None:
    """Student's own data: hours of sleep gained by ten patients (Biometrika 6, 1908); R's t.test
    gives 0.7001142 to 2.4598858 for the differences."""
    first = np.array([0.7, -1.6, -0.2, -1.2, -0.1, 3.4, 3.7, 0.8, 0.0, 2.0])
    second = np.array([1.9, 0.8, 1.1, 0.1, -0.1, 4.4, 5.5, 1.6, 4.6, 3.4])
    found = intervals.mean_difference(second, first)
    assert found.value == pytest.approx(1.58)
    assert ends(found) == pytest.approx((0.7001142, 2.4598858), abs=1e-6)
    assert ends(intervals.mean(second - first)) == ends(found)
    assert ends(intervals.mean(second - first, bounds=(1.0, 2.0))) == (1.0, 2.0)


def test_values_of_one_cluster_count_together() -> None:
    """Clusters of one size have the interval of the means of the clusters."""
    values = np.random.default_rng(0).normal(size=24)
    clustered = intervals.mean(values, [i % 6 for i in range(24)])
    assert ends(clustered) == pytest.approx(ends(intervals.mean(values.reshape(4, 6).mean(0))))
    assert clustered.count == 24
    copies = intervals.share(np.repeat([0, 1, 1, 0, 1, 1], 20), [i // 20 for i in range(120)])
    assert ends(copies)[1] - ends(copies)[0] > 0.6  # 6 prompts, not 120 votes


@pytest.mark.parametrize(
    ("successes", "count", "low", "high"),
    [(0, 10, 0.0, 0.308497), (10, 10, 0.691503, 1.0), (3, 10, 0.066740, 0.652453)],
)
def test_independent_votes_have_the_exact_interval(
    successes: int, count: int, low: float, high: float
) -> None:
    """R's binom.test."""
    assert intervals.clopper_pearson(successes, count) == pytest.approx((low, high), abs=1e-6)
    votes = [1.0] * successes + [0.0] * (count - successes)
    assert ends(intervals.share(votes)) == pytest.approx((low, high), abs=1e-6)


def test_six_of_six_are_not_certain() -> None:
    """The rule for none of n: 1 - 0.025^(1/n) may still fail."""
    found = intervals.share([1.0] * 6, range(6))
    assert ends(found) == pytest.approx((0.025 ** (1 / 6), 1.0))
    assert ends(intervals.share([1.0] * 60, [i % 6 for i in range(60)])) == ends(found)
    assert ends(intervals.share([0.0] * 6)) == pytest.approx((0.0, 1 - 0.025 ** (1 / 6)))
    low, high = ends(intervals.share([0.5] * 6))  # six ties
    assert low < 0.2 < 0.8 < high


def test_ratings_at_the_end_of_their_scale_are_not_certain() -> None:
    low, high = ends(intervals.rating([5.0] * 6, range(6), (1.0, 5.0)))
    assert (low, high) == pytest.approx((1 + 4 * 0.025 ** (1 / 6), 5.0))
    middle = np.array([2.0, 3.0, 3.0, 4.0, 2.0, 4.0, 3.0, 3.0])
    assert ends(intervals.rating(middle, None, (1.0, 5.0))) == pytest.approx(
        ends(intervals.mean(middle)), abs=0.1
    )
    with pytest.raises(ValueError, match=r"ratings must be from 1 to 5, but got 0 to 3\."):
        intervals.rating([0.0, 3.0], None, (1.0, 5.0))


def test_a_difference_of_shares_has_a_width_where_no_pair_differs() -> None:
    """Bonett and Price: of n pairs, as many as n + 2 with one more for either side."""
    ones = np.ones(8)
    same = intervals.mean_difference(ones, ones)
    half = 1.959964 * (2 / 10 / 10) ** 0.5
    assert (same.value, same.sign) == (0, 0)
    assert ends(same) == pytest.approx((-half, half))
    other = intervals.mean_difference(ones, np.zeros(8))
    assert other.value == other.high == 1
    assert other.low is not None
    assert 0.3 < other.low < 0.8


def test_there_is_no_interval_where_none_holds_and_it_says_why() -> None:
    few = intervals.mean([1.0, 2.0, 3.0, 4.0, 5.0, 6.0], [0, 0, 1, 1, 2, 2])
    assert (few.low, few.high, few.sign) == (None, None, 0)
    assert few.reason == "an interval needs 5 different prompts or more, but there are 3"
    one = intervals.share([1.0, 0.0, 1.0], ["a", "a", "a"])
    assert one.reason == "an interval needs 5 different prompts or more, but there is 1"
    assert intervals.rating([5.0] * 4, None, (1.0, 5.0)).low is None
    assert intervals.mean_difference(np.ones(4), np.ones(4)).low is None
    alike = intervals.mean([0.25] * 50)
    assert (alike.value, alike.low) == (0.25, None)
    assert alike.reason == "all 50 values are 0.25, which does not say how far others may be"
    assert intervals.mean([0.1] * 50).low is None  # whose mean is not exactly 0.1
    assert intervals.mean([1.0, 2.0, 1.0, 2.0, 2.0]).reason is None
    prompts = intervals.mean([0.0, 1.0] * 6, [i // 2 for i in range(12)])
    assert (prompts.value, prompts.low) == (0.5, None)
    assert prompts.reason is not None
    assert "all prompts have the mean 0.5," in prompts.reason
    near = np.array([1.0, 2.0, 3.0, 5.0, 8.0, 9.0])
    low, high = ends(intervals.mean(1 + 1e-9 * near))  # which differ by little, but do
    assert (high - low) * 1e9 == pytest.approx(np.ptp(ends(intervals.mean(near))), rel=1e-4)


def test_a_mean_of_nothing_is_refused() -> None:
    with pytest.raises(
        ValueError, match="a mean needs values, and a cluster for each, but got 0 values and 0"
    ):
        intervals.mean([], [])
    with pytest.raises(ValueError, match=r"a share needs values from 0 to 1, but got -1 to 2\."):
        intervals.share([-1.0, 2.0])


@pytest.mark.parametrize(("successes", "count"), [(0, 0), (-1, 3), (4, 3)])
def test_what_is_no_share(successes: int, count: int) -> None:
    with pytest.raises(
        ValueError, match=rf"0 <= successes <= count .* but got {successes} of {count}\. Check"
    ):
        intervals.clopper_pearson(successes, count)
