"""The smallest difference that so many prompts can show, by simulation."""

from __future__ import annotations

import numpy as np
import pytest

from skipguide.stats import intervals, sequences
from skipguide.tuning.objective.objective import ObjectiveSpec
from skipguide.tuning.objective.scores import ScoreTable
from skipguide.tuning.plan import resolution


@pytest.mark.parametrize(("power", "share"), [(False, 0.5), (True, 0.8)])
def test_a_difference_of_this_size_is_found_as_often_as_is_said(power: bool, share: float) -> None:
    size, rng = resolution.smallest(2.0, 16, power=power), np.random.default_rng(0)
    found = [intervals.mean(rng.normal(size, 2.0, 16)).sign > 0 for _ in range(800)]
    assert np.mean(found) == pytest.approx(share, abs=0.05)


@pytest.mark.parametrize(("power", "share"), [(False, 0.5), (True, 0.8)])
@pytest.mark.parametrize(("prompts", "comparisons"), [(16, 3), (36, 9), (96, 5)])
def test_a_race_tells_a_difference_of_this_size_as_often_as_is_said(
    power: bool, share: float, prompts: int, comparisons: int
) -> None:
    level = 0.05 / comparisons
    size = resolution.smallest_in_race(2.0, prompts, level, power=power)
    rng = np.random.default_rng(0)
    told = [
        sequences.mean_sequence(rng.normal(size, 2.0, prompts), level).sign > 0 for _ in range(500)
    ]
    assert np.mean(told) == pytest.approx(share, abs=0.08)
    assert size > 1.5 * resolution.smallest(2.0, prompts, power=power)


def test_a_race_of_so_few_prompts_never_tells() -> None:
    rng = np.random.default_rng(0)
    assert sequences.mean_sequence(rng.normal(9, 0.1, 3), 0.05 / 9).low is None
    assert resolution.smallest_in_race(0.1, 3, 0.05 / 9) == np.inf
    said = resolution.sentence(ObjectiveSpec((("sharpness", 1.0),)), 3, {}, level=0.05 / 9)
    assert said.startswith("3 prompts a setting are too few for intervals")


def test_a_weighted_sum_has_a_deviation_of_its_own() -> None:
    rng = np.random.default_rng(2)
    one, other = rng.normal(size=(2, 200))  # parts that nearly cancel
    parts = {"sharpness": one, "motion": -one + 0.1 * other}
    zero = dict(enumerate(np.zeros(200)))
    columns = {name: {"cfg": zero, "a": dict(enumerate(row))} for name, row in parts.items()}
    total = {"cfg": zero, "a": dict(enumerate(one + parts["motion"]))}
    found = resolution.deviations_of(ScoreTable("sum", total, parts=columns), "cfg")
    assert found[resolution.SUM] == pytest.approx(0.1, rel=0.15)
    spec = ObjectiveSpec((("sharpness", 1.0), ("motion", 1.0)))
    # Student's t of 15 degrees of freedom is 2.131: 2.131 * 0.1 / 4.
    assert "of the weighted sum above .053 (" in (
        resolution.sentence(spec, 16, {resolution.SUM: 0.1})
    )
    assert "of the weighted sum, at most, above" in resolution.sentence(spec, 16, {})


def test_deviations_are_those_of_the_clips() -> None:
    rng = np.random.default_rng(1)
    common = rng.normal(size=40)

    def column(deviation: float) -> dict[int, float]:
        return dict(enumerate(common + rng.normal(0, deviation, 40)))

    values = {"cfg": dict(enumerate(common)), "a": column(0.1), "b": column(0.3), "c": column(0.9)}
    few = {"cfg": {0: 1.0, 1: 2.0}, "a": {0: 1.5, 1: 2.0}}
    scores = ScoreTable("sharpness", values, parts={"sharpness": values, "motion": few})
    found = resolution.deviations_of(scores, "cfg")
    assert set(found) == {"sharpness", resolution.SUM}
    assert found["sharpness"] == pytest.approx(0.3, rel=0.25)


def test_sentences_say_the_metric_and_where_the_deviation_is_from() -> None:
    spec = ObjectiveSpec((("sharpness", 1.0), ("skipguide.lab.prompt_metric:right", 1.0)))
    said = resolution.sentence(spec, 16, {})
    assert said == (
        "16 prompts a setting: differences of the weighted sum, at most, above .18 (.25 in 80 % of"
        " the cases), of sharpness above .0053 (.0074 in 80 % of the cases), of right above .17"
        " (.24 in 80 % of the cases). The deviations are those of the lab models, not of this run."
    )
    said = resolution.sentence(spec, 16, {"sharpness": 0.02, "right": 0.4})
    assert "of sharpness above .011 (" in said
    assert "lab models" not in said
    said = resolution.sentence(spec, 16, {"sharpness": 0.02})
    assert said.endswith(" The deviations of right are those of the lab models, not of this run.")
    other = ObjectiveSpec((("imaging_quality", 1.0),))
    assert resolution.sentence(other, 16, {}).startswith(
        "16 prompts a setting: differences above 0.53 standard deviations of the paired differences"
    )
    assert resolution.sentence(other, 1, {}) == "So few prompts show no difference at all."
