"""The STG that stands in a preset file whose answer is CFG alone."""

from __future__ import annotations

import ast
import dataclasses
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from skipguide import tuning
from skipguide.families import preset_files
from skipguide.families.preset_files import PresetFile, read_preset_file
from skipguide.generate.preset_given import describe_cfg_alone
from skipguide.generate.settings import validate_settings
from skipguide.stats.estimate import Estimate
from skipguide.stats.paired import Difference
from skipguide.tuning.answer.outcome import line_to_type, preset_of
from skipguide.tuning.answer.result import Answer, BestSTG, Gain
from skipguide.tuning.facts import Facts
from skipguide.tuning.race.candidates import Candidate
from skipguide.tuning.scan.record import Cell
from support.drawn_tuning import options

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


CFG = Candidate("cfg-4", "cfg", {}, 20.0, 4.0)
MORE_STEPS = Candidate("cfg-4-12-steps", "cfg-price", {"steps": 12}, 24.0, 4.0)
STG = Candidate("other", "scan", {}, 20.0, 2.0, Cell("blocks:1", "residual"), 2.0)


def preset(chosen: Candidate, best: Candidate | None = STG, **common: Any) -> PresetFile:
    """The file of a tuning that recommends CFG alone."""
    gain = Gain("m", 0.5, 0.4, Difference(Estimate(0.1, 0.05, 0.15, 6), None))
    told = None if best is None else BestSTG(best.name, gain, gain)
    found = Answer(
        "use CFG alone", chosen.name, chosen.name, "m", gain, (), (), (), ("Use CFG alone.",), told
    )
    asked = options(12)
    asked = dataclasses.replace(asked, common={"steps": 10, **common})
    own: Any = SimpleNamespace(
        complete=validate_settings({"prompt": "p", "guidance_scale": 4.0, **asked.common}),
        weights={"sha256": "ab"},
    )
    facts = Facts("MochiPipeline", "mochi", "Model", 8, 64, "", 16, 8.0)
    planned: Any = SimpleNamespace(facts=facts, own=own, plan=SimpleNamespace(held_back=4))
    return preset_of(asked, planned, [CFG, MORE_STEPS, STG], found)


def read_again(file: PresetFile, folder: Path) -> PresetFile:
    path = folder / "tune.toml"
    path.write_text(file.to_toml(), encoding="utf-8")
    return read_preset_file(path)


@pytest.mark.parametrize(
    ("chosen", "beside"),
    [
        (CFG, {"guidance_scale": 2.0}),
        (MORE_STEPS, {"guidance_scale": 2.0, "num_inference_steps": 10}),
    ],
)
def test_the_best_stg_is_in_the_file_with_the_guidance_that_it_ran_beside(
    tmp_path: Path, chosen: Candidate, beside: dict[str, float]
) -> None:
    written = preset(chosen)
    table = tomllib.loads(written.to_toml())["best_stg"]
    assert {name: table.get(name) for name in beside} == beside
    assert table["layers"] == ["blocks:1"]
    found = read_again(written, tmp_path)
    assert found.best_stg is not None
    assert found.best_stg.defaults["guidance_scale"] == 2.0
    assert found.best_stg.defaults["num_inference_steps"] == 10
    assert found.row.defaults["guidance_scale"] == 4.0
    said = describe_cfg_alone(found)
    assert "--layers blocks:1 --stg-scale 2 --normalize --guidance-scale 2" in said
    assert ("--steps 10" in said) == (chosen is MORE_STEPS)
    assert "guidance_scale=2" in preset_files.describe_cfg_alone(found, "tune.toml")


def test_a_best_stg_beside_the_same_guidance_needs_no_more(tmp_path: Path) -> None:
    file = preset(CFG)
    same = dataclasses.replace(
        file, best_stg=dataclasses.replace(file.best_stg or file.row, defaults=file.row.defaults)
    )
    assert "guidance_scale" not in tomllib.loads(same.to_toml())["best_stg"]
    assert read_again(same, tmp_path).best_stg == same.best_stg
    assert preset(CFG, None).best_stg is None


def test_size_and_frames_that_were_asked_for_are_in_the_file(tmp_path: Path) -> None:
    file = preset(CFG, fps="24000/1001", num_frames=3)
    assert tomllib.loads(file.to_toml())["preset"]["defaults"] == {
        "num_frames": 3, "fps": pytest.approx(23.976, abs=1e-3), "guidance_scale": 4.0,
        "num_inference_steps": 10,
    }  # fmt: skip
    assert set(preset(CFG).row.defaults) == {"guidance_scale", "num_inference_steps"}
    assert read_again(file, tmp_path).row.defaults["num_frames"] == 3


def test_the_line_to_type_has_what_no_preset_has() -> None:
    asked = options(12)
    common = {**asked.common, "negative_prompt": "a blur", "dtype": "bfloat16", "device": "cpu",
              "lora": ["a b.safetensors"]}  # fmt: skip
    line = line_to_type(dataclasses.replace(asked, common=common), Path("runs/t/tune.toml"))
    assert line == (
        "skipguide generate 'A PROMPT' --model lab-mochi --negative-prompt 'a blur' --dtype"
        " bfloat16 --lora 'a b.safetensors' --preset runs/t/tune.toml"
    )


@pytest.mark.parametrize(
    ("words", "homes"),
    [
        (("use CFG alone", "not measured", "not distinguishable"), ["answer/verdicts.py"]),
        (("tune.toml", "report.html", "tune"), ["names.py"]),
        (("cfg-price", "cfg-low"), ["race/candidates.py", "race/state.py"]),
    ],
)
def test_what_several_rooms_read_is_written_in_one_place(
    words: tuple[str, ...], homes: list[str]
) -> None:
    folder = Path(tuning.__path__[0])
    found = {
        path.relative_to(folder).as_posix()
        for path in folder.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Constant) and node.value in words
    }
    assert found <= {*homes, "answer/words.py"}
