"""`skipguide lab clips`: folders of real clips, as a reference and as prompts."""

from __future__ import annotations

import csv
import shutil
from collections import namedtuple
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner, Result

from skipguide.cli import app
from skipguide.files import clips
from skipguide.lab import open_captions, open_world, real_clips, stills, world
from skipguide.metrics import inputs


def run(*args: object, code: int = 0) -> Result:
    found = CliRunner().invoke(app, ["lab", "clips", *map(str, args)])
    assert found.exit_code == code, found.output
    return found


def read(path: Path) -> tuple[torch.Tensor, Fraction]:
    """The frames (F, 3, H, W) and the rate of a clip, by PyAV."""
    with av.open(path) as file:
        frames = [frame.to_ndarray(format="rgb24") for frame in file.decode(video=0)]
        rate = file.streams.video[0].average_rate
    assert rate is not None
    return torch.from_numpy(np.stack(frames)).permute(0, 3, 1, 2), rate


def test_formats_are_those_of_the_models() -> None:
    from skipguide.lab import autoencoder, sd3, svd

    known = {
        "mochi": autoencoder.MOCHI, "mochi-2": autoencoder.OPEN_MOCHI, "svd": autoencoder.SVD,
        "opensora": autoencoder.OPENSORA, "sd3": sd3.AUTOENCODER,
    }  # fmt: skip
    assert real_clips.FORMATS.keys() == known.keys()
    for name, spec in known.items():
        found = real_clips.FORMATS[name]
        assert (found.frames, found.spans) == (spec.frames, spec.spans)
        assert (len(found.world.prompts) > 1) == spec.is_open
    assert real_clips.FORMATS["svd"].fps == svd.USUAL_FPS


@pytest.mark.parametrize("model", ["mochi", "svd", "opensora"])
def test_clips_are_those_of_the_world(model: str, tmp_path: Path) -> None:
    folder, frames = tmp_path / "real", tmp_path / "frames"
    said = run(folder, "--model", model, "--count", 3, "--seed", 7, "--first-frames", frames)
    assert f"{folder}: 3 clips" in said.stdout
    with (folder / "captions.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    scenes = world.sample_scenes(3, 7, "all", second_share=0.0)
    assert [row["prompt"] for row in rows] == world.captions(scenes, 7)
    assert [row["shape"] for row in rows] == [a["shape"] for a in scenes.attributes()]
    form = real_clips.FORMATS[model]
    spans = world.draw_spans(3, 7) if form.spans else None
    wanted = world.render(scenes, form.frames, 64, spans)
    for i, row in enumerate(rows):
        clip, rate = read(folder / row["video"])
        assert (clip.shape, rate) == ((form.frames, 3, 64, 64), form.fps)
        error = (clip.float() / 127.5 - 1 - wanted[i].transpose(0, 1)).abs().mean()
        assert error < 0.05  # of 2; what the codec loses
        first = np.asarray(Image.open(folder / row["image"]))
        pixels = ((wanted[i, :, 0] + 1) * 127.5).round().byte().permute(1, 2, 0)
        assert np.array_equal(first, pixels.numpy())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["frames", "real"]


@pytest.mark.parametrize("named", [None, "half", "closed", "open"])
def test_clips_of_the_open_world(named: str | None, tmp_path: Path) -> None:
    """The table has the words of each slot, named or not, and which are named."""
    folder, count = tmp_path / "real", 12
    option = ["--named", named] if named else []
    said = run(folder, "--model", "lab-mochi-2", "--count", count, "--seed", 7, *option)
    assert "--features open-judge" in " ".join(said.stdout.split())
    with (folder / "captions.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    scenes = open_world.sample_scenes(count, 7)
    slots = {"closed": open_world.SLOTS, "open": ()}.get(named or "half")
    captions = open_captions.captions(scenes, 7, slots)
    assert [row["prompt"] for row in rows] == [one.text or "a clip" for one in captions]
    assert [set(row["named"].split()) for row in rows] == [one.named for one in captions]
    for slot in open_world.SLOTS:
        assert [row[slot] for row in rows] == scenes.words()[slot]
    clip, rate = read(folder / rows[0]["video"])
    assert (clip.shape, rate) == ((19, 3, 64, 64), 12)
    wanted = open_world.render(scenes[slice(1)])[0].transpose(0, 1)
    assert (clip.float() / 127.5 - 1 - wanted).abs().mean() < 0.05


def test_pictures_of_the_open_world(tmp_path: Path) -> None:
    folder = tmp_path / "real"
    said = run(folder, "--model", "lab-sd3", "--count", 5, "--seed", 7, "--named", "closed")
    assert f"{folder}: 5 pictures" in said.stdout
    with (folder / "captions.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    scenes = open_world.sample_scenes(5, 7)
    assert [row["prompt"] for row in rows] == [
        one.text for one in stills.captions(scenes, 7, stills.SLOTS)
    ]
    assert "motion" not in rows[0]
    wanted = ((stills.render(scenes) + 1) * 127.5).round().byte()
    for i, row in enumerate(rows):
        picture = torch.from_numpy(np.array(Image.open(folder / row["video"]).convert("RGB")))
        assert torch.equal(picture.permute(2, 0, 1), wanted[i, :, 0])
        assert clips.read_record(folder / row["video"])["prompt"] == row["prompt"]
    assert not any(source.problem for source in inputs.find_videos(folder))


def test_open_prompts_are_a_file_of_prompts(tmp_path: Path) -> None:
    """An empty caption would be a row without a prompt."""
    from skipguide.runs import prompts

    run(tmp_path / "real", "--model", "mochi-2", "--named", "open", "--count", 30, "--size", 16)
    found = prompts.read(prompts.PromptFile(file="real/captions.csv"), tmp_path)
    assert {prompt.text for prompt in found} <= {"a clip", "a video", "A clip.", "A video."}


def test_they_are_a_reference_with_a_label_for_each_clip(tmp_path: Path) -> None:
    run(tmp_path / "real", "--count", 9, "--size", 32)
    found = inputs.find_videos(tmp_path / "real")
    assert [source.name for source in found] == [f"clip-{i:05d}.mp4" for i in range(9)]
    assert not any(source.problem for source in found)
    assert read(tmp_path / "real" / found[0].name)[0].shape[2:] == (32, 32)


def test_they_are_a_file_of_prompts(tmp_path: Path) -> None:
    from skipguide.runs import Plan

    run(tmp_path / "real", "--count", 2, "--model", "svd", "--first-frames", tmp_path / "first")
    plan = tmp_path / "plan.yaml"
    plan.write_text(
        "model: lab-svd\nprompts: real/captions.csv\nseeds: [0]\nsettings: [{name: a}]\n"
    )
    images = [prompt.image for prompt in Plan.read(plan).prompts]
    assert [Path(image or "").name for image in images] == ["frame-00000.png", "frame-00001.png"]


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["--model", "wan"], "must be one of mochi, mochi-2, svd, opensora, sd3, but got 'wan'"),
        (["--named", "open"], "only for mochi-2 or sd3, but got --named open for mochi"),
        (["--model", "svd", "--named", "half"], "Leave it out, or pass --model mochi-2 or sd3"),
        (["--model", "mochi-2", "--named", "all"],
         "what captions name must be closed, half, open, but got 'all'"),
        (["--size", "63"], "size must be an even number from 16 to 1024, but got 63"),
        (["--first-frames", "real/first"], "the first frames must not lie among the clips"),
        (["--count", "100000000"], "count must be 1 to 100000, but got 100000000"),
        (["--count", "0"], "Invalid value for '--count'"),
    ],
)  # fmt: skip
def test_what_cannot_be_written_is_refused(
    args: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert said in " ".join(run("real", *args, code=2).output.split())
    assert not list(tmp_path.iterdir())


def test_a_folder_with_something_in_it_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "kept.txt").write_text("mine")
    assert "clips need a new or an empty folder" in run(tmp_path, "--count", 1, code=2).stderr
    assert [path.name for path in tmp_path.iterdir()] == ["kept.txt"]


def test_an_interrupt_leaves_nothing_behind(tmp_path: Path) -> None:
    writing = real_clips.write(real_clips.Order(tmp_path / "real", count=3))
    assert next(writing) == 1
    assert [path.name for path in tmp_path.iterdir()] == [".real.part"]
    writing.close()
    assert not list(tmp_path.iterdir())


def test_a_disk_without_room_is_told_before_any_clip(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(1 << 40, 1 << 40, 50_000))
    assert "the disk must have room for 9 clips" in run(tmp_path / "a", "--count", 9, code=2).stderr
    assert not list(tmp_path.iterdir())
