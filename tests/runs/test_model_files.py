"""Videos of single files, LoRAs and quantized weights: known by content in keys, made again from
records, in plans, in the studio."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from diffusers.pipelines.wan.pipeline_wan import WanPipeline
from typer.testing import CliRunner

from skipguide.cli import app, moved, options
from skipguide.generate import notes
from skipguide.generate.describe import columns
from skipguide.generate.settings import GenerationSettings, validate_settings
from skipguide.models import telling
from skipguide.models.places import without_places
from skipguide.models.settings import Lora
from skipguide.runs import Plan, Run
from skipguide.runs.local_engine import LocalEngine
from skipguide.runs.sweep import sweep
from skipguide.studio import playground, trial_files
from support.loras import make_lora
from support.original import write_wan_file
from support.small_wan import save_wan, without_weights

pytestmark = pytest.mark.filterwarnings("ignore:Already found a `peft_config`:UserWarning")
SIZE = {"height": 32, "width": 32, "num_frames": 5, "steps": 1, "layers": 1, "device": "cpu"}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """wan.safetensors, its base, and two LoRAs."""
    folder = tmp_path_factory.mktemp("models")
    wan = save_wan(folder / "wan")
    write_wan_file(wan, folder / "wan.safetensors")
    without_weights(wan, folder / "base", "transformer")
    words = {"trigger_words": "sks"}
    make_lora(WanPipeline.from_pretrained(wan), folder / "a.safetensors", 0, words)
    make_lora(WanPipeline.from_pretrained(wan), folder / "b.safetensors", 1)
    return folder


def plan_of(folder: Path, *settings: dict[str, Any]) -> Plan:
    content = {
        "model": str(folder / "wan.safetensors"), "base_model": "base", "prompts": ["a star"],
        **SIZE, "settings": list(settings),
    }  # fmt: skip
    return Plan.of(content, folder)


def made_keys(plan: Plan, out: Path) -> dict[str, str]:
    list(sweep(plan, out, LocalEngine(out / "work"), measure=False))
    with Run.open(out) as run:
        names = {setting.id: setting.name for setting in run.settings()}
        return {names[clip.setting]: clip.key for clip in run.clips()}


def test_keys_are_of_contents_and_not_of_places(models: Path, tmp_path: Path) -> None:
    """Another folder of the same files has the same keys; each setting of a LoRA has its own."""
    settings = (
        {"name": "one", "grid": {"lora": ["a.safetensors", "b.safetensors"]}},
        {"name": "both", "lora": ["a.safetensors", "b.safetensors:0.5"]},
    )
    keys = made_keys(plan_of(models, *settings), tmp_path / "run")
    assert len(set(keys.values())) == len(keys) == 3
    copy = shutil.copytree(models, tmp_path / "copy")
    shutil.move(copy / "a.safetensors", copy / "renamed.safetensors")
    again = plan_of(copy, {"name": "one", "lora": "renamed.safetensors"})
    assert made_keys(again, tmp_path / "other") == {"one": keys["one lora=a.safetensors"]}
    shutil.copy(copy / "b.safetensors", copy / "renamed.safetensors")
    changed = made_keys(again, tmp_path / "third")
    assert changed == {"one": keys["one lora=b.safetensors"]}
    with Run.open(tmp_path / "run") as run:
        settings_of = {setting.name: setting.complete for setting in run.settings()}
        one = columns(settings_of["both"])["lora"]
        assert one == [f"{models / 'a.safetensors'}:1", f"{models / 'b.safetensors'}:0.5"]
        _check_trials(run, tmp_path / "run", models)


def _check_trials(run: Run, folder: Path, models: Path) -> None:
    model = str(models / "wan.safetensors")
    assert trial_files.of_model(run, model) == {"base_model": str(models / "base")}
    for value in (f"{models / 'a.safetensors'}:0.25", [f"{models / 'b.safetensors'}"]):
        ask = playground.TrialRequest(model, "a star", 0, {"lora": value, "layers": 1})
        (setting,) = playground.build_plan(folder, ask).settings
        assert setting.generation.base_model == str(models / "base")
    for parameters in (
        {"lora": "/etc/passwd.safetensors"},
        {"component": "vae=/etc"},
        {"base_model": "somebody/else"},
    ):
        ask = playground.TrialRequest(model, "a star", 0, parameters)
        with pytest.raises(ValueError, match=r"of a trial must be one of the run, which has "):
            playground.build_plan(folder, ask)


def test_a_video_is_made_again_from_its_record(
    models: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.chdir(models)
    telling.tell.cache_clear()
    lora = shutil.copy("a.safetensors", tmp_path / "style.safetensors")
    out = tmp_path / "x.mp4"
    flags = [f"--{name.replace('_', '-')}={value}" for name, value in SIZE.items()]
    command = ["generate", "a star", "--model=wan.safetensors", "--config=base", "--json"]
    run = CliRunner().invoke(
        app, [*command, f"--lora={lora}:0.5", "--quantize=int8:quanto", f"--out={out}", *flags]
    )
    made = json.loads(run.stdout)["record"]
    assert made["settings"]["quantize"] == "int8:quanto"
    assert made["settings"]["base_model"] == "base"
    (kept,) = made["settings"]["lora"]
    assert (kept["scale"], kept["trigger_words"]) == (0.5, ["sks"])
    assert set(made["weights"]) == {"sha256", "transformer"}
    assert "none of the trigger words of a LoRA: 'sks' (style.safetensors)" in made["notes"][0]
    shutil.move(lora, tmp_path / "moved.safetensors")
    missing = CliRunner().invoke(app, ["reproduce", str(out)])
    assert "say where it is with --model, --base-model, --component or --lora" in missing.stderr
    again = ["reproduce", str(out), "--json", f"--lora={tmp_path / 'moved.safetensors'}"]
    assert json.loads(CliRunner().invoke(app, again).stdout)["bit_equal"] is True
    other = CliRunner().invoke(app, ["reproduce", str(out), "--lora=b.safetensors"])
    assert other.exit_code == 1
    assert "settings.lora: ['style.safetensors 0.5 (" in other.stdout
    assert "the LoRA b.safetensors is not that of the record" in caplog.text


def settings_with(**given: Any) -> GenerationSettings:
    return validate_settings({"prompt": "a star", **given})


def test_files_that_moved() -> None:
    then = settings_with(
        lora=["x/a.safetensors:0.5", "x/b.safetensors"], component=["vae=x/vae", "unet=x/unet"]
    )
    now = moved.move(then, {"lora": ["y/b.safetensors"], "component": ["vae=y/vae"]})
    assert [(lora.path, lora.scale) for lora in now.lora or ()] == [
        ("x/a.safetensors", 0.5), ("y/b.safetensors", 1.0),
    ]  # fmt: skip
    assert now.component == ("unet=x/unet", "vae=y/vae")
    now = moved.move(then, {"lora": ["y/1.safetensors", "y/2.safetensors:2"]})
    assert [(lora.path, lora.scale) for lora in now.lora or ()] == [
        ("y/1.safetensors", 0.5), ("y/2.safetensors", 2.0),
    ]  # fmt: skip
    with pytest.raises(ValueError, match=r"for each LoRA of the record \(a\.safetensors, b\.saf"):
        moved.move(then, {"lora": ["y/c.safetensors"]})
    with pytest.raises(ValueError, match=r"which has unet, vae, but got 'vea'\. Leave it out"):
        moved.move(then, {"component": ["vea=y"]})


def test_places_are_no_content() -> None:
    entry = {"path": "x/a.safetensors", "scale": 0.5, "sha256": "1", "trigger_words": ["sks"]}
    content = {"steps": 2, "base_model": "x", "component": ["vae=x"], "lora": [entry]}
    assert without_places(content) == {"steps": 2, "lora": [{"scale": 0.5, "sha256": "1"}]}
    aimed = without_places({"lora": [{**entry, "component": "transformer_2"}]})
    assert aimed["lora"][0]["component"] == "transformer_2"


def test_config_is_a_file_of_settings_a_base_model_or_both(models: Path, tmp_path: Path) -> None:
    file = tmp_path / "settings.yaml"
    file.write_text(yaml.safe_dump({"steps": 3}), encoding="utf-8")
    base = str(models / "base")
    for given, expected in {
        (str(file),): {"steps": 3},
        (base,): {"base_model": base},
        ("maker/wan-diffusers", str(file)): {"steps": 3, "base_model": "maker/wan-diffusers"},
        ("lab-mochi",): {"base_model": "lab-mochi"},
    }.items():
        assert options.read_config(given) == expected
    with pytest.raises(ValueError, match=r"must name one base model at most, but got a/b, c/d\."):
        options.read_config(["a/b", "c/d"])
    with pytest.raises(ValueError, match=r"must be a YAML file.*, but got no/such\.yaml"):
        options.read_config(["no/such.yaml"])


def test_the_note_of_trigger_words() -> None:
    lora = Lora(path="x/a.safetensors", sha256="1", trigger_words=("SKS star", "red"))
    for prompt, asleep in {"a sks STAR": False, "a red one": False, "a blue one": True}.items():
        note = notes.trigger_note(settings_with(lora=[lora], prompt=prompt))
        assert (note is not None) == asleep
    assert notes.trigger_note(settings_with(lora=["x/a.safetensors"])) is None
