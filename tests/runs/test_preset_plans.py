"""Presets of one's own in plans: read from the plan's folder, kept with their content, named."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from skipguide.cli.prompt_options import parse_setting
from skipguide.runs import Plan
from support.preset_files import CFG_FILE, STG_FILE, STG_ROW, write_preset

PLAN = """
prompts: ["a small red circle"]
settings:
  - {name: cfg, guidance_scale: 4.5}
  - {name: tuned, preset: presets/tune.toml}
  - {name: other, preset: presets/tune.toml, layers: 5}
  - {name: "off", preset: presets/tune.toml, stg_scale: 0}
  - {name: cfg alone, preset: presets/cfg.toml}
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_preset(tmp_path / "presets" / "tune.toml", STG_FILE)
    write_preset(tmp_path / "presets" / "cfg.toml", CFG_FILE)
    (tmp_path / "plan.yaml").write_text(PLAN, encoding="utf-8")
    return tmp_path


def test_a_preset_counts_from_the_plan_s_folder(folder: Path) -> None:
    settings = {entry.name: entry for entry in Plan.read(folder / "plan.yaml").settings}
    assert settings["cfg"].generation.preset is None
    assert settings["cfg"].generation.guidance.stg_scale == 0
    for name in ("tuned", "other", "off"):
        assert settings[name].generation.preset.row == dataclasses.replace(STG_ROW, name="tune")
    assert settings["other"].generation.guidance.layers == (5,)
    assert settings["tuned"].generation.guidance is None
    assert settings["cfg alone"].generation.preset.is_cfg_alone


def test_the_ledger_keeps_what_is_in_it_and_no_place(folder: Path) -> None:
    given = {entry.name: entry.given for entry in Plan.read(folder / "plan.yaml").settings}
    text = json.dumps(given["tuned"])
    assert given["tuned"]["preset"]["preset"]["layers"] == ["blocks:8"]
    assert given["tuned"]["preset"]["file"]["name"] == "tune"
    assert str(folder) not in text
    assert "somewhere/else" not in text  # of the command that measured it
    again = Plan.of({"prompts": ["a"], "settings": [{"name": "tuned", **given["tuned"]}]})
    assert again.settings[0].generation.preset == (
        Plan.read(folder / "plan.yaml").settings[1].generation.preset
    )


def test_a_setting_without_a_name_is_called_after_its_preset(folder: Path) -> None:
    rows = ["preset=presets/tune.toml", "preset=presets/tune.toml layers=5", "stg_scale=0"]
    plan = Plan.of({"prompts": ["a"], "settings": [*map(parse_setting, rows)]}, folder)
    assert [entry.name for entry in plan.settings] == [
        "preset tune", "preset tune + STG 5", "CFG",
    ]  # fmt: skip


def test_a_setting_of_the_command_line(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    row = parse_setting("name preset=presets/tune.toml")
    (setting,) = Plan.of({"prompts": ["a"], "settings": [row]}).settings
    assert (setting.name, setting.generation.preset.name) == ("name", "tune")


def test_a_row_of_prompts_has_a_preset_of_its_own(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(folder / "config"))
    write_preset(folder / "config" / "skipguide" / "presets" / "night.toml", STG_FILE)
    (folder / "rows.csv").write_text("prompt,preset\na star,night\na moon,\n")
    plan = Plan.of({"prompts": "rows.csv", "settings": [{"name": "a", "stg_scale": 1}]}, folder)
    assert [prompt.settings for prompt in plan.prompts] == [{"preset": "night"}, {}]
    (folder / "rows.csv").write_text("prompt,preset\na star,nigth\n")
    with pytest.raises(ValueError, match=r"line 2 of .*Did you mean 'night'\?"):
        Plan.of({"prompts": "rows.csv", "settings": [{"name": "a", "stg_scale": 1}]}, folder)


def test_a_preset_that_is_not_there(folder: Path) -> None:
    with pytest.raises(
        ValueError, match=r"^settings 'a', 'b': .*tune.toml: there is none. Check the name\.$"
    ):
        Plan.of(
            {
                "prompts": ["a"],
                "settings": [
                    {"name": "a", "preset": "tune.toml"},
                    {"name": "b", "preset": "tune.toml"},
                    {"name": "c", "stg_scale": 0},
                ],
            },
            folder,
        )
