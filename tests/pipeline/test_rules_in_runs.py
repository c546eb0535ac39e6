"""The rules of CFG in whole pipelines, against predictions played by hand; and what they refuse."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from diffusers.guiders import magnitude_aware_guidance as mambo_of_diffusers
from diffusers.schedulers.scheduling_flow_match_euler_discrete import (
    FlowMatchEulerDiscreteScheduler,
)

from skipguide import (
    C2FG,
    FDG,
    MAMBOG,
    STG,
    TAG,
    APGMix,
    RectifiedCFG,
    Restart,
    guide,
)
from skipguide.families import lookup, schema
from skipguide.guider import SkipGuidance
from skipguide.method.request import GuidanceRequest
from skipguide.pipeline import branch_plan
from support import oracle, pyramids, tiny
from support.played import on_prediction, played
from support.tiny.base import Tiny

Tensor = torch.Tensor
FOUR = {"num_inference_steps": 4}
SOME = [
    "WanPipeline",
    "WanPipeline 2.2",
    "MochiPipeline",
    "StableVideoDiffusionPipeline",
    "LattePipeline",
]
Rule = Callable[[int, Tensor, Tensor, Any, list[Tensor]], Tensor]


def inputs_of_steps(given: Tiny, rule: Any, **options: Any) -> tuple[Tensor, list[Tensor]]:
    """A run under a rule, and the latents that its steps began with."""
    seen: list[Tensor] = []

    def look(pipe: Any, i: int, t: Any, kwargs: dict[str, Tensor]) -> dict[str, Tensor]:
        seen.append(kwargs["latents"].clone())
        return {}

    with guide(given.pipe, cfg=rule), oracle.listening(given) as heard:
        found = oracle.run(given, **options, callback_on_step_end=look)
    first = heard[0].kwargs["hidden_states"]
    return found, [first[-2:], *seen]


def tangential(D: Tensor, x: Tensor, eta: float) -> Tensor:
    unit = torch.nn.functional.normalize(x.double().flatten(1)).reshape(x.shape)
    along = (D.double() * unit).sum(tuple(range(1, D.ndim)), keepdim=True) * unit
    return (along + eta * (D - along)).to(D.dtype)


# --- rules that need nothing but c, u and g -------------------------------------------------------


@pytest.mark.parametrize("name", SOME)
def test_mambo_g_in_pipelines(name: str) -> None:
    given = tiny.tiny(name)
    with guide(given.pipe, cfg=MAMBOG(2.0)):
        found = oracle.run(given, **given.short)

    def rule(c: Tensor, u: Tensor, g: Any) -> Tensor:
        """Of diffusers, on rows: it stops at more dimensions."""
        g = g.expand(c.shape).flatten(1) if g.ndim else g
        return mambo_of_diffusers.mambo_guidance(c.flatten(1), u.flatten(1), g, 2.0).view(c.shape)

    expected = played(given, on_prediction(given, rule))
    torch.testing.assert_close(found, expected, atol=5 * given.atol, rtol=1e-4)
    assert (found - oracle.run(given, **given.short)).abs().max() > 10 * given.atol


@pytest.mark.parametrize("name", [*SOME, "Kandinsky5T2VPipeline"])
def test_fdg_in_pipelines(name: str) -> None:
    """Kandinsky has its channels last."""
    given = tiny.tiny(name)
    with guide(given.pipe, cfg=FDG((1.0, 0.3))):
        found = oracle.run(given, **given.short)

    def rule(c: Tensor, u: Tensor, g: Any) -> Tensor:
        channels = -1 if name.startswith("Kandinsky") else 1
        c_first, u_first = (value.double().movedim(channels, 1).numpy() for value in (c, u))
        scales = [g.double().numpy(), (1 + 0.3 * (g.double() - 1)).numpy()]
        D = torch.from_numpy(pyramids.guided(c_first, u_first, scales))
        return D.movedim(1, channels).to(c.dtype)

    expected = played(given, on_prediction(given, rule))
    torch.testing.assert_close(found, expected, atol=5 * given.atol, rtol=1e-4)
    assert (found - oracle.run(given, **given.short)).abs().max() > 10 * given.atol


@pytest.mark.parametrize("name", SOME)
def test_c2fg_in_pipelines(name: str) -> None:
    """t / t_max is the noise level of a flow, the timestep of DDIM, and of SVD its noise level."""
    given, rate = tiny.tiny(name), 0.8
    with guide(given.pipe, cfg=C2FG(rate)):
        found = oracle.run(given, **given.short)
    scheduler = given.pipe.scheduler
    if name == "LattePipeline":
        times = [t / 1000 for t in scheduler.timesteps.tolist()]
    elif name == "StableVideoDiffusionPipeline":
        times = (scheduler.sigmas / scheduler.sigmas[0]).tolist()
    elif name == "MochiPipeline":
        times = (1 - scheduler.sigmas).tolist()
    else:
        times = scheduler.sigmas.tolist()

    def D(i: int, _: int, c: Tensor, u: Tensor, g: Any) -> Tensor:
        w = g * math.exp(rate * (1 - times[i]))
        return on_prediction(given, lambda c, u, _: u + w * (c - u))(i, 0, c, u, g)

    torch.testing.assert_close(found, played(given, D), atol=5 * given.atol, rtol=1e-4)


def test_apg_mix_begins_within_a_run() -> None:
    """Two of four steps are plain CFG, to the bit."""
    given = tiny.tiny("WanPipeline")

    def after(rule: Any) -> list[Tensor]:
        return inputs_of_steps(given, rule, **FOUR)[1]

    late, early, plain = after(APGMix(start=0.5)), after(APGMix(start=0.0)), after(C2FG(0.0))
    equal = [torch.allclose(a, b, atol=1e-5) for a, b in zip(late, plain, strict=True)]
    assert equal == [True, True, True, False, False]
    assert not torch.allclose(early[1], plain[1], atol=1e-3)


# --- TAG ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["WanPipeline", "MochiPipeline", "LTXPipeline"])
def test_tag_in_pipelines(name: str) -> None:
    """It divides D as a whole; LTX's latents are rows of tokens."""
    given = tiny.tiny(name)
    found, x = inputs_of_steps(given, TAG(1.3), **given.short)

    def D(i: int, _: int, c: Tensor, u: Tensor, g: Any) -> Tensor:
        return tangential(u + g * (c - u), x[i], 1.3)

    torch.testing.assert_close(found, played(given, D), atol=1e-4, rtol=1e-3)
    assert (found - oracle.run(given, **given.short)).abs().max() > 10 * given.atol


def test_tag_leaves_a_learned_variance_alone() -> None:
    """Latte's second half of the channels, with the pipeline's own latents."""
    given, seen = tiny.tiny("LattePipeline"), list[Tensor]()

    def look(pipe: Any, i: int, t: Any, kwargs: dict[str, Tensor]) -> dict[str, Tensor]:
        seen.append(kwargs["latents"].clone())
        return {}

    with oracle.listening(given) as heard:
        oracle.run(given, **given.short)
    shape = heard[0].kwargs["hidden_states"].shape
    start = torch.randn(2, *shape[1:], generator=torch.Generator().manual_seed(3))
    options = {**given.short, "latents": start}
    with guide(given.pipe, cfg=TAG(1.3)):
        found = oracle.run(given, **options, callback_on_step_end=look)
    x = [start * given.pipe.scheduler.init_noise_sigma, *seen]

    def D(i: int, _: int, c: Tensor, u: Tensor, g: Any) -> Tensor:
        half = c.shape[1] // 2
        D = u + g * (c - u)
        return torch.cat([tangential(D[:, :half], x[i], 1.3), c[:, half:]], 1)

    torch.testing.assert_close(found, played(given, D, **options), atol=1e-4, rtol=1e-3)


def test_tag_in_a_run_without_cfg() -> None:
    """It divides D, whatever that is made of; g_align speaks of u, and is refused."""
    given = tiny.tiny("WanPipeline")
    options = {**given.short, **given.off}
    with guide(given.pipe, STG([1], 1.3), cfg=TAG(1.2)), oracle.listening(given) as heard:
        found = oracle.run(given, **options)
    returns: list[list[Tensor]] = []
    for i in range(2):
        step, _ = oracle.calls_of_step(given, i, returns, options)
        weak = oracle.weakened(step.calls[0].model, ["blocks.1"], "residual", ["attn1"])
        with torch.no_grad():
            p = oracle.samples(weak(**step.cond))[0]
        pushed = step.c[0] + 1.3 * (step.c[0] - p)
        returns.append([tangential(pushed, step.cond["hidden_states"], 1.2)])
    with oracle.playing(given, returns):
        torch.testing.assert_close(found, oracle.run(given, **options), atol=1e-4, rtol=1e-3)
    assert heard
    with (
        guide(given.pipe, cfg=TAG(1.2, align=1.0)),
        pytest.raises(ValueError, match="TAG needs CFG, for it is a rule for u and c"),
    ):
        oracle.run(given, **options)


@pytest.mark.parametrize("rule", [TAG(1.2, align=0.5), FDG(), MAMBOG(), C2FG(), APGMix(start=0.2)])
def test_rules_beside_everything_else(rule: Any) -> None:
    """A term, rescaling, a restart and a budget; the pipeline's own batch gives the same."""
    given = tiny.tiny("MochiPipeline")
    with guide(given.pipe, STG([1], 1.3), cfg=rule, rescale=0.5) as handle:
        found = oracle.run(given, **FOUR)
    assert handle.passes.unweakened == 8
    with guide(given.pipe, STG([1], 1.3), cfg=rule, rescale=0.5, exact=False):
        torch.testing.assert_close(oracle.run(given, **FOUR), found, atol=1e-3, rtol=1e-3)
    restart = Restart(window=(0.25, 0.5), mask=0.1)
    with guide(given.pipe, STG([1], 1.3), cfg=rule, budget=2.0, restart=restart) as handle:
        assert torch.isfinite(oracle.run(given, **FOUR)).all()
    assert handle.passes.steps == 5


# --- Rectified-CFG++ ------------------------------------------------------------------------------


def flow_pipelines() -> list[str]:
    """Those of one run and one prediction whose steps are Euler's."""
    skipped = ("Helios", "HunyuanVideoFramepack", "LTXI2VLong", "AnyFlow", "LTX2", "Cosmos")
    return [name for name in tiny.builders() if not name.startswith(skipped)]


def rectified_by_hand(given: Tiny, rule: RectifiedCFG, **options: Any) -> Tensor:
    """Each step's passes by hand: c, and at the point that it predicts c and u."""
    returns, family = list[list[Tensor]](), lookup.family_of(given.pipe)
    i, steps = 0, 1
    while i < steps:
        step, steps = oracle.calls_of_step(given, i, returns, options)
        sigmas = given.pipe.scheduler.sigmas.tolist()
        noise = 1 - sigmas[i] if given.pipe.scheduler.config.get("invert_sigmas") else sigmas[i]
        [c], model = step.c, step.calls[0].model
        reached = sigmas[i] + rule.reach * (sigmas[i + 1] - sigmas[i])
        assert step.uncond is not None
        moved = []
        for rows in (step.cond, step.uncond):
            x, channels = rows["hidden_states"].clone(), schema.channel_dimension(family)
            x.narrow(channels, 0, c.shape[channels]).add_((reached - sigmas[i]) * c)
            time = torch.full_like(rows["timestep"], 1000 * reached)
            with torch.no_grad():
                output = model(**{**rows, "hidden_states": x, "timestep": time})
            moved.append(oracle.samples(output)[0])
        g = float(oracle.scales_of(given, model, options)[0])
        D = c + (g - 1) * (1 - noise) ** rule.gamma * (moved[0] - moved[1])
        returns += [[torch.cat([D, D])] if step.batched else [D]] * len(step.calls)
        i += 1
    with oracle.playing(given, returns):
        return oracle.run(given, **options)


@pytest.mark.parametrize("rule", [RectifiedCFG(), RectifiedCFG(1.0, 0.7)])
@pytest.mark.parametrize("name", ["MochiPipeline", "LTXPipeline", "HunyuanVideo15Pipeline"])
def test_rectified_cfg_in_pipelines(name: str, rule: RectifiedCFG) -> None:
    given = tiny.tiny(name)
    with guide(given.pipe, cfg=rule) as handle:
        found = oracle.run(given, **given.short)
    expected = rectified_by_hand(given, rule, **given.short)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-3)
    assert handle.passes_per_step == 3
    assert (found - oracle.run(given, **given.short)).abs().max() > 10 * given.atol


REFUSED = {  # by how the names of the tests' pipelines begin
    "Allegro": "but this pipeline has EulerAncestralDiscreteScheduler",
    **dict.fromkeys(
        ("HunyuanVideoImageToVideoPipeline token_replace", "Kandinsky5", "ZImage"),
        "which must be the first channels of its input, .* but those of a",
    ),
    "Kandinsky6": r"moves the latents of one prediction, but this model makes 2 \(sound",
    **dict.fromkeys(
        ("LTXImage", "LTXCondition", "SanaWM", "SanaImage"),
        r"one noise level, or one timestep, .* this one hands over \[0\.0, ",
    ),
    "SkyReelsV2DiffusionForcingPipeline async": "needs a noise level for each step, but this run",
}


@pytest.mark.parametrize("name", flow_pipelines())
def test_rectified_cfg_is_right_or_refused(name: str) -> None:
    given = tiny.tiny(name)
    message = next((text for start, text in REFUSED.items() if name.startswith(start)), None)
    if message is None and type(given.pipe.scheduler) is not FlowMatchEulerDiscreteScheduler:
        message = "needs FlowMatchEulerDiscreteScheduler, but this pipeline has"
    if message is not None:
        with guide(given.pipe, cfg=RectifiedCFG()), pytest.raises(ValueError, match=message):
            oracle.run(given, **given.short)
        return
    with guide(given.pipe, cfg=RectifiedCFG()):
        found = oracle.run(given, **given.short)
    expected = rectified_by_hand(given, RectifiedCFG(), **given.short)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-3)


def test_rectified_cfg_on_wan_with_euler_steps() -> None:
    """Its calls for c and u are apart; a push stays that of the step's own latents."""
    given = tiny.tiny("WanPipeline")
    own = given.pipe.scheduler
    given.pipe.scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0)
    try:
        with guide(given.pipe, cfg=RectifiedCFG()) as handle:
            found = oracle.run(given, **FOUR)
        expected = rectified_by_hand(given, RectifiedCFG(), **FOUR)
        torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-3)
        with guide(given.pipe, STG([1], 1.0), cfg=RectifiedCFG(), rescale=0.5) as handle:
            oracle.run(given, **FOUR)
        assert handle.passes.unweakened == 12
        assert sum(handle.passes.weak_runs.values()) == 4
        with guide(given.pipe, cfg=RectifiedCFG(), restart=Restart(window=(0.25, 0.75))) as handle:
            assert torch.isfinite(oracle.run(given, **FOUR)).all()
        assert handle.passes.unweakened == 18
    finally:
        given.pipe.scheduler = own


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: guide(tiny.tiny("MochiPipeline").pipe, cfg=RectifiedCFG(), budget=2.0),
            "a budget keeps c - u from step to step, but RectifiedCFG computes u elsewhere",
        ),
        (
            lambda: branch_plan.check_request(GuidanceRequest(cfg=RectifiedCFG())),
            "parallel= runs c and u side by side, but RectifiedCFG computes u where c leads",
        ),
        (
            lambda: SkipGuidance(cfg=RectifiedCFG()),
            "RectifiedCFG asks the model at other latents than the step's",
        ),
        (
            lambda: guide(tiny.tiny("LTXPipeline").pipe, cfg=FDG()),
            "FDG needs predictions with a height and a width, but those of a LTXVideoTrans",
        ),
    ],
)
def test_what_does_not_go_together(make: Callable[[], Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_rectified_cfg_beside_a_cache_is_refused() -> None:
    from diffusers.hooks.first_block_cache import FirstBlockCacheConfig

    given = tiny.tiny("MochiPipeline")
    given.pipe.transformer.enable_cache(FirstBlockCacheConfig(threshold=0.0))
    try:
        with (
            guide(given.pipe, cfg=RectifiedCFG()),
            pytest.raises(ValueError, match="asks the model between two steps"),
        ):
            oracle.run(given, **given.short)
    finally:
        given.pipe.transformer.disable_cache()
