"""guide() beside other implementations of the same method that come with diffusers: the same
latents, or why not.

docs/decisions/010, 011 and 012 have what else was compared and cannot be tested here, as it is not
installed."""

from __future__ import annotations

import copy
import functools
from typing import Any

import diffusers
import pytest
import torch
from diffusers.guiders.classifier_free_guidance import ClassifierFreeGuidance
from diffusers.guiders.skip_layer_guidance import SkipLayerGuidance
from diffusers.hooks.layer_skip import LayerSkipConfig
from diffusers.modular_pipelines.wan.modular_blocks_wan import WanCoreDenoiseStep

from skipguide import STG, guide
from support import oracle
from support.oracle import run
from support.tiny import builders, tiny
from support.tiny.base import Tiny

Tensor = torch.Tensor

LTX2 = ("LTX2Pipeline", "LTX2Pipeline gated", "LTX2ImageToVideoPipeline", "LTX2ConditionPipeline")


def assert_same(ours: Tensor, theirs: Tensor, plain: Tensor) -> None:
    """Apart by round-off only, which is seen in relation to what the guidance did."""
    moved = (theirs - plain).abs().max()
    assert moved > 0.02
    assert (ours - theirs).abs().max() < 1e-4 * moved


# --- LTX-2's own STG: the values of its self-attentions pass through, of video and audio ----------


@functools.cache
def ltx2(name: str) -> Tiny:
    """A tiny pipeline whose transformer has STG of its own built in (its weights are the same
    either way)."""
    config: dict[str, Any] = (
        {} if name == "LTX2Pipeline gated" else dict(config=dict(perturbed_attn=True))
    )
    return builders()[name](torch.float32, **config)


def theirs(
    small: Tiny, layers: list[int], scale: float, audio_scale: float, **options: Any
) -> Tensor:
    own = dict(stg_scale=scale, audio_stg_scale=audio_scale, spatio_temporal_guidance_blocks=layers)
    return run(small, **{**own, **options})


def ours(small: Tiny, *terms: STG, rescale: float = 0.0, **options: Any) -> Tensor:
    with guide(small.pipe, *terms, rescale=rescale):
        return run(small, **options)


def attention(layers: list[int], scale: float, audio_scale: float | None = None) -> STG:
    return STG(layers, scale, skip="attention", audio_scale=audio_scale)


@pytest.mark.parametrize(
    ("layers", "scale", "audio_scale"), [([1], 1.3, 1.3), ([0], 0.4, 2.5), ([1, 3], 1.3, 0.6)]
)
@pytest.mark.parametrize("cfg", [True, False])
@pytest.mark.parametrize("name", LTX2)
def test_ltx2_own_stg(
    name: str, cfg: bool, layers: list[int], scale: float, audio_scale: float
) -> None:
    """diffusers' stg_scale and audio_stg_scale against an attention skip of ours with diffusers'
    own switched off."""
    small = ltx2(name)
    off = {} if cfg else small.off
    found = ours(small, attention(layers, scale, audio_scale), **off)
    assert_same(found, theirs(small, layers, scale, audio_scale, **off), run(small, **off))


@pytest.mark.parametrize("name", LTX2)
def test_ltx2_one_output_only(name: str) -> None:
    """A scale of 0 for video or for audio; diffusers takes the first, and for the second the least
    that it takes."""
    small = ltx2(name)
    plain = run(small)
    assert_same(ours(small, attention([1], 0.0, 1.3)), theirs(small, [1], 0.0, 1.3), plain)
    assert_same(ours(small, attention([1], 1.3, 0.0)), theirs(small, [1], 1.3, 1e-30), plain)


@pytest.mark.skipif(
    diffusers.__version__ != "0.42.1",
    reason="a slip of diffusers 0.42.1, which later ones may not have",
)
def test_ltx2_own_stg_cannot_leave_the_audio_alone() -> None:
    """diffusers reads audio_stg_scale=0 as None, "the same as the video's"; ours is 0, and that is
    not the same."""
    small = ltx2("LTX2Pipeline")
    audio_too = theirs(small, [1], 1.3, 1.3)
    assert torch.equal(theirs(small, [1], 1.3, 0.0), audio_too)
    assert (ours(small, attention([1], 1.3, 0.0)) - audio_too).abs().max() > 0.1


@pytest.mark.parametrize("modality_scale", [1.0, 2.0])
@pytest.mark.parametrize("cfg", [True, False])
@pytest.mark.parametrize("name", LTX2)
def test_ltx2_own_stg_beside_ours(name: str, cfg: bool, modality_scale: float) -> None:
    """Both at once are c + s1 (c - p1) + s2 (c - p2), whichever is diffusers', with its modality
    guidance or not."""
    small = ltx2(name)
    options = {
        **({} if cfg else small.off),
        "modality_scale": modality_scale,
        "audio_modality_scale": modality_scale,
    }
    one, two = attention([1], 1.3), attention([3], 0.8)
    both, plain = ours(small, one, two, **options), run(small, **options)
    own = dict(stg_scale=0.8, audio_stg_scale=0.8, spatio_temporal_guidance_blocks=[3])
    assert_same(ours(small, one, **own, **options), both, plain)
    own = dict(stg_scale=1.3, audio_stg_scale=1.3, spatio_temporal_guidance_blocks=[1])
    assert_same(ours(small, two, **own, **options), both, plain)


def test_ltx2_own_stg_is_on_by_default_and_that_is_told_and_counted(
    caplog: pytest.LogCaptureFixture,
) -> None:
    small = ltx2("LTX2Pipeline")
    own = dict(stg_scale=1.0, audio_stg_scale=1.0, spatio_temporal_guidance_blocks=[3])
    with (
        oracle.listening(small) as calls,
        guide(small.pipe, attention([1], 1.0), share_prefix=False) as handle,
    ):
        oracle.run(small, **own)
    assert "has guidance of its own on (stg_scale=1, audio_stg_scale=1), and" in caplog.text
    assert len(caplog.records) == 1
    steps = small.call["num_inference_steps"]
    assert len(calls) == 4 * steps  # c, u, weak, and the pipeline's own
    assert handle.passes_per_step == pytest.approx(3 + handle.passes.weak / steps)
    caplog.clear()
    with guide(small.pipe, attention([1], 1.0)):
        oracle.run(small)
    assert not caplog.records


@pytest.mark.parametrize("name", ["LTX2Pipeline", "LTX2Pipeline gated"])
def test_ltx2_rescales_another_quantity(name: str) -> None:
    """diffusers' guidance_rescale is ours by hand on x - sigma v, its estimate of the clean video;
    ours is on v."""
    small = ltx2(name)
    found = theirs(small, [1], 1.3, 1.3, guidance_rescale=0.7, audio_guidance_rescale=0.7)
    assert_same(rescaled_in_x0(small, [1], 1.3, 0.7), found, run(small))
    assert (ours(small, attention([1], 1.3), rescale=0.7) - found).abs().max() > 0.1


def rescaled_in_x0(small: Tiny, layers: list[int], scale: float, phi: float) -> Tensor:
    """A run whose D is made by hand and rescaled as an estimate of the clean video, and of the
    clean audio."""
    paths = [f"transformer_blocks.{k}" for k in layers]
    model, step = small.pipe.transformer, iter(range(small.call["num_inference_steps"]))
    weak = oracle.weakened(model, paths, "attention", ["attn1", "audio_attn1"])

    def play(_: Any, args: Any, kwargs: Any, output: Any) -> Any:
        sigma = small.pipe.scheduler.sigmas[next(step)]
        inputs = (kwargs["hidden_states"], kwargs["audio_hidden_states"])
        parts = zip(inputs, output, weak(**kwargs), oracle.scales_of(small, model, {}), strict=True)
        return tuple(D_in_x0(*part, scale, phi, sigma) for part in parts)

    hook = model.register_forward_hook(play, with_kwargs=True)
    try:
        return run(small)
    finally:
        hook.remove()


def D_in_x0(
    inputs: Tensor, output: Tensor, weak: Tensor, g: float, s: float, phi: float, sigma: Tensor
) -> Tensor:
    """D in both rows of a batch [uncond, cond], as a velocity."""
    (u, c), p, x = output.chunk(2), weak.chunk(2)[1], inputs.chunk(2)[1]
    clean, clean_c = x - sigma * (u + g * (c - u) + s * (c - p)), x - sigma * c
    ratio = clean_c.std((1, 2), keepdim=True) / clean.std((1, 2), keepdim=True)
    return torch.cat([(x - clean * (phi * ratio + 1 - phi)) / sigma] * 2)


# --- diffusers' SkipLayerGuidance on its modular Wan pipeline -------------------------------------

STEPS = 4


def modular_wan(guider: Any) -> Tensor:
    """The latents that diffusers' modular blocks make with the models of the tiny WanPipeline, from
    the same noise."""
    small = tiny("WanPipeline")
    pipe: Any = WanCoreDenoiseStep().init_pipeline()
    scheduler = copy.deepcopy(small.pipe.scheduler)
    pipe.update_components(transformer=small.pipe.transformer, scheduler=scheduler, guider=guider)
    pipe.set_progress_bar_config(disable=True)
    names = ("prompt_embeds", "negative_prompt_embeds", "height", "width", "num_frames")
    call = {name: small.call[name] for name in names}
    return pipe(**call, num_inference_steps=STEPS, latents=noise(), output="latents").flatten()


def noise() -> Tensor:
    return torch.randn(2, 4, 2, 4, 4, generator=torch.Generator().manual_seed(0))


def skipping(layers: list[int], g: float, **options: Any) -> SkipLayerGuidance:
    """diffusers' guider, with its window as wide as it goes: it leaves the first step out all the
    same."""
    return SkipLayerGuidance(
        guidance_scale=g, skip_layer_guidance_scale=1.3, skip_layer_guidance_start=0.0,
        skip_layer_guidance_stop=1.0,
        skip_layer_config=LayerSkipConfig(indices=layers, fqn="blocks"), **options,
    )  # fmt: skip


@pytest.mark.parametrize("layers", [[1], [0, 2]])
def test_skip_layer_guidance_of_modular_wan(layers: list[int]) -> None:
    """SkipLayerGuidance with CFG against a residual skip of ours from the second step on, in both
    its formulations."""
    small = tiny("WanPipeline")
    options: dict[str, Any] = dict(latents=noise(), num_inference_steps=STEPS)
    plain = run(small, **options)
    assert torch.equal(modular_wan(ClassifierFreeGuidance(guidance_scale=4.5)), plain)
    found = ours(small, STG(layers, 1.3, start=1 / STEPS), **options)
    assert_same(found, modular_wan(skipping(layers, 4.5)), plain)
    assert_same(found, modular_wan(skipping(layers, 3.5, use_original_formulation=True)), plain)


def test_skip_layer_guidance_without_cfg() -> None:
    """With CFG off its second pass skips nothing and has the negative prompt: CFG with the other
    scale, not STG."""
    small = tiny("WanPipeline")
    options: dict[str, Any] = dict(latents=noise(), num_inference_steps=STEPS, guidance_scale=1.0)
    plain, found = run(small, **options), modular_wan(skipping([1], 1.0))
    assert_same(
        modular_wan(ClassifierFreeGuidance(guidance_scale=1.3, start=1 / STEPS)), found, plain
    )
    assert (ours(small, STG([1], 1.3, start=1 / STEPS), **options) - found).abs().max() > 0.1
