"""The engine under the command line: models are found or refused in words, frames are the
pipeline's own."""

from __future__ import annotations

import contextlib
import copy
import functools
import importlib.util
import io
import json
import logging
import math
import re
import shutil
import warnings
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import huggingface_hub
import numpy as np
import pytest
import torch
from huggingface_hub import errors
from PIL import Image, ImageOps

from skipguide import NAG, STG, guide
from skipguide.families import rows
from skipguide.files import image as image_file
from skipguide.files import packaged
from skipguide.generate import notes, record, run
from skipguide.generate.resolve import resolve_settings
from skipguide.generate.settings import GenerationSettings, validate_settings
from skipguide.models import fingerprint, loading, telling
from skipguide.models.settings import ModelSettings
from support.saved import whole
from support.tiny import tiny
from support.tiny.base import Tiny

TINY = {
    "height": 32,
    "width": 32,
    "num_frames": 7,
    "steps": 4,
    "max_sequence_length": 16,
    "prompt": "a red star",
}


def settings_for(pipe: Any, **given: Any) -> GenerationSettings:
    return resolve_settings(validate_settings({**TINY, "layers": 2, **given}), pipe)


def by_hand(pipe: Any, seed: int, **changes: Any) -> np.ndarray:
    call = {name: value for name, value in TINY.items() if name != "steps"}
    call |= {"num_inference_steps": TINY["steps"], "output_type": "np", **changes}
    with warnings.catch_warnings():  # diffusers' own, which generate() keeps from the user
        warnings.filterwarnings("ignore", message="In CPU autocast")
        video = pipe(generator=torch.Generator().manual_seed(seed), **call).frames[0]
    return (video * 255).round().astype(np.uint8)


# --- running --------------------------------------------------------------------------------------


def test_without_stg_the_frames_are_the_bare_pipelines(pipe: Any) -> None:
    result = run.generate(pipe, settings_for(pipe, stg_scale=0.0, seed=3))
    assert np.array_equal(result.frames, by_hand(pipe, seed=3))
    assert not np.array_equal(result.frames, by_hand(pipe, seed=4))


def test_with_stg_the_frames_are_those_of_guide(pipe: Any) -> None:
    term = STG([1, 2], 1.5, "attention", None, 0.25, 0.75)
    settings = settings_for(
        pipe,
        layers=[1, 2],
        stg_scale=1.5,
        skip="attention",
        start=0.25,
        stop=0.75,
        rescale=0.7,
        seed=3,
    )
    result = run.generate(pipe, settings)
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
    assert run.generate(pipe, settings_for(pipe, **given)).passes_per_step == passes


def test_steps_are_reported(pipe: Any) -> None:
    steps: list[run.StepProgress] = []
    result = run.generate(pipe, settings_for(pipe), steps.append)
    assert [(step.number, step.steps, step.passes_per_step) for step in steps] == [
        (i, 4, 2.25) for i in (1, 2, 3, 4)
    ]
    assert all(step.seconds_left > 0 for step in steps[:3])
    assert steps[-1].seconds_left == 0
    assert 0 < result.seconds_per_step * 3 < result.seconds


def test_what_a_callback_raises_ends_it_and_leaves_the_pipe_clean(pipe: Any) -> None:
    def stop(step: run.StepProgress) -> None:
        raise KeyboardInterrupt

    before = by_hand(pipe, seed=0)
    with pytest.raises(KeyboardInterrupt):
        run.generate(pipe, settings_for(pipe), stop)
    assert np.array_equal(by_hand(pipe, seed=0), before)


def test_frames_that_are_not_finite(pipe: Any) -> None:
    with pytest.raises(
        ValueError,
        match=r"^the frames must be finite numbers, but the model made inf or nan",
    ):
        run.generate(pipe, settings_for(pipe, guidance_scale=1e38))


def with_its_text(small: Tiny) -> Any:
    """The tiny pipeline, whose prompts are embeddings, as one that is called with a prompt."""
    whole = type(small.pipe).__call__

    @functools.wraps(whole)
    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        given = {
            key: value for key, value in kwargs.items() if key not in ("prompt", "negative_prompt")
        }
        return whole(self, *args, **{**small.call, **given})

    pipe = copy.copy(small.pipe)
    pipe.__class__ = type(type(pipe).__name__, (type(pipe),), {"__call__": call})
    return pipe


@pytest.mark.parametrize(
    ("name", "theirs"),
    [
        ("MotifVideoPipeline", {}),
        ("SanaVideoPipeline", {"guidance_scale": 3.0}),
        ("LTXPipeline", {"guidance_scale": 3.0, "frame_rate": 12}),
    ],
)
def test_models_that_call_their_settings_otherwise(name: str, theirs: dict[str, Any]) -> None:
    """A guider that has the scale, `frames` for the frames, `frame_rate` for how fast they go
    by."""
    small = tiny(name)
    sizes = {
        key: value
        for key, value in small.call.items()
        if key in ("height", "width", "num_frames", "frames")
    }
    given: dict[str, Any] = dict(
        prompt="a red star", steps=2, layers=1, stg_scale=0.0, guidance_scale=3.0, fps=12
    )
    given |= sizes
    given["num_frames"] = given.pop("frames", given.get("num_frames"))
    with contextlib.ExitStack() as stack:
        if not theirs:
            own = small.pipe.guider.guidance_scale
            small.pipe.guider.guidance_scale = 3.0
            stack.callback(setattr, small.pipe.guider, "guidance_scale", own)
        call = {**small.call, **theirs, "num_inference_steps": 2, "output_type": "np"}
        expected = small.pipe(**call, generator=torch.Generator().manual_seed(0)).frames[0]
    pipe = with_its_text(small)
    result = run.generate(pipe, resolve_settings(validate_settings(given), pipe))
    assert np.array_equal(result.frames, (np.asarray(expected) * 255).round().astype(np.uint8))


def test_too_few_steps_for_the_schedule(pipe: Any) -> None:
    with pytest.raises(
        ValueError, match=r"^steps must be enough .* MochiPipeline, but got 1\. Take 2 or more"
    ):
        run.generate(pipe, settings_for(pipe, steps=1))


@pytest.mark.filterwarnings("ignore:invalid value encountered in divide")  # diffusers' own
@pytest.mark.parametrize("stg_scale", [0.0, 1.0])
@pytest.mark.parametrize("name", ["LTXPipeline", "LTX2Pipeline"])
def test_one_step_of_ltx_has_no_noise_level(name: str, stg_scale: float) -> None:
    """diffusers ends in an IndexError, or with LTX-2 in frames of nan; two steps are enough."""
    small = tiny(name)
    pipe = with_its_text(small)
    given = {
        key: value for key, value in small.call.items() if key in ("height", "width", "num_frames")
    } | {"prompt": "a red star", "layers": 1, "stg_scale": stg_scale}
    for steps in (1, 2):
        settings = resolve_settings(validate_settings({**given, "steps": steps}), pipe)
        if steps == 2:
            assert run.generate(pipe, settings).frames.any()
            continue
        message = rf"^steps must be enough .* {name}, .* in a run of 1 step\. Take 2 or more"
        with pytest.raises(ValueError, match=message):
            run.generate(pipe, settings)


def test_a_sound_whose_sampling_rate_nobody_states_is_left_out() -> None:
    """And the video, which took its time, is kept."""
    small = tiny("LTX2Pipeline")
    pipe, vocoder = with_its_text(small), small.pipe.vocoder
    sizes = {name: small.call[name] for name in ("height", "width", "num_frames")}
    given = {**sizes, "prompt": "a red star", "stg_scale": 0.0, "steps": 2}
    settings = resolve_settings(validate_settings(given), pipe)
    heard = run.generate(pipe, settings)
    assert heard.sound is not None
    assert heard.sound.rate == vocoder.config.output_sampling_rate
    vocoder.register_to_config(output_sampling_rate=None)
    try:
        silent = run.generate(pipe, settings)
    finally:
        vocoder.register_to_config(output_sampling_rate=heard.sound.rate)
    assert silent.sound is None
    assert np.array_equal(silent.frames, heard.frames)
    assert any(text.startswith("The sound is left out: nothing states") for text in silent.notes)


def test_a_pipeline_that_makes_no_video_from_text(pipe: Any) -> None:
    settings = settings_for(pipe, stg_scale=0.0)

    class Upscaler:
        device = pipe.device

        def __call__(self, image: Any) -> None: ...

    upscaler: Any = Upscaler()
    message = (
        r"^model must make a video or a picture from a text or an image, but Upscaler does not take"
        r" generator, "
        r".* and needs image\. Use another model, or guide\(\) from Python\.$"
    )
    with pytest.raises(ValueError, match=message):
        run.generate(upscaler, settings)


# --- the three scales -----------------------------------------------------------------------------

WINDOW = {"layers": [1, 2], "skip": "attention", "start": 0.25, "stop": 0.75, "rescale": 0.7}


@pytest.mark.parametrize(
    ("scales", "axes"),
    [
        ({"stg_scale": 0.0}, {}),
        ({"stg_scale": 1.0}, {None: 1.0}),
        ({"spatial_scale": 2.0}, {"spatial": 2.0}),
        ({"temporal_scale": 0.5, "spatial_scale": 2.0}, {"spatial": 2.0, "temporal": 0.5}),
        ({"temporal_scale": 0.5, "stg_scale": 1.0}, {None: 1.0, "temporal": 0.5}),
    ],
)
def test_terms(pipe: Any, scales: dict[str, float], axes: dict[str | None, float]) -> None:
    found = settings_for(pipe, **WINDOW, **scales).request.terms
    assert found == tuple(
        STG([1, 2], scale, "attention", axis, 0.25, 0.75) for axis, scale in axes.items()
    )


LATTE = {"height": 8, "width": 8, "num_frames": 2, "steps": 3, "prompt": "a red star", "layers": 1}


@pytest.fixture(scope="module")
def latte() -> Any:
    return whole("LattePipeline")


@pytest.mark.parametrize(
    "scales", [{"spatial_scale": 2.0}, {"spatial_scale": 2.0, "temporal_scale": 1.5}]
)
def test_spatial_and_temporal_terms_are_those_of_guide(
    latte: Any, scales: dict[str, float]
) -> None:
    settings = resolve_settings(validate_settings({**LATTE, "seed": 3, **scales}), latte)
    terms = [STG([1], scale, axis=name.removesuffix("_scale")) for name, scale in scales.items()]
    call = {
        "video_length": 2,
        "height": 8,
        "width": 8,
        "num_inference_steps": 3,
        "output_type": "np",
    }
    with guide(latte, *terms):
        video = latte("a red star", generator=torch.Generator().manual_seed(3), **call).frames[0]
    assert np.array_equal(
        run.generate(latte, settings).frames, (video * 255).round().astype(np.uint8)
    )


def test_an_axis_that_the_model_does_not_have(pipe: Any) -> None:
    with pytest.raises(ValueError, match="axis"):
        run.generate(pipe, settings_for(pipe, spatial_scale=1.0))


def test_a_budget_says_what_it_chose(pipe: Any) -> None:
    settings = settings_for(pipe, budget=1.7, steps=4, layers="2", stg_scale=1.0)
    result = run.generate(pipe, settings)
    assert result.passes_per_step <= 1.7
    (note,) = result.notes
    assert note.startswith("budget 1.7: u at ")
    assert note.endswith(f"; {result.passes_per_step:.2f} passes a step over 4 steps")


def test_orthogonalize_and_both_terms_are_passed_on(
    pipe: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    options: list[dict[str, Any]] = []

    def guided(pipe: Any, *terms: STG, **given: Any) -> None:
        options.append({**given, "axes": [term.axis for term in terms]})
        raise KeyboardInterrupt

    monkeypatch.setattr(run, "guide", guided)
    for on in (False, True):
        settings = settings_for(pipe, spatial_scale=1.0, temporal_scale=1.0, orthogonalize=on)
        with pytest.raises(KeyboardInterrupt):
            run.generate(pipe, settings)
    both = ["spatial", "temporal"]
    plain = {
        "rescale": 0.0, "rescale_space": "prediction", "cfg": None, "restart": None,
        "share_prefix": True, "exact": True, "budget": None, "parallel": None,
        "audio_rescale": None, "replace_own": False, "skip_step": 0,
    }  # fmt: skip
    assert options == [{**plain, "orthogonalize": on, "axes": both} for on in (False, True)]


# --- pipelines that start from an image -----------------------------------------------------------

START = Image.linear_gradient("L").resize((48, 24)).convert("RGB")
SVD = {"height": 16, "width": 16, "steps": 3, "image": "x.png", "layers": "up:0"}


@pytest.fixture
def svd() -> Any:
    return tiny("StableVideoDiffusionPipeline").pipe


def svd_by_hand(svd: Any, image: Image.Image = START, seed: int = 3, **given: Any) -> np.ndarray:
    """Its frames for the picture, fitted; what is not given is as its call has it."""
    call = {"height": 16, "width": 16, "num_inference_steps": 3, "output_type": "np", **given}
    first = ImageOps.fit(image, (16, 16), Image.Resampling.LANCZOS)
    video = svd(first, generator=torch.Generator().manual_seed(seed), **call).frames[0]
    return (video * 255).round().astype(np.uint8)


OWN = {
    "motion_bucket_id": 40,
    "noise_aug_strength": 0.3,
    "decode_chunk_size": 2,
    "fps": 12,
    "num_frames": 4,
}


@pytest.mark.parametrize(
    ("given", "call"),
    [
        ({}, {}),
        (OWN, OWN),
        ({"fps": "25/2"}, {"fps": 12.5}),
        (
            {"guidance_scale": 5.0, "min_guidance_scale": 2.0},
            {"max_guidance_scale": 5.0, "min_guidance_scale": 2.0},
        ),
        ({"guidance_scale": 1.0}, {"max_guidance_scale": 1.0}),
    ],
)
def test_without_stg_the_frames_are_the_bare_svds(
    svd: Any, given: dict[str, Any], call: dict[str, Any]
) -> None:
    settings = resolve_settings(
        validate_settings({**SVD, "stg_scale": 0.0, "seed": 3, **given}), svd
    )
    result = run.generate(svd, settings, image=START)
    assert np.array_equal(result.frames, svd_by_hand(svd, **call))
    assert not call or not np.array_equal(result.frames, svd_by_hand(svd))
    assert result.passes_per_step == (1.0 if given.get("guidance_scale") == 1 else 2.0)
    assert type(result.passes_per_step) is float


@pytest.mark.parametrize(
    "scales",
    [
        pytest.param({"spatial_scale": 2.0}, marks=pytest.mark.long),
        pytest.param({"temporal_scale": 0.5}, marks=pytest.mark.long),
        {"spatial_scale": 2.0, "temporal_scale": 0.5},
    ],
)
def test_with_stg_the_frames_of_svd_are_those_of_guide(svd: Any, scales: dict[str, float]) -> None:
    settings = resolve_settings(
        validate_settings({**SVD, "seed": 3, "skip": "attention", "rescale": 0.7, **scales}), svd
    )
    terms = [
        STG(["up:0"], scale, "attention", name.removesuffix("_scale"))
        for name, scale in scales.items()
    ]
    result = run.generate(svd, settings, image=START)
    with guide(svd, *terms, rescale=0.7):
        assert np.array_equal(result.frames, svd_by_hand(svd))
    assert not np.array_equal(result.frames, svd_by_hand(svd))


@pytest.mark.long
def test_orthogonalized_svd(svd: Any) -> None:
    both = {"spatial_scale": 2.0, "temporal_scale": 0.5}
    plain, orthogonal = (
        run.generate(
            svd,
            resolve_settings(validate_settings({**SVD, **both, "orthogonalize": on}), svd),
            image=START,
        ).frames
        for on in (False, True)
    )
    assert not np.array_equal(plain, orthogonal)


def test_the_picture_is_fitted_and_kept(svd: Any) -> None:
    settings = resolve_settings(validate_settings({**SVD, "stg_scale": 0.0}), svd)
    result = run.generate(svd, settings, image=START)
    assert result.image is not None
    assert result.image.size == (16, 16)
    made = record.build_record(settings, result, {})
    kept = image_file.decode_from_record(made["image"], Path("x.mp4"))
    assert kept.tobytes() == result.image.tobytes()
    again = run.generate(svd, settings, image=kept)
    assert record.build_record(settings, again, {})["frames_sha256"] == made["frames_sha256"]
    other = run.generate(svd, settings, image=START.rotate(180))
    assert not np.array_equal(other.frames, result.frames)


STRIP = Image.new("RGB", (1000, 100), "red")


def test_a_picture_that_is_cropped_to_a_tenth_is_told_of_and_may_be_padded(
    svd: Any, caplog: pytest.LogCaptureFixture
) -> None:
    given = validate_settings({**SVD, "stg_scale": 0.0, "steps": 1})
    settings = resolve_settings(given, svd)
    cropped = run.generate(svd, settings, image=STRIP)
    words = (
        "90% of x.png is cropped away: it has 1000 x 100 pixels, and the video 16 x 16. Crop it"
        " yourself where it matters, set --width and --height to its shape, or put bars around it"
        " with --image-fit pad."
    )
    assert caplog.messages == [f"note: {words}"]
    assert record.build_record(settings, cropped, {})["notes"] == [words]
    bars = settings.model_copy(update={"image_fit": "pad"})
    padded = run.generate(svd, bars, image=STRIP)
    assert padded.image is not None
    assert padded.image.tobytes() == ImageOps.pad(STRIP, (16, 16), 1).tobytes()
    assert "notes" not in record.build_record(bars, padded, {})
    assert not np.array_equal(padded.frames, cropped.frames)
    assert len(caplog.messages) == 1


def test_cropping_is_what_pictures_got_before_there_was_a_choice(svd: Any) -> None:
    given = {**SVD, "stg_scale": 0.0}
    settings = [
        resolve_settings(validate_settings({**given, **fit}), svd)
        for fit in ({}, {"image_fit": "crop"}, {"image_fit": "pad"})
    ]
    assert settings[0] == settings[1] != settings[2]


@pytest.mark.parametrize(
    ("name", "image", "came"), [("x.png", None, "'x.png' and none"), (None, START, "None and one")]
)
def test_an_image_and_its_name_go_together(
    svd: Any, name: str | None, image: Any, came: str
) -> None:
    settings = resolve_settings(validate_settings({**SVD, "stg_scale": 0.0}), svd).model_copy(
        update={"image": name}
    )
    with pytest.raises(
        ValueError,
        match=rf"^image must be given if and only if .*, but they name {came} was given\. Read it",
    ):
        run.generate(svd, settings, image=image)


def test_a_pipeline_with_an_image_and_a_prompt() -> None:
    pipe = whole("LTXImageToVideoPipeline")
    size = {"height": 32, "width": 32, "num_frames": 5, "max_sequence_length": 8}
    given = {"prompt": "a red star", "image": "x.png", "steps": 2, "layers": 1, **size}
    for scale, passes in ((0.0, 2.0), (1.0, 2.5)):
        complete = resolve_settings(validate_settings({**given, "stg_scale": scale}), pipe)
        result = run.generate(pipe, complete, image=START)
        with guide(pipe, STG([1], scale)):
            by_hand = pipe(
                image_file.fit_to_size(START, 32, 32), "a red star", negative_prompt="",
                output_type="np", num_inference_steps=2, generator=torch.Generator().manual_seed(0),
                **size,
            ).frames[0]  # fmt: skip
        assert np.array_equal(result.frames, (by_hand * 255).round().astype(np.uint8))
        assert result.passes_per_step == passes


# --- settings that the video does not show -------------------------------------------------------


@pytest.mark.parametrize("stg_scale", [0.0, 1.0])
def test_a_negative_prompt_without_cfg_is_told_of(
    pipe: Any, caplog: pytest.LogCaptureFixture, stg_scale: float
) -> None:
    telling.tell.cache_clear()
    given = {"steps": 2, "stg_scale": stg_scale, "negative_prompt": "blue", "guidance_scale": 1.0}
    found = [
        run.generate(pipe, settings_for(pipe, **{**given, **change}))
        for change in ({}, {"negative_prompt": None}, {"guidance_scale": 4.5})
    ]
    words = (
        "the negative prompt 'blue' has no effect: it is what CFG leads away from, and CFG is off"
        " with guidance_scale=1. Set --guidance-scale above 1 where the model is not distilled, use"
        " --nag 5, or leave the negative prompt out."
    )
    assert [result.notes for result in found] == [(words,), (), ()]
    assert np.array_equal(found[0].frames, found[1].frames)
    run.generate(pipe, settings_for(pipe, **given))
    price = ["note: no CFG here: 1 + 0.25 passes a step"] if stg_scale else []
    assert caplog.messages == [*price, f"note: {words}"]  # once for all videos of a process


def test_nag_makes_a_negative_prompt_count(pipe: Any) -> None:
    """The same frames as by hand, which the pipeline alone would not have made of this prompt."""
    given = {"negative_prompt": "blue", "guidance_scale": 1.0}
    found = run.generate(pipe, settings_for(pipe, **given, stg_scale=0.0, nag="5 alpha=0.5"))
    assert found.notes == ()
    assert found.passes_per_step == pytest.approx(2.0)  # joint attention: each block twice
    with guide(pipe, NAG(5.0, alpha=0.5)):
        assert np.array_equal(found.frames, by_hand(pipe, 0, **given))
    assert not np.array_equal(found.frames, by_hand(pipe, 0, **given))


def test_a_prompt_of_more_tokens_than_the_model_sees_is_told_of(
    pipe: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The tokenizer of this pipeline makes one token of each word, and one of the end."""
    short, long = ("star " * count for count in (15, 16))
    assert len(pipe.tokenizer(long).input_ids) == 17
    written = io.StringIO()  # in the place of stderr
    handlers = [logging.StreamHandler(written)]
    monkeypatch.setattr(logging.getLogger("diffusers"), "handlers", handlers)
    found = [run.generate(pipe, settings_for(pipe, prompt=text, steps=2)) for text in (short, long)]
    (note,) = found[1].notes
    assert note.startswith("the end of the prompt has no effect: it has 17 tokens, and the model")
    assert found[0].notes == ()
    assert written.getvalue() == ""  # diffusers would repeat the end of the prompt


def test_embedded_guidance_is_no_cfg(pipe: Any) -> None:
    settings = settings_for(pipe, negative_prompt="blue", guidance_scale=6.0)
    words = notes.negative_prompt_note(settings, "HunyuanVideoPipeline")
    assert "CFG is off in a HunyuanVideoPipeline, whatever guidance_scale says. Call" in words


def test_a_size_that_the_pipeline_cannot_make_is_told_of(pipe: Any) -> None:
    """6 frames are one latent frame for Mochi's autoencoder, which makes one frame of it."""
    for frames, made in ((6, 1), (7, 7)):
        result = run.generate(pipe, settings_for(pipe, num_frames=frames, steps=2))
        assert len(result.frames) == made
        assert result.notes == (
            ()
            if frames == made
            else (
                "the video has num_frames=1 in the place of 6: a MochiPipeline makes what it can of"
                " a size.",
            )
        )


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"stg_scale": 1.0, "rescale": 0.7, "skip": "attention", "every": 2}, []),
        ({"stg_scale": 0.0, "layers": None}, []),
        ({"stg_scale": 0.0, "rescale": 0.7},
         ["--rescale 0.7 has no effect: it is for steps with a term or a rule, and none is on."]),
        ({"stg_scale": 0.0, "rescale": 0.7, "cfg_rule": "apg"}, []),
        ({"stg_scale": 1.0, "rescale_space": "data"}, ["--rescale-space data has no effect"]),
        ({"guidance": {"terms": [{"layers": [2]}, {"layers": [1], "scale": 0.0}],
                       "orthogonalize": True}, "layers": None},
         ["orthogonalize True has no effect: that takes two terms, and one at most is on."]),
        ({"term": "layers=2 scale=1", "layers": None, "skip": "attention", "start": 0.5},
         ["--skip attention has no effect: it is for the term of --layers, and none is on.",
          "--start 0.5 has no effect"]),
        ({"slg_layers": 1, "layers": None, "skip": "attention", "every": 2, "normalize": True},
         ["--normalize True has no effect", "--every 2 has no effect"]),
        ({"slg_layers": 1, "layers": 2, "every": 2}, []),
        ({"stg_scale": 1.0, "image_fit": "pad"}, ["--image-fit pad has no effect: there is no"]),
    ],
)  # fmt: skip
def test_guidance_that_changes_nothing_is_told_of(
    pipe: Any, given: dict[str, Any], words: list[str]
) -> None:
    asked = {**TINY, "layers": 2, **given}
    wanted = validate_settings({name: value for name, value in asked.items() if value is not None})
    found = list(notes.unused_notes(wanted, resolve_settings(wanted, pipe)))
    assert len(found) == len(words)
    assert all(text.startswith(start) for text, start in zip(found, words, strict=True))


# --- loading --------------------------------------------------------------------------------------


def test_load_from_a_folder(
    tiny_mochi_dir: Path, pipe: Any, capfd: pytest.CaptureFixture[str]
) -> None:
    loaded = loading.load_pipeline(str(tiny_mochi_dir), device="cpu")
    assert (type(loaded), loaded.dtype, loaded.device.type) == (type(pipe), torch.float32, "cpu")
    assert (
        loading.load_pipeline(str(tiny_mochi_dir), "bfloat16", "cpu").transformer.dtype
        == torch.bfloat16
    )
    assert "Loading" not in capfd.readouterr().err


def test_load_the_built_in_model(tiny_mochi_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packaged, "packaged_path", {"lab-mochi": tiny_mochi_dir}.__getitem__)
    assert loading.local_folder("lab-mochi") == tiny_mochi_dir
    assert type(loading.load_pipeline("lab-mochi", device="cpu")).__name__ == "MochiPipeline"


def test_a_hub_id_is_no_folder() -> None:
    assert loading.local_folder("genmo/mochi-1-preview") is None


def test_a_folder_without_a_model(tmp_path: Path) -> None:
    names = "lab-mochi, lab-svd, lab-opensora"
    start = f"^model must be {names}, a folder with a model_index.json, or a hub id .*, but got .*"
    with pytest.raises(
        ValueError,
        match=start + re.escape(f"there is no {tmp_path / 'model_index.json'}. Name the"),
    ):
        loading.load_pipeline(str(tmp_path))


@pytest.mark.parametrize("name", ["lab-moch", "./genmo/mochi", "a/b/c", "/nowhere", "a b/c"])
def test_no_such_model(name: str) -> None:
    with pytest.raises(
        ValueError,
        match=r"^model must be lab-mochi, .*, but got '.*', and there is no such folder\. [CD]",
    ):
        loading.load_pipeline(name)


def test_a_mistyped_folder_is_not_looked_for_on_the_hub(
    tiny_mochi_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tiny_mochi_dir.parent.parent)
    right = f"{tiny_mochi_dir.parent.name}/{tiny_mochi_dir.name}"
    with pytest.raises(ValueError, match=rf"no such folder\. Did you mean {right}\?$"):
        loading.load_pipeline(right.replace("tiny", "tinny"))
    with pytest.raises(ValueError, match=rf"no such folder\. There are {right}\.$"):
        loading.load_pipeline(f"{tiny_mochi_dir.parent.name}/wan")
    with pytest.raises(ValueError, match=r"no such folder\. Did you mean lab-mochi\?$"):
        loading.load_pipeline("lab-mochy")
    assert loading.local_folder("genmo/mochi-1-preview") is None
    monkeypatch.chdir(tiny_mochi_dir.parent)
    with pytest.raises(ValueError, match=r"no such folder\. Did you mean lab-mochi\?$"):
        loading.load_pipeline("LAB-MOCHI")
    with pytest.raises(ValueError, match=r"no such folder\. Check the name\.$"):
        loading.load_pipeline("wan")
    with pytest.raises(ValueError, match=rf"Did you mean {tiny_mochi_dir.name}\?$"):
        loading.load_pipeline(tiny_mochi_dir.name.upper())


def _hub_error(kind: type[errors.HfHubHTTPError]) -> errors.HfHubHTTPError:
    response: Any = SimpleNamespace(headers={}, request=None, status_code=401)
    return kind("the hub's own words", response=response)


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (_hub_error(errors.GatedRepoError), "only to users who accepted its licence"),
        (_hub_error(errors.RepositoryNotFoundError), "has no public model of that name"),
        (_hub_error(errors.RevisionNotFoundError), "no revision 'v2' on the hub"),
        (_hub_error(errors.RemoteEntryNotFoundError), "so it is no diffusers pipeline"),
        (errors.LocalEntryNotFoundError("offline"), "the hub cannot be reached"),
        (OSError("disk full."), "the hub says: disk full. Check the name and the network."),
    ],
)
def test_what_the_hub_says(error: OSError, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> str:
        raise error

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", refuse)
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - its words are what is tested
        loading.load_pipeline("genmo/mochi-1-preview", device="cpu", revision="v2")
    assert words in str(caught.value)
    licence = isinstance(error, errors.GatedRepoError)
    assert ("licence" in str(caught.value)) == licence


def test_a_tokenizer_without_its_vocabulary(tiny_mochi_dir: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(tiny_mochi_dir, tmp_path / "copy")
    (folder / "tokenizer" / "tokenizer.json").unlink()
    with pytest.raises(ValueError, match=r"tokenizer must hold the vocabulary .*Copy the model"):
        loading.load_pipeline(str(folder), device="cpu")


def test_the_packages_of_a_pipeline_are_checked_before_its_weights(tmp_path: Path) -> None:
    content = '{"_class_name": "Kandinsky5T2VPipeline"}'
    (tmp_path / "model_index.json").write_text(content, encoding="utf-8")
    family = next(family for family in rows.FAMILIES if family.name == "kandinsky-5")
    missing = {"no_such_module": "no-such-package", "torch": "torch"}
    assert set(family.packages) == {"torchvision"}
    with pytest.raises(
        ValueError, match=r"Pipeline needs no-such-package, .* pip install no-such-package$"
    ):
        loading.check_packages("Kandinsky5T2VPipeline", missing)
    if importlib.util.find_spec("torchvision") is None:
        with pytest.raises(ValueError, match=r"^Kandinsky5T2VPipeline needs torchvision"):
            loading.load_pipeline(str(tmp_path), device="cpu")


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without CUDA")
def test_no_such_device(tiny_mochi_dir: Path) -> None:
    with pytest.raises(
        ValueError, match=r"^device must be one that torch has here, but got 'cuda' .*\. Try cpu"
    ):
        loading.load_pipeline(str(tiny_mochi_dir), device="cuda")


# --- the record -----------------------------------------------------------------------------------


def test_record_is_complete_and_names_nobody(
    pipe: Any, tiny_mochi_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tiny_mochi_dir.parent)
    settings = settings_for(pipe, model=tiny_mochi_dir.name)
    result = run.generate(pipe, settings)
    made = record.build_record(settings, result, loading.weights_fingerprint(settings.model, pipe))
    assert set(made["versions"]) == {"skipguide", "torch", "diffusers", "transformers", "python"}
    assert made["versions"]["torch"] == version("torch")
    assert made["machine"]["threads"] == torch.get_num_threads()
    assert made["machine"]["processor"]
    assert made["frames"] == [7, 32, 32, 3]
    assert len(made["frames_sha256"]) == 64
    of_images = {
        "image",
        "image_fit",
        "cache",
        "min_guidance_scale",
        "motion_bucket_id",
        "noise_aug_strength",
        "decode_chunk_size",
    }
    of_models = {*ModelSettings.model_fields} - {"model", "dtype", "device"}
    left_out = {name for name, value in made["settings"].items() if value is None}
    assert left_out == of_images | of_models | {"preset", "picture_format"}
    assert made["format"] == 2
    assert made["settings"]["guidance"] == {"terms": [{"layers": [2], "scale": 1.0}]}
    assert "image" not in made
    text = json.dumps(made, allow_nan=False)
    assert str(tiny_mochi_dir.parent) not in text
    assert str(Path.home()) + "/" not in text
    assert not math.isnan(made["measured"]["passes_per_step"])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "a model_index.json must be JSON"),
        ("[]", "must name its pipeline as _class_name"),
        ("{}", "must name its pipeline as _class_name"),
        (
            '{"_class_name": "NoSuchPipeline"}',
            "names 'NoSuchPipeline', which diffusers .* does not have",
        ),
    ],
)
def test_a_folder_that_is_no_model_says_why(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "model_index.json").write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=message):
        loading.load_pipeline(str(tmp_path), device="cpu")


@pytest.mark.parametrize(
    "name",
    [
        "model_index.json",
        "transformer/config.json",
        "transformer/diffusion_pytorch_model.safetensors",
    ],
)
def test_weights_hash_sees_every_file(tiny_mochi_dir: Path, tmp_path: Path, name: str) -> None:
    folder = shutil.copytree(tiny_mochi_dir, tmp_path / "copy")
    before = fingerprint.hash_weights(folder)
    assert before == fingerprint.hash_weights(tiny_mochi_dir)
    content = (folder / name).read_bytes()
    (folder / name).write_bytes(content[:-1] + b"?")
    assert fingerprint.hash_weights(folder) != before


def test_changes_between_records() -> None:
    then = {
        "settings": {"seed": 1},
        "versions": {"torch": "2.0"},
        "weights": {"sha256": "a"},
        "created": "x",
    }
    now = {
        "settings": {"seed": 1},
        "versions": {"torch": "2.1"},
        "weights": {"revision": "b"},
        "created": "y",
    }
    assert record.diff_records(then, now) == {
        "weights.sha256": ["a", None], "versions.torch": ["2.0", "2.1"],
        "weights.revision": [None, "b"],
    }  # fmt: skip


def test_changes_between_records_with_images() -> None:
    then = {"settings": {"image": "a.png"}, "image": {"sha256": "1", "png": "x"}}
    now = {"settings": {"image": "a.png"}, "image": {"sha256": "2", "png": "y"}}
    assert record.diff_records(then, now) == {"image": ["1", "2"]}


def test_a_setting_that_came_with_a_newer_version_has_not_changed() -> None:
    then, now = {"settings": {"seed": 1}}, {"settings": {"seed": 2, "spatial_scale": 0.0}}
    assert record.diff_records(then, now) == {"settings.seed": [1, 2]}


@pytest.mark.parametrize(
    ("made", "message"),
    [
        ({"runs": [1, 2]}, r"single video, but a\.mp4 is a comparison of 2\. `skip"),
        ({"format": 99, "settings": {}}, r"format 1 or 2, but that of a\.mp4 has format 99\. Use"),
        ({}, r"format 1 or 2, but that of a\.mp4 has format None"),
        ({"format": 1, "settings": {"prompt": "p", "stg": 1}}, r"must be one of .*, but got 'stg'"),
    ],
)
def test_records_that_are_refused(made: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        record.settings_from_record(made, Path("a.mp4"))


def test_a_pipeline_that_calls_nobody_after_a_step() -> None:
    """Steps are counted at its scheduler, which is as it was afterwards."""
    pipe, seen = whole("TextToVideoSDPipeline"), []
    given = dict(prompt="a star", steps=2, height=16, width=16, num_frames=3, layers="up:0")
    result = run.generate(
        pipe,
        resolve_settings(validate_settings(given), pipe),
        lambda step: seen.append(step.number),
    )
    assert seen == [1, 2]
    assert 2 < result.passes_per_step < 3
    assert "step" not in vars(pipe.scheduler)


def test_fps_of_a_pipeline_that_calls_it_otherwise() -> None:
    pipe = tiny("I2VGenXLPipeline").pipe
    settings = resolve_settings(
        validate_settings(dict(prompt="a star", image="red.png", layers="up:0")), pipe
    )
    assert settings.fps == 16  # its target_fps
