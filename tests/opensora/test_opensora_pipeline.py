"""OpenSoraPipeline against upstream's runs, and as a diffusers pipeline.

The runs are in tests/support/references/opensora_pipeline.py."""

from __future__ import annotations

import functools
import hashlib
import json
import re
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
from diffusers.callbacks import SDCFGCutoffCallback
from diffusers.pipelines.pipeline_utils import DiffusionPipeline
from PIL import Image
from safetensors.torch import load_file
from torch.utils._python_dispatch import TorchDispatchMode
from typer.testing import CliRunner

from skipguide import STG, Restart, guide
from skipguide.cli import app
from skipguide.opensora import (
    OpenSoraCondition,
    OpenSoraPipeline,
    OpenSoraRFlowScheduler,
    buckets,
    conditions,
    original,
    parse_mask_strategy,
    prompts,
)
from support.references import opensora as small
from support.references import opensora_pipeline as upstream
from support.text_encoders import t5_tokenizer
from support.tiny.opensora import opensora

Tensor = torch.Tensor
TOLERANCE = 1e-5
# CFG 7 makes rounding large: upstream's run is 1.2e-5 from one in float64, ours 1.0e-5.
SAMPLER_TOLERANCE = 2e-5
NUMBERS = ("height", "width", "fps")
SIZES_SHA256 = (  # of upstream's tables as JSON
    "64b55d49eb203920cb3bec061c330ed1f9f78240e0252c8329666589aa2ea134"
)


# --- sizes and lengths ----------------------------------------------------------------------------


def test_all_sizes_are_upstreams() -> None:
    sizes = {name: buckets.image_sizes(name) for name in buckets.RESOLUTIONS}
    assert sum(map(len, sizes.values())) == 336
    assert hashlib.sha256(json.dumps(sizes, sort_keys=True).encode()).hexdigest() == SIZES_SHA256


@pytest.mark.parametrize(
    ("resolution", "ratio", "size"),
    [
        ("240p", "9:16", (240, 426)), ("480p", "4:3", (740, 555)), ("144p", "50:27", (277, 132)),
        ("720p", "27:50", (706, 1306)), ("512", "12:25", (352, 736)), ("512", "1:1", (512, 512)),
        ("2880", "0.55", (2112, 3840)), ("256", "4.0", (512, 128)),
    ],
)  # fmt: skip
def test_a_size(resolution: str, ratio: str, size: tuple[int, int]) -> None:
    assert buckets.image_size(resolution, ratio) == size


def test_buckets() -> None:
    assert buckets.find_bucket(240, 426) == ("240p", "9:16")
    assert buckets.find_bucket(240, 427) is None


def test_sizes_that_are_none() -> None:
    with pytest.raises(
        ValueError, match=r"resolution must be one of 144p, 240p, .*, 2880, but got '480'\. Pass"
    ):
        buckets.image_size("480", "9:16")
    with pytest.raises(
        ValueError, match=r"aspect_ratio of 480p must be one of 3:8, .* got '7:3'\. Choose"
    ):
        buckets.image_size("480p", "7:3")


def test_lengths() -> None:
    names = {
        "2s": 51,
        "4s": 102,
        "8s": 204,
        "16s": 408,
        "32s": 816,
        "1x": 51,
        "2x": 102,
        "4x": 204,
        "8x": 408,
    }
    assert all(
        buckets.parse_num_frames(name) == frames
        for name, frames in {**names, "16x": 816, "51": 51, 1: 1}.items()
    )
    for wrong in (3, 0, -17, True, 51.0, "3s", "x"):
        with pytest.raises(
            ValueError,
            match=r"num_frames must be 1 \(an image\), 17 or more, or one of 2s, .* but got",
        ):
            buckets.parse_num_frames(wrong)  # type: ignore[arg-type]


# --- prompts --------------------------------------------------------------------------------------


def test_scores() -> None:
    assert prompts.append_scores("a fox", 6.5, None, None) == "a fox aesthetic score: 6.5."
    everything = "a fox aesthetic score: 5.0. motion score: 4.2. camera motion: pan left."
    assert prompts.append_scores("a fox", 5, 4.2, "pan left") == everything
    assert prompts.append_scores(everything, 6.5, 1, "zoom in") == everything


def test_prompts_of_loops() -> None:
    assert [prompts.select_loop_text("|0| a |2|b ", loop) for loop in range(4)] == [
        "a",
        "a",
        "b",
        "b",
    ]
    assert prompts.select_loop_text("a | b |1| c", 3) == "a | b |1| c"
    with pytest.raises(
        ValueError,
        match=r"the loops of a prompt must go up, but got '\|0\|a\|2\|b\|1\|c' with 0, 2, 1",
    ):
        prompts.select_loop_text("|0|a|2|b|1|c", 0)


# --- the mask strategy ----------------------------------------------------------------------------


def as_any(value: Any) -> Any:
    return value


def test_parse_mask_strategy() -> None:
    first, second = parse_mask_strategy(
        "0;1,1,-5,3,4,.5", [torch.zeros(3, 8, 8), torch.ones(17, 3, 8, 8)]
    )
    values = [
        (
            c.loop,
            len(as_any(c.frames)),
            c.reference_start,
            c.target_start,
            c.length,
            c.edit_ratio,
        )
        for c in (first, second)
    ]
    assert values == [(0, 3, 0, 0, 1, 0.0), (1, 17, -5, 3, 4, 0.5)]
    assert parse_mask_strategy("", []) == []


@pytest.mark.parametrize(("text", "says"), [
    ("a", "a mask strategy must be up to six numbers"),
    ("0,0,0.5", "all but the last are whole, but got '0,0,0.5'"),
    ("0,0,0,0,1,0,0", "up to six numbers"), ("0;", "but got ''. Write 0 for a given first frame"),
    ("0,1", "needs reference 1, but got 1 references"),
    ("0,0,0,0,0", "length of a condition must be a whole number"),
    ("-1", "loop of a condition must be a whole number from 0"),
    ("0,0,0,0,1,2", r"edit_ratio .* from 0 \(keep\) to 1"),
])  # fmt: skip
def test_mask_strategies_that_are_none(text: str, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        parse_mask_strategy(text, [torch.zeros(3, 8, 8)])


@pytest.mark.parametrize(("align", "start", "target", "length", "where"), [
    # found with upstream's apply_mask_strategy: 15 latent frames, a reference of 10; where is
    # {video: reference}
    (5, 0, 0, 1, {0: 0}), (5, 0, -1, 1, {10: 0}), (None, 0, -1, 1, {14: 0}),
    (5, 0, 7, 2, {5: 0, 6: 1}),
    (5, 0, 8, 2, {10: 0, 11: 1}), (5, 0, 13, 1, {10: 0}), (5, -5, 0, 2, {0: 5, 1: 6}),
    (5, -3, 0, 2, {0: 5, 1: 6}),
    (None, -3, 0, 9, {0: 7, 1: 8, 2: 9}), (4, 2, 6, 3, {4: 0, 5: 1, 6: 2}),
    (4, 3, 7, 2, {8: 4, 9: 5}),
])  # fmt: skip
def test_where_conditions_go(
    align: int | None, start: int, target: int, length: int, where: dict[int, int]
) -> None:
    reference = torch.arange(10.0).reshape(1, 10, 1, 1).expand(4, 10, 2, 3)
    noise = torch.full((2, 4, 15, 2, 3), -1.0)
    own = [
        OpenSoraCondition(None, reference, start, target, length, 0.25),
        OpenSoraCondition(None, reference, loop=1),
    ]
    placed, ratios = conditions.apply_mask_strategy(noise, [[], own], align=align)
    assert torch.equal(noise, torch.full_like(noise, -1))
    assert torch.equal(placed[0], noise[0])
    assert placed[1, 0, :, 0, 0].tolist() == [float(where.get(frame, -1)) for frame in range(15)]
    assert ratios.tolist() == [[1.0] * 15, [0.25 if frame in where else 1.0 for frame in range(15)]]


# --- against upstream -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def pipe(opensora_checkpoints: Path) -> Any:
    """The small models that upstream ran, with prompts as embeddings."""
    vae = original.load_autoencoder(opensora_checkpoints / "vae", **small.spatial_config())
    parts: Any = (
        None,
        None,
        vae,
        original.load_transformer(opensora_checkpoints / "transformer"),
        OpenSoraRFlowScheduler(),
    )
    made = OpenSoraPipeline(*parts)
    made.set_progress_bar_config(disable=True)
    return made


@pytest.fixture(scope="module")
def given() -> dict[str, Tensor]:
    inputs = upstream.inputs()
    inputs |= {
        name: (inputs[name].transpose(0, 1) + 1) / 2 for name in ("image", "clip")
    }  # (F, 3, H, W) in [0, 1]
    return inputs


def call(given: dict[str, Tensor], rows: int = 2, **changes: Any) -> dict[str, Any]:
    """A call of the pipeline as upstream's run."""
    text = dict(prompt_embeds=given["text"][:rows], prompt_attention_mask=given["mask"][:rows])
    size = dict(height=upstream.HEIGHT, width=upstream.WIDTH, num_frames=upstream.FRAMES)
    return {
        **text,
        **size,
        "num_inference_steps": 5,
        "output_type": "latent",
        "latents": given["noise"][0],
        **changes,
    }


def check(what: str, ours: Tensor, theirs: Tensor, tolerance: float = TOLERANCE) -> None:
    """Equal as far as float32 goes; `pytest -s` shows how far that is."""
    difference = (ours - theirs).abs().max().item()
    print(
        f"{what}: largest absolute difference {difference:.1e} of values up to"
        f" {theirs.abs().max().item():.3g}"
    )
    assert ours.shape == theirs.shape
    assert difference <= tolerance, what


def test_text_to_video_is_upstreams(pipe: Any, given: dict[str, Tensor]) -> None:
    check("text to video, latents", pipe(**call(given)).frames, upstream.tensors()["text.latents"])


@pytest.mark.parametrize("case", ["text", "frames"])
def test_sampling_is_upstreams(pipe: Any, case: str) -> None:
    """The two runs of upstream's sampler that test_opensora.py compares the models and the
    scheduler with."""
    run = small.case(f"sample.{case}")
    size = {name: int(run[name][0]) for name in ("height", "width", "num_frames")}
    text = {name: run[name] for name in ("prompt_embeds", "prompt_attention_mask")}
    pipe.scheduler.set_timesteps(5, **size)
    noise, own = run["latents"].clone(), [[], []]
    for row, frame in (run.get("frame_mask", torch.ones(1)) < 1).nonzero().tolist():
        ratio = run["frame_mask"][row, frame].item()
        latents = run["latents"][row, :, frame : frame + 1]
        own[row].append(OpenSoraCondition(None, latents, target_start=frame, edit_ratio=ratio))
        if ratio > 0:
            noise[row, :, frame] = run["noise"][start_of_edit(pipe, ratio), row, :, frame]
    asked = dict(
        conditions=own, latents=noise, align=None, num_inference_steps=5, output_type="latent"
    )
    check(
        f"upstream's sampler, {case}",
        pipe(**text, **size, **asked).frames,
        run["output"],
        SAMPLER_TOLERANCE,
    )


def start_of_edit(pipe: Any, ratio: float) -> int:
    step = int((pipe.scheduler.timesteps <= 1000 * ratio).nonzero()[0, 0])
    assert step > 0
    return step


def test_image_to_video_is_upstreams(pipe: Any, given: dict[str, Tensor]) -> None:
    frames = pipe(**call(given, conditions=[[OpenSoraCondition(given["image"][0])], []])).frames
    check("image to video, latents", frames, upstream.tensors()["first.latents"])


def test_edits_are_upstreams(pipe: Any, given: dict[str, Tensor]) -> None:
    own = [parse_mask_strategy(text, [given["clip"], given["image"]]) for text in upstream.EDIT]
    frames = pipe(**call(given, conditions=own, latents=noise_of_edits(pipe, given))).frames
    check("edits, latents", frames, upstream.tensors()["edit.latents"])


def noise_of_edits(pipe: Any, given: dict[str, Tensor]) -> Tensor:
    """Ours gives an edited frame the noise where it stands; upstream's is drawn at the step where
    the edit begins."""
    ratios = {(0, frame): 0.6 for frame in range(5)} | {(1, 0): 0.8}
    pipe.scheduler.set_timesteps(
        5, height=upstream.HEIGHT, width=upstream.WIDTH, num_frames=upstream.FRAMES
    )
    noise = given["noise"][0].clone()
    for (row, frame), ratio in ratios.items():
        noise[row, :, frame] = given["edit-noise"][start_of_edit(pipe, ratio), row, :, frame]
    return noise


def test_loops_are_upstreams(pipe: Any, given: dict[str, Tensor]) -> None:
    asked = call(
        given,
        1,
        num_loops=2,
        image=given["image"][0],
        latents=[noise[:1] for noise in given["noise"]],
    )
    frames = pipe(**{**asked, "output_type": "pt"}).frames
    theirs = upstream.tensors()["loops.video"].transpose(1, 2)
    check("two loops, frames in [0, 1]", frames, (theirs / 2 + 0.5).clamp(0, 1))
    latents = pipe(**asked).frames
    assert latents.shape == (1, 4, 15, 4, 3)
    check("two loops, latents", latents[:, :, 10:], upstream.tensors()["loops.latents"][:, :, 5:])
    joined = pipe.decode_latents(latents, 51).transpose(1, 2)
    check("two loops, decoded from their latents", joined, theirs)


def test_a_video_is_gone_on_from_its_last_frames(pipe: Any, given: dict[str, Tensor]) -> None:
    clip = given["clip"]
    longer = torch.cat([clip.flip(0)[:7], clip])
    plain = pipe(**call(given, video=longer)).frames
    assert torch.equal(
        plain, pipe(**call(given, conditions=[OpenSoraCondition(clip, length=5)])).frames
    )
    latents = pipe.encode_video(clip.transpose(0, 1)[None] * 2 - 1)
    torch.testing.assert_close(plain[:, :, :5], latents.expand(2, -1, -1, -1, -1))
    edited = pipe(**call(given, video=[longer, longer], condition_frame_edit=0.9)).frames
    assert (edited[:, :, :5] - plain[:, :, :5]).abs().max() > 0.1


def test_an_image_at_both_ends(pipe: Any, given: dict[str, Tensor]) -> None:
    image = given["image"][0]
    own = [OpenSoraCondition(image), OpenSoraCondition(image, target_start=-1)]
    frames = pipe(**call(given, conditions=own, align=None)).frames
    assert torch.equal(frames[:, :, 0], frames[:, :, -1])
    assert not torch.equal(frames[:, :, 0], frames[:, :, 5])


# --- rows -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tiny() -> Any:
    """A whole tiny pipeline, with its text encoder."""
    return opensora().pipe


SHORT: dict[str, Any] = dict(
    height=24, width=16, num_frames=17, num_inference_steps=2, max_sequence_length=16
)
LATENT: dict[str, Any] = dict(**SHORT, output_type="latent")


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


class Recorder:
    """The inputs of the transformer's calls."""

    def __init__(self, module: torch.nn.Module):
        self.calls: list[dict[str, Any]] = []
        self.hook = module.register_forward_pre_hook(self._record, with_kwargs=True)

    def _record(self, _: Any, args: Any, kwargs: dict[str, Any]) -> None:
        assert not args
        self.calls.append(kwargs)

    def __enter__(self) -> Recorder:
        return self

    def __exit__(self, *_: object) -> None:
        self.hook.remove()


def test_uncond_and_cond_are_rows_of_one_call(pipe: Any, given: dict[str, Tensor]) -> None:
    own = [[OpenSoraCondition(given["image"][0])], []]
    with Recorder(pipe.transformer) as seen:
        batched = pipe(**call(given, conditions=own)).frames
    assert len(seen.calls) == 5
    asked = seen.calls[1]
    rows = {name: len(value) for name, value in asked.items() if name != "return_dict"}
    assert rows == dict.fromkeys(
        (
            "hidden_states",
            "timestep",
            "encoder_hidden_states",
            "encoder_attention_mask",
            "frame_mask",
            *NUMBERS,
        ),
        4,
    )
    assert torch.equal(asked["encoder_hidden_states"][0], pipe.transformer.null_caption)
    assert torch.equal(
        asked["encoder_attention_mask"], given["mask"].repeat(2, 1)
    )  # the null caption has cond's
    assert asked["frame_mask"].tolist() == 2 * [[False] + [True] * 9, [True] * 10]

    forward = pipe.transformer.forward

    def separately(**inputs: Any) -> tuple[Tensor]:
        del inputs["return_dict"]
        halves = [{name: x.chunk(2)[i] for name, x in inputs.items()} for i in (0, 1)]
        return (torch.cat([forward(**half, return_dict=False)[0] for half in halves]),)

    with mock.patch.object(pipe.transformer, "forward", separately):
        separate = pipe(**call(given, conditions=own)).frames
    torch.testing.assert_close(batched, separate, rtol=0, atol=TOLERANCE)


def test_rows_are_single_runs(tiny: Any) -> None:
    texts = ["a red fox", "blue fox moving on the left"]
    images = [Image.new("RGB", (20, 30), colour) for colour in ("red", "blue")]
    noise = torch.randn(4, 4, 5, 3, 2, generator=seeded())
    together = tiny(texts, image=images, latents=noise, num_videos_per_prompt=2, **LATENT).frames
    for row in range(4):
        alone = tiny(
            texts[row // 2], image=images[row // 2], latents=noise[row : row + 1], **LATENT
        ).frames
        torch.testing.assert_close(together[row], alone[0], rtol=0, atol=TOLERANCE)
    assert (together[0] - together[2]).abs().max() > 0.1


def test_generators(tiny: Any) -> None:
    made = [tiny("a fox", generator=seeded(seed), **LATENT).frames for seed in (1, 1, 2)]
    assert torch.equal(made[0], made[1])
    assert not torch.equal(made[0], made[2])
    both = tiny(["a fox"] * 2, generator=[seeded(1), seeded(2)], **LATENT).frames
    torch.testing.assert_close(both, torch.cat([made[0], made[2]]), rtol=0, atol=TOLERANCE)


# --- what the transformer is told -----------------------------------------------------------------


def test_text(tiny: Any) -> None:
    """Prompts get scores, are padded with a mask, and are encoded once each; a negative prompt has
    its own mask."""
    with mock.patch.object(tiny, "_t5", wraps=tiny._t5) as t5, Recorder(tiny.transformer) as seen:
        tiny(["A RED fox ", "|0| blue |1| a"], negative_prompt="on", num_loops=2, motion_score=5,
             **{**LATENT, "num_frames": 34})  # fmt: skip
    scores = " aesthetic score: 6.5. motion score: 5.0."
    texts = [asked.args[0] for asked in t5.call_args_list]
    assert texts == [
        [f"a red fox{scores}", f"blue{scores}"],
        ["on"] * 2,
        [f"a red fox{scores}", f"a{scores}"],
        ["on"] * 2,
    ]
    masks = seen.calls[0]["encoder_attention_mask"].sum(1).tolist()
    assert masks[:2] == [2, 2]
    assert min(masks[2:]) > 2
    assert len(seen.calls) == 4
    embeds = [asked["encoder_hidden_states"] for asked in seen.calls]
    assert torch.equal(embeds[0], embeds[1])
    assert not torch.equal(embeds[1][3], embeds[2][3])
    assert torch.equal(embeds[1][2], embeds[2][2])


def test_embeddings_are_as_good_as_text(tiny: Any) -> None:
    noise = torch.randn(2, 4, 5, 3, 2, generator=seeded())
    common = dict(latents=noise, num_videos_per_prompt=2, **LATENT)
    from_text = tiny("a fox", negative_prompt="blue", aesthetic_score=None, **common).frames
    embeds, mask, negative, negative_mask = tiny.encode_prompt(
        "a fox", "blue", max_sequence_length=16
    )
    encoded = dict(
        prompt_embeds=embeds, prompt_attention_mask=mask, negative_prompt_embeds=negative
    )
    frames = tiny(**encoded, negative_prompt_attention_mask=negative_mask, **common).frames
    torch.testing.assert_close(from_text, frames, rtol=0, atol=TOLERANCE)
    short = dict(
        prompt_embeds=embeds[:, : int(mask.sum())], **common
    )  # without a mask all tokens are real
    torch.testing.assert_close(
        tiny(**short).frames,
        tiny(prompt_embeds=embeds, prompt_attention_mask=mask, **common).frames,
        rtol=0,
        atol=TOLERANCE,
    )


def test_without_cfg_there_is_one_row(tiny: Any) -> None:
    with Recorder(tiny.transformer) as seen:
        tiny("a fox", guidance_scale=1.0, **LATENT)
    assert [len(asked["hidden_states"]) for asked in seen.calls] == [1, 1]
    assert seen.calls[0]["frame_mask"] is None


@pytest.mark.parametrize(("frames", "fps"), [(17, 8.0), (1, 120.0)])
def test_numbers(tiny: Any, frames: int, fps: float) -> None:
    with Recorder(tiny.transformer) as seen:
        tiny("a fox", fps=8, **{**LATENT, "num_frames": frames})
    told = {name: seen.calls[0][name].tolist() for name in NUMBERS}
    assert told == {"height": [24.0] * 2, "width": [16.0] * 2, "fps": [fps] * 2}


def test_captions_are_in_lower_case_without_the_packages_that_clean_them(
    tiny: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "diffusers.pipelines.pixart_alpha.pipeline_pixart_alpha.is_bs4_available", lambda: False
    )
    assert tiny._text_preprocessing([" A Fox (RED) "], clean_caption=True) == ["a fox (red)"]


def test_a_long_prompt_is_cut_and_says_so(tiny: Any, capsys: pytest.CaptureFixture[str]) -> None:
    with mock.patch.object(prompts.logger, "warning") as warning:
        embeds, mask, *_ = tiny.encode_prompt("a red blue fox", max_sequence_length=3)
    assert (embeds.shape[1], mask.tolist()) == (3, [[True] * 3])
    assert warning.call_args.args[1:] == (3, ["blue fox"])


def test_the_null_caption_of_an_offloaded_transformer() -> None:
    caption = torch.ones(2, 3)
    offloaded = SimpleNamespace(null_caption=caption.to("meta"))
    offloaded._hf_hook = SimpleNamespace(
        pre_forward=lambda module: setattr(module, "null_caption", caption),
        post_forward=lambda module, _: setattr(module, "null_caption", caption.to("meta")),
    )
    assert torch.equal(prompts._null_caption(offloaded), caption)
    assert offloaded.null_caption.is_meta


# --- frames ---------------------------------------------------------------------------------------


def test_frames_can_be_given_in_many_forms(tiny: Any) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (17, 24, 16, 3), dtype=np.uint8)
    floats = (pixels / 255).astype(np.float32)
    tensor = torch.from_numpy(floats).permute(0, 3, 1, 2)
    forms = [
        [Image.fromarray(frame) for frame in pixels],
        floats,
        list(floats),
        tensor,
        list(tensor),
    ]
    latents = [tiny.encode_video(tiny._pixels(form, 24, 16, torch.device("cpu"))) for form in forms]
    assert all((other - latents[0]).abs().max() < TOLERANCE for other in latents)
    noise = torch.randn(1, 4, 5, 3, 2, generator=seeded())
    runs = [tiny("a", video=form, latents=noise[:, :, [*range(5)] * 2],
        **{**LATENT, "num_frames": 34}).frames
            for form in (*forms, floats[None], tensor[None], [forms[0]])]  # fmt: skip
    assert all((other - runs[0]).abs().max() < 10 * TOLERANCE for other in runs)
    firsts = [tiny("a", image=image, latents=noise, **LATENT).frames
              for image in (forms[0][0], forms[0][:1], floats[0], floats[:1], tensor[0],
                  tensor[:1])]  # fmt: skip
    assert all((other - firsts[0]).abs().max() < 10 * TOLERANCE for other in firsts)


def test_other_sizes_are_resized_and_cropped(tiny: Any) -> None:
    stripes = np.zeros((24, 64, 3), np.uint8)
    stripes[:, 24:40] = 255  # what is left of a wide picture in a high frame
    for frames in (Image.fromarray(stripes), stripes.astype(np.float32) / 255):
        pixels = tiny._pixels(frames, 24, 16, torch.device("cpu"))
        assert (pixels.shape, pixels.min()) == ((1, 3, 1, 24, 16), 1)
    for height, width in ((49, 7), (7, 49), (33, 33), (24, 15), (101, 67)):
        image = Image.new("RGBA", (width, height))
        assert tiny._pixels([image] * 2, 37, 28, torch.device("cpu")).shape == (1, 3, 2, 37, 28)
        assert tiny._pixels(torch.zeros(3, height, width), 37, 28, torch.device("cpu")).shape == (
            1,
            3,
            1,
            37,
            28,
        )


@pytest.mark.parametrize(
    ("kind", "shape"),
    [("np", (1, 17, 24, 16, 3)), ("pt", (1, 17, 3, 24, 16)), ("latent", (1, 4, 5, 3, 2))],
)
def test_output_types(tiny: Any, kind: str, shape: tuple[int, ...]) -> None:
    frames = tiny("a fox", **{**SHORT, "output_type": kind}).frames
    assert tuple(frames.shape) == shape
    assert not getattr(frames, "requires_grad", False)
    if kind != "latent":
        assert frames.min() >= 0
        assert frames.max() <= 1
        assert frames.max() > 0.1


def test_images_and_tuples(tiny: Any) -> None:
    (frames,) = tiny(
        "a fox", output_type="pil", return_dict=False, **{**SHORT, "num_frames": 1, "width": 21}
    )
    assert (len(frames), len(frames[0]), frames[0][0].size) == (1, 1, (16, 24))


def test_the_default_size(tiny: Any) -> None:
    noise = torch.randn(1, 4, 1, 30, 53, generator=seeded())
    run = dict(
        num_inference_steps=1, max_sequence_length=16, output_type="latent", guidance_scale=1.0
    )
    assert tiny("a fox", num_frames=1, latents=noise, **run).frames.shape == noise.shape


# --- steps ----------------------------------------------------------------------------------------


def test_callbacks(tiny: Any) -> None:
    seen: list[tuple[int, float, list[str], int | None]] = []

    def on_step(pipe: Any, step: int, t: Tensor, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        seen.append((step, float(t), list(tensors), pipe.num_timesteps))
        assert pipe.current_timestep is t
        return {"latents": torch.zeros_like(tensors["latents"])}

    asked = dict(
        callback_on_step_end=on_step,
        callback_on_step_end_tensor_inputs=["latents", "prompt_embeds"],
    )
    frames = tiny("a fox", num_loops=2, **asked, **{**LATENT, "num_frames": 34}).frames
    assert [(step, names, steps) for step, _, names, steps in seen] == 2 * [
        (0, ["latents", "prompt_embeds"], 2), (1, ["latents", "prompt_embeds"], 2)
    ]  # fmt: skip
    assert [t for _, t, *_ in seen] == 2 * tiny.scheduler.timesteps.tolist()
    assert frames.shape[2] == 15
    assert not frames.any()
    assert tiny.current_timestep is None


def test_a_callback_may_stop(tiny: Any) -> None:
    steps: list[int] = []

    def stop(pipe: Any, step: int, t: Tensor, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        steps.append(step)
        pipe._interrupt = True
        return tensors

    frames = tiny(
        "a fox", num_loops=3, callback_on_step_end=stop, **{**LATENT, "num_frames": 34}
    ).frames
    assert steps == [0]
    assert frames.shape[2] == 10


def test_a_callback_may_switch_cfg_off(tiny: Any) -> None:
    cutoff = SDCFGCutoffCallback(cutoff_step_ratio=0.0)
    with Recorder(tiny.transformer) as seen:
        tiny("a fox", callback_on_step_end=cutoff, **LATENT)
    assert [len(asked["hidden_states"]) for asked in seen.calls] == [2, 1]
    assert torch.equal(
        seen.calls[1]["encoder_hidden_states"], seen.calls[0]["encoder_hidden_states"][1:]
    )


def test_edited_frames_get_their_noise_once_also_where_steps_are_repeated(tiny: Any) -> None:
    """Restarts go back to timesteps before the one where an edit began: from there on it is a frame
    like the others."""
    after: list[Tensor] = []

    def look(pipe: Any, step: int, t: Tensor, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        assert pipe.num_timesteps == 6
        after.append(tensors["latents"])
        return {}

    own = OpenSoraCondition(CLIP, edit_ratio=0.2)
    run = {**LATENT, "num_frames": 34, "num_inference_steps": 4}
    with guide(tiny, restart=Restart(window=(0.25, 0.75))), Recorder(tiny.transformer) as seen:
        tiny("a fox", conditions=own, callback_on_step_end=look, **run)
    sigmas = tiny.scheduler.sigmas.tolist()
    assert sigmas[1] > 0.2 > sigmas[2]  # it begins in the middle of the interval
    masks = torch.stack([asked["frame_mask"][0] for asked in seen.calls])  # (step, frame)
    assert masks[:, 0].tolist() == [False, False, True, True, True, True]
    assert masks[:, 5:].all()
    inputs = [asked["hidden_states"][:1] for asked in seen.calls]
    assert not torch.equal(inputs[2][:, :, 0], after[1][:, :, 0])  # its noise
    for i in (3, 4, 5):
        assert torch.equal(inputs[i], after[i - 1])


def test_restarts_of_loops(tiny: Any, capsys: pytest.CaptureFixture[str]) -> None:
    """Each loop has its own, terms hold in their steps, and the bar counts them all."""
    term, restart = STG(layers=[1], start=0.5, stop=0.75), Restart(window=(0.25, 0.75))
    run = {**LATENT, "num_frames": 34, "num_inference_steps": 4, "num_loops": 2}
    tiny.set_progress_bar_config(disable=False)
    try:
        with guide(tiny, term, restart=restart) as handle, Recorder(tiny.transformer) as seen:
            tiny("a fox", **run)
    finally:
        tiny.set_progress_bar_config(disable=True)
    assert "12/12" in capsys.readouterr().err
    assert sum(handle.passes.weak_runs.values()) == 2  # of the last loop: step 2, twice
    timesteps = [float(asked["timestep"][0]) for asked in seen.calls]
    assert len(timesteps) == 2 * (
        4 + 2 * 3
    )  # with a term cond, weak and uncond are calls of their own
    assert timesteps[: len(timesteps) // 2] == timesteps[len(timesteps) // 2 :]


class Transfers(TorchDispatchMode):
    """Counts what would make the program wait for a GPU."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        if name in ("_local_scalar_dense", "nonzero", "masked_select", "is_nonzero", "equal"):
            self.names.append(name)
        return func(*args, **(kwargs or {}))


def test_steps_wait_for_no_device(pipe: Any, given: dict[str, Tensor]) -> None:
    own: Any = [[OpenSoraCondition(given["clip"], edit_ratio=0.5)], []]
    denoise, found = pipe._denoise, Transfers()

    def watched(*args: Any) -> Tensor:
        with found:
            return denoise(*args)

    with mock.patch.object(pipe, "_denoise", watched):
        pipe(**call(given, conditions=own))
    assert found.names == []


# --- refused --------------------------------------------------------------------------------------

CLIP = torch.zeros(17, 3, 24, 16)
EMBEDS = torch.zeros(1, 16, 32)


@pytest.mark.parametrize(("changes", "says"), [
    (dict(prompt=None), "either prompt or prompt_embeds must be given, but got neither"),
    (dict(prompt_embeds=EMBEDS), "prompt_embeds must be given, but got both. Pass one"),
    (dict(prompt=[]), r"prompt must be a text or a list of texts, but got \[\]"),
    (dict(prompt=3), "prompt must be a text or a list of texts, but got 3"),
    (dict(prompt="|0|a|0|b"), "the loops of a prompt must go up"),
    (dict(negative_prompt="a", negative_prompt_embeds=EMBEDS),
        "at most one of negative_prompt and negative_"),
    (dict(negative_prompt=["a", "b"]),
        "negative_prompt must be one for all prompts or one per prompt, 1, but got 2"),
    (dict(negative_prompt_embeds=EMBEDS[:, :9]),
        r"the shape of the prompts', \(1, 16, D\), but got \(1, 9, 32\)"),
    (dict(prompt=None, prompt_embeds=EMBEDS[0]),
        r"prompt_embeds must be \(B, L, D\), but got shape \(16, 32\)"),
    (dict(prompt=None, prompt_embeds=EMBEDS, prompt_attention_mask=EMBEDS[:, :9, 0]),
        "for prompt_embeds"),
    (dict(prompt_attention_mask=EMBEDS[..., 0]), r"must be .* embeddings None\. Pass both"),
    (dict(max_sequence_length=17), r"prompts must have at most 16 tokens, .* but got 17\. Pass"),
    (dict(height=None), "height must be a whole number from 8, but got None"),
    (dict(width=7), "width must be a whole number from 8, but got 7"),
    (dict(num_frames=3), "num_frames must be 1 .* but got 3. Pass 51"),
    (dict(num_inference_steps=0), "num_inference_steps must be a whole number from 1, but got 0"),
    (dict(num_videos_per_prompt=1.5),
        "num_videos_per_prompt must be a whole number from 1, but got 1.5"),
    (dict(num_loops=0), "num_loops must be a whole number from 1"),
    (dict(align=0), "align must be a whole number from 1"),
    (dict(fps=0), "fps must be positive, but got 0"),
    (dict(output_type="mp4"), "output_type must be one of np, pt, pil, latent"),
    (dict(callback_on_step_end_tensor_inputs=["x"]),
        "must be of latents, prompt_embeds, but got x"),
    (dict(generator=[seeded()] * 2),
        "generator must be one, or a list of one per video, 1, but got 2"),
    (dict(latents=torch.zeros(1, 4, 5, 3, 3)),
        r"must be of shape \(1, 4, 5, 3, 2\), but got \(1, 4, 5, 3, 3\)"),
    (dict(latents=torch.zeros(1, 4, 10, 3, 2), num_loops=2, num_frames=34),
        "latents must be a list of 2"),
    (dict(num_loops=2), "num_frames must be more than the 17 that are given, but got 17"),
    (dict(num_loops=2, num_frames=36),
        "num_frames must be a multiple of 17, but got 36"),
    (dict(num_loops=2, num_frames=34, condition_frame_length=4),
        "condition_frame_length must be a multiple of 5"),
    (dict(num_loops=2, num_frames=34, condition_frame_edit=2),
        "condition_frame_edit must be from 0"),
    (dict(video=CLIP), "num_frames must be more than the 17"),
    (dict(video=CLIP[:9], num_frames=34),
        "video must have at least 17 frames to be continued, but got 9"),
    (dict(video="x.mp4", num_frames=34), "frames must be PIL images, an array .* but got 'x.mp4'"),
    (dict(image=CLIP[0], conditions=[]), "at most one of .* may be given, but got image and cond"),
    (dict(image=[CLIP[0]] * 2),
        "image must be one for all prompts or one per prompt, 1, but got 2"),
    (dict(image=np.zeros((8, 8, 3), np.uint8)), "floats in .0, 1., but got uint8. Divide by 255"),
    (dict(image=torch.zeros(4, 8, 8)),
        r"tensor \(\[F,\] 3, H, W\), but got Tensor of shape \(1, 4, 8, 8\)"),
    (dict(conditions="0"),
        "conditions must be OpenSoraCondition, .* Read a mask strategy with parse_mask_strategy"),
    (dict(conditions=OpenSoraCondition(CLIP[0], loop=1)), "loop of a condition must be one of 1"),
    (dict(conditions=OpenSoraCondition(CLIP[0], target_start=5)),
        "target_start .* within its 5 latent frames"),
    (dict(conditions=OpenSoraCondition(CLIP, reference_start=-6)),
        "reference_start .* from -5 to 4, but got -6"),
    (dict(conditions=OpenSoraCondition(None, EMBEDS[None])),
        r"\(C, h, w\) = \(4, 3, 2\), but got \(1, 16, 32\)"),
])  # fmt: skip
def test_bad_inputs(tiny: Any, changes: dict[str, Any], says: str) -> None:
    nothing = mock.Mock(side_effect=AssertionError("work was done"))
    with mock.patch.multiple(tiny, _t5=nothing, encode_video=nothing, _denoise=nothing):  # noqa: SIM117
        with pytest.raises(ValueError, match=says):
            tiny(**{"prompt": "a fox", **SHORT, **changes})


def test_conditions_that_are_none() -> None:
    with pytest.raises(ValueError, match="needs either frames or latents, but got neither"):
        OpenSoraCondition()
    with pytest.raises(ValueError, match="but got both"):
        OpenSoraCondition(CLIP, EMBEDS)
    with pytest.raises(
        ValueError,
        match=r"latents of a condition must be \(C, f, h, w\), but got shape \(1, 16, 32\)",
    ):
        OpenSoraCondition(None, EMBEDS)


def test_text_needs_the_text_encoder(pipe: Any) -> None:
    with pytest.raises(
        ValueError, match=r"prompt needs the text encoder, .* Pass prompt_embeds instead"
    ):
        pipe("a fox")


# --- as a diffusers pipeline ----------------------------------------------------------------------


@pytest.mark.parametrize("loader", [OpenSoraPipeline, DiffusionPipeline])
def test_save_and_load(tiny: Any, loader: Any, tmp_path: Path) -> None:
    tiny.save_pretrained(tmp_path)
    loaded: Any = loader.from_pretrained(tmp_path)
    assert type(loaded).__name__ == "OpenSoraPipeline"
    loaded.set_progress_bar_config(disable=True)
    frames = [made("a fox", generator=seeded(), **LATENT).frames for made in (tiny, loaded)]
    assert torch.equal(*frames)


def test_bfloat16(tiny: Any, tmp_path: Path) -> None:
    tiny.save_pretrained(tmp_path)
    half: Any = OpenSoraPipeline.from_pretrained(tmp_path, dtype=torch.bfloat16)
    half.set_progress_bar_config(disable=True)
    with Recorder(half.transformer) as seen:
        latents, whole = (p("a fox", generator=seeded(), **LATENT).frames for p in (half, tiny))
    assert seen.calls[0]["hidden_states"].dtype == torch.bfloat16
    assert latents.dtype == torch.float32  # between steps nothing is rounded
    assert (latents - whole).norm() < 0.05 * whole.norm()
    frames = half("a fox", generator=seeded(), image=Image.new("RGB", (16, 24)), **SHORT).frames
    assert frames.dtype == np.float32
    assert np.isfinite(frames).all()


def test_offloading_and_slicing() -> None:
    made = []
    for prepare in (
        lambda p: None,
        lambda p: p.vae.enable_slicing(),
        lambda p: p.enable_model_cpu_offload(device="cpu"),
    ):
        pipe: Any = opensora().pipe
        prepare(pipe)
        made.append(
            pipe(
                ["a fox", "blue"], generator=seeded(), image=Image.new("RGB", (16, 24)), **SHORT
            ).frames
        )
    assert all(np.allclose(other, made[0], rtol=0, atol=TOLERANCE) for other in made)


# --- skipguide convert ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def published(
    opensora_checkpoints: Path, tmp_path_factory: pytest.TempPathFactory, tiny: Any
) -> Path:
    """Folders as they are published: transformer and vae of upstream, a text encoder with its
    tokenizer."""
    folder = tmp_path_factory.mktemp("published")
    for name in ("transformer", "vae"):
        shutil.copytree(opensora_checkpoints / name, folder / name)
    tiny.text_encoder.save_pretrained(folder / "t5")
    tiny.tokenizer.save_pretrained(folder / "t5")
    return folder


@pytest.fixture
def small_vae(monkeypatch: pytest.MonkeyPatch) -> None:
    """The config.json of a published VAE does not tell the sizes of its 2-D part, which are always
    SDXL's."""
    load = functools.partial(original.load_autoencoder, **small.spatial_config())
    monkeypatch.setattr(original, "load_autoencoder", load)


def convert(folder: Path, out: Path, *more: str, code: int = 0) -> str:
    parts = [
        "--transformer",
        folder / "transformer",
        "--vae",
        folder / "vae",
        "--text-encoder",
        folder / "t5",
    ]
    result = CliRunner().invoke(
        app, ["convert", "opensora", *map(str, parts), "--out", str(out), *more]
    )
    assert result.exit_code == code, result.output + repr(result.exception)
    return result.stdout if code == 0 else result.stderr


@pytest.mark.usefixtures("small_vae")
def test_convert(published: Path, pipe: Any, given: dict[str, Tensor], tmp_path: Path) -> None:
    out = tmp_path / "new" / "opensora"
    assert convert(published, out).startswith(
        f"{out}: OpenSoraPipeline in float32; load it with OpenSoraPipeline.from"
    )
    loaded: Any = OpenSoraPipeline.from_pretrained(out)
    loaded.set_progress_bar_config(disable=True)
    assert torch.equal(loaded(**call(given)).frames, pipe(**call(given)).frames)
    assert [path.name for path in out.parent.iterdir()] == ["opensora"]
    assert "exists. Pass --overwrite or another name." in convert(published, out, code=2)
    said = json.loads(convert(published, out, "--overwrite", "--dtype", "bfloat16", "--json"))
    assert said == {"out": str(out), "dtype": "bfloat16"}
    for weights in (
        "transformer/diffusion_pytorch_model",
        "vae/diffusion_pytorch_model",
        "text_encoder/model",
    ):
        assert {x.dtype for x in load_file(out / f"{weights}.safetensors").values()} == {
            torch.bfloat16
        }
    (tmp_path / "other").mkdir()
    assert "--overwrite replaces pipelines only" in convert(
        published, tmp_path / "other", "--overwrite", code=2
    )


@pytest.mark.parametrize(("missing", "says"), [
    ("transformer/config.json",
        "--transformer must be a downloaded model, but .*transformer has no config.json"),
    ("vae/model.safetensors",
        r"--vae must be a downloaded model, but .*vae has no \*.safetensors or \*.bin"),
    ("t5/tokenizer.json",
        "--text-encoder must also hold its tokenizer, but .*t5 has no spiece.model"),
])  # fmt: skip
def test_convert_refuses_at_once(published: Path, missing: str, says: str, tmp_path: Path) -> None:
    folder = tmp_path / "in"
    shutil.copytree(published, folder)
    (folder / missing).unlink()
    with mock.patch.object(
        original.checkpoints, "read", side_effect=AssertionError("work was done")
    ):
        assert re.search(says, convert(folder, tmp_path / "out", code=2))
    assert not (tmp_path / "out").exists()


@pytest.mark.usefixtures("small_vae")
def test_convert_reads_a_lone_spiece_model(published: Path, tmp_path: Path) -> None:
    """DeepFloyd's T5 has no tokenizer.json."""
    folder = tmp_path / "in"
    shutil.copytree(published, folder)
    (folder / "t5" / "tokenizer.json").unlink()
    given = t5_tokenizer(folder / "t5")
    convert(folder, tmp_path / "out")
    read: Any = OpenSoraPipeline.from_pretrained(tmp_path / "out").tokenizer
    text = "a red star orbits"
    assert read(text).input_ids == given(text).input_ids


def test_convert_refuses_other_dtypes(published: Path, tmp_path: Path) -> None:
    assert "--dtype must be one of float32, bfloat16, float16, but got 'int8'" in convert(
        published, tmp_path / "out", "--dtype", "int8", code=2
    )
