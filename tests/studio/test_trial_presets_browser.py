"""The page on which a preset is tried, in a real Chromium. `make test-studio` runs these."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from skipguide.runs import Run
from support.painted import painted
from support.preset_files import STG_FILE, write_preset
from support.served import BROWSER, Served

pytestmark = BROWSER


def test_a_chosen_preset_says_what_is_left_empty(
    page: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    folder = painted(tmp_path / "own")
    write_preset(folder / "tune.toml", STG_FILE)
    with Served(folder) as own:
        page.goto(f"{own.url}/#view=try&settings=2")
        before = page.locator("input[name=layers]").input_value()
        page.locator("select[name=preset]").select_option("tune.toml")
        for name in ("layers", "stg_scale", "guidance_scale"):
            assert page.locator(f"input[name={name}]").input_value() == ""
        assert page.locator("select[name=skip]").input_value() == ""
        page.locator("select[name=preset]").select_option("")
        assert page.locator("input[name=layers]").input_value() == before != ""
        page.locator("select[name=preset]").select_option("tune.toml")
        page.locator("input[name=stg_scale]").fill("0.5")
        own.engine.go.set()
        page.locator("text=Make it").click()
        page.locator(".trial[data-state=done]").wait_for()
    with Run.open(folder) as run:
        complete = run.settings()[-1].complete
    (term,) = complete["guidance"]["terms"]
    assert (term["layers"], term["scale"], term["skip"]) == (["blocks:8"], 0.5, "attention")
    assert term["normalize"] is True
