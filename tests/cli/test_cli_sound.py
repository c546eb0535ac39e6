"""Videos of a model that makes sound: the files of all verbs have it, each video its own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from skipguide.cli import app
from skipguide.files import sound, video
from skipguide.generate import soundtrack
from skipguide.models import loading
from support.text_encoders import text_components
from support.tiny import builders, tiny

SMALL = ("--height", "32", "--width", "32", "--num-frames", "5", "--steps", "2", "--layers", "1")
SMALL += ("--model", "../ltx")
PLAN = """
model: {model}
prompts: [a red star]
seeds: [3, 4]
settings:
- {{name: cfg, stg_scale: 0, height: 32, width: 32, num_frames: 5, steps: 2}}
"""


@pytest.fixture(scope="module")
def ltx_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny LTX-2 that is called with words, in diffusers layout."""
    folder = tmp_path_factory.mktemp("models")
    small = builders()["LTX2Pipeline"](torch.float32)
    small.pipe.register_modules(**text_components("ltx-2", small.call, folder))
    loading.restore_text_model(small.pipe)
    small.pipe.save_pretrained(folder / "ltx")
    return folder / "ltx"


@pytest.fixture
def here(tmp_path: Path, ltx_dir: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "here").mkdir()
    (tmp_path / "ltx").symlink_to(ltx_dir)
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "here"


def run(*args: str, code: int = 0) -> str:
    result = CliRunner().invoke(app, args)
    assert result.exit_code == code, result.output + repr(result.exception)
    return result.stdout


def hashes(path: Path) -> list[str]:
    """Of the tracks of a file."""
    found = [sound.read(path, track) for track in range(4)]
    return [one.sha256 for one in found if one is not None]


def test_a_video_has_its_sound_and_is_made_again_with_it(here: Path) -> None:
    said = run("generate", "a red star", *SMALL, "--seed", "3", "--out", "a.mp4")
    record = video.read_record(here / "a.mp4")
    found = sound.read(here / "a.mp4")
    assert found is not None
    assert record["audio"] == found.describe()
    assert (record["audio"]["sample_rate"], record["audio"]["channels"]) == (24000, 2)
    assert found.samples.any()
    assert "sound" in said
    assert run("reproduce", "a.mp4", "--out", "b.mp4") == "bit-equal\n"
    assert hashes(here / "b.mp4") == [found.sha256]
    frames, fps = video.read(here / "a.mp4")
    other = {**record, "audio": {**record["audio"], "sha256": "0" * 64}}
    video.write(here / "c.mp4", frames, fps, other)
    said = run("reproduce", "c.mp4", code=1)
    assert said.startswith("not bit-equal: the frames are, but not the sound")


def test_a_comparison_has_all_sounds_and_plays_that_of_its_first_video(here: Path) -> None:
    run("compare", "a red star", *SMALL, "--stg-scale", "40", "--out-dir", "out")
    (joined,) = here.glob("out/*.mp4")
    clips = sorted(here.glob("out/*/*.mp4"))
    single = {video.read_record(clip)["frames_sha256"]: hashes(clip) for clip in clips}
    record = video.read_record(joined)
    assert len(single) == 2
    assert hashes(joined) == [
        own for entry in record["runs"] for own in single[entry["frames_sha256"]]
    ]
    assert len(set(hashes(joined))) == 2
    assert json.loads(run("reproduce", str(joined), "--json"))["bit_equal"] is True


def test_clips_of_a_sweep_each_have_their_own(here: Path) -> None:
    (here / "plan.yaml").write_text(PLAN.format(model="../ltx"))
    run("sweep", "plan.yaml", "--out", "swept")
    clips = sorted((here / "swept").rglob("*.mp4"))
    found = [hashes(clip) for clip in clips]
    assert [[video.read_record(clip)["audio"]["sha256"]] for clip in clips] == found
    assert len({own for (own,) in found}) == 2


@pytest.mark.parametrize(
    ("name", "rate"), [("LTX2Pipeline", 24000), ("Kandinsky6TI2VAPipeline", 44100)]
)
def test_the_videos_of_a_batch_each_have_their_own(name: str, rate: int) -> None:
    """diffusers' own output for two prompts: `(2, C, N)`, of Kandinsky 6 `(2, N)` in numpy."""
    small = tiny(name)
    call: dict[str, Any] = {**small.call, "output_type": "np", "num_inference_steps": 2}
    output = small.pipe(**call, generator=torch.Generator().manual_seed(0))
    sounds = [soundtrack.sound_of(small.pipe, output, index) for index in (0, 1)]
    for index, own in enumerate(sounds):
        assert own is not None
        given = torch.atleast_2d(torch.as_tensor(output.audio[index]).double())
        assert torch.equal(torch.from_numpy(own.samples), (given * 32767).round().short())
        assert own.rate == rate
    assert len({own.sha256 for own in sounds if own is not None}) == 2
