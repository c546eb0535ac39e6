"""What published settings become in runs of few steps without CFG, in Python, on the command line
and in docs/without-cfg.md."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner, Result

from skipguide import STG, guide
from skipguide.bench import preset_steps
from skipguide.cli import app
from skipguide.families import presets
from support import oracle
from support.tiny import builders

PAGE = Path(__file__).parents[2] / "docs" / "without-cfg.md"
ROWS = {row.name: row for row in presets.load_presets()}


def run(*args: str, code: int = 0) -> Result:
    result = CliRunner().invoke(app, ["presets", *args])
    assert result.exit_code == code, result.output + repr(result.exception)
    return result


def said(name: str, *steps: int) -> list[str]:
    return list(map(str, preset_steps.in_few_steps(ROWS[name], steps)))


def test_windows_are_counted_and_priced() -> None:
    """By hand: of 48 blocks block 34 is skipped, and 13 follow; of 28 blocks an attention skip runs
    9; of 20 and 40 the third is skipped, and 57 follow; of 40 blocks 3 are skipped, and 33 run."""
    assert said("mochi", 4, 8) == ["4 of 4: 1.27", "8 of 8: 1.27"]
    assert said("ltx-2b", 4) == ["4 of 4: 1.32"]
    assert said("hunyuan-double-2", 6) == ["6 of 6: 1.95"]
    assert said("hunyuan-single-2", 6) == ["6 of 6: 1.62"]
    assert said("wan-musubi", 4, 6, 8) == ["2 of 4: 1.41", "3 of 6: 1.41", "4 of 8: 1.41"]
    assert said("lab-mochi", 4, 6, 8) == ["3 of 4: 1.31", "4 of 6: 1.28", "6 of 8: 1.31"]


def test_a_window_that_holds_no_step_says_which_does() -> None:
    row = presets.Preset(
        "m", ("WanPipeline",), 40, (10,), 2.8, "residual", "s", start=0.01, stop=0.2
    )
    found = list(map(str, preset_steps.in_few_steps(row, (4, 6, 8))))
    assert found == ["none; 0 to 0.25 is one step", "1 of 6: 1.12", "1 of 8: 1.09"]


def test_presets_that_need_cfg_or_skip_nothing() -> None:
    assert said("wan-slg-9", 4) == ["needs CFG"]
    assert said("ltx-13b-dev", 4) == ["needs CFG"]
    assert said("ltx-13b-dev-second-pass", 4) == ["4 of 4: 1.44"]
    assert said("ltx-2b-distilled", 8) == ["no STG: 1"]
    assert said("wan-community-default", 8) == ["no STG: 1"]
    assert preset_steps.in_few_steps(ROWS["ovi"], (4,)) == []


@pytest.mark.parametrize("name", ["MochiPipeline", "LTXPipeline"])
def test_the_price_is_that_of_a_run(name: str) -> None:
    """On a pipeline as deep as the tests' are."""
    small = builders()[name](torch.float32)
    term = STG([1], 1.0, start=0.25)
    with guide(small.pipe, term) as handle:
        oracle.run(small, **{**small.off, "num_inference_steps": 6})
    depth = len(small.pipe.transformer.transformer_blocks)
    row = presets.Preset("m", (name,), depth, (1,), 1.0, "residual", "s", start=0.25)
    (found,) = preset_steps.in_few_steps(row, (6,))
    assert found.passes == pytest.approx(handle.passes_per_step)
    assert found.guided == 4


# --- the command line -----------------------------------------------------------------------------


def test_presets_in_few_steps_for_people() -> None:
    lines = run("--steps", "4,8", "--model", "hunyuanvideo", "--recommended").stdout.splitlines()
    assert lines[0].split() == ["preset", "setting", "4", "steps", "8", "steps"]
    assert [line.split()[0] for line in lines[1:]] == ["hunyuan-double-2"]
    assert lines[1].endswith("4 of 4: 1.95  8 of 8: 1.95")


def test_presets_with_skips_that_know_of_the_step() -> None:
    """SEG blurs queries over the grid of the tokens, which is that of the family's example."""
    lines = run("--steps", "4", "--model", "sdxl-seg").stdout.splitlines()
    assert lines[1].startswith("sdxl-seg")
    assert lines[1].endswith("4 of 4: 1.68")


def test_presets_in_few_steps_as_json() -> None:
    found = json.loads(run("--steps", "4", "--model", "ltx-2b", "--json").stdout)["presets"]
    rows: dict[str, Any] = {row["name"]: row["runs"] for row in found}
    assert rows["ltx-2b"] == [
        {"steps": 4, "guided_steps": 4, "passes_per_step": pytest.approx(1 + 9 / 28),
         "nearest_window": None}
    ]  # fmt: skip
    assert rows["ltx-2b-distilled"][0]["passes_per_step"] == 1


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("--steps", "4,x"), "--steps must be whole numbers above 0, as in 4,6,8, but got '4,x'"),
        (("--steps", "0"), "but got '0'"),
        (("--markdown",), "--markdown prints the table of --steps, but --steps did not come"),
        (("--markdown", "--steps", "4", "--json"), "but --json came too"),
        (("--remove", "x", "--steps", "4"), "--steps say what is listed, but nothing is"),
    ],
)
def test_wrong_words(args: tuple[str, ...], message: str) -> None:
    assert message in run(*args, code=2).stderr + run(*args, code=2).stdout


def test_recommended_ones_alone() -> None:
    rows = json.loads(run("--recommended", "--json").stdout)["presets"]
    assert [row["name"] for row in rows] == [name for name, row in ROWS.items() if row.recommended]


def test_the_page_has_the_table() -> None:
    table = run("--recommended", "--steps", "4,6,8", "--markdown").stdout
    assert table in PAGE.read_text(encoding="utf-8"), (
        "Put the output of `skipguide presets --recommended --steps 4,6,8 --markdown` into the page"
    )
