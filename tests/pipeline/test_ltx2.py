"""LTX-2's own guidance beside CFG (STG, modality guidance, rescaling in the space of the data) as
terms of guide(): the same latents as the pipeline's own, with fewer passes.

The oracle is diffusers: the same pipeline and the same noise with the pipeline's own scales on."""

from __future__ import annotations

import functools
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers.pipelines.ltx2.latent_upsampler import LTX2LatentUpsamplerModel
from diffusers.pipelines.ltx2.pipeline_ltx2_latent_upsample import LTX2LatentUpsamplePipeline
from diffusers.schedulers.scheduling_flow_match_euler_discrete import (
    FlowMatchEulerDiscreteScheduler,
)

from skipguide import APG, STG, Modality, Random, guide
from skipguide.families import presets
from skipguide.method.request import GuidanceRequest
from support import oracle, text_encoders
from support.oracle import run
from support.tiny import builders, in_dtype
from support.tiny.base import Tiny

Tensor = torch.Tensor
GATED: dict[str, Any] = dict(
    gated_attn=True, audio_gated_attn=True, cross_attn_mod=True, audio_cross_attn_mod=True,
    perturbed_attn=True, use_prompt_embeddings=False,
)  # fmt: skip
LTX_2_5 = {**GATED, "use_prompt_adaln_single": False, "ff_bias": False}
BUILDS: dict[str, tuple[str, dict[str, Any]]] = {
    "LTX-2": ("LTX2Pipeline", dict(perturbed_attn=True)),
    "LTX-2.3": ("LTX2Pipeline gated", GATED),
    "LTX-2.5": ("LTX2Pipeline gated", LTX_2_5),
    "image": ("LTX2ImageToVideoPipeline", dict(perturbed_attn=True)),
    "condition": ("LTX2ConditionPipeline", dict(perturbed_attn=True)),
    "in context": ("LTX2InContextPipeline", dict(perturbed_attn=True)),
    "HDR": ("LTX2HDRPipeline", dict(perturbed_attn=True)),
}
OFF = {
    "stg_scale": 0.0, "audio_stg_scale": 0.0, "modality_scale": 1.0, "audio_modality_scale": 1.0,
    "guidance_rescale": 0.0, "audio_guidance_rescale": 0.0,
}  # fmt: skip


def build(name: str, dtype: torch.dtype = torch.float32, **config: Any) -> Tiny:
    builder, own = BUILDS[name]
    small = builders()[builder](dtype, config={**own, **config})  # type: ignore[call-arg]
    return Tiny(small.pipe, {k: in_dtype(v, dtype) for k, v in small.call.items()}, small.off)


@functools.cache
def tiny(name: str) -> Tiny:
    return build(name)


def theirs(small: Tiny, own: dict[str, Any], **call: Any) -> Tensor:
    """The latents with the pipeline's own guidance; HDR has no scales of the sound."""
    hears = "audio_stg_scale" in small.call
    taken = {name: own[name] for name in own if hears or not name.startswith("audio_")}
    return run(small, **call, **taken)


def ours(small: Tiny, *terms: Any, call: dict[str, Any] | None = None, **options: Any) -> Tensor:
    with guide(small.pipe, *terms, **options):
        return run(small, **(call or {}))


def assert_same(found: Tensor, wanted: Tensor, plain: Tensor) -> None:
    """Apart by round-off: 1e-5 of the largest value, where the guidance moved far more."""
    assert (wanted - plain).abs().max() > 0.02
    assert (found - wanted).abs().max() <= 1e-5 * wanted.abs().max()


def attention(layers: list[int], scale: float, audio_scale: float | None = None) -> STG:
    return STG(layers, scale, skip="attention", audio_scale=audio_scale)


# What is asked of guide(), and the same in the pipeline's own words.
RECIPES: dict[str, tuple[list[Any], dict[str, Any], dict[str, Any]]] = {
    "modality": (
        [Modality(3.0)], {},
        dict(modality_scale=3.0, audio_modality_scale=3.0),
    ),
    "modality of one output each": (
        [Modality(2.0, audio_scale=4.5)], {},
        dict(modality_scale=2.0, audio_modality_scale=4.5),
    ),
    "modality of the video alone": (
        [Modality(2.5, audio_scale=1.0)], {},
        dict(modality_scale=2.5, audio_modality_scale=1.0),
    ),
    "both": (
        [attention([1], 1.0), Modality(3.0)], {},
        dict(stg_scale=1.0, audio_stg_scale=1.0, spatio_temporal_guidance_blocks=[1],
             modality_scale=3.0, audio_modality_scale=3.0),
    ),
    "rescaled STG": (
        [attention([1, 2], 1.0)], dict(rescale=0.7, rescale_space="data"),
        dict(stg_scale=1.0, audio_stg_scale=1.0, spatio_temporal_guidance_blocks=[1, 2],
             guidance_rescale=0.7, audio_guidance_rescale=0.7),
    ),
    "published": (
        [attention([2], 1.0), Modality(3.0)], dict(rescale=0.7, rescale_space="data"),
        dict(stg_scale=1.0, audio_stg_scale=1.0, spatio_temporal_guidance_blocks=[2],
             modality_scale=3.0, audio_modality_scale=3.0, guidance_rescale=0.7,
             audio_guidance_rescale=0.7),
    ),
    "all of the sound its own": (
        [attention([2], 0.6, 1.4), Modality(2.0, 3.5)],
        dict(rescale=0.45, audio_rescale=1.0, rescale_space="data"),
        dict(stg_scale=0.6, audio_stg_scale=1.4, spatio_temporal_guidance_blocks=[2],
             modality_scale=2.0, audio_modality_scale=3.5, guidance_rescale=0.45,
             audio_guidance_rescale=1.0),
    ),
    "the sound alone rescaled": (
        [attention([1], 1.0)], dict(rescale=0.0, audio_rescale=0.9, rescale_space="data"),
        dict(stg_scale=1.0, audio_stg_scale=1.0, spatio_temporal_guidance_blocks=[1],
             guidance_rescale=0.0, audio_guidance_rescale=0.9),
    ),
}  # fmt: skip


# --- the pipeline's own result --------------------------------------------------------------------


@pytest.mark.diagonal
@pytest.mark.parametrize("cfg", [True, False])
@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("name", ["LTX-2", "LTX-2.3"])
def test_terms_are_the_pipelines_own(name: str, recipe: str, cfg: bool) -> None:
    small, (terms, options, own) = tiny(name), RECIPES[recipe]
    off = {} if cfg else small.off
    wanted = theirs(small, own, **off)
    assert_same(ours(small, *terms, call=off, **options), wanted, run(small, **off))


@pytest.mark.parametrize("name", [name for name in BUILDS if name not in ("LTX-2", "LTX-2.3")])
def test_the_published_recipe_in_every_pipeline(name: str) -> None:
    small, (terms, options, own) = tiny(name), RECIPES["published"]
    assert_same(ours(small, *terms, **options), theirs(small, own), run(small))


def test_cfg_scales_of_their_own() -> None:
    """g is 3 for the video and 7 for the sound, and then 1 for one of them."""
    small, (terms, options, own) = tiny("LTX-2.3"), RECIPES["published"]
    for g, audio_g in ((3.0, 7.0), (1.0, 7.0), (3.0, 1.0)):
        call = dict(guidance_scale=g, audio_guidance_scale=audio_g)
        found = ours(small, *terms, call=call, **options)
        assert_same(found, theirs(small, own, **call), run(small, **call))


def test_several_videos_of_each_prompt(tmp_path: Path) -> None:
    small, (terms, options, own) = build("LTX-2"), RECIPES["published"]
    small.pipe.register_modules(**text_encoders.gemma3([64], tmp_path))
    call = {name: value for name, value in small.call.items() if "prompt_" not in name}
    call |= dict(prompt=["a star", "a dog"], negative_prompt=["", ""], num_videos_per_prompt=2)
    words = Tiny(small.pipe, {**call, "max_sequence_length": 8}, small.off)
    wanted = run(words, **own)
    assert wanted.shape[0] == 2 * run(small, **own).shape[0]
    assert_same(ours(words, *terms, **options), wanted, run(words))


def begun_scheduler(shift: float) -> Any:
    """One that looks for no timestep: the pipeline hands it those of the video."""
    scheduler: Any = FlowMatchEulerDiscreteScheduler(shift=shift)
    real = scheduler.set_timesteps

    @functools.wraps(real)
    def set_timesteps(*args: Any, **kwargs: Any) -> None:
        real(*args, **kwargs)
        scheduler.set_begin_index(0)

    scheduler.set_timesteps = set_timesteps
    return scheduler


def test_sound_on_noise_levels_of_its_own() -> None:
    """The pipeline may have a scheduler for the sound, and its x_0 is of that one's levels."""
    small, (terms, options, own) = build("condition"), RECIPES["published"]
    other = begun_scheduler(3.0)
    small.pipe.register_modules(audio_scheduler=other)
    call = dict(sigmas=[0.9, 0.6, 0.3], timesteps=None)
    of_video: Any = FlowMatchEulerDiscreteScheduler(shift=1.0)
    small.pipe.scheduler = of_video
    wanted = run(small, **call, **own)
    assert not torch.equal(of_video.sigmas, other.sigmas)
    assert_same(ours(small, *terms, call=call, **options), wanted, run(small, **call))


@pytest.mark.parametrize("how", [dict(exact=False), dict(share_prefix=False)])
def test_other_ways_of_running(how: dict[str, Any]) -> None:
    """Joined batches, and weak passes in full: the same but for rounding, or to the last bit."""
    small, (terms, options, _) = tiny("LTX-2.3"), RECIPES["published"]
    exact = ours(small, *terms, **options)
    found = ours(small, *terms, **options, **how)
    assert torch.equal(found, exact) or (found - exact).abs().max() < 1e-4
    assert "share_prefix" not in how or torch.equal(found, exact)


def test_apg_on_estimates_of_picture_and_sound() -> None:
    """x_0 + (g - 1) d with eta 1 and no limits is CFG itself, in any space."""
    small = tiny("LTX-2")
    plain = APG(eta=1.0, momentum=0.0, norm_threshold=0.0)
    assert plain.space == "data"
    wanted = run(small, **RECIPES["modality"][2])
    assert_same(ours(small, Modality(3.0), cfg=plain), wanted, run(small))


def test_half_precision() -> None:
    """bfloat16: the weak pass is the pipeline's own, and D is made in float32."""
    small, (terms, options, own) = build("LTX-2.3", torch.bfloat16), RECIPES["published"]
    found, wanted = ours(small, *terms, **options).float(), run(small, **own).float()
    moved = (wanted - run(small).float()).abs().max()
    assert (found - wanted).abs().max() < 0.1 * moved


# --- the weak pass --------------------------------------------------------------------------------


def test_the_weak_prediction_is_that_of_isolated_modalities_to_the_last_bit() -> None:
    small = tiny("LTX-2.3")
    outputs: list[Any] = []
    hook = small.pipe.transformer.register_forward_hook(lambda *args: outputs.append(args[-1]))
    with oracle.listening(small) as heard:
        ours(small, Modality(3.0))
    hook.remove()
    cond, weak = heard[0], heard[1]
    with torch.no_grad():
        full = small.pipe.transformer(**{**cond.kwargs, "isolate_modalities": True})
    assert all(torch.equal(a, b) for a, b in zip(weak.output, full, strict=True))
    assert not torch.equal(weak.output[0], cond.output[0])


def test_later_layers_alone_share_the_prefix() -> None:
    """With layers 2 and 3 of 4 the pass is half a forward pass, and bit-equal to a full one."""
    small, term = tiny("LTX-2.3"), Modality(3.0, layers=[2, 3])
    with guide(small.pipe, term) as handle:
        found = run(small)
    assert handle.passes_per_step == pytest.approx(2.5)
    assert torch.equal(found, ours(small, term, share_prefix=False))
    assert not torch.equal(found, ours(small, Modality(3.0)))


def test_passes() -> None:
    """c, u, half a pass for STG in layer 2 of 4, and one for the modalities; the pipeline's own
    are 4."""
    small, (terms, options, own) = tiny("LTX-2"), RECIPES["published"]
    with guide(small.pipe, *terms, **options) as handle:
        run(small)
    assert handle.passes_per_step == pytest.approx(3.5)
    with oracle.listening(small) as heard:
        run(small, **own)
    assert sum(call.batch for call in heard) == 4 * 2 * small.call["num_inference_steps"]


def test_every_keeps_the_difference_of_the_last_pass() -> None:
    """By hand: at the second step c - p is that of the first."""
    small = tiny("LTX-2")
    kept: list[Any] = []
    steps = iter(range(small.call["num_inference_steps"]))

    def play(model: Any, _: Any, kwargs: Any, output: Any) -> Any:
        if next(steps) % 2 == 0:
            hook.remove()
            weak = model(**{**kwargs, "isolate_modalities": True})
            kept[:] = [a.chunk(2)[1] - b.chunk(2)[1] for a, b in zip(output, weak, strict=True)]
            attach()
        return tuple(o + 2.0 * torch.cat([d, d]) for o, d in zip(output, kept, strict=True))

    def attach() -> None:
        nonlocal hook
        hook = small.pipe.transformer.register_forward_hook(play, with_kwargs=True)

    hook: Any = None
    attach()
    try:
        wanted = run(small)
    finally:
        hook.remove()
    with guide(small.pipe, Modality(3.0, every=2)) as handle:
        found = run(small)
    assert handle.passes.weak == 2  # of three steps
    assert_same(found, wanted, run(small))


def test_a_budget_counts_the_pass() -> None:
    small = tiny("LTX-2")
    with guide(small.pipe, attention([2], 1.0), Modality(3.0), budget=2.5) as handle:
        run(small, num_inference_steps=8)
    assert handle.passes_per_step <= 2.5
    assert handle.plan is not None
    assert "term 1 at" in str(handle.plan)


def test_a_scale_of_one_is_off() -> None:
    small = tiny("LTX-2")
    plain = run(small)
    with guide(small.pipe, Modality(1.0)) as handle:
        assert torch.equal(run(small), plain)
    assert handle.passes.weak == 0


# --- guidance of the pipeline's own that is on ----------------------------------------------------


def defaults(small: Tiny) -> dict[str, Any]:
    """The arguments of a call without those that switch the pipeline's own guidance off."""
    return {name: value for name, value in small.call.items() if name not in OFF}


def test_a_preset_takes_over_what_is_on_by_default(caplog: pytest.LogCaptureFixture) -> None:
    """The public depth, at which LTX-2.3's preset is the pipelines' default."""
    small = build("LTX-2.3", num_layers=48)
    call = {**defaults(small), "audio_guidance_scale": 7.0}
    usual = Tiny(small.pipe, call, small.off)
    wanted, found = run(usual), STG.preset(small.pipe)
    assert isinstance(found, tuple)
    with caplog.at_level("INFO", logger="skipguide"), guide(small.pipe, found) as handle:
        assert handle.request.rescale_space == "data"
        latents = run(usual)
    assert_same(latents, wanted, run(Tiny(small.pipe, {**call, **OFF}, small.off)))
    assert handle.passes_per_step == pytest.approx(3 + 20 / 48)
    assert "it is switched off, for guide() has its own in its place" in caplog.text
    assert "stg_scale=1, audio_stg_scale=1, modality_scale=3" in caplog.text
    assert torch.equal(run(usual), wanted)


def test_replace_own_is_for_terms_of_ones_own_too() -> None:
    small, (terms, options, own) = tiny("LTX-2"), RECIPES["published"]
    usual = Tiny(small.pipe, defaults(small), small.off)
    found = ours(usual, *terms, replace_own=True, **options)
    assert_same(found, run(small, **own), run(small))


def test_what_is_not_replaced_is_added_to_and_told(caplog: pytest.LogCaptureFixture) -> None:
    small = tiny("LTX-2")
    own = {name: value for name, value in RECIPES["both"][2].items() if "modality" in name}
    found = ours(small, attention([1], 1.0), call=own)
    assert len(caplog.records) == 1
    assert "has guidance of its own on (modality_scale=3, audio_modality_scale=3)" in caplog.text
    assert "replace_own=True to guide()" in caplog.text
    assert_same(found, run(small, **RECIPES["both"][2]), run(small))


def test_stg_that_diffusers_ignores_is_told(caplog: pytest.LogCaptureFixture) -> None:
    """Without perturbed_attn its pass is the conditional one; the same terms of ours push."""
    small = build("LTX-2", perturbed_attn=False)
    own = dict(stg_scale=1.0, audio_stg_scale=1.0, spatio_temporal_guidance_blocks=[2])
    plain = run(small)
    assert (run(small, **own) - plain).abs().max() < 1e-4
    ours(small, attention([1], 1.0), call=own)
    assert "costs a pass and changes nothing" in caplog.text
    caplog.clear()
    moved = ours(small, attention([2], 1.0), call=own, replace_own=True)
    assert (moved - plain).abs().max() > 0.02
    assert not caplog.records


def test_after_removal_a_run_goes_on_without_its_own(caplog: pytest.LogCaptureFixture) -> None:
    """The pipeline prepares its own passes in the first step alone, where they were off."""
    small, (terms, options, own) = tiny("LTX-2"), RECIPES["published"]
    plain = run(small)
    handle = guide(small.pipe, *terms, replace_own=True, **options)

    def stop(pipe: Any, step: int, _: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        if step == 1:
            handle.remove()
        return tensors

    found = run(small, **own, callback_on_step_end=stop)
    assert "goes on without the guidance of the LTX2Pipeline's own" in caplog.text
    with guide(small.pipe, *terms, **options) as other:
        wanted = run(
            small, callback_on_step_end=lambda *a: other.remove() or a[3] if a[1] else a[3]
        )
    assert torch.equal(found, wanted)
    assert not torch.equal(found, plain)
    with guide(small.pipe, *terms, replace_own=True, **options):
        run(small, **own)
        assert small.pipe.stg_scale == 0.0
    assert small.pipe.stg_scale == 1.0


def test_two_stages_with_a_latent_upsampler() -> None:
    """One guide() around both stages, as the pipeline's own scales are on in both."""
    small, (terms, options, own) = build("LTX-2"), RECIPES["published"]
    torch.manual_seed(1)
    model = LTX2LatentUpsamplerModel(
        in_channels=8, mid_channels=32, num_blocks_per_stage=1, use_rational_resampler=False
    )
    upsample = LTX2LatentUpsamplePipeline(vae=small.pipe.vae, latent_upsampler=model.eval())

    def both_stages(**given: Any) -> Tensor:
        first = dict(return_dict=False, generator=torch.Generator().manual_seed(0))
        video, audio = small.pipe(**{**small.call, **given, **first})
        video = upsample(latents=video, output_type="latent", return_dict=False)[0]
        second = dict(latents=video, audio_latents=audio, height=64, width=64, noise_scale=0.9,
                      sigmas=[0.9, 0.7, 0.4])  # fmt: skip
        return run(small, **given, **second)

    plain, wanted = both_stages(), both_stages(**own)
    with guide(small.pipe, *terms, **options) as handle:
        found = both_stages()
    assert_same(found, wanted, plain)
    assert handle.passes.steps == 3  # of the last stage
    with pytest.raises(ValueError, match="makes no video by steps of denoising"):
        guide(upsample, *terms)


# --- what is refused, and in plain data -----------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Modality(0.5), "scale must be a finite number >= 1 (1 switches the term off)"),
        (lambda: Modality(3.0, 0.0), "audio_scale must be a finite number >= 1"),
        (lambda: Modality(3.0, skip="residual"), "all of them, but got skip"),
        (lambda: Modality(3.0, axis="spatial"), "all of them, but got axis"),
        (lambda: Modality(3.0, layers=Random(0.5)), "in blocks that are named"),  # type: ignore[arg-type]
        (lambda: Modality(3.0, start=0.5, stop=0.5), "selects no step"),
        (lambda: Modality([]), "must have one for each step"),
        (lambda: GuidanceRequest((Modality(),), audio_rescale=2.0), "audio_rescale must be"),
        (lambda: GuidanceRequest(audio_rescale=0.5), "audio_rescale acts on steps with a term"),
        (lambda: GuidanceRequest((Modality(),), replace_own=1), "replace_own must be True or"),  # type: ignore[arg-type]
    ],
)
def test_a_modality_term_is_checked_at_once(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        make()


def test_models_without_sound_refuse_it() -> None:
    pipe = builders()["LTXPipeline"](torch.float32).pipe
    with pytest.raises(ValueError, match="is for models that make sound, but ltx makes none"):
        guide(pipe, STG([1]), audio_rescale=0.5)
    with pytest.raises(ValueError, match="but a LTXPipeline has none"):
        guide(pipe, STG([1]), replace_own=True)
    with pytest.raises(ValueError, match=r"attend to each other in modules of their own .LTX-2., "):
        guide(pipe, Modality())
    with pytest.raises(ValueError, match=r"layers of this LTX2Video\w+ must be from 0 to 3"):
        guide(tiny("LTX-2").pipe, Modality(layers=[4]))


@pytest.mark.parametrize(
    ("term", "plain"),
    [
        (Modality(), {"kind": "modality", "scale": 3.0}),
        (
            Modality(2.0, 3.0, layers=[28], every=2, stop=0.5),
            {"kind": "modality", "layers": [28], "scale": 2.0, "stop": 0.5, "audio_scale": 3.0,
             "every": 2},
        ),
        (Modality([3.0, 1.0]), {"kind": "modality", "scale": [3.0, 1.0]}),
    ],
)  # fmt: skip
def test_plain_data(term: Modality, plain: dict[str, Any]) -> None:
    request = GuidanceRequest((STG([1]), term), rescale=0.7, audio_rescale=1.0, replace_own=True)
    written = request.to_dict()
    assert written["terms"][1] == plain
    assert GuidanceRequest.from_dict(written) == request
    assert request.with_seed(7).terms[1] == term
    spelt = {"terms": ["kind=modality scale=3"]}
    assert GuidanceRequest.from_dict(spelt).terms == (Modality(3),)


def test_a_modality_has_no_part_of_skips() -> None:
    with pytest.raises(ValueError, match="a term has the parts layers, scale, start, stop, audio"):
        GuidanceRequest.from_dict({"terms": [{"kind": "modality", "skip": "residual"}]})


def test_the_hq_recipe_has_no_stg() -> None:
    row = next(row for row in presets.load_presets() if row.name == "ltx-2.3-hq")
    found: Any = presets.to_terms(row)
    assert found == Modality(3.0)
    assert found.preset_options == {
        "rescale_space": "data", "audio_rescale": 1.0, "replace_own": True,
    }  # fmt: skip
    assert presets.describe_preset(row) == "modality 3, rescale 0.45, audio rescale 1, CFG 3"


# --- skip_step ------------------------------------------------------------------------------------


def held(small: Tiny, skip_step: int, **own: Any) -> Tensor:
    """A run by hand: at skipped steps the model's answer is replaced by the velocity towards the
    last estimate of the clean data, as LTX-2's own code has it.

    The estimates are read from the pipeline, which makes one of each modality in every step."""
    pipe, real = small.pipe, small.pipe.convert_x0_to_velocity
    estimates: dict[str, Tensor] = {}

    def convert(sample: Tensor, denoised: Tensor, step: int, scheduler: Any = None) -> Tensor:
        name = "video" if scheduler is None or scheduler is pipe.scheduler else "audio"
        if step % (skip_step + 1) == 0:
            estimates[name] = denoised
        return real(sample, estimates[name], step, scheduler)

    pipe.convert_x0_to_velocity = convert
    try:
        return run(small, **own)
    finally:
        del pipe.convert_x0_to_velocity


@pytest.mark.parametrize("skip_step", [1, 2])
@pytest.mark.parametrize("cfg", [True, False])
def test_skip_step_goes_on_towards_the_last_estimate(skip_step: int, cfg: bool) -> None:
    small, (terms, options, own) = tiny("LTX-2.3"), RECIPES["published"]
    call = {"num_inference_steps": 5, **({} if cfg else small.off)}
    wanted = held(small, skip_step, **call, **own)
    with guide(small.pipe, *terms, skip_step=skip_step, **options) as handle:
        found = run(small, **call)
    assert_same(found, wanted, run(small, **call, **own))
    ran = len(range(0, 5, skip_step + 1))
    assert handle.passes_per_step == pytest.approx((2.5 + cfg) * ran / 5)


def test_skip_step_without_terms_and_with_a_call_for_u() -> None:
    """Any transformer: Wan calls for c and u one after the other."""
    small = builders()["WanPipeline"](torch.float32)
    calls: list[Any] = []
    hook = small.pipe.transformer.blocks[0].register_forward_hook(lambda *_: calls.append(None))
    with guide(small.pipe, skip_step=1) as handle:
        run(small, num_inference_steps=4)
    hook.remove()
    assert len(calls) == 4  # c and u at two of four steps
    assert handle.passes_per_step == 1.0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(skip_step=1, budget=2.0), "does not go together with a budget"),
        (dict(skip_step=-1), "skip_step must be a whole number from 0"),
        (dict(skip_step=True), "skip_step must be a whole number from 0"),
    ],
)
def test_skip_step_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        guide(tiny("LTX-2").pipe, Modality(), **options)


def test_skip_step_needs_the_pipelines_own_guidance_off() -> None:
    small = tiny("LTX-2")
    with guide(small.pipe, Modality(), skip_step=1), pytest.raises(ValueError, match="replace_own"):
        run(small, guidance_rescale=0.7)
    unet = builders()["StableVideoDiffusionPipeline"](torch.float32)
    with pytest.raises(ValueError, match="but svd has a UNet"):
        guide(unet.pipe, skip_step=1)
