"""Placing a model and the settings of one video beside the call, against diffusers' own calls."""

from __future__ import annotations

import functools
import logging
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers.models.attention_dispatch import _AttentionBackendRegistry as Registry
from diffusers.pipelines.wan.pipeline_wan import WanPipeline
from diffusers.schedulers.scheduling_dpmsolver_multistep import DPMSolverMultistepScheduler
from diffusers.schedulers.scheduling_flow_match_euler_discrete import (
    FlowMatchEulerDiscreteScheduler,
)
from diffusers.schedulers.scheduling_unipc_multistep import UniPCMultistepScheduler
from PIL import Image

from skipguide import STG, guide
from skipguide.families import lookup
from skipguide.generate import record, run
from skipguide.generate.resolve import resolve_settings
from skipguide.generate.settings import GenerationSettings, validate_settings
from skipguide.models import loading, per_video, placement, scheduler
from skipguide.models.settings import ModelSettings
from support.saved import saved
from support.text_encoders import text_components
from support.tiny import builders, in_dtype
from support.tiny.base import Tiny

CALL = {"height": 32, "width": 32, "num_frames": 5, "prompt": "a red star", "guidance_scale": 4.0}
ASKED = {**CALL, "steps": 3, "seed": 1, "layers": 1, "stg_scale": 1.0, "device": "cpu"}
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(saved("WanPipeline", tmp_path_factory.mktemp("models")))


def fresh(name: str, dtype: torch.dtype = torch.float32) -> Tiny:
    """A pipeline of its own, on which something is left."""
    built = builders()[name](dtype)
    built.call.update({key: in_dtype(value, dtype) for key, value in built.call.items()})
    return built


def made(folder: str, **given: Any) -> tuple[np.ndarray, GenerationSettings, Any]:
    """Frames by the settings, the complete settings, and the pipeline as it is left."""
    wanted = validate_settings({**ASKED, "model": folder, **given})
    pipe = loading.load(wanted)
    settings = resolve_settings(wanted, pipe)
    return run.generate(pipe, settings).frames, settings, pipe


def by_hand(folder: str, change: Callable[[Any], Any] = id, **load: Any) -> np.ndarray:
    """Frames of diffusers' own pipeline, changed as its documentation says, under guide()."""
    pipe: Any = WanPipeline.from_pretrained(folder, **load)
    pipe.set_progress_bar_config(disable=True)
    change(pipe)
    with warnings.catch_warnings(), guide(pipe, STG(layers=[1], scale=1.0)):
        warnings.filterwarnings("ignore", message="In CPU autocast")
        video = pipe(
            **CALL, num_inference_steps=3, generator=torch.Generator().manual_seed(1),
            output_type="np", negative_prompt="",
        ).frames[0]  # fmt: skip
    return (np.asarray(video) * 255).round().astype(np.uint8)


# --- offloading -----------------------------------------------------------------------------------

OFFLOADS: dict[str, Callable[[Any], Any]] = {
    "model": lambda pipe: pipe.enable_model_cpu_offload(device="cpu"),
    "sequential": id,
    "group": lambda pipe: pipe.enable_group_offload(CPU, CPU, "leaf_level"),
    "group:2": lambda pipe: pipe.enable_group_offload(CPU, CPU, num_blocks_per_group=2),
}


@pytest.mark.parametrize("offload", OFFLOADS)
def test_offloaded_models_make_the_same_video(folder: str, offload: str) -> None:
    frames, settings, pipe = made(folder, offload=offload)
    assert np.array_equal(frames, by_hand(folder, OFFLOADS[offload]))
    assert (settings.offload, settings.device, settings.dtype) == (offload, "cpu", "float32")
    blocks = pipe.transformer.blocks
    hooks = {
        "model": pipe.transformer.__dict__.get("_hf_hook"),
        "sequential": blocks[0].attn1.to_q.__dict__.get("_hf_hook"),
        "group": blocks[0].attn1.to_q.__dict__.get("_diffusers_hook"),
        "group:2": blocks[0].__dict__.get("_diffusers_hook"),
    }
    assert hooks[offload] is not None
    if offload == "sequential":  # the weights wait elsewhere
        assert blocks[0].attn1.to_q.weight.device.type == "meta"
    if offload == "group:2":
        groups = [block._diffusers_hook.get_hook("group_offloading").group for block in blocks]
        assert groups[0] is groups[1]


@pytest.mark.parametrize("offload", [None, "model"])
def test_float16_on_a_cpu_is_no_matter_for_a_warning(
    folder: str, offload: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    """diffusers says that it fails, and it does not."""
    diffusers_log = logging.getLogger("diffusers")
    diffusers_log.addHandler(caplog.handler)
    try:
        frames, settings, _ = made(folder, dtype="float16", offload=offload)
    finally:
        diffusers_log.removeHandler(caplog.handler)
    assert settings.dtype == "float16"
    assert frames.std() > 0
    assert "cannot run with" not in caplog.text


def test_groups_of_more_blocks_than_there_are() -> None:
    pipe = fresh("WanPipeline").pipe
    count = len(pipe.transformer.blocks)
    for offload in (None, "model", "group", f"group:{count}"):
        assert list(placement.offload_notes(pipe, offload)) == []
    (said,) = placement.offload_notes(pipe, "group:99")
    assert said.endswith(
        f"for it has {count}. Take fewer blocks to save memory, or --offload model."
    )


def test_streams_are_for_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    """There is no GPU in the tests, so that what diffusers is asked for is looked at."""
    asked: dict[str, Any] = {}
    pipe = fresh("WanPipeline").pipe
    monkeypatch.setattr(type(pipe), "enable_group_offload", lambda self, **kw: asked.update(kw))
    placement.place(pipe, ModelSettings(offload="group:4"), "cuda:1")
    assert asked == {
        "onload_device": torch.device("cuda:1"), "offload_device": CPU, "use_stream": True,
        "offload_type": "block_level", "num_blocks_per_group": 4,
    }  # fmt: skip
    placement.place(pipe, ModelSettings(offload="group"), "cuda:1")
    assert asked["offload_type"] == "leaf_level"


# transformers' older way of reading vocab.json and merges.txt
@pytest.mark.filterwarnings("ignore:Deprecated in 0.9.0. BPE:DeprecationWarning")
def test_weights_that_are_read_from_outside_of_their_layer(tmp_path: Path) -> None:
    one = fresh("HunyuanVideoFramepackPipeline")
    family = lookup.family_of(one.pipe)
    one.pipe.register_modules(**text_components(family.name, one.call, tmp_path))
    given = {"image": "x.png", "offload": "sequential", "layers": "single:0"}
    settings = resolve_settings(validate_settings({**ASKED, **given}), one.pipe)
    placement.place(one.pipe, settings, "cpu")
    with pytest.raises(ValueError, match=r"^offload must be model or group for HunyuanVideoFrame"):
        run.generate(one.pipe, settings, image=Image.new("RGB", (32, 32)))


# --- the VAE --------------------------------------------------------------------------------------


def test_the_vae_in_float32_beside_bfloat16(folder: str) -> None:
    frames, settings, pipe = made(folder, dtype="bfloat16", vae_dtype="float32")
    both = {"default": torch.bfloat16, "vae": torch.float32}
    assert np.array_equal(frames, by_hand(folder, dtype=both))
    assert (pipe.transformer.dtype, pipe.vae.dtype) == (torch.bfloat16, torch.float32)
    assert (settings.dtype, settings.vae_dtype) == ("bfloat16", "float32")
    assert not np.array_equal(frames, by_hand(folder, dtype=torch.bfloat16))


# Those that are called with a text or a picture, and whose small VAE or guardrail can be called.
# SanaWM's denoiser has no bfloat16 on a CPU.
FROM_TEXT_OR_PICTURE = [
    name for name in builders()
    if not any(word in name for word in ("VideoToVideo", "Control", "Transfer", "SanaWM", "zero",
                                         "Long", "Inpaint"))
]  # fmt: skip


@pytest.mark.parametrize("name", FROM_TEXT_OR_PICTURE)
def test_any_pipeline_may_have_its_vae_in_float32(name: str) -> None:
    """Also those that hand latents to it, or take latents from it, in the dtype of the rest."""
    one = fresh(name, torch.bfloat16)
    one.pipe.vae.float()
    placement.place(one.pipe, ModelSettings(vae_dtype="float32"), "cpu")
    decoded = not name.startswith(("Cosmos", "HunyuanVideo15"))
    kind = {"output_type": "pt"} if decoded else {}
    video = one.pipe(**one.call | kind, generator=torch.manual_seed(0))[0]
    assert (video[-1] if isinstance(video, list) else video).isfinite().all()


def test_a_model_without_a_vae() -> None:
    pipe = fresh("WanPipeline").pipe
    pipe.vae = None
    with pytest.raises(ValueError, match=r"^vae_dtype needs a model with a VAE, but WanPipeline"):
        placement.place(pipe, ModelSettings(vae_dtype="float32"), "cpu")


def test_tiles(folder: str) -> None:
    """Tiles of 16 pixels, because those of 256 would be the whole picture."""
    small = {"tile_sample_min_height": 16, "tile_sample_min_width": 16,
             "tile_sample_stride_height": 8, "tile_sample_stride_width": 8}  # fmt: skip
    pipe = loading.load(ModelSettings(model=folder, device="cpu"))
    vars(pipe.vae).update(small)
    wanted = resolve_settings(validate_settings({**ASKED, "model": folder}), pipe)
    whole = run.generate(pipe, wanted).frames
    tiled = run.generate(pipe, wanted.model_copy(update={"vae_tiling": True})).frames
    assert not pipe.vae.use_tiling
    assert np.array_equal(tiled, by_hand(folder, lambda p: p.vae.enable_tiling(16, 16, 8, 8)))
    assert not np.array_equal(tiled, whole)
    assert np.array_equal(run.generate(pipe, wanted).frames, whole)


def test_tiling_can_be_switched_off() -> None:
    pipe = fresh("HunyuanVideoPipeline").pipe
    pipe.vae.enable_tiling()
    with per_video.put_on(pipe, ModelSettings(vae_tiling=False)):
        assert not pipe.vae.use_tiling
    assert pipe.vae.use_tiling


def test_a_vae_that_cannot_tile() -> None:
    pipe = fresh("StableVideoDiffusionPipeline").pipe
    with (
        pytest.raises(ValueError, match=r"^vae_tiling needs a VAE that can .*--decode-chunk-size"),
        per_video.put_on(pipe, ModelSettings(vae_tiling=True)),
    ):
        pass
    with per_video.put_on(pipe, ModelSettings(vae_tiling=False)):  # as it is
        pass


def test_a_vae_that_can_do_nothing_else() -> None:
    """Allegro's; diffusers' example enables tiling, and its pipeline fails without."""
    one = fresh("AllegroPipeline")
    one.pipe.vae.disable_tiling()
    with (  # also on a skeleton, on which tiling is not enabled
        pytest.raises(ValueError, match=r"^vae_tiling must be true for AllegroPipeline, whose"),
        per_video.put_on(one.pipe, ModelSettings(vae_tiling=False)),
    ):
        pass
    placement.place(one.pipe, ModelSettings(), "cpu")
    assert one.pipe.vae.use_tiling


# --- scheduler ------------------------------------------------------------------------------------


def flow(kind: type[Any], **options: Any) -> Callable[[Any], None]:
    """Exchange the scheduler as diffusers' page of Wan does."""

    def change(pipe: Any) -> None:
        pipe.scheduler = kind.from_config(pipe.scheduler.config, **options)

    return change


SCHEDULERS: list[tuple[dict[str, Any], Callable[[Any], None]]] = [
    ({"flow_shift": 8.0}, flow(UniPCMultistepScheduler, flow_shift=8.0)),
    ({"scheduler": "UniPCMultistep:flow_shift=8"}, flow(UniPCMultistepScheduler, flow_shift=8)),
    (
        {"scheduler": "DPMSolverMultistepScheduler:solver_order=3"},
        flow(DPMSolverMultistepScheduler, solver_order=3),
    ),
    (
        {"scheduler": "FlowMatchEulerDiscrete"},  # shift is what the other calls flow_shift
        lambda pipe: setattr(pipe, "scheduler", FlowMatchEulerDiscreteScheduler(shift=5.0)),
    ),
    (
        {"scheduler": "FlowMatchEulerDiscrete", "flow_shift": 2.0},
        lambda pipe: setattr(pipe, "scheduler", FlowMatchEulerDiscreteScheduler(shift=2.0)),
    ),
]


@pytest.mark.parametrize("number", range(len(SCHEDULERS)))
def test_schedulers_are_those_of_diffusers(folder: str, number: int) -> None:
    given, change = SCHEDULERS[number]
    frames, _, pipe = made(folder, **given)
    assert np.array_equal(frames, by_hand(folder, change))
    assert not np.array_equal(frames, plain(folder))
    assert pipe.scheduler.config.flow_shift == 5  # the model has its own again
    assert type(pipe.scheduler) is UniPCMultistepScheduler


@functools.cache
def plain(folder: str) -> np.ndarray:
    return by_hand(folder)


def test_from_euler_to_unipc() -> None:
    """The words for flow matching there are filled in: without them UniPC would be for other
    models, and without a word."""
    own = FlowMatchEulerDiscreteScheduler(shift=7.0)
    found = scheduler.build_scheduler(own, "UniPCMultistep", None)
    own.set_timesteps(4)
    found.set_timesteps(4)
    assert found.config.prediction_type == "flow_prediction"
    line = torch.linspace(1.0, 1 / 1000, 5)[:-1]
    expected = 7 * line / (1 + 6 * line)
    assert torch.allclose(found.sigmas[:-1], expected, atol=1e-3)


WRONG = [
    ({"scheduler": "UniPC"}, "there is no UniPCScheduler. Did you mean UniPCMultistep?"),
    ({"scheduler": "Nonsense"}, "there is no NonsenseScheduler. Check the name."),
    ({"scheduler": "DDIM"}, "must be one for flow matching with this model, whose own is a UniPC"),
    ({"scheduler": "UniPCMultistep:flowshift=3"}, "got 'flowshift'. Did you mean 'flow_shift'?"),
    ({"attention": "nativ"}, "got 'nativ'. Did you mean 'native'?"),
    ({"attention": "flash"}, "must be a backend that works here, but 'flash' does not: Flash"),
]


@pytest.mark.parametrize(("given", "words"), WRONG)
def test_what_cannot_be_put_on(given: dict[str, Any], words: str) -> None:
    pipe = fresh("WanPipeline").pipe
    before = pipe.scheduler, Registry.get_active_backend()
    with pytest.raises(ValueError, match=f"^{next(iter(given))}|^an option") as told:
        per_video.put_on(pipe, ModelSettings(**given)).__enter__()
    assert words in str(told.value)
    assert before == (pipe.scheduler, Registry.get_active_backend())


def test_a_shift_needs_flow_matching() -> None:
    with pytest.raises(ValueError, match=r"^flow_shift needs a scheduler of flow"):
        per_video.put_on(fresh("CogVideoXPipeline").pipe, ModelSettings(flow_shift=3)).__enter__()
    dynamic = FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True)
    with pytest.raises(ValueError, match=r"^flow_shift needs .*:use_dynamic_shifting=false$"):
        scheduler.build_scheduler(dynamic, None, 3.0)
    fixed = "FlowMatchEulerDiscrete:use_dynamic_shifting=false"
    assert scheduler.build_scheduler(dynamic, fixed, 3.0).shift == 3.0


def test_a_shift_without_effect() -> None:
    """Cosmos 2.5's scheduler makes its noise levels by Karras' formula."""
    one = fresh("Cosmos2_5_PredictBasePipeline")
    with (
        per_video.put_on(one.pipe, ModelSettings(flow_shift=2.5)),
        pytest.raises(ValueError, match=r"^flow_shift must change the noise levels, but those of"),
    ):
        one.pipe(**one.call)


# --- attention ------------------------------------------------------------------------------------


def test_another_attention_backend(folder: str) -> None:
    active = Registry.get_active_backend()
    frames, _, pipe = made(folder, attention="_native_math")
    assert Registry.get_active_backend() == active
    assert pipe.transformer.blocks[0].attn1.processor._attention_backend is None

    def change(pipe: Any) -> None:
        pipe.transformer.set_attention_backend("_native_math")

    try:
        assert np.array_equal(frames, by_hand(folder, change))
    finally:
        Registry.set_active_backend(active[0])


@pytest.mark.long
def test_flex_attention_that_is_not_compiled(folder: str) -> None:
    """torch warns of it at length; warnings are errors here."""
    frames, settings, _ = made(folder, attention="flex")
    assert np.abs(frames.astype(int) - plain(folder).astype(int)).max() <= 1
    assert "Add --compile" in str(per_video.slow_attention_note(settings))
    compiled = settings.model_copy(update={"compile": True})
    assert per_video.slow_attention_note(compiled) is None


def test_attention_that_diffusers_cannot_exchange() -> None:
    with pytest.raises(ValueError, match=r"^attention needs a model whose attention diffusers"):
        per_video.put_on(
            fresh("StableVideoDiffusionPipeline").pipe, ModelSettings(attention="native")
        ).__enter__()


# --- compilation ----------------------------------------------------------------------------------


def test_blocks_are_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    compiled: list[str] = []
    monkeypatch.setattr(
        torch.nn.Module, "compile", lambda self, *_, **__: compiled.append(type(self).__name__)
    )
    pipe = fresh("WanPipeline 2.2").pipe
    placement.place(pipe, ModelSettings(compile=True), "cpu")
    blocks = [*pipe.transformer.blocks, *pipe.transformer_2.blocks]
    assert compiled == ["WanTransformerBlock"] * len(blocks)
    compiled.clear()
    placement.place(fresh("StableVideoDiffusionPipeline").pipe, ModelSettings(compile=True), "cpu")
    assert compiled == ["UNetSpatioTemporalConditionModel"]


@pytest.mark.long
@pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated:DeprecationWarning")
def test_a_compiled_model_makes_the_same_video(folder: str) -> None:
    frames = made(folder, compile=True)[0].astype(int)
    assert abs(frames - plain(folder)).max() <= 1


# --- in the record --------------------------------------------------------------------------------


def test_the_record_makes_the_video_again(folder: str, tmp_path: Path) -> None:
    given = {
        "offload": "group:2", "dtype": "bfloat16", "vae_dtype": "float32", "flow_shift": 8.0,
        "attention": "_native_math", "vae_tiling": True, "scheduler": "UniPCMultistep",
    }  # fmt: skip
    wanted = validate_settings({**ASKED, "model": folder, **given})
    pipe = loading.load(wanted)
    settings = resolve_settings(wanted, pipe)
    first = run.generate(pipe, settings)
    written = record.build_record(settings, first, loading.weights_fingerprint(folder, pipe))
    assert written["settings"] | given == written["settings"]
    again = record.settings_from_record(written, tmp_path)
    assert again == settings
    pipe = loading.load(again)
    second = run.generate(pipe, resolve_settings(again, pipe))
    assert record.build_record(again, second, {})["frames_sha256"] == written["frames_sha256"]
