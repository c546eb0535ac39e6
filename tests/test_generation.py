"""The engine under the command line: models are found or refused in words, frames are the pipeline's own."""

from __future__ import annotations

import json
import math
import re
import shutil
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from skipguide import STG, generation, guide, record
from skipguide.lab import models
from skipguide.settings import Generation, checked, resolve

TINY = {"height": 32, "width": 32, "num_frames": 7, "steps": 4, "max_sequence_length": 16, "prompt": "a red star"}


def settings_for(pipe: Any, **given: Any) -> Generation:
    return resolve(checked({**TINY, "layers": 2, **given}), pipe)


def by_hand(pipe: Any, seed: int) -> np.ndarray:
    call = {name: value for name, value in TINY.items() if name != "steps"}
    call |= {"num_inference_steps": TINY["steps"], "output_type": "np"}
    with warnings.catch_warnings():  # diffusers' own, which generate() keeps from the user
        warnings.filterwarnings("ignore", message="In CPU autocast")
        video = pipe(generator=torch.Generator().manual_seed(seed), **call).frames[0]
    return (video * 255).round().astype(np.uint8)


# --- running ----------------------------------------------------------------------------------------------------------


def test_without_stg_the_frames_are_the_bare_pipelines(pipe: Any) -> None:
    result = generation.generate(pipe, settings_for(pipe, stg_scale=0.0, seed=3))
    assert np.array_equal(result.frames, by_hand(pipe, seed=3))
    assert not np.array_equal(result.frames, by_hand(pipe, seed=4))


def test_with_stg_the_frames_are_those_of_guide(pipe: Any) -> None:
    term = STG([1, 2], 1.5, "attention", None, 0.25, 0.75)
    settings = settings_for(
        pipe, layers=[1, 2], stg_scale=1.5, skip="attention", start=0.25, stop=0.75, rescale=0.7, seed=3
    )
    result = generation.generate(pipe, settings)
    with guide(pipe, term, rescale=0.7):
        assert np.array_equal(result.frames, by_hand(pipe, seed=3))
    assert not np.array_equal(result.frames, by_hand(pipe, seed=3))


@pytest.mark.parametrize(
    ("given", "passes"),
    [
        ({"stg_scale": 0.0}, 2.0),
        ({"stg_scale": 0.0, "guidance_scale": 1.0}, 1.0),
        ({}, 2.25),
        ({"skip": "attention"}, 2.5),
        ({"guidance_scale": 1.0}, 1.25),
        ({"stop": 0.5}, 2.125),
    ],
)
def test_passes_per_step(pipe: Any, given: dict[str, Any], passes: float) -> None:
    assert generation.generate(pipe, settings_for(pipe, **given)).passes_per_step == passes


def test_steps_are_reported(pipe: Any) -> None:
    steps: list[generation.Step] = []
    result = generation.generate(pipe, settings_for(pipe), steps.append)
    assert [(step.number, step.steps, step.passes_per_step) for step in steps] == [(i, 4, 2.25) for i in (1, 2, 3, 4)]
    assert all(step.seconds_left > 0 for step in steps[:3])
    assert steps[-1].seconds_left == 0
    assert 0 < result.seconds_per_step * 3 < result.seconds


def test_what_a_callback_raises_ends_it_and_leaves_the_pipe_clean(pipe: Any) -> None:
    def stop(step: generation.Step) -> None:
        raise KeyboardInterrupt

    before = by_hand(pipe, seed=0)
    with pytest.raises(KeyboardInterrupt):
        generation.generate(pipe, settings_for(pipe), stop)
    assert np.array_equal(by_hand(pipe, seed=0), before)


def test_frames_that_are_not_finite(pipe: Any) -> None:
    with pytest.raises(ValueError, match=r"^the frames must be finite numbers, but float32 overflowed\. Use"):
        generation.generate(pipe, settings_for(pipe, guidance_scale=1e38))


def test_too_few_steps_for_the_schedule(pipe: Any) -> None:
    with pytest.raises(ValueError, match=r"^steps must be enough .* MochiPipeline, but got 1\. Take 2 or more"):
        generation.generate(pipe, settings_for(pipe, steps=1))


def test_a_pipeline_that_makes_no_video_from_text(pipe: Any) -> None:
    settings = settings_for(pipe, stg_scale=0.0)

    class Upscaler:
        device = pipe.device

        def __call__(self, image: Any) -> None: ...

    with pytest.raises(
        ValueError, match=r"^model must be a text-to-video .*, but Upscaler does not take callback_on_st"
    ):
        generation.generate(Upscaler(), settings)


# --- loading ----------------------------------------------------------------------------------------------------------


def test_load_from_a_folder(tiny_mochi_dir: Path, pipe: Any, capfd: pytest.CaptureFixture[str]) -> None:
    loaded = generation.load_pipeline(str(tiny_mochi_dir), device="cpu")
    assert (type(loaded), loaded.dtype, loaded.device.type) == (type(pipe), torch.float32, "cpu")
    assert generation.load_pipeline(str(tiny_mochi_dir), "bfloat16", "cpu").transformer.dtype == torch.bfloat16
    assert "Loading" not in capfd.readouterr().err


def test_load_the_built_in_model(tiny_mochi_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(models, "path", {"lab-mochi": tiny_mochi_dir}.__getitem__)
    assert generation.local_folder("lab-mochi") == tiny_mochi_dir
    assert type(generation.load_pipeline("lab-mochi", device="cpu")).__name__ == "MochiPipeline"


def test_a_hub_id_is_no_folder() -> None:
    assert generation.local_folder("genmo/mochi-1-preview") is None


def test_a_folder_without_a_model(tmp_path: Path) -> None:
    start = "^model must be lab-mochi, a folder with a model_index.json, or a hub id .*, but got .*"
    with pytest.raises(ValueError, match=start + re.escape(f"there is no {tmp_path / 'model_index.json'}. Name the")):
        generation.load_pipeline(str(tmp_path))


@pytest.mark.parametrize("name", ["lab-moch", "./genmo/mochi", "a/b/c", "/nowhere", "a b/c"])
def test_no_such_model(name: str) -> None:
    with pytest.raises(
        ValueError, match=r"^model must be lab-mochi, .*, but got '.*', and there is no such folder\. Che"
    ):
        generation.load_pipeline(name)


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without CUDA")
def test_no_such_device(tiny_mochi_dir: Path) -> None:
    with pytest.raises(ValueError, match=r"^device must be one that torch has here, but got 'cuda' .*\. Try cpu"):
        generation.load_pipeline(str(tiny_mochi_dir), device="cuda")


# --- the record -------------------------------------------------------------------------------------------------------


def test_record_is_complete_and_names_nobody(pipe: Any, tiny_mochi_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tiny_mochi_dir.parent)
    settings = settings_for(pipe, model=tiny_mochi_dir.name)
    result = generation.generate(pipe, settings)
    made = record.build(settings, result, generation.identity(settings.model, pipe))
    assert set(made["versions"]) == {"skipguide", "torch", "diffusers", "transformers", "python"}
    assert made["versions"]["torch"] == torch.__version__
    assert made["machine"]["threads"] == torch.get_num_threads()
    assert made["machine"]["processor"]
    assert made["frames"] == [7, 32, 32, 3]
    assert len(made["frames_sha256"]) == 64
    assert None not in made["settings"].values()
    text = json.dumps(made, allow_nan=False)
    assert str(tiny_mochi_dir.parent) not in text
    assert str(Path.home()) + "/" not in text
    assert not math.isnan(made["measured"]["passes_per_step"])


@pytest.mark.parametrize(
    "name", ["model_index.json", "transformer/config.json", "transformer/diffusion_pytorch_model.safetensors"]
)
def test_weights_hash_sees_every_file(tiny_mochi_dir: Path, tmp_path: Path, name: str) -> None:
    folder = shutil.copytree(tiny_mochi_dir, tmp_path / "copy")
    before = record.weights_sha256(folder)
    assert before == record.weights_sha256(tiny_mochi_dir)
    content = (folder / name).read_bytes()
    (folder / name).write_bytes(content[:-1] + b"?")
    assert record.weights_sha256(folder) != before


def test_changes_between_records() -> None:
    then = {"settings": {"seed": 1}, "versions": {"torch": "2.0"}, "weights": {"sha256": "a"}, "created": "x"}
    now = {"settings": {"seed": 1}, "versions": {"torch": "2.1"}, "weights": {"revision": "b"}, "created": "y"}
    assert record.changes(then, now) == {
        "weights.sha256": ["a", None], "versions.torch": ["2.0", "2.1"], "weights.revision": [None, "b"],
    }  # fmt: skip


@pytest.mark.parametrize(
    ("made", "message"),
    [
        ({"runs": [1, 2]}, r"one generation, but a\.mp4 is a comparison of 2\. Run"),
        ({"format": 99, "settings": {}}, r"format 1, but that of a\.mp4 has format 99\. Use"),
        ({}, r"format 1, but that of a\.mp4 has format None"),
        ({"format": 1, "settings": {"prompt": "p", "stg": 1}}, r"must be one of .*, but got 'stg'"),
    ],
)
def test_records_that_are_refused(made: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        record.settings_of(made, Path("a.mp4"))
