"""skipguide tune on a tiny model: its plan, its answer, and what it refuses before any work."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from typer.testing import CliRunner

import skipguide
from skipguide.cli import app, tune_inputs
from skipguide.cli.tune_report import map_lines
from skipguide.families.preset_files import read_preset_file
from skipguide.files import video
from skipguide.models import loading
from skipguide.tuning.events import Planned
from skipguide.tuning.objective.objective import ObjectiveSpec
from support import tuned

SIZE = ["--height", "32", "--width", "32", "--num-frames", "7", "--steps", "4"]
SMALL = [*SIZE, "--max-sequence-length", "16", "--device", "cpu", "--guidance-scale", "4.5"]


def tune(*args: object) -> Any:
    return CliRunner().invoke(app, ["tune", *map(str, args)])


def prompts_in(folder: Path, count: int = 6) -> Path:
    path = folder / "prompts.txt"
    path.write_text("\n".join(f"a red star {i}" for i in range(count)))
    return path


def test_a_dry_run_times_the_model_and_leaves_nothing(tmp_path: Path, tiny_mochi_dir: Path) -> None:
    out = tmp_path / "run"
    found = tune(
        "--model", tiny_mochi_dir, "--prompts", prompts_in(tmp_path), *SMALL, "--passes", 900,
        "--metric", "temporal_flickering", "--out", out, "--dry-run", "--json",
    )  # fmt: skip
    assert found.exit_code == 0, found.output
    told = json.loads(found.stdout)
    plan = told["plan"]
    assert plan["model"]["pipeline"] == "MochiPipeline"
    assert plan["model"]["cells"] == 8  # four blocks, two skips
    assert plan["scan"] + plan["race"] + plan["search"] + plan["answer"] == pytest.approx(900)
    assert plan["timing"]["steps"] == 4
    assert plan["timing"]["plain_passes"] == 2
    assert not out.exists()


def test_from_the_command_to_a_video_with_its_preset(tmp_path: Path, tiny_mochi_dir: Path) -> None:
    out = tmp_path / "run"
    asked = (
        "--model", tiny_mochi_dir, "--prompts", prompts_in(tmp_path), *SMALL, "--passes", 500,
        "--metric", "temporal_flickering", "--floor", "motion=0.5", "--layers", "0,1",
        "--skips", "residual", "--out", out, "--json",
    )  # fmt: skip
    found = tune(*asked)
    assert found.exit_code == 0, found.output
    told = json.loads(found.stdout)
    assert told["answer"]["metric"] == "temporal_flickering"
    assert told["answer"]["floors"][0]["metric"] == "motion"
    for name in ("tune.toml", "report.html", "tune/map.csv", "tune/map.json", "tune/answer.json"):
        assert (out / name).is_file(), name
    # A second time there is nothing to make, and the answer is the same.
    again = tune(*asked)
    assert json.loads(again.stdout)["answer"] == told["answer"]
    file = read_preset_file(out / "tune.toml")
    assert shlex.split(file.provenance.command) == ["skipguide", "tune", *map(str, asked)]
    # The line that it says to type makes a video of the size that was measured.
    _, *line = shlex.split(told["command"])
    made = CliRunner().invoke(app, [*line, "--out", str(tmp_path / "a.mp4"), "--json"])
    assert made.exit_code == 0, made.output
    frames, _ = video.read(tmp_path / "a.mp4")
    assert frames.shape[:3] == (7, 32, 32)


def test_python_yields_what_happens_and_returns_the_result(
    tmp_path: Path, tiny_mochi_dir: Path
) -> None:
    pipe = loading.load_pipeline(str(tiny_mochi_dir))

    def brightness(frames: Any, prompt: str | None, fps: float | None) -> float:
        return float(frames.mean())

    tuning = skipguide.tune(
        pipe, [f"a star {i}" for i in range(3)], metric=brightness, out=tmp_path / "run",
        guidance_scale=4.5, layers=[0], skips=["residual"], passes=200, height=32, width=32,
        num_frames=7, steps=3, max_sequence_length=16,
    )  # fmt: skip
    events = list(tuning)
    assert any(isinstance(event, Planned) for event in events)
    assert tuning.result is not None
    assert tuning.result.answer is not None
    assert tuning.result.answer.metric.endswith("brightness")
    assert (tmp_path / "run" / "report.html").is_file()
    assert tuning.result.preset is not None
    assert "command" not in tuning.result.preset.read_text()
    with skipguide.guide(pipe, skipguide.STG([0])):  # the pipeline is free again
        pass


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ([], "a tuning needs prompts, but got none"),
        (["--prompts", "PROMPTS", "--hours", "1", "--passes", "9"], "has one budget"),
        (["--prompts", "PROMPTS", "--metric", "sharpnes"], "sharpness"),
        (["--prompts", "PROMPTS", "--metric", "motion=much"], "must be a metric and a number"),
        (["--prompts", "PROMPTS", "--floor", "motion"], "must be a metric and a number"),
        (["--prompts", "PROMPTS", "--scan-size", "480x272"], "width x height x frames"),
        (["--prompts", "PROMPTS", "--axes", "up"], "must be some of spatial, temporal, both"),
        (["--prompts", "PROMPTS", "--seeds", "x"], "seeds must be"),
        (["--prompts", "nowhere.txt"], "nowhere.txt"),
        (["--images", "nowhere"], "must be a folder of pictures"),
        (["--prompts", "PROMPTS", "--workers", "2"], "without --ray"),
        (["--prompts", "PROMPTS", "--features", "judge"], "reference"),
    ],
)
def test_what_is_wrong_is_said_before_any_work(
    tmp_path: Path, args: list[str], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    prompts_in(tmp_path)
    named = [str(tmp_path / "prompts.txt") if arg == "PROMPTS" else arg for arg in args]
    found = tune("--model", "lab-mochi", *named)
    assert found.exit_code == 2, found.output
    assert message in found.stderr
    assert not (tmp_path / "runs").exists()


def test_pictures_go_with_prompts_by_name_or_by_order(tmp_path: Path) -> None:
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for name in ("b.png", "a.jpg", "notes.txt"):
        if name == "notes.txt":
            (pictures / name).write_text("no picture")
        else:
            Image.new("RGB", (32, 32)).save(pictures / name)
    texts = tmp_path / "two.txt"
    texts.write_text("first\nsecond\n")
    found, notes = tune_inputs.read_inputs(texts, pictures)
    assert [(p.text, p.image and p.image.name) for p in found] == [
        ("first", "a.jpg"),
        ("second", "b.png"),
    ]
    assert "in their order" in notes[0]
    table = tmp_path / "named.csv"
    table.write_text("prompt,image\nfirst,b.png\n")
    found, _ = tune_inputs.read_inputs(table, pictures)
    assert found[0].image == pictures / "b.png"
    found, _ = tune_inputs.read_inputs(None, pictures)
    assert [p.image and p.image.name for p in found] == ["a.jpg", "b.png"]
    texts.write_text("1\n2\n3\n")
    with pytest.raises(ValueError, match=r"3 prompts and .* 2 pictures"):
        tune_inputs.read_inputs(texts, pictures)
    table.write_text("prompt,image\nfirst,c.png\n")
    with pytest.raises(ValueError, match=r"c\.png is not"):
        tune_inputs.read_inputs(table, pictures)


def test_metrics_have_weights() -> None:
    found = tune_inputs.parse_metrics(["motion=2,sharpness", "mine.py:score=-0.5"])
    assert found == (("motion", 2.0), ("sharpness", 1.0), ("mine.py:score", -0.5))
    assert ObjectiveSpec(metrics=found).measures


@pytest.mark.parametrize(
    ("size", "message"),
    [("36x32x7", "setting 'scan' .* must be multiples of 8"), ("33x32x7", "width must be an even")],
)
def test_a_size_that_the_scan_cannot_have_is_refused_by_the_plan(
    tmp_path: Path, tiny_mochi_dir: Path, size: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before the weights are read; the oracle is the pipeline's own check."""

    def never(*_: Any) -> None:
        raise AssertionError("the weights were read")

    monkeypatch.setattr(loading, "load", never)
    found = tune(
        "--model", tiny_mochi_dir, "--prompts", prompts_in(tmp_path), *SMALL, "--passes", 900,
        "--scan-size", size, "--out", tmp_path / "run", "--dry-run",
    )  # fmt: skip
    assert found.exit_code == 2, repr(found.exception)
    assert re.search(message, " ".join(found.stderr.split()))


def test_a_broken_picture_is_said_before_any_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loading, "load", None)
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for number in range(4):
        Image.new("RGB", (64, 64)).save(pictures / f"{number}.png")
    whole = (pictures / "2.png").read_bytes()
    (pictures / "2.png").write_bytes(whole[: len(whole) // 2])
    (pictures / "3.png").write_bytes(b"")
    found = tune("--model", "lab-svd", "--images", pictures, "--out", tmp_path / "run")
    assert found.exit_code == 2, repr(found.exception)
    said = " ".join(found.stderr.split())
    assert "2.png cannot be read as one" in said
    assert "1 more cannot be read either. Mend them" in said
    assert not (tmp_path / "run").exists()


def test_the_scale_that_all_is_compared_with_is_above_one_where_another_is(
    tmp_path: Path, tiny_mochi_dir: Path
) -> None:
    found = tune(
        "--model", tiny_mochi_dir, "--prompts", prompts_in(tmp_path), *SMALL[:-2],
        "--guidance-scale", 1, "--guidance-scale", 4, "--out", tmp_path / "run", "--dry-run",
    )  # fmt: skip
    assert found.exit_code == 2
    assert "but got 1, 4. Give 4 first, and 1 after it." in " ".join(found.stderr.split())


def test_the_printed_map_says_what_the_shortlist_took_and_why_not_others() -> None:
    found = tuned.layer_map()
    lines = map_lines(found)
    assert "one alone of those that push the same way" in lines[0]
    marked = {text.rpartition("; ")[2] for text in lines[1:9] if "; " in text.partition("weak")[2]}
    assert marked == {"in the shortlist", *found.passed_over().values()}
    assert any("pushes like" in mark for mark in marked)
