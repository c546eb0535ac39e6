"""Simulated tune runs: claims where there is nothing to gain, coverage, and the right pick."""

from __future__ import annotations

import numpy as np
import pytest

from skipguide.tuning.simulate import CFG_ALONE, simulate


def drawn(means: list[float], prompts: int = 400) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(1)
    base = rng.normal(size=prompts)
    differences = rng.normal(size=(len(means), prompts))
    differences += np.asarray(means)[:, None] - differences.mean(1, keepdims=True)
    return base + differences, base


def test_where_nothing_helps_a_gain_is_hardly_ever_claimed() -> None:
    values, base = drawn([0.0] * 5)
    found = simulate(values, base, range(5), clips=120, held_back=12, repeats=60, replacement=True)
    assert found.claimed.mean() <= 0.1
    assert np.array_equal(found.claimed, found.picks != CFG_ALONE)
    assert found.coverage >= 0.88
    assert (found.race_clips <= 120).all()
    assert (found.clips - found.race_clips == 24).all()


def test_what_helps_much_is_found_for_few_clips() -> None:
    values, base = drawn([0.0, 0.2, 1.5, 0.0, -0.5])
    found = simulate(values, base, range(5), clips=120, held_back=12, repeats=30)
    assert (found.winners == 2).mean() >= 0.95
    assert found.claimed.mean() >= 0.9
    assert found.truth == pytest.approx([0.0, 0.2, 1.5, 0.0, -0.5])
    assert found.pick_truth.mean() > 1.2


def test_only_the_cells_that_race_are_picked_and_the_seed_decides() -> None:
    values, base = drawn([0.0, 0.2, 1.5, 0.0])
    one, same, other = (
        simulate(values, base, [1, 3], clips=60, held_back=8, repeats=10, seed=seed)
        for seed in (0, 0, 1)
    )
    assert set(one.winners) <= {1, 3}
    assert np.array_equal(one.gains, same.gains)
    assert not np.array_equal(one.gains, other.gains)


def test_too_few_prompts_are_refused() -> None:
    values, base = drawn([0.0], prompts=8)
    with pytest.raises(ValueError, match="fewer than the 8 that have values"):
        simulate(values, base, [0], clips=60, held_back=8)
