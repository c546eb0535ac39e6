"""The reliability of a map: its formula, its interval, and what it calls noise."""

from __future__ import annotations

import numpy as np
import pytest

from skipguide.stats.reliability import f_quantile, reliability


def simulate_map(
    generator: np.random.Generator, cells: int, prompts: int, true: float, shared: float = 0.0
) -> np.ndarray:
    """Return differences `(cells, P)` of cells whose map has the reliability `true`."""
    noise = 1 - true
    effects = generator.normal(0, true**0.5, (cells, 1))
    own = generator.normal(0, (noise * prompts) ** 0.5, (cells, prompts))
    return effects + own + shared * generator.normal(size=prompts)


def cronbach_alpha(scores: np.ndarray) -> float:
    """Return the textbook's alpha of items in columns."""
    items = scores.shape[1]
    total = scores.sum(1).var(ddof=1)
    return items / (items - 1) * (1 - scores.var(0, ddof=1).sum() / total)


def test_reliability_of_cells_on_the_same_prompts_is_cronbachs_alpha() -> None:
    differences = simulate_map(np.random.default_rng(0), 7, 40, 0.6, shared=3.0)
    found = reliability(differences)
    assert found.paired == pytest.approx(cronbach_alpha(differences))
    # What all cells share on a prompt counts as an error only where cells are not compared.
    assert found.paired is not None
    assert found.paired > found.value


def test_intervals_of_reliability_hold_the_truth() -> None:
    generator = np.random.default_rng(1)
    found = [reliability(simulate_map(generator, 16, 64, 0.7, shared=1.0)) for _ in range(600)]
    held = np.mean([one.low <= 0.7 <= one.high for one in found])
    assert 0.93 <= held <= 0.97


def test_quantiles_of_f_are_those_of_the_tables() -> None:
    assert f_quantile(0.975, 4, 10) == pytest.approx(4.4683, abs=1e-4)
    assert f_quantile(0.95, 10, 20) == pytest.approx(2.3479, abs=1e-4)
    assert f_quantile(0.025, 4, 10) == pytest.approx(1 / 8.8439, abs=1e-4)


def halves_agreement(differences: np.ndarray, generator: np.random.Generator) -> float:
    """Return what one random half of the prompts says of the other, corrected for being a half."""
    order = generator.permutation(differences.shape[1])
    first, second = (differences[:, part].mean(1) for part in np.array_split(order, 2))
    whole = (first + second).var(ddof=1)
    return 2 * (1 - (first.var(ddof=1) + second.var(ddof=1)) / whole)


def test_it_is_the_mean_over_halves_of_the_prompts() -> None:
    generator = np.random.default_rng(2)
    differences = simulate_map(generator, 12, 50, 0.7, shared=1.0)
    halves = [halves_agreement(differences, generator) for _ in range(4000)]
    assert reliability(differences).paired == pytest.approx(np.mean(halves), abs=0.01)


def test_a_map_of_noise_holds_no_signal() -> None:
    generator = np.random.default_rng(3)
    noise = [reliability(simulate_map(generator, 16, 64, 0.0)) for _ in range(400)]
    # the interval has two sides, and only the upper one is a mistake
    assert np.mean([one.has_signal for one in noise]) == pytest.approx(0.025, abs=0.02)
    assert reliability(simulate_map(generator, 16, 64, 0.9)).has_signal
    same = reliability(np.ones((4, 8)))
    assert not same.has_signal
