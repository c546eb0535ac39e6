"""A plan is refused before any weight is read, and what is read is read once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from skipguide.models import loading
from skipguide.models.settings import ModelSettings
from skipguide.runs import Plan
from skipguide.runs.worker import Worker
from support.configured import without_weights


def test_all_wrong_settings_are_named_without_weights(tiny_mochi_dir: Path, tmp_path: Path) -> None:
    without_weights(tiny_mochi_dir, tmp_path / "mochi")
    settings = [
        {"name": "deep", "layers": 9, "stg_scale": 1},
        {"name": "odd", "layers": 1, "stg_scale": 1, "height": 34},
        {"name": "good", "layers": 1, "stg_scale": 1},
    ]
    plan = Plan.of(
        {
            "model": str(tmp_path / "mochi"), "prompts": ["a star", "a moon"], "seeds": [0, 1],
            "height": 32, "width": 32, "num_frames": 7, "steps": 4, "device": "cpu",
            "settings": settings,
        },
        tmp_path,
    )  # fmt: skip
    with pytest.raises(ValueError, match=r"setting 'deep' for .*\(4 blocks\), but got 9") as found:
        Worker().survey(plan.settings, None)
    assert "setting 'odd' for " in str(found.value)
    assert "multiples of 8 for MochiPipeline, but got 34" in str(found.value)
    assert "good" not in str(found.value)


def test_what_is_put_on_for_one_video_loads_nothing_again(
    tiny_mochi_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loads: list[str] = []
    really = loading.load

    def noted(settings: ModelSettings, revision: str | None = None) -> Any:
        loads.append(settings.model)
        return really(settings, revision)

    monkeypatch.setattr(loading, "load", noted)
    settings = [
        {"name": "own"},
        {"name": "shift", "flow_shift": 7.0},
        {"name": "euler", "scheduler": "FlowMatchEulerDiscrete:shift=2"},
        {"name": "tiles", "vae_tiling": True},
        {"name": "half", "dtype": "bfloat16"},
    ]
    same: dict[str, Any] = {
        "model": str(tiny_mochi_dir), "prompts": ["a star"], "seeds": [0, 1], "stg_scale": 0,
        "height": 32, "width": 32, "num_frames": 7, "steps": 2, "device": "cpu",
    }  # fmt: skip
    worker = Worker()
    surveyed = worker.survey(Plan.of({**same, "settings": settings[:-1]}, tmp_path).settings, None)
    assert [entry.complete.flow_shift for entry in surveyed] == [None, 7.0, None, None]
    assert len(loads) == 1
    worker.survey(Plan.of({**same, "settings": settings}, tmp_path).settings, None)
    assert len(loads) == 2
