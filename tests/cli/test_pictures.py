"""A model that makes pictures, on the command line: files, refusals, comparisons, sweeps."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from diffusers.pipelines.cogview4.pipeline_cogview4 import CogView4Pipeline
from PIL import Image
from typer.testing import CliRunner, Result

from skipguide.cli import app
from skipguide.files import clips, video
from skipguide.generate.resolve import resolve_settings
from skipguide.generate.settings import validate_settings
from skipguide.runs import Run
from support.drawn import plan_of, swept
from support.saved import saved
from support.tiny import tiny

SMALL = ("--model", "../CogView4Pipeline", "--steps", "2", "--height", "32", "--width", "48",
         "--device", "cpu", "--layers", "1")  # fmt: skip


def run(*args: str | Path, code: int = 0) -> Result:
    result = CliRunner().invoke(app, [str(arg) for arg in args])
    assert result.exit_code == code, result.output + repr(result.exception)
    return result


def output(*args: str | Path, code: int = 0) -> Any:
    return json.loads(run(args[0], "--json", *args[1:], code=code).stdout)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved("CogView4Pipeline", tmp_path_factory.mktemp("models"))


@pytest.fixture
def here(tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "here").mkdir()
    (tmp_path / model.name).symlink_to(model)
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "here"


def test_a_picture_is_what_the_pipeline_makes_and_is_made_again(here: Path) -> None:
    said = run("generate", "a red star", *SMALL, "--stg-scale", "0", "--seed", "3").stdout
    assert said.startswith("a-red-star-3.png: a picture of 48x32, seed 3\n")
    frames, _ = clips.read(here / "a-red-star-3.png")
    pipe: Any = CogView4Pipeline.from_pretrained("../CogView4Pipeline")
    by_hand = pipe(
        prompt="a red star", negative_prompt="", height=32, width=48, num_inference_steps=2,
        guidance_scale=5.0, output_type="np", generator=torch.Generator("cpu").manual_seed(3),
    ).images  # fmt: skip
    assert np.array_equal(frames, (by_hand * 255).round().astype(np.uint8))
    again = output("reproduce", "a-red-star-3.png", "--out", "again.webp")
    assert again["bit_equal"]
    assert np.array_equal(clips.read(here / "again.webp")[0], frames)
    made = output("generate", "a red star", *SMALL, "--seed", "3", "-o", "x.webp")["record"]
    assert made["settings"]["picture_format"] == "webp"
    assert (made["settings"]["fps"], made["settings"]["num_frames"]) == (None, None)
    assert output("reproduce", "x.webp")["bit_equal"]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (("--num-frames", "5"), "num_frames must be left out for a CogView4Pipeline, which makes"
         " pictures, but got 5. Leave out --num-frames, or choose another --model."),
        (("--fps", "24000/1001"), "fps must be left out for a CogView4Pipeline, which makes"
         " pictures, but got 24000/1001. Leave out --fps, or choose another --model."),
        (("--out", "a.mp4"), "the output must be named .png or .webp, but got 'a.mp4'. Name it"
         " a.png."),
        (("--out", "a.png", "--picture-format", "webp"), "--out must be named .webp with"
         " --picture-format webp, but got 'a.png'. Leave one of them out."),
        (("--seeds", "0,1", "--out", "a.png"), "--out must be a folder where there are many videos,"
         " but got a.png. Name a folder."),
    ],
)  # fmt: skip
def test_refused_at_once(
    here: Path, monkeypatch: pytest.MonkeyPatch, given: tuple[str, ...], message: str
) -> None:
    monkeypatch.setattr("skipguide.models.loading.load", None)  # nothing of the model is read
    assert run("generate", "a star", *SMALL, *given, code=2).stderr == f"error: {message}\n"
    assert not list(here.iterdir())


@pytest.mark.parametrize(
    ("name", "size"),
    [("QwenImageEditPipeline", None), ("StableDiffusion3Img2ImgPipeline", 16)],
)
def test_an_edited_picture_keeps_its_size_and_others_have_the_models(
    name: str, size: int | None
) -> None:
    given = {"prompt": "a star", "image": "x.png", "stg_scale": 0.0}
    found = resolve_settings(validate_settings(given), tiny(name).pipe)
    assert (found.height, found.width, found.num_frames, found.fps) == (size, size, None, None)


def test_a_video_has_no_picture_format(here: Path, tiny_mochi_dir: Path) -> None:
    command = ("generate", "a star", "--model", tiny_mochi_dir, "--layers", "2")
    said = run(*command, "--picture-format", "webp", code=2).stderr
    assert "picture_format must be left out for a MochiPipeline, which makes videos" in said
    said = run(*command, "--out", "a.png", code=2).stderr
    assert "the output must be named .mp4, but got 'a.png'. Name it a.mp4." in said


def test_many_pictures_go_on_where_they_were(here: Path) -> None:
    command = ("generate", "a star", *SMALL, "--seeds", "0:2", "--picture-format", "webp")
    said = output(*command, "--out-dir", "many")
    assert [entry["video"] for entry in said["videos"]] == ["many/a-star-0.webp",
                                                            "many/a-star-1.webp"]  # fmt: skip
    (here / "many/a-star-1.webp").unlink()
    said = output(*command, "--out-dir", "many")
    assert [entry["state"] for entry in said["videos"]] == ["there", "made"]


def test_a_comparison_is_a_png_side_by_side(here: Path) -> None:
    said = output("compare", "a star", *SMALL, "--seeds", "0,1", "--stg-scale", "2")
    assert said["files"] == ["compare/a-star-0.png", "compare/a-star-1.png", "compare/grid.png"]
    own = [clips.read(Path(entry["clip"]))[0] for entry in said["runs"][:2]]
    assert not np.array_equal(own[0], own[1])
    joined, _ = clips.read(here / "compare/a-star-0.png")
    assert [
        np.array_equal(made, shown)
        for made, shown in zip(own, video.split_side_by_side(joined, 2, own[0].shape), strict=True)
    ] == [True, True]
    assert output("reproduce", "compare/a-star-1.png")["bit_equal"]
    with Image.open(here / "compare/grid.png") as sheet:
        assert sheet.width == joined.shape[2]
        assert sheet.height > 2 * joined.shape[1]
    with Run.open(here / "compare") as found:
        assert [clip.is_picture for clip in found.clips()] == [True] * 4


def test_a_sweep_keeps_pictures_and_goes_on_after_it_was_ended(here: Path) -> None:
    plan = {
        "model": "../CogView4Pipeline", "prompts": ["a star"], "seeds": [0, 1], "steps": 2,
        "height": 32, "width": 32, "device": "cpu",
        "settings": [{"name": "cfg", "stg_scale": 0}, {"name": "stg", "layers": 1},
                     {"name": "webp", "layers": 1, "picture_format": "webp", "stg_scale": 2}],
    }  # fmt: skip
    (here / "plan.yaml").write_text(yaml.safe_dump(plan))
    said = output("sweep", "plan.yaml")
    assert (said["made"], said["grid"]) == (6, "runs/plan/grid.png")
    with Run.open(here / "runs/plan") as found:
        names = [clip.video.suffix for clip in found.clips() if clip.video]
        lost = found.clips()[0].video
    assert sorted(names) == [".png"] * 4 + [".webp"] * 2
    assert lost is not None
    lost.unlink()
    assert output("sweep", "plan.yaml")["made"] == 1
    assert output("sweep", "plan.yaml")["made"] == 0
    (here / "plan.yaml").write_text(yaml.safe_dump({**plan, "seeds": [2]}))
    output("sweep", "plan.yaml", "--out", "runs/other")
    run("runs", "merge", "runs/plan", "runs/other", "--out", "joined")
    with Run.open(here / "joined") as found:
        assert all(clip.video and clip.video.is_file() for clip in found.clips("done"))
        assert len(found.clips("done")) == 9


def test_pictures_that_a_ledger_has_not_heard_of_are_taken_over(tmp_path: Path) -> None:
    """As after a kill between the picture and the ledger; a half-written one is removed."""
    plan = plan_of(prompts=2, seeds=1, num_frames=None, fps=None)
    log = tmp_path / "log"
    swept(tmp_path / "run", plan, log=log)
    made = sorted(path.name for path in (tmp_path / "run/videos").iterdir())
    assert [Path(name).suffix for name in made] == [".png", ".json"] * 4
    (tmp_path / "run/ledger.sqlite").unlink()
    part = tmp_path / "run/videos/.half.part"
    part.write_bytes(b"half")
    swept(tmp_path / "run", plan, log=log)
    assert len(log.read_text().splitlines()) == 4
    assert sorted(path.name for path in (tmp_path / "run/videos").iterdir()) == made
    damaged = next((tmp_path / "run/videos").glob("*.png"))
    damaged.write_bytes(damaged.read_bytes()[:-20])
    swept(tmp_path / "run", plan, log=log)
    assert len(log.read_text().splitlines()) == 5


TUNED = (
    "tune", *SMALL[:-2], "--prompts", "prompts.txt", "--out", "tuned", "--passes", "600",
    "--guidance-scale", "4.5", "--skips", "residual",
)  # fmt: skip


def test_a_metric_of_videos_is_refused_before_a_tuning_begins(here: Path) -> None:
    (here / "prompts.txt").write_text("".join(f"a red star {i}\n" for i in range(12)))
    said = run(*TUNED, "--metric", "temporal_flickering", code=2).stderr
    assert "temporal_flickering measures videos, of which it needs 2 frames, but a picture" in said
    assert not (here / "tuned").exists() or not list((here / "tuned").glob("videos/*"))


@pytest.mark.long
def test_a_model_of_pictures_is_tuned(here: Path) -> None:
    """From the scan to an answer that `generate` takes; its report shows pictures."""
    (here / "prompts.txt").write_text("".join(f"a red star {i}\n" for i in range(12)))
    said = run(*TUNED, "--metric", "sharpness").stdout
    assert "forward passes a clip" in said
    with Run.open(here / "tuned") as made:
        assert {clip.is_picture for clip in made.clips("done")} == {True}
        assert all("sharpness" in clip.metrics for clip in made.clips("done"))
    assert "<video" not in (here / "tuned" / "report.html").read_text()
    run("generate", "a red star", *SMALL[:-2], "--preset", "tuned/tune.toml", "--out", "x.png")
