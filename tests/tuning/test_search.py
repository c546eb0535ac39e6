"""The search of scale and window: which settings it tries, given who leads."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from skipguide.tuning.objective.scores import ScoreTable
from skipguide.tuning.race import search
from skipguide.tuning.race.candidates import Candidate, Model, Scanned, cfg_alone, with_cell
from skipguide.tuning.race.race import Race
from skipguide.tuning.scan.record import Cell

MODEL = Model(steps=8, guidance_scale=4.0)
ENTRY = Scanned(Cell("blocks:8", "residual"), 0.5)
BEST = with_cell(MODEL, ENTRY, 4.0, scale=2.0)


def found_scale(optimum: float) -> tuple[float, list[float]]:
    """Search a quality that is best at one scale, with noise; return the scale and all tried."""
    rng, prompts = np.random.default_rng(0), range(16)
    common = rng.normal(0, 1, 16)

    def scores(racing: Sequence[Candidate]) -> ScoreTable:
        quality = {
            one.name: -(np.log2(one.scale / optimum) ** 2) if one.scale else -9.0 for one in racing
        }
        return ScoreTable(
            "x",
            {
                name: dict(zip(prompts, common + value + rng.normal(0, 0.1, 16), strict=True))
                for name, value in quality.items()
            },
        )

    cfg = cfg_alone(MODEL, 4.0)
    tried = [BEST, *search.around("scale", BEST, ENTRY, MODEL)]
    state = Race([cfg, *tried], prompts).state(scores([cfg, *tried]))
    tried += search.beyond(tried, state, ENTRY, MODEL)
    state = Race([cfg, *tried], prompts).state(scores([cfg, *tried]))
    return next(one.scale for one in tried if one.name == state.leader), [
        one.scale for one in tried
    ]


def test_the_best_scale_is_found_with_three_or_four() -> None:
    assert found_scale(2.0) == (2.0, [2.0, 1.0, 4.0])
    assert found_scale(1.9)[0] == 2.0
    assert found_scale(1.0) == (1.0, [2.0, 1.0, 4.0, 0.5])
    assert found_scale(16.0) == (8.0, [2.0, 1.0, 4.0, 8.0])  # an end is moved once


def test_windows_leave_out_the_end_or_the_beginning_and_cost_less() -> None:
    found = search.around("window", BEST, ENTRY, MODEL)
    assert [(one.start, one.stop) for one in found] == [(0, 0.75), (0, 0.5), (0.1, 1), (0.25, 1)]
    assert all(one.passes < BEST.passes and one.scale == BEST.scale for one in found)
    assert {one.role for one in found} == {"search"}


def test_windows_that_are_the_same_steps_are_tried_once() -> None:
    """Of four steps, from .1 on is from .25 on; of one step windows are all of it or nothing."""
    model = Model(steps=4, guidance_scale=4.0)
    found = search.around("window", with_cell(model, ENTRY, 4.0), ENTRY, model)
    assert [(one.start, one.stop) for one in found] == [(0, 0.75), (0, 0.5), (0.1, 1)]
    model = Model(steps=1, guidance_scale=4.0)
    assert search.around("window", with_cell(model, ENTRY, 4.0), ENTRY, model) == []


@pytest.mark.parametrize(
    ("leader", "why"),
    [
        (None, "the race has no leader"),
        (
            Candidate("preset", "preset", {}, 25.0, 4.0, scale=1.0),
            "taken as it was published",
        ),
        (
            Candidate("cfg-4-12-steps", "cfg-price", {"steps": 12}, 24.0, 4.0),
            "CFG alone with 12 steps leads the race",
        ),
    ],
)
def test_why_there_is_no_search_is_said(leader: Candidate | None, why: str) -> None:
    said = search.not_around("window", leader)
    assert said.startswith("The window of STG was not searched: ")
    assert why in said


def test_what_was_not_tried_of_the_scan_is_said() -> None:
    raced = [with_cell(MODEL, Scanned(Cell(f"blocks:{k}", "residual"), 0.5), 4.0) for k in (3, 8)]
    assert search.beside(raced, 14) == (
        "Of the 14 cells that the scan ranked, 2 raced, at scale 2 over the whole run. The other 12"
        " were not sampled: they are not in the shortlist."
    )
    more = search.around("scale", raced[1], Scanned(Cell("blocks:8", "residual"), 0.5), MODEL)
    assert "Another scale or window was tried of blocks:8 residual alone." in search.beside(
        [*raced, *more], 14
    )
