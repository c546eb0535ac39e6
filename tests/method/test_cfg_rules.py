"""CFG rules: their formulas against diffusers' guiders, and in whole pipelines against predictions
played by hand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from diffusers.guiders import adaptive_projected_guidance as apg_of_diffusers
from diffusers.guiders import classifier_free_zero_star_guidance as zero_of_diffusers
from diffusers.guiders import tangential_classifier_free_guidance as tcfg_of_diffusers
from diffusers.schedulers.scheduling_unipc_multistep import UniPCMultistepScheduler

from skipguide import APG, STG, TCFG, CFGZero, Interval, Restart, guide
from skipguide.families.rows import FAMILIES
from skipguide.method import cfg_formulas
from skipguide.method.formula import DataSpace
from skipguide.opensora import OpenSoraRFlowScheduler
from skipguide.pipeline import noise_levels
from support import oracle, tiny
from support.played import on_prediction, played

Tensor = torch.Tensor
TWO = {"num_inference_steps": 2}
FOUR = {"num_inference_steps": 4}
STACKS = {
    "WanPipeline": ["blocks"],
    "LattePipeline": ["transformer_blocks", "temporal_transformer_blocks"],
    "OpenSoraPipeline": ["spatial_blocks", "temporal_blocks"],
}
SHAPE = (2, 4, 5, 6, 4)  # of the latents of the tiny Open-Sora
FLOW: dict[str, Any] = dict(prediction_type="flow_prediction", use_flow_sigmas=True)


@pytest.fixture
def predictions() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    c, other = (torch.randn(3, 4, 5, 6, generator=generator) for _ in range(2))
    return c, c + 0.5 * other


# --- formulas -------------------------------------------------------------------------------------


@pytest.mark.parametrize("eta", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("momentum", [0.0, -0.5])
@pytest.mark.parametrize("threshold", [0.0, 2.0])
def test_apg_is_that_of_diffusers(
    predictions: tuple[Tensor, Tensor], eta: float, momentum: float, threshold: float
) -> None:
    """Its original formulation has g - 1 in the place of g. Three steps, for the momentum."""
    c, u = predictions
    rule, memory = APG(eta, momentum, threshold, "prediction"), cfg_formulas.MomentumBuffer()
    buffer = apg_of_diffusers.MomentumBuffer(momentum) if momentum else None
    for step in range(3):
        u = u + 0.1 * step
        theirs = apg_of_diffusers.normalized_guidance(
            c, u, 3.5, buffer, eta, threshold, use_original_formulation=True
        )
        torch.testing.assert_close(cfg_formulas.apg(c, u, 4.5, rule, memory), theirs)


def test_apg_in_the_space_of_the_data(predictions: tuple[Tensor, Tensor]) -> None:
    """Of a flow: the estimates by hand, guided by diffusers, and made a velocity again."""
    c, u = predictions
    x, sigma = torch.randn(c.shape), 0.4
    theirs = apg_of_diffusers.normalized_guidance(
        x - sigma * c, x - sigma * u, 3.5, None, 0.2, 1.0, use_original_formulation=True
    )
    found = cfg_formulas.apg(
        c, u, 4.5, APG(0.2, 0.0, 1.0), cfg_formulas.MomentumBuffer(), DataSpace(x, 1.0, -sigma)
    )
    torch.testing.assert_close(found, (x - theirs) / sigma)


def test_apg_without_all_three_is_cfg(predictions: tuple[Tensor, Tensor]) -> None:
    c, u = predictions
    found = cfg_formulas.apg(
        c,
        u,
        4.5,
        APG(1.0, 0.0, 0.0),
        cfg_formulas.MomentumBuffer(),
        DataSpace(torch.randn(c.shape), 1.0, -0.3),
    )
    torch.testing.assert_close(found, u + 4.5 * (c - u))


def test_tangential_is_that_of_diffusers(predictions: tuple[Tensor, Tensor]) -> None:
    c, u = predictions
    torch.testing.assert_close(
        cfg_formulas.tangential_cfg(c, u, 4.5),
        tcfg_of_diffusers.normalized_guidance(c, u, 4.5),
        atol=1e-4,
        rtol=1e-4,
    )
    assert not torch.allclose(cfg_formulas.tangential_cfg(c, u, 4.5), u + 4.5 * (c - u), atol=0.1)


def test_zero_star_is_that_of_diffusers(predictions: tuple[Tensor, Tensor]) -> None:
    c, u = predictions
    guider = zero_of_diffusers.ClassifierFreeZeroStarGuidance(guidance_scale=4.5, zero_init_steps=1)
    for step in (0, 1):
        guider.set_state(step, 4, torch.tensor(0).long())  # type: ignore[arg-type]
        theirs = guider.forward(c, u).pred
        torch.testing.assert_close(
            torch.zeros_like(c) if step == 0 else cfg_formulas.cfg_zero_star(c, u, 4.5), theirs
        )


@pytest.mark.parametrize("rule", [cfg_formulas.cfg_zero_star, cfg_formulas.tangential_cfg])
def test_each_sample_by_itself_and_nothing_divided_by_zero(
    predictions: tuple[Tensor, Tensor], rule: Callable[..., Tensor]
) -> None:
    c, u = predictions
    both = rule(c, u, 3.0)
    for i in range(len(c)):
        torch.testing.assert_close(
            both[i : i + 1], rule(c[i : i + 1], u[i : i + 1], 3.0), atol=1e-5, rtol=1e-5
        )
    assert torch.isfinite(rule(c, torch.zeros_like(u), 3.0)).all()
    assert torch.isfinite(rule(torch.zeros_like(c), torch.zeros_like(u), 3.0)).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_rules_in_half_precision_are_those_of_float32(
    predictions: tuple[Tensor, Tensor], dtype: torch.dtype
) -> None:
    """Although the squares of these predictions are beyond float16."""
    c, u = ((300 * value).to(dtype) for value in predictions)

    def all_rules(c: Tensor, u: Tensor) -> list[Tensor]:
        apg = cfg_formulas.apg(
            c, u, 3.0, APG(0.3, 0.0, 500.0, "prediction"), cfg_formulas.MomentumBuffer()
        )
        return [apg, cfg_formulas.cfg_zero_star(c, u, 3.0), cfg_formulas.tangential_cfg(c, u, 3.0)]

    for found, exact in zip(all_rules(c, u), all_rules(c.double(), u.double()), strict=True):
        assert found.dtype == dtype
        torch.testing.assert_close(
            found.double(), exact, rtol=0, atol=0.01 * float(exact.abs().max())
        )


# --- predictions and data -------------------------------------------------------------------------


@pytest.mark.parametrize("predicts", ["epsilon", "sample", "v_prediction"])
@pytest.mark.parametrize(
    "name", ["EulerDiscreteScheduler", "DDIMScheduler", "DPMSolverMultistepScheduler"]
)
def test_estimates_of_the_data_are_those_of_the_scheduler(name: str, predicts: str) -> None:
    """Against what the schedulers themselves make of a prediction."""
    import diffusers

    more = {"clip_sample": False, "timestep_spacing": "trailing"} if name == "DDIMScheduler" else {}
    scheduler = getattr(diffusers, name)(
        prediction_type=predicts, beta_schedule="scaled_linear", **more
    )
    scheduler.set_timesteps(10)
    x, F = torch.randn(2, 8, dtype=torch.float64)
    t = scheduler.timesteps[4]
    level = noise_levels.noise_levels(scheduler)[0][4]
    a, b = noise_levels.data_coefficients(
        scheduler, noise_levels.scheduler_kind(scheduler), level, "this"
    )
    if name == "DPMSolverMultistepScheduler":
        scheduler._init_step_index(t)
        theirs = scheduler.convert_model_output(F, sample=x)
    else:
        if name == "EulerDiscreteScheduler":
            scheduler.scale_model_input(x, t)
        theirs = scheduler.step(F, t, x).pred_original_sample
    torch.testing.assert_close(a * x + b * F, theirs.double(), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", ["usual", "inverted", "open-sora"])
def test_estimates_of_flows_end_where_the_last_step_does(name: str) -> None:
    """Its last step goes to noise level 0, which is the estimate."""
    from diffusers.schedulers.scheduling_flow_match_euler_discrete import (
        FlowMatchEulerDiscreteScheduler,
    )

    if name == "open-sora":
        scheduler: Any = OpenSoraRFlowScheduler()
        scheduler.set_timesteps(2, height=240, width=426, num_frames=51)
    else:
        scheduler = FlowMatchEulerDiscreteScheduler(invert_sigmas=name == "inverted")
        scheduler.set_timesteps(sigmas=[1.0, 0.6])
    x, v = torch.randn(2, 8)
    scheduler.set_begin_index(1)
    level = noise_levels.noise_levels(scheduler)[0][1]
    assert 0.5 < level < 0.9
    a, b = noise_levels.data_coefficients(scheduler, "flow", level, "this")
    torch.testing.assert_close(
        a * x + b * v, scheduler.step(v, scheduler.timesteps[1], x).prev_sample
    )


def test_estimates_of_flows_are_the_data_that_a_sample_was_made_of() -> None:
    """In closed form: x = (1 - s) x_0 + s eps and the velocity between the two, which Open-Sora has
    the other way."""
    x_0, noise, s = torch.randn(8), torch.randn(8), 0.3
    schedulers: list[tuple[Any, Tensor]] = [
        (OpenSoraRFlowScheduler(), x_0 - noise),
        (UniPCMultistepScheduler(**FLOW), noise - x_0),
    ]
    for scheduler, velocity in schedulers:
        a, b = noise_levels.data_coefficients(
            scheduler, noise_levels.scheduler_kind(scheduler), s, "this"
        )
        torch.testing.assert_close(a * ((1 - s) * x_0 + s * noise) + b * velocity, x_0)


# --- whole pipelines ------------------------------------------------------------------------------


def star(c: Tensor, u: Tensor, g: Any) -> Tensor:
    """With diffusers' factor."""
    factor = zero_of_diffusers.cfg_zero_star_scale(c.flatten(1), u.flatten(1)).view(
        -1, *[1] * (c.ndim - 1)
    )
    return factor * u + g * (c - factor * u)


UNKNOWN = ("Helios", "HunyuanVideoFramepack", "LTXI2VLong", "AnyFlow")
"""Several runs in one call, or CFG of their own: the oracle plays one run."""


def guidable(name: str) -> bool:
    return not name.startswith(UNKNOWN)


def one_of_each_kind() -> list[str]:
    """The first pipeline of each family and way of calling the denoiser."""
    ways = {
        (row.name, calls): next(name for name in tiny.builders() if name.split()[0] == pipeline)
        for row in FAMILIES
        for pipeline, calls in reversed(list(row.pipelines.items()))
        if calls.cfg_mode != "none"
    }
    return sorted(filter(guidable, ways.values()))


@pytest.mark.parametrize("name", one_of_each_kind())
def test_zero_star_in_a_pipeline_of_each_kind(name: str) -> None:
    given = tiny.tiny(name)
    with guide(given.pipe, cfg=CFGZero(zero_steps=0)):
        found = oracle.run(given, **given.short)
    expected = played(given, on_prediction(given, star))
    plain = oracle.run(given, **given.short)
    assert (expected - plain).abs().max() > 10 * given.atol, "the rule must matter"
    torch.testing.assert_close(found, expected, atol=5 * given.atol, rtol=1e-4)


@pytest.mark.parametrize(
    "name",
    [
        "WanPipeline",
        "WanPipeline 2.2",
        "MochiPipeline",
        "StableVideoDiffusionPipeline",
        "LattePipeline",
    ],
)
def test_apg_and_tcfg_in_pipelines(name: str) -> None:
    given = tiny.tiny(name)
    buffer = apg_of_diffusers.MomentumBuffer(-0.5)

    def apg(c: Tensor, u: Tensor, g: Any) -> Tensor:
        return apg_of_diffusers.normalized_guidance(
            c, u, g - 1, buffer, 0.1, 3.0, use_original_formulation=True
        )

    def tcfg(c: Tensor, u: Tensor, g: Any) -> Tensor:
        return tcfg_of_diffusers.normalized_guidance(c, u, g)

    for rule, theirs in ((APG(0.1, -0.5, 3.0, "prediction"), apg), (TCFG(), tcfg)):
        with guide(given.pipe, cfg=rule):
            found = oracle.run(given, **given.short)
            buffer.running_average = 0
            again = oracle.run(given, **given.short)
        assert torch.equal(found, again)  # the momentum begins anew
        expected = played(given, on_prediction(given, theirs))
        torch.testing.assert_close(found, expected, atol=20 * given.atol, rtol=1e-3)


@pytest.mark.parametrize(
    ("name", "sign", "noise"),
    [("WanPipeline", -1, ()), ("OpenSoraPipeline", 1, ()), ("OpenSoraPipeline", 1, SHAPE)],
)
def test_apg_of_estimates_in_a_flow_pipeline(name: str, sign: int, noise: tuple[int, ...]) -> None:
    """x_0 = x -+ sigma v, with sigma and x as the pipeline's scheduler and its calls have them.

    Open-Sora's loop is in a method of its own: noise that is given to its call is not what the
    steps work on."""
    given, rule = tiny.tiny(name), APG(0.0, 0.0, 3.0)
    options = {**given.short, **({"latents": torch.randn(noise)} if noise else {})}
    with guide(given.pipe, cfg=rule), oracle.listening(given) as heard:
        found = oracle.run(given, **options)
    sigmas = given.pipe.scheduler.sigmas.tolist()
    rows = given.call["prompt_embeds"].shape[0]
    inputs = [call.kwargs["hidden_states"] for call in heard[:: len(heard) // 2]]
    assert len(inputs[0]) == rows  # of halves, too

    def D(i: int, _: int, c: Tensor, u: Tensor, g: Any) -> Tensor:
        x, b = inputs[i], sign * sigmas[i]
        c, u, variance = (
            (c.chunk(2, 1)[0], u.chunk(2, 1)[0], [c.chunk(2, 1)[1]])
            if given.variance
            else (c, u, [])
        )
        guided = apg_of_diffusers.normalized_guidance(
            x + b * c, x + b * u, g - 1, None, 0.0, 3.0, use_original_formulation=True
        )
        return torch.cat([(guided - x) / b, *variance], 1)

    torch.testing.assert_close(found, played(given, D, **options), atol=1e-4, rtol=1e-3)
    with guide(given.pipe, cfg=APG(0.0, 0.0, 3.0, "prediction")):
        assert not torch.allclose(
            oracle.run(given, **options), found, atol=1e-3
        )  # the space matters


def test_push_is_added_to_what_the_rule_gives() -> None:
    """And rescaling comes last: with STG, the rule and phi together, from separate passes."""
    given = tiny.tiny("WanPipeline")
    attentions = ["attn1"]
    with guide(given.pipe, STG([1], 1.3), cfg=CFGZero(0), rescale=0.7):
        found = oracle.run(given, **given.short)

    def D(i: int, k: int, c: Tensor, u: Tensor, g: Any) -> Tensor:
        step, _ = oracle.calls_of_step(given, i, done, dict(given.short))
        weak = oracle.weakened(step.calls[0].model, ["blocks.1"], "residual", attentions)
        with torch.no_grad():
            p = oracle.samples(weak(**step.cond))[0]
        guided = star(c, u, g) + 1.3 * (c - p)
        dims = tuple(range(1, c.ndim))
        guided = guided * (0.7 * c.std(dims, keepdim=True) / guided.std(dims, keepdim=True) + 0.3)
        done.extend([[guided]] * 2)
        return guided

    done: list[list[Tensor]] = []
    torch.testing.assert_close(found, played(given, D), atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize(
    ("name", "flow"),
    [
        ("WanPipeline", -1),
        ("LTXPipeline", -1),
        ("OpenSoraPipeline", 1),
        ("CogVideoXPipeline", 0),
        ("LattePipeline", 0),
    ],
)
def test_rescaling_of_estimates(name: str, flow: int) -> None:
    """By hand: predictions to estimates of the data, Algorithm 4 on these, and back."""
    given, phi, inputs, coefficients = tiny.tiny(name), 0.7, [], []
    g_of_run = {given.g: 4.0}

    def look(pipe: Any, i: int, t: Any, kwargs: dict[str, Tensor]) -> dict[str, Tensor]:
        inputs.append(kwargs["latents"].clone())
        return kwargs

    with guide(given.pipe, STG([1], 1.0), rescale=phi, rescale_space="data"):
        found = oracle.run(given, **given.short, **g_of_run, callback_on_step_end=look)
    scheduler = given.pipe.scheduler
    if flow:
        coefficients = [(1.0, flow * sigma) for sigma in scheduler.sigmas.tolist()[:-1]]
    else:
        kept = [scheduler.alphas_cumprod[int(t)].item() for t in scheduler.timesteps]
        v = scheduler.config.prediction_type == "v_prediction"
        coefficients = [
            (ab**0.5, -((1 - ab) ** 0.5)) if v else (ab**-0.5, -((1 / ab - 1) ** 0.5))
            for ab in kept
        ]
    with oracle.listening(given) as heard:
        oracle.run(given, **given.short, **g_of_run)
    first = heard[0].kwargs["hidden_states"]
    first = first.chunk(2)[1] if len(first) > 2 else first
    x = [
        (
            first.transpose(1, 2)
            if name == "LattePipeline" and first.shape != inputs[0].shape
            else first
        ),
        *inputs,
    ]

    def D(i: int, _: int, c: Tensor, u: Tensor, g: Any) -> Tensor:
        step, _ = oracle.calls_of_step(given, i, done, {**given.short, **g_of_run})
        paths = [f"{stack}.1" for stack in STACKS.get(name, ["transformer_blocks"])]
        weak = oracle.weakened(step.calls[0].model, paths, "residual", [])
        with torch.no_grad():
            p = oracle.samples(weak(**step.cond))[0]
        guided, (a, b) = u + g * (c - u) + (c - p), coefficients[i]
        half = c.shape[1] // 2 if given.variance else c.shape[1]
        data, pushed = (a * x[i] + b * prediction[:, :half] for prediction in (c, guided))
        dims = tuple(range(1, c.ndim))
        pushed = pushed * (
            phi * data.std(dims, keepdim=True) / pushed.std(dims, keepdim=True) + 1 - phi
        )
        guided = torch.cat([(pushed - a * x[i]) / b, guided[:, half:]], 1)
        done.extend([[torch.cat([guided, guided])]] if step.batched else [[guided]] * 2)
        return guided

    done: list[list[Tensor]] = []
    expected = played(given, D, **g_of_run)
    torch.testing.assert_close(found, expected, atol=3e-4, rtol=1e-3)
    with guide(given.pipe, STG([1], 1.0), rescale=phi):
        assert not torch.allclose(oracle.run(given, **given.short, **g_of_run), found, atol=3e-3)


def test_rescaling_holds_where_only_a_rule_does() -> None:
    given = tiny.tiny("WanPipeline")
    with guide(given.pipe, cfg=CFGZero(0), rescale=1.0):
        found = oracle.run(given, **given.short)

    def rescaled(c: Tensor, u: Tensor, g: Any) -> Tensor:
        dims, D = tuple(range(1, c.ndim)), star(c, u, g)
        return D * c.std(dims, keepdim=True) / D.std(dims, keepdim=True)

    torch.testing.assert_close(
        found, played(given, on_prediction(given, rescaled)), atol=1e-4, rtol=1e-3
    )
    for cfg in (None, Interval()):
        with pytest.raises(
            ValueError,
            match=r"rescale acts on steps with a term or a CFG rule, but got 0\.5 without any",
        ):
            guide(given.pipe, cfg=cfg, restart=Restart(window=(0.0, 0.5)), rescale=0.5)


# --- an interval, and steps that stand still ------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["MochiPipeline", "WanPipeline", "HunyuanVideoPipeline", "StableVideoDiffusionPipeline"]
)
def test_interval_is_a_run_without_cfg_outside_of_it(name: str) -> None:
    given = tiny.tiny(name)
    with guide(given.pipe, cfg=Interval((0.5, 1.0))) as handle:
        found = oracle.run(given, **FOUR)
    returns: list[list[Tensor]] = []
    for i in range(2):
        step, _ = oracle.calls_of_step(given, i, returns, FOUR)
        returns += [[torch.cat([c, c]) for c in step.c] if step.batched else step.c] * len(
            step.calls
        )
    with oracle.playing(given, returns):
        torch.testing.assert_close(found, oracle.run(given, **FOUR), atol=given.atol, rtol=1e-5)
    assert handle.passes_per_step == 1.5


def test_interval_does_not_compute_what_nobody_reads() -> None:
    # two steps on c alone, and two with CFG: on both in one call, or in two calls
    for name, expected in (("MochiPipeline", 4), ("WanPipeline", 6)):
        given = tiny.tiny(name)
        ran: list[int] = []
        block = given.pipe.transformer.get_submodule(
            "transformer_blocks" if name[0] == "M" else "blocks"
        )[0]
        hook = block.register_forward_pre_hook(lambda *_, ran=ran: ran.append(1))
        with guide(given.pipe, cfg=Interval((0.5, 1.0))):
            oracle.run(given, **FOUR)
        hook.remove()
        assert len(ran) == expected, name


def test_interval_with_terms_and_repeated_steps() -> None:
    """Outside of it D is c + push; and a window speaks of the usual steps."""
    given = tiny.tiny("WanPipeline")
    with guide(
        given.pipe, STG([1], 1.3), cfg=Interval((0.0, 0.25)), restart=Restart(window=(0.0, 0.5))
    ) as handle:
        assert torch.isfinite(oracle.run(given, **FOUR)).all()
    assert handle.passes.steps == 6
    assert handle.passes.unweakened == 8


def test_first_steps_stand_still() -> None:
    given = tiny.tiny("MochiPipeline")
    seen: list[Tensor] = []

    def look(pipe: Any, i: int, t: Any, kwargs: dict[str, Tensor]) -> dict[str, Tensor]:
        seen.append(kwargs["latents"].clone())
        return kwargs

    with guide(given.pipe, STG([1], 1.0), cfg=CFGZero(zero_steps=2)) as handle:
        oracle.run(given, **FOUR, callback_on_step_end=look)
    assert torch.equal(seen[0], seen[1])
    assert not torch.equal(seen[1], seen[2])
    assert sum(handle.passes.weak_runs.values()) == 2  # no weak pass for what is zero


def test_nothing_moves_at_a_zero_step_beside_guidance_of_the_pipelines_own() -> None:
    """LTX-2 adds its own STG to what comes back, and it has to be zero too."""
    given = tiny.tiny("LTX2Pipeline")
    seen: list[Tensor] = []

    def look(pipe: Any, i: int, t: Any, kwargs: dict[str, Tensor]) -> dict[str, Tensor]:
        seen.append(kwargs["latents"].clone())
        return {}

    own = dict(
        stg_scale=1.0, audio_stg_scale=1.0, spatio_temporal_guidance_blocks=[3], modality_scale=3.0
    )
    with guide(given.pipe, cfg=CFGZero(zero_steps=2)):
        oracle.run(given, **FOUR, **own, callback_on_step_end=look)
    assert torch.equal(seen[0], seen[1])
    assert not torch.equal(seen[1], seen[2])


@pytest.mark.parametrize(
    ("name", "rule", "options", "message"),
    [
        (
            "LTXPipeline",
            CFGZero(),
            {"guidance_rescale": 0.7},
            "but the pipeline's own guidance_rescale is on. Pass",
        ),
        (
            "MochiPipeline",
            CFGZero(zero_steps=4),
            {},
            "zero_steps must leave steps to do, but got 4 of the 4",
        ),
        (
            "MochiPipeline",
            Interval((0.3, 0.4)),
            {},
            "the window start=0.3, stop=0.4 must select a step",
        ),
        (
            "SkyReelsV2DiffusionForcingPipeline async",
            APG(),
            {},
            "needs a noise level for each step, but this run has",
        ),
    ],
)
def test_what_a_run_cannot_have(
    name: str, rule: Any, options: dict[str, Any], message: str
) -> None:
    given = tiny.tiny(name)
    with guide(given.pipe, cfg=rule), pytest.raises(ValueError, match=message):
        oracle.run(given, **FOUR, **options)


def test_momentum_and_reuse_begin_anew_where_a_run_drops_frames() -> None:
    """ChronoEdit thinks in many frames and goes on with the first and the last of them."""
    given = tiny.tiny("ChronoEditPipeline")
    options = dict(
        FOUR, num_frames=9, enable_temporal_reasoning=True, num_temporal_reasoning_steps=2
    )
    with oracle.listening(given) as calls:
        oracle.run(given, **options)
    assert len({call.kwargs["hidden_states"].shape for call in calls}) == 2
    rule = APG(momentum=-0.5, space="prediction")
    with guide(given.pipe, STG([1], 1.0, every=3), cfg=rule) as handle:
        assert oracle.run(given, **options).isfinite().all()
    assert sum(handle.passes.weak_runs.values()) == 2


# --- errors ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: APG(eta=-1), "eta must be a finite number >= 0, but got -1"),
        (lambda: APG(momentum=2), "momentum must be a number from -1 to 1 .0 is off., but got 2"),
        (
            lambda: APG(norm_threshold=float("nan")),
            "norm_threshold must be a finite number >= 0 .0 is off., but got nan",
        ),
        (lambda: APG(space="x0"), 'space must be "data" or "prediction", but got'),
        (lambda: CFGZero(zero_steps=-1), "zero_steps must be a whole number from 0, but got -1"),
        (lambda: CFGZero(zero_steps=0.5), "zero_steps must be a whole number from 0"),  # type: ignore[arg-type]
        (lambda: Interval((0.5, 0.5)), "window must be two numbers with 0 <= low < high <= 1"),
        (lambda: Interval(0.5), "window must be two numbers"),  # type: ignore[arg-type]
    ],
)
def test_errors_of_rules(make: Callable[[], Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(
    ("name", "rule", "changes", "message"),
    [
        (
            "MochiPipeline",
            TCFG(),
            {"guidance_scale": 1.0},
            "TCFG needs CFG, for it is a rule for u and c",
        ),
        ("LattePipeline", CFGZero(), {}, "zero_steps above 0 needs flow matching"),
        (
            "CosmosTextToWorldPipeline",
            APG(),
            {},
            'the pipeline keeps that to itself. Use space="prediction"',
        ),
        (
            "AllegroPipeline",
            APG(),
            {},
            "APG in the space of the data .* this pipeline has EulerAncestralDiscreteSched",
        ),
        (
            "CogVideoXPipeline",
            TCFG(),
            {"use_dynamic_cfg": True},
            "need the guidance scale of the step",
        ),
    ],
)
def test_errors_of_runs(name: str, rule: Any, changes: dict[str, Any], message: str) -> None:
    given = tiny.tiny(name)
    with guide(given.pipe, cfg=rule), pytest.raises(ValueError, match=message):
        oracle.run(given, **given.short, **changes)


def test_what_data_is_must_be_known_before_the_first_step() -> None:
    given = tiny.tiny("CosmosTextToWorldPipeline")
    with (
        guide(given.pipe, cfg=APG()) as handle,
        pytest.raises(ValueError, match="keeps that to itself"),
    ):
        oracle.run(given, **given.short)
    assert handle.passes.steps == 0


def test_space_of_a_rescaling_that_is_off_does_not_matter() -> None:
    given = tiny.tiny("AllegroPipeline")  # whose scheduler does not tell what data is
    with guide(given.pipe, STG([1], 1.0)):
        plain = oracle.run(given, **given.short)
    with guide(given.pipe, STG([1], 1.0), rescale_space="data"):
        assert torch.equal(oracle.run(given, **given.short), plain)
    with guide(given.pipe, STG([1], 1.0), rescale=0.5, rescale_space="data"):  # noqa: SIM117
        with pytest.raises(
            ValueError, match=r"rescaling in the space of the data \(rescale_space=\"data\"\) needs"
        ):
            oracle.run(given, **given.short)


def test_rule_of_another_kind_is_refused() -> None:
    pipe = tiny.tiny("MochiPipeline").pipe
    with pytest.raises(
        ValueError, match=r"cfg must be one of APG, APGMix, .*TCFG, but got 4\.5\. Write cfg=APG"
    ):
        guide(pipe, cfg=4.5)  # type: ignore[arg-type]
