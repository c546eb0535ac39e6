"""The settings that race, and what they cost."""

from __future__ import annotations

import pytest

from skipguide.tuning.race.candidates import (
    Model,
    Scanned,
    at_price,
    candidates,
    cfg_alone,
    with_cell,
)
from skipguide.tuning.scan.record import Cell

MODEL = Model(steps=10, guidance_scale=4.0, has_preset=True, preset_cost=0.5)
SHORTLIST = [
    Scanned(Cell("blocks:8", "residual"), 0.25),
    Scanned(Cell("blocks:3", "attention", "spatial"), 0.5),
    Scanned(Cell("blocks:5", "residual"), 0.4),
]


def test_cfg_alone_and_the_best_two_cells_come_first() -> None:
    found = candidates(MODEL, SHORTLIST)
    assert [one.role for one in found[:3]] == ["cfg", "scan", "scan"]
    assert {one.role for one in found} == {"cfg", "cfg-low", "cfg-price", "preset", "scan"}
    assert len({one.name for one in found}) == len(found)
    # Every cell beside both guidance scales.
    assert sorted((one.cell.name, one.guidance_scale) for one in found if one.cell) == sorted(
        (entry.cell.name, g) for entry in SHORTLIST for g in (4.0, 2.0)
    )


def test_passes_are_those_of_cfg_and_of_the_weak_pass() -> None:
    found = {one.name: one for one in candidates(MODEL, SHORTLIST)}
    assert found["cfg-4"].passes == 20
    assert found["preset"].passes == 25
    assert found["cfg-4 + blocks:8 residual x2"].passes == 22.5
    # As many steps as the first cell of the scan pays for: 10 x 2.25 / 2.
    assert found["cfg-4-11-steps"].given["steps"] == 11
    assert found["cfg-4-11-steps"].passes == 22


@pytest.mark.parametrize(("passes", "steps"), [(20.9, None), (21.1, 11), (27.0, 14), (30.0, 15)])
def test_cfg_alone_comes_as_near_to_a_price_as_whole_steps_do(
    passes: float, steps: int | None
) -> None:
    found = at_price(MODEL, passes)
    assert (found and found.given["steps"]) == steps
    assert found is None or abs(found.passes - passes) <= 1


def test_a_window_costs_the_steps_in_it() -> None:
    one = with_cell(MODEL, SHORTLIST[0], 4.0, scale=1.0, window=(0.1, 0.5))
    assert one.passes == 20 + 4 * 0.25  # steps 1, 2, 3, 4
    term = one.given["stg"]
    assert (term["scale"], term["start"], term["stop"], term["normalize"]) == (1.0, 0.1, 0.5, True)


def test_a_model_without_cfg_races_without() -> None:
    found = candidates(Model(steps=4), SHORTLIST)
    assert [one.name for one in found] == [
        "plain",
        "blocks:8 residual x2",
        "blocks:3 attention spatial x2",
        "plain-5-steps",
        "blocks:5 residual x2",
    ]
    assert found[0].passes == 4
    assert found[1].passes == 5
    assert all("guidance_scale" not in one.given for one in found)
    with pytest.raises(ValueError, match="without, and got 2"):
        candidates(Model(steps=4), SHORTLIST, [2.0])


def test_other_guidance_scales_take_the_place_of_the_half() -> None:
    found = candidates(MODEL, SHORTLIST[:1], [3.0, 1.0])
    assert {one.guidance_scale for one in found} == {4.0, 3.0, 1.0}
    assert cfg_alone(MODEL, 1.0).passes == 10  # CFG is off
    assert cfg_alone(MODEL, 1.0).role == "cfg-low"
    half = candidates(Model(steps=4, guidance_scale=1.5), SHORTLIST[:1])
    assert {one.guidance_scale for one in half} == {1.5}  # half of it would be none


def test_names_of_settings_are_what_a_plan_takes() -> None:
    from pathlib import Path

    from skipguide.runs.plan import Plan

    settings = [dict(one.given) for one in candidates(MODEL, SHORTLIST)]
    plan = Plan.of({"model": "lab-opensora", "prompts": ["a"], "settings": settings}, Path())
    assert [setting.name for setting in plan.settings] == [entry["name"] for entry in settings]


def test_cfg_alone_is_called_by_what_it_is() -> None:
    found = {one.name: one.title for one in candidates(MODEL, SHORTLIST, [2.0, 1.0])}
    assert {name: title for name, title in found.items() if name != title} == {
        "cfg-4": "CFG alone",
        "cfg-2": "CFG alone at scale 2",
        "cfg-1": "CFG alone at scale 1 (off)",
        "cfg-4-11-steps": "CFG alone with 11 steps",
    }
    assert candidates(Model(steps=4), SHORTLIST)[3].title == "no guidance with 5 steps"
