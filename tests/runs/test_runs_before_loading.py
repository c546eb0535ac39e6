"""A plan is refused before any weight is read: the models of these have none."""

from __future__ import annotations

from pathlib import Path

import pytest

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
    assert "divisible by 8 but are 34" in str(found.value)
    assert "good" not in str(found.value)
