"""A preset of one's own in the settings of a video, and on the command line."""

from __future__ import annotations

import dataclasses
import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from skipguide import SLG
from skipguide.cli import app
from skipguide.families import presets
from skipguide.families.preset_files import PresetFile
from skipguide.files import video
from skipguide.generate.parsing import read_named_files
from skipguide.generate.preset_given import in_flags
from skipguide.generate.resolve import resolve_settings, words_of_flags
from skipguide.generate.settings import GenerationSettings, validate_settings
from skipguide.models import loading
from skipguide.runs import jobs
from skipguide.runs.jobs import ResolvedSetting
from skipguide.runs.plan_settings import Setting
from skipguide.runs.prompt_rows import Prompt
from support.preset_files import CFG_FILE, STG_FILE, STG_ROW, write_preset

WRITTEN_OUT: dict[str, Any] = {
    "layers": "blocks:8", "stg_scale": 2, "skip": "attention", "stop": 0.75, "rescale": 0.5,
    "normalize": True, "guidance_scale": 2,
}  # fmt: skip


@pytest.fixture(scope="module")
def mochi() -> Any:
    return loading.load(validate_settings({"prompt": "p", "device": "cpu"}))


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    write_preset(tmp_path / "tune.toml", STG_FILE)
    write_preset(tmp_path / "cfg.toml", CFG_FILE)
    row = dataclasses.replace(STG_ROW, kind="slg", scale=0.0, rescale=0.0, normalize=False)
    write_preset(tmp_path / "slg.toml", PresetFile(row))
    return tmp_path


def given(**words: Any) -> GenerationSettings:
    return validate_settings(read_named_files({"prompt": "p", "device": "cpu", **words}))


def key(settings: GenerationSettings, pipe: Any) -> str:
    complete = resolve_settings(settings, pipe)
    surveyed = ResolvedSetting(
        Setting("s", {}, settings), complete, {"sha256": "0"}, words_of_flags(settings, pipe)
    )
    return jobs.job_key(surveyed, Prompt("p"), 0, None, {"torch": "1"})


# --- the same settings written out have the same key ----------------------------------------------

SAME: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({"preset": "tune.toml"}, WRITTEN_OUT),
    ({"preset": "tune.toml", "layers": 5}, {**WRITTEN_OUT, "layers": 5}),
    ({"preset": "tune.toml", "stg_scale": 1}, {**WRITTEN_OUT, "stg_scale": 1}),
    ({"preset": "tune.toml", "guidance_scale": 4}, {**WRITTEN_OUT, "guidance_scale": 4}),
    ({"preset": "tune.toml", "normalize": False}, {**WRITTEN_OUT, "normalize": False}),
    ({"preset": "tune.toml", "stop": 1, "skip": "residual"},
     {**WRITTEN_OUT, "stop": 1, "skip": "residual"}),
    ({"preset": "tune.toml", "stg_scale": 0}, {"stg_scale": 0, "guidance_scale": 2}),
    ({"preset": "tune.toml", "guidance": {"terms": "preset"}}, WRITTEN_OUT),
    # What the preset says of its term is not SLG's.
    ({"preset": "tune.toml", "slg_layers": 3}, {"guidance_scale": 2, "guidance": {
        "rescale": 0.5, "terms": [
            {"layers": ["blocks:8"], "scale": 2, "skip": "attention", "stop": 0.75,
             "normalize": True},
            {"kind": "slg", "layers": [3]},
        ]}}),
    ({"preset": "tune.toml", "random_share": 0.1},
     {**WRITTEN_OUT, "layers": None, "random_share": 0.1}),
    ({"preset": "tune.toml", "schedule": [{"sigma": [0, 0.5], "layers": [3], "scale": 1}]},
     {"schedule": [{"sigma": [0, 0.5], "layers": [3], "scale": 1}], "guidance_scale": 2}),
    ({"preset": "cfg.toml"}, {"stg_scale": 0, "guidance_scale": 2}),
    ({"preset": "cfg.toml", "layers": 5}, {"layers": 5, "guidance_scale": 2}),
    ({"preset": "cfg.toml", "guidance": {"terms": "preset"}},
     {"guidance": {}, "guidance_scale": 2}),
    ({"preset": "slg.toml"},
     {"slg_layers": "blocks:8", "skip": "attention", "stop": 0.75, "guidance_scale": 2}),
    ({"preset": "slg.toml", "stop": 0.5},
     {"slg_layers": "blocks:8", "skip": "attention", "stop": 0.5, "guidance_scale": 2}),
]  # fmt: skip


@pytest.mark.parametrize(("words", "same"), SAME, ids=lambda words: ",".join(words))
def test_a_preset_has_the_key_of_the_same_written_out(
    here: Path, mochi: Any, words: dict[str, Any], same: dict[str, Any]
) -> None:
    by_preset, written_out = given(**words), given(**same)
    assert key(by_preset, mochi) == key(written_out, mochi)
    one, other = (resolve_settings(settings, mochi) for settings in (by_preset, written_out))
    assert one.model_dump() == other.model_dump()


def test_the_rest_is_the_published_preset_s(here: Path, mochi: Any) -> None:
    """The file has nothing but guidance_scale: sizes and steps stay those of lab-mochi."""
    published = presets.preset_for(mochi).defaults
    complete = resolve_settings(given(preset="tune.toml"), mochi)
    assert (complete.guidance_scale, complete.steps) == (2.0, published["num_inference_steps"])


def test_a_preset_makes_one_unknown_model_known(here: Path, pipe: Any) -> None:
    """The tiny Mochi of the tests has no published preset."""
    row = dataclasses.replace(STG_ROW, depth=4, width=16, layers=(2,))
    write_preset(here / "tiny.toml", PresetFile(row))
    complete = resolve_settings(given(preset="tiny.toml", height=32, width=32), pipe)
    assert complete.request.to_dict()["terms"][0]["layers"] == [2]


def test_slg_of_a_file(here: Path, mochi: Any) -> None:
    complete = resolve_settings(given(preset="slg.toml"), mochi)
    assert complete.request.terms == (SLG(["blocks:8"], "attention", stop=0.75),)
    with pytest.raises(ValueError, match=r"slg.toml is one of SLG. Write the layers of the terms"):
        resolve_settings(given(preset="slg.toml", guidance={"terms": "preset"}), mochi)


def test_a_preset_of_another_model_is_refused(here: Path, pipe: Any) -> None:
    with pytest.raises(ValueError, match=r"tune.toml is for lab-mochi .*of 4 blocks and width 16"):
        resolve_settings(given(preset="tune.toml"), pipe)


def test_a_file_that_was_not_read_is_no_preset() -> None:
    with pytest.raises(ValueError, match=r"preset must be what is in a file .*, but got 'x'"):
        validate_settings({"prompt": "p", "preset": "x"})


def test_in_flags_is_what_the_command_line_reads(here: Path, mochi: Any) -> None:
    words = shlex.split(in_flags(STG_ROW))
    names = [word.removeprefix("--").replace("-", "_") for word in words if word[:2] == "--"]
    values = [word for word in words if word[:2] != "--"] + [True]
    flags = dict(zip(names, values, strict=True))
    flags = {
        name: float(value) if isinstance(value, str) and re.fullmatch(r"[\d.]+", value) else value
        for name, value in flags.items()
    }
    assert flags == {name: WRITTEN_OUT[name] for name in flags}
    assert set(WRITTEN_OUT) - set(flags) == {"guidance_scale"}


# --- on the command line --------------------------------------------------------------------------

SMALL = ("--steps", "2", "--num-frames", "7", "--device", "cpu")


def run(*args: str, code: int = 0) -> Any:
    result = CliRunner().invoke(app, list(args))
    assert result.exit_code == code, result.output + repr(result.exception)
    return result


def test_the_record_names_the_file_and_no_place(here: Path) -> None:
    said = run("generate", "p", "--preset", str(here / "tune.toml"), *SMALL, "--out", "a.mp4")
    assert (
        "CFG 2 + STG 2 (attention blocks:8, normalized, 0-0.75); preset tune (tune.toml measured"
        " by skipguide 1.2.3 on 2026-11-30: gain +0.031 (+0.012 to +0.05) of sharpness)"
    ) in said.stdout
    made = video.read_record(here / "a.mp4")
    assert made["preset"]["name"] == "tune"
    assert made["preset"]["used"] == "guidance"
    assert len(made["preset"]["file"]["sha256"]) == 64
    assert made["settings"]["preset"] is None
    assert not {str(here), "somewhere/else"} & set(re.split('[" ]', json.dumps(made)))
    (here / "tune.toml").unlink()
    run("reproduce", "a.mp4", "--out", "b.mp4")
    assert video.read_record(here / "b.mp4")["preset"] == made["preset"]


def test_cfg_alone_is_made_and_said(here: Path) -> None:
    write_preset(here / "config" / "skipguide" / "presets" / "mine.toml", CFG_FILE)
    said = run("generate", "p", "--preset", "mine", *SMALL, "--out", "a.mp4")
    assert "CFG 2; no layer is skipped, as preset mine says" in said.stdout
    (note,) = video.read_record(here / "a.mp4")["notes"]
    assert note == (
        "the answer of the preset mine.toml is to use CFG alone: The interval holds 0. For its"
        " best STG all the same: --layers blocks:8 --stg-scale 2 --skip attention --stop 0.75"
        " --rescale 0.5 --normalize."
    )
    said = run("compare", "p", "--preset", "mine", *SMALL, code=2)
    assert "compare needs guidance beside CFG, but the answer of the preset mine" in said.stderr


def test_rows_of_prompts_have_presets(here: Path) -> None:
    (here / "rows.csv").write_text("prompt,preset\na star,\na moon,tune.toml\na sun,cfg.toml\n")
    run("generate", "--prompts", "rows.csv", *SMALL, "--stg-scale", "1", "--out-dir", "v")
    made = [video.read_record(path) for path in sorted((here / "v").glob("*.mp4"))]
    found = {one["settings"]["prompt"]: one for one in made}
    assert {
        prompt: (one["preset"]["name"], one["settings"]["guidance_scale"])
        for prompt, one in found.items()
    } == {"a star": ("lab-mochi", 4.5), "a moon": ("tune", 2.0), "a sun": ("cfg", 2.0)}


def test_what_is_wrong_with_a_preset_is_said_before_anything(here: Path) -> None:
    (here / "bad.toml").write_text("[preset]\nmodel = 'm'\nlayer = [1]\n")
    for name, message in {
        "bad.toml": r"bad.toml: \[preset\] has .*Did you mean 'layers'\?",
        "absent.toml": "there is none. Check the name",
        "absent": "`skipguide presets --add tune.toml` puts one there",
    }.items():
        said = run("generate", "p", "--preset", name, *SMALL, code=2).stderr
        assert re.search(message, said)
