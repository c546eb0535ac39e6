"""Trials by a preset: one's own, by name, and what a tune of the run has found; no other file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from skipguide.runs.engine import Engine
from skipguide.studio import app
from skipguide.studio.access import Policy
from skipguide.studio.playground import TrialRequest, Trials, build_plan
from support.painted import Painter
from support.preset_files import CFG_FILE, STG_FILE, write_preset

ENGINE: Engine = Painter()
HERE = "http://127.0.0.1:7860"


@pytest.fixture
def run_with_presets(painted_copy: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    config = painted_copy.parent / "config"
    monkeypatch.setenv("XDG_CONFIG_HOME", str(config))
    write_preset(config / "skipguide" / "presets" / "night.toml", CFG_FILE)
    write_preset(painted_copy / "tune.toml", STG_FILE)
    write_preset(painted_copy / "other.toml", STG_FILE)
    return painted_copy


def trial(preset: Any) -> TrialRequest:
    return TrialRequest("lab-mochi", "a green cross", 3, {"preset": preset, "steps": 2})


def test_a_trial_by_a_preset(run_with_presets: Path) -> None:
    (setting,) = build_plan(run_with_presets, trial("tune.toml")).settings
    assert setting.generation.preset.row.layers == ("blocks:8",)
    assert setting.name.endswith(": preset tune.toml, steps 2")
    (setting,) = build_plan(run_with_presets, trial("night")).settings
    assert setting.generation.preset.is_cfg_alone


@pytest.mark.parametrize("preset", ["other.toml", "../tune.toml", "x", {"preset": {}}, 3])
def test_no_other_file_is_read(run_with_presets: Path, preset: Any) -> None:
    with pytest.raises(ValueError, match=r"one of your own \(tune.toml, night\), but got"):
        build_plan(run_with_presets, trial(preset))


def test_the_page_offers_them_where_it_makes_videos(run_with_presets: Path) -> None:
    trials = Trials(run_with_presets, lambda: ENGINE)
    with TestClient(app.create_app(run_with_presets, Policy(), trials), base_url=HERE) as web:
        assert web.get("/api/run").json()["presets"] == ["tune.toml", "night"]
    with TestClient(app.create_app(run_with_presets, Policy(), None), base_url=HERE) as web:
        assert web.get("/api/run").json()["presets"] == []
