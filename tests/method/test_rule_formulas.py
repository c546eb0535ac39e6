"""The rules of CFG that need no pass: their formulas against diffusers' guiders and schedulers, and
against closed forms. test_cfg_rules.py has the older ones, and whole pipelines."""

from __future__ import annotations

import math
import typing
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import schedulers as known_schedulers
from diffusers.guiders import adaptive_projected_guidance_mix as mix_of_diffusers
from diffusers.guiders import magnitude_aware_guidance as mambo_of_diffusers

from skipguide.generate import flags
from skipguide.method import cfg_formulas, cfg_rules, rule_table
from skipguide.method.cfg_formulas import MomentumBuffer, RuleContext
from skipguide.method.cfg_rules import APG, C2FG, FDG, MAMBOG, TAG, TCFG, APGMix, CFGZero
from skipguide.method.request import GuidanceRequest, read_cfg_rule
from skipguide.pipeline import noise_levels
from support import pyramids

Tensor = torch.Tensor
SHAPES = [(3, 4, 16, 8), (2, 4, 3, 8, 12)]  # images; videos (B, C, F, H, W)
REFERENCE = Path(__file__).parents[1] / "support" / "references" / "kornia-pyramid.safetensors"


def draw(shape: tuple[int, ...], seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """c, u and latents; samples of unlike lengths, so that those of a batch are not those of
    one."""
    generator = torch.Generator().manual_seed(seed)
    c, other, x = (torch.randn(shape, generator=generator) for _ in range(3))
    factors = torch.linspace(0.5, 2.0, shape[0]).view(-1, *[1] * (len(shape) - 1))
    return factors * c, factors * c + 0.3 * other, 1.5 * x


# --- MAMBO-G, APG of HunyuanImage, C2FG -----------------------------------------------------------


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("alpha", [0.0, 2.0, 8.0])
def test_mambo_g_is_that_of_diffusers(shape: tuple[int, ...], alpha: float) -> None:
    """Which stops at more than two dimensions beside the batch, for torch.norm does: rows here."""
    c, u, _ = draw(shape)
    guider = mambo_of_diffusers.MagnitudeAwareGuidance(guidance_scale=4.5, alpha=alpha)
    found = cfg_formulas.magnitude_aware_cfg(c, u, 4.5, alpha)
    theirs = guider.forward(c.flatten(1), u.flatten(1)).pred
    torch.testing.assert_close(found.flatten(1), theirs)
    ratio = [float((a - b).norm() / b.norm()) for a, b in zip(c, u, strict=True)]
    assert len({round(one, 3) for one in ratio}) > 1, "each sample must have its own"
    for i, r in enumerate(ratio):  # the paper's w(r)
        w = 1 + 3.5 * math.exp(-alpha * r)
        torch.testing.assert_close(found[i], u[i] + w * (c[i] - u[i]))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("eta", "momentum", "threshold"), [(0.0, -0.5, 10.0), (0.4, 0.0, 0.0)])
def test_apg_mix_is_that_of_diffusers(
    shape: tuple[int, ...], eta: float, momentum: float, threshold: float
) -> None:
    """Over a run of 8 steps whose APG begins at the fourth; the momentum is of all of them."""
    guider = mix_of_diffusers.AdaptiveProjectedMixGuidance(
        3.5, adaptive_projected_guidance_scale=9.0,
        adaptive_projected_guidance_momentum=momentum,
        adaptive_projected_guidance_rescale=threshold, eta=eta,
        adaptive_projected_guidance_start_step=2,
    )  # fmt: skip
    guider.momentum_buffer = mix_of_diffusers.MomentumBuffer(momentum) if momentum else None
    rule, memory = APGMix(9.0, 3 / 8, eta, momentum, threshold), MomentumBuffer()
    for step in range(8):
        c, u, _ = draw(shape, step)
        guider.set_state(step, 8, torch.tensor(0).long())  # type: ignore[arg-type]
        found = cfg_formulas.apg_mix(c, u, 3.5, rule, memory, step / 8)
        torch.testing.assert_close(found, guider.forward(c, u).pred, atol=1e-5, rtol=1e-5)


def test_c2fg_grows_from_g_to_g_times_e_to_the_rate() -> None:
    c, u, _ = draw(SHAPES[1])
    for time, w in ((1.0, 2.0), (0.5, 2.0 * math.sqrt(3)), (0.0, 6.0)):
        found = cfg_formulas.control_cfg(c, u, 2.0, math.log(3), time)
        torch.testing.assert_close(found, u + w * (c - u))


@pytest.mark.parametrize(
    ("name", "config", "first", "last"),
    [
        ("FlowMatchEulerDiscreteScheduler", dict(shift=3.0), 1.0, 9 / 1008),
        ("FlowMatchEulerDiscreteScheduler", dict(invert_sigmas=True), 1.0, 1 / 1000),
        ("DDIMScheduler", dict(timestep_spacing="trailing"), 0.999, 0.099),
        ("EulerDiscreteScheduler", dict(timestep_spacing="trailing"), 0.999, 0.099),
        (
            "EulerDiscreteScheduler",
            dict(timestep_type="continuous", sigma_min=0.7, sigma_max=700, use_karras_sigmas=True),
            1.0,
            0.001,
        ),
    ],
)  # fmt: skip
def test_times_of_a_run(name: str, config: dict[str, Any], first: float, last: float) -> None:
    scheduler = getattr(known_schedulers, name)(**config)
    scheduler.set_timesteps(10)
    times = noise_levels.run_times(scheduler, "this")
    assert times == sorted(times, reverse=True)
    assert times[0] == pytest.approx(first, abs=2e-3)
    assert times[-1] == pytest.approx(last, abs=2e-3)


# --- FDG ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("levels", [2, 3])
def test_pyramid_is_that_of_matrices(levels: int) -> None:
    frames = torch.randn(2, 3, 2, 16, 24, dtype=torch.float64)
    found = cfg_formulas.laplacian_pyramid(frames, levels)
    expected = pyramids.take_apart(frames.numpy(), levels)
    assert len(found) == levels
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, torch.from_numpy(b))


def test_pyramid_is_that_of_kornia() -> None:
    """Its numbers were kept (kornia 0.9.0, `build_laplacian_pyramid`), for it is no dependency."""
    from safetensors.torch import load_file

    kept = load_file(REFERENCE)
    found = cfg_formulas.laplacian_pyramid(kept["frames"], 3)
    for i, band in enumerate(found):
        torch.testing.assert_close(band, kept[f"band {i}"])


@pytest.mark.parametrize("gains", [(1.0, 0.5), (2.25, 1.0), (1.0, 0.7, 0.0)])
def test_fdg_by_matrices(gains: tuple[float, ...]) -> None:
    c, u, _ = draw((2, 4, 3, 16, 8))
    scales = [1 + gain * (5.0 - 1) for gain in gains]
    D = pyramids.guided(c.double().numpy(), u.double().numpy(), scales)
    found = cfg_formulas.frequency_decoupled_cfg(c, u, 5.0, gains)
    torch.testing.assert_close(found, torch.from_numpy(D).float(), atol=1e-4, rtol=1e-4)


def test_fdg_is_that_of_diffusers() -> None:
    """Where kornia is installed, without which diffusers' guider does not run."""
    pytest.importorskip("kornia")
    from diffusers.guiders.frequency_decoupled_guidance import FrequencyDecoupledGuidance

    c, u, _ = draw((2, 4, 16, 8))
    guider = FrequencyDecoupledGuidance([9.0, 5.0, 3.0])
    found = cfg_formulas.frequency_decoupled_cfg(c, u, 5.0, (2.0, 1.0, 0.5))
    torch.testing.assert_close(found, guider.forward(c, u).pred, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("size", [(15, 9), (17, 22), (6, 7)])
def test_frames_of_any_size_come_back(size: tuple[int, int]) -> None:
    """kornia pads such sizes to powers of two and leaves them so, or stops."""
    c, u, _ = draw((2, 4, 3, *size))
    found = cfg_formulas.frequency_decoupled_cfg(c, u, 5.0, (1.0, 1.0, 1.0))
    assert found.shape == c.shape
    torch.testing.assert_close(found, u + 5.0 * (c - u), atol=1e-5, rtol=1e-5)


def test_bands_are_those_of_height_and_width() -> None:
    """Where channels come last too; and a frame does not touch another."""
    c, u, _ = draw((2, 4, 3, 16, 8))
    rule, gains = cfg_formulas.frequency_decoupled_cfg, (1.0, 0.5)
    found = rule(c, u, 5.0, gains)
    last = rule(c.permute(0, 2, 3, 4, 1), u.permute(0, 2, 3, 4, 1), 5.0, gains, "bthwc")
    torch.testing.assert_close(last, found.permute(0, 2, 3, 4, 1))
    alone = rule(c[:, :, :1], u[:, :, :1], 5.0, gains)
    torch.testing.assert_close(alone, found[:, :, :1])


@pytest.mark.parametrize(
    ("shape", "levels", "message"),
    [
        ((2, 12, 4), 2, r"but those of this model are rows of tokens, \(2, 12, 4\)"),
        ((2, 4, 3, 5, 8), 3, "FDG with 3 bands needs latents of 6 x 6 at least, but got 5 x 8"),
    ],
)
def test_what_has_no_pyramid(shape: tuple[int, ...], levels: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        cfg_formulas.check_pyramid(shape, levels)
    with pytest.raises(ValueError, match=message):
        cfg_formulas.laplacian_pyramid(torch.zeros(shape), levels)


# --- TAG ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(
    ("name", "config"),
    [
        ("FlowMatchEulerDiscreteScheduler", dict(shift=3.0)),
        ("FlowMatchEulerDiscreteScheduler", dict(invert_sigmas=True)),
        ("DDIMScheduler", dict(clip_sample=False, prediction_type="epsilon")),
        ("DDIMScheduler", dict(clip_sample=False, prediction_type="v_prediction")),
        ("DDIMScheduler", dict(clip_sample=False, prediction_type="sample")),
        ("EulerDiscreteScheduler", dict(prediction_type="v_prediction")),
    ],
)
def test_tag_is_the_step_of_a_scheduler_divided(
    name: str, config: dict[str, Any], shape: tuple[int, ...]
) -> None:
    """Algorithm 2: the scheduler's step, its parts along and across the latents, one of them
    longer. Here the prediction is divided, and the scheduler makes its step of it."""
    scheduler = getattr(known_schedulers, name)(**config)
    prediction, _, x = draw(shape)

    def step(model_output: Tensor) -> Tensor:
        scheduler.set_timesteps(10)
        t = scheduler.timesteps[4]
        if hasattr(scheduler, "set_begin_index"):
            scheduler.set_begin_index(4)
        if hasattr(scheduler, "scale_model_input"):
            scheduler.scale_model_input(x, t)
        return scheduler.step(model_output, t, x, return_dict=False)[0]

    change = (step(prediction) - x).double().flatten(1)
    unit = torch.nn.functional.normalize(x.double().flatten(1))
    along = (change * unit).sum(1, keepdim=True) * unit
    expected = x.double() + (along + 1.3 * (change - along)).reshape(shape)
    found = step(cfg_formulas.amplify_tangential(prediction, x, 1.3))
    torch.testing.assert_close(found.double(), expected, atol=2e-4, rtol=1e-4)
    assert (found - step(prediction)).abs().max() > 1e-3


@pytest.mark.parametrize("shape", SHAPES)
def test_tag_for_cfg_is_that_of_scores(shape: tuple[int, ...]) -> None:
    """Algorithm 3, of noise and its scores, from velocities of a flow at s = 0.4."""
    c, u, x = draw(shape)
    s, g, align = 0.4, 4.5, 20.0
    scores = [-(x + (1 - s) * v).double() / s for v in (c, u)]
    unit = torch.nn.functional.normalize(x.double().flatten(1)).reshape(shape)
    dims = tuple(range(1, len(shape)))

    def across(z: Tensor) -> Tensor:
        return z - (z * unit).sum(dims, keepdim=True) * unit

    difference = across(scores[0]) - across(scores[1])
    ratio = (scores[0] * difference).sum(dims, keepdim=True)
    aligned = ratio / difference.square().sum(dims, keepdim=True) * difference
    guided = scores[1] + g * (scores[0] - scores[1]) + align * aligned
    expected = (-s * guided - x) / (1 - s)  # noise, then a velocity again
    found = cfg_formulas.aligned_cfg(c, u, g, x, align)
    torch.testing.assert_close(found.double(), expected, atol=1e-3, rtol=1e-4)
    assert (found - (u + g * (c - u))).abs().max() > 0.1


def test_tag_leaves_the_length_of_a_step_along_the_latents() -> None:
    """Eq. 22, and nothing at all with eta = 1."""
    c, _, x = draw(SHAPES[1])
    found = cfg_formulas.amplify_tangential(c, x, 1.2)
    dims = (1, 2, 3, 4)
    torch.testing.assert_close((found * x).sum(dims), (c * x).sum(dims), atol=1e-3, rtol=1e-4)
    torch.testing.assert_close(cfg_formulas.amplify_tangential(c, x, 1.0), c)


# --- all of them ----------------------------------------------------------------------------------

RULES: list[Any] = [
    APG(0.3, 0.0, 2.0, "prediction"), APGMix(9.0, 0.2, 0.1, 0.0, 2.0), C2FG(0.7), CFGZero(0),
    FDG((1.5, 0.5)), MAMBOG(3.0), TAG(1.2, align=0.5), TCFG(),
]  # fmt: skip


def guided(rule: Any, c: Tensor, u: Tensor, x: Tensor, g: Any = 3.0) -> Tensor:
    context = RuleContext(MomentumBuffer(), progress=0.5, time=0.4, latents=x)
    function = rule_table.cfg_function(rule, context)
    assert function is not None
    D, finish = function(c, u, g), rule_table.finish_function(rule, context)
    return D if finish is None else finish(D)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: type(rule).__name__)
def test_each_sample_by_itself_and_nothing_divided_by_zero(rule: Any) -> None:
    c, u, x = draw(SHAPES[1])
    both = guided(rule, c, u, x)
    for i in range(len(c)):
        one = guided(rule, *(value[i : i + 1] for value in (c, u, x)))
        torch.testing.assert_close(both[i : i + 1], one, atol=1e-5, rtol=1e-5)
    zero = torch.zeros_like(c)
    for values in ((c, zero, x), (zero, zero, x), (zero, u, zero), (c, c, x)):
        assert torch.isfinite(guided(rule, *values)).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("rule", RULES, ids=lambda rule: type(rule).__name__)
def test_half_precision_is_that_of_float32(rule: Any, dtype: torch.dtype) -> None:
    """Although the squares of these predictions are beyond float16; latents are in float32."""
    c, u, x = draw(SHAPES[1])
    c, u = (100 * value.to(dtype) for value in (c, u))
    found, exact = guided(rule, c, u, x), guided(rule, c.double(), u.double(), x.double())
    assert found.dtype == dtype
    atol = 0.02 * float(exact.abs().max())
    torch.testing.assert_close(found.double(), exact, rtol=0, atol=atol)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: type(rule).__name__)
def test_a_scale_for_each_frame(rule: Any) -> None:
    """As SVD has it: equal ones are one number."""
    c, u, x = draw(SHAPES[1])
    frames = torch.full((2, 1, 3, 1, 1), 3.0)
    torch.testing.assert_close(guided(rule, c, u, x, frames), guided(rule, c, u, x))


# --- the table ------------------------------------------------------------------------------------


def test_every_rule_has_a_row_and_a_name_for_the_command_line() -> None:
    kinds = typing.get_args(cfg_rules.CFGRule)
    assert {row.kind for row in rule_table.ROWS} == set(kinds)
    names = [row.name for row in rule_table.ROWS]
    assert names == sorted(set(names))
    assert tuple(names) == flags.RULE_NAMES


@pytest.mark.parametrize(
    ("text", "rule", "plain"),
    [
        ("fdg", FDG(), {"name": "fdg"}),
        ("fdg gains=2.25:1", FDG((2.25, 1)), {"name": "fdg", "gains": [2.25, 1.0]}),
        ("mambo-g alpha=4", MAMBOG(4), {"name": "mambo-g", "alpha": 4.0}),
        ("tag eta=1.1 align=1", TAG(1.1, 1), {"name": "tag", "eta": 1.1, "align": 1.0}),
        ("c2fg", C2FG(), {"name": "c2fg"}),
        ("apg-mix start=0.2", APGMix(start=0.2), {"name": "apg-mix", "start": 0.2}),
        ("rectified reach=1", cfg_rules.RectifiedCFG(1), {"name": "rectified", "reach": 1.0}),
    ],
)
def test_rules_as_text_and_as_plain_data(text: str, rule: Any, plain: dict[str, Any]) -> None:
    assert read_cfg_rule(text) == rule
    assert GuidanceRequest(cfg=rule).to_dict() == {"cfg": plain}
    assert GuidanceRequest.from_dict({"cfg": plain}) == GuidanceRequest(cfg=rule)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: FDG((1.0,)), r"gains must be two numbers >= 0 or more, .* but got \(1\.0,\)"),
        (lambda: FDG((1.0, -1.0)), "gains must be two numbers"),
        (lambda: FDG(0.5), "gains must be two numbers"),  # type: ignore[arg-type]
        (lambda: MAMBOG(-1), "alpha must be a finite number >= 0 .0 is plain CFG., but got -1"),
        (lambda: TAG(1.0), "TAG must change something, but got eta=1 and align=0"),
        (lambda: TAG(-1.0), "eta must be a finite number >= 0 .1 leaves D as it is., but got -1"),
        (lambda: TAG(1.1, -1.0), "align must be a finite number >= 0 .0 is off., but got -1"),
        (lambda: C2FG(-0.1), "rate must be a finite number >= 0 .0 is plain CFG., but got -0.1"),
        (lambda: APGMix(start=1.5), "start must be a number from 0 to 1"),
        (lambda: APGMix(-1), "apg_scale must be a finite number >= 0, but got -1"),
        (lambda: APGMix(momentum=2), "momentum must be a number from -1 to 1"),
        (lambda: cfg_rules.RectifiedCFG(0), "reach must be above 0, for at 0 this is CFG"),
        (lambda: cfg_rules.RectifiedCFG(2), "reach must be a number from 0 to 1"),
        (lambda: cfg_rules.RectifiedCFG(gamma=-1), "gamma must be a finite number >= 0"),
    ],
)
def test_errors_of_rules(make: Callable[[], Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
