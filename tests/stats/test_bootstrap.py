"""Bootstrap intervals against the widths of textbooks, and Wilson's intervals of shares."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from skipguide.stats import bootstrap, shares
from skipguide.stats.estimate import Estimate


def test_means_have_intervals_of_the_right_width() -> None:
    values = torch.randn(400, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = bootstrap.mean(values)
    assert found.value == pytest.approx(values.mean().item())
    assert found.low is not None
    assert found.high is not None
    assert (found.high - found.low) / 2 == pytest.approx(1.96 * values.std().item() / 20, rel=0.08)
    exact = bootstrap.mean(torch.full((50,), 0.25, dtype=torch.float64))
    assert (exact.low, exact.high, exact.sign) == (0.25, 0.25, 1)


def test_a_share_without_spread_has_an_interval_and_so_has_a_difference_of_none() -> None:
    ones = torch.ones(8, dtype=torch.float64)
    assert bootstrap.share_or_mean(ones).low == pytest.approx(0.6756, abs=1e-4)
    same = bootstrap.mean_difference(ones, ones)  # of eight that did not differ: not of all
    assert (same.low, same.high) == (
        pytest.approx(-0.3244, abs=1e-4),
        pytest.approx(0.3244, abs=1e-4),
    )
    assert bootstrap.mean_difference(ones, torch.zeros_like(ones)) == Estimate(1.0, 1.0, 1.0, 8)
    motion = torch.full((8,), 0.5, dtype=torch.float64)
    assert bootstrap.mean_difference(motion, motion).high == 0
    assert bootstrap.mean(torch.zeros(8, dtype=torch.float64)).high == 0


def test_means_of_clustered_values_are_wider_than_of_free_ones() -> None:
    rng = np.random.default_rng(3)
    prompts = np.repeat(np.arange(20), 8)
    values = rng.normal(size=20)[prompts] + 0.01 * rng.normal(size=160)
    clustered = bootstrap.clustered_mean(values.tolist(), prompts.tolist())
    free = bootstrap.clustered_mean(values.tolist(), range(160))
    assert clustered.low is not None
    assert clustered.high is not None
    assert free.low is not None
    assert free.high is not None
    error = values.reshape(20, 8).mean(1).std(ddof=1) / math.sqrt(20)
    assert clustered.high - clustered.low == pytest.approx(2 * 1.96 * error, rel=0.15)
    assert (clustered.high - clustered.low) > 2 * (free.high - free.low)


def test_a_mean_of_nothing_is_refused() -> None:
    with pytest.raises(
        ValueError, match="a mean needs values, and a cluster for each, but got 0 values and 0"
    ):
        bootstrap.clustered_mean([], [])


@pytest.mark.parametrize(
    ("successes", "count", "low", "high"),
    [
        (0, 8, 0.0, 0.324408),
        (8, 8, 0.675592, 1.0),
        (5, 10, 0.236593, 0.763407),
        (1, 1, 0.206549, 1.0),
    ],
)
def test_wilsons_interval(successes: int, count: int, low: float, high: float) -> None:
    """At 0 of n it ends at z^2 / (n + z^2)."""
    assert shares.wilson(successes, count) == pytest.approx((low, high), abs=1e-6)
    assert low > 0 or shares.wilson(successes, count)[0] == 0


@pytest.mark.parametrize(("successes", "count"), [(0, 0), (-1, 3), (4, 3)])
def test_what_is_no_share(successes: int, count: int) -> None:
    with pytest.raises(
        ValueError, match=rf"0 <= successes <= count .* but got {successes} of {count}\. Check"
    ):
        shares.wilson(successes, count)
