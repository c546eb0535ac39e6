"""Simulated repeats of tune: what they must find on maps whose truth is known."""

from __future__ import annotations

import numpy as np
import pytest

from skipguide.paper import experiments, tune_power
from skipguide.paper.rows import Row
from skipguide.paper.tune_maps import CellMap


def make_map(effects: dict[int, float], sd: float = 0.1, prompts: int = 128) -> CellMap:
    """Return a map of lab-mochi whose cells have some true effects, and 0 otherwise."""
    generator = np.random.default_rng(3)
    known = {one.name: one for one in experiments.experiments("lab-mochi")}
    rows = known["map-without-cfg"].rows
    hard = generator.normal(0, 1, prompts)  # what all settings share on a prompt
    values = hard + generator.normal(0, sd, (len(rows), prompts))
    for cell, effect in effects.items():
        values[1 + cell] += effect
    numbers = tuple(range(prompts))
    return CellMap("lab-mochi", "made", rows[0], rows[1:], numbers, {"right": values})


def test_rows_of_the_maps_are_cells_by_layer_and_skip() -> None:
    one = make_map({})
    assert one.base == Row(1.0)
    assert [cell.name for cell in one.cells][:2] == ["cfg-1+R0x1n", "cfg-1+R1x1n"]
    assert len(one.cells) == 24


def test_the_race_finds_a_cell_that_is_clearly_the_best() -> None:
    one = make_map({8: 1.0, 5: 0.4, 6: 0.6})
    found = tune_power.power(one, "right", [4, 8, 5], repeats=20)
    assert found.picks == {"R8x1n": 20}
    assert found.to_exhaustive.value == pytest.approx(0, abs=1e-9)
    # The middle of 12 layers is 5 and 6.
    assert found.to_middle.value == pytest.approx(1.0 - (0.4 + 0.6) / 2, abs=0.05)
    assert found.gains["random"].value == pytest.approx(2.0 / 24, abs=0.05)
    assert found.gains["scan"].value == pytest.approx(0, abs=0.05)
    assert found.clips["exhaustive"] == 24 * 64
    assert found.clips["tune"] <= tune_power.SHARE * found.clips["exhaustive"]


def test_a_shortlist_without_the_best_cell_falls_short_by_what_it_lacks() -> None:
    one = make_map({8: 1.0, 4: 0.5})
    found = tune_power.power(one, "right", [4, 0, 1], repeats=20)
    assert found.to_exhaustive.value == pytest.approx(-0.5, abs=0.06)


def test_what_is_lost_of_a_likelihood_is_a_share_of_the_likelihood() -> None:
    assert tune_power.relative_loss("likelihood", -0.3, np.log(0.97)) == pytest.approx(0.03)
    assert tune_power.relative_loss("right", 0.8, -0.02) == pytest.approx(0.025)


def test_a_true_gain_is_claimed_and_one_that_is_not_there_hardly_ever() -> None:
    helps = tune_power.honesty(make_map({8: 1.0}), "right", [8, 4, 5], 48, repeats=40)
    assert helps.claimed.value == 1
    assert helps.wrongly.value == 0
    nothing = tune_power.honesty(
        make_map({8: 1.0}), "right", [8, 4, 5], 48, truth="none", repeats=200
    )
    assert nothing.best == pytest.approx(0, abs=1e-12)
    assert nothing.claimed.value <= 0.06
    assert nothing.covered is not None
    assert nothing.covered.value >= 0.9
