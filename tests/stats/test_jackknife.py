"""The jackknife against scipy, textbook formulas and the share of intervals that hold the truth."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from skipguide.metrics.frechet import Moments, frechet_distance
from skipguide.stats import jackknife
from skipguide.stats.quantiles import t_quantile
from support.references import metrics_upstream as upstream

Tensor = torch.Tensor
FOUND: dict[str, Any] = json.loads(
    (Path(upstream.__file__).parent / "metrics.json").read_text(encoding="utf-8")
)


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def _distance(x: Tensor, y: Tensor) -> float:
    return frechet_distance(Moments.from_features(x), Moments.from_features(y))


@pytest.mark.parametrize("freedom", [7, 10, 19, 100])
def test_quantiles_of_students_t_are_those_of_scipy(freedom: int) -> None:
    assert t_quantile(freedom) == pytest.approx(FOUND["t"][str(freedom)], abs=1e-6)


def test_interval_of_a_mean_is_the_textbooks() -> None:
    x = drawn(12)
    widths = jackknife.half_widths(lambda kept: x[kept].mean()[None], [range(12)], groups=12)
    assert widths is not None
    assert float(widths) == pytest.approx(float(x.std()) / 12**0.5 * t_quantile(11), rel=1e-9)


def test_intervals_hold_the_truth_as_often_as_they_say() -> None:
    """Of the Frechet distance in 2 dimensions of two sets of 400 from one Gaussian each, against
    the closed form."""
    inside = 0
    for seed in range(60):
        x, y = drawn(400, 2, seed=2 * seed), drawn(400, 2, seed=2 * seed + 1) * 2 + 1

        def statistic(i: Tensor, j: Tensor, x: Tensor = x, y: Tensor = y) -> Tensor:
            return torch.tensor([_distance(x[i], y[j])], dtype=torch.float64)

        widths = jackknife.half_widths(statistic, [range(400), range(400)])
        assert widths is not None
        inside += abs(_distance(x, y) - 4) < float(widths)  # 1 + 1 for the means, (2 - 1)^2 twice
    assert 50 <= inside <= 60


def test_videos_of_one_label_are_left_out_together() -> None:
    """Five copies of each value say no more than one."""
    values = drawn(20)
    copies = values.repeat_interleave(5)
    labels = [i // 5 for i in range(100)]

    def width(sets: Any, x: Tensor) -> float:
        found = jackknife.half_widths(lambda kept: x[kept].mean()[None], [sets])
        assert found is not None
        return float(found)

    assert width(labels, copies) == pytest.approx(width(range(20), values), rel=1e-9)
    assert width(range(100), copies) < 0.7 * width(labels, copies)


def test_too_few_videos_have_no_interval() -> None:
    assert jackknife.half_widths(lambda kept: kept.double().mean()[None], [range(7)]) is None


def test_a_few_prompts_with_several_videos_hold_the_truth_as_often_as_they_say() -> None:
    """Eight prompts with four videos each, most of whose variance is that of their prompts; taken
    singly, 60 %."""
    labels, inside = [i // 4 for i in range(32)], 0
    for seed in range(100):
        x = drawn(8, seed=seed).repeat_interleave(4) + 0.3 * drawn(32, seed=1000 + seed)
        widths = jackknife.half_widths(lambda kept, x=x: x[kept].mean()[None], [labels])
        assert widths is not None
        inside += abs(float(x.mean())) < float(widths)
    assert 90 <= inside <= 100


def test_estimate_has_the_interval_of_half_widths() -> None:
    x = drawn(40)
    found = jackknife.estimate(lambda kept: float(x[kept].mean()), range(40))
    widths = jackknife.half_widths(lambda kept: x[kept].mean()[None], [range(40)])
    assert widths is not None
    assert found.low is not None
    assert found.high is not None
    assert (found.value, found.count) == (pytest.approx(float(x.mean())), 40)
    assert (found.high - found.low) / 2 == pytest.approx(float(widths))
    few = jackknife.estimate(lambda kept: 0.0, range(7))
    assert few.low is None
    assert few.reason is not None
    assert few.reason.endswith("needs 8 prompts or more, but there are 7")
