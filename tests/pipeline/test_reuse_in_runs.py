"""Differences that are used again in whole runs: weak passes, CFG, and a budget of passes."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from skipguide import (
    APG,
    SLG,
    STG,
    Bin,
    CFGReuse,
    CFGZero,
    Interval,
    Random,
    Restart,
    Schedule,
    guide,
)  # fmt: skip
from support import oracle, tiny
from support.text_encoders import text_components, without_embeddings

Tensor = torch.Tensor
FOUR = {"num_inference_steps": 4}
EIGHT = {"num_inference_steps": 8}


def log_ratios(given: Any) -> np.ndarray:
    """Return log(data / noise) of the steps of a flow; the first has no data."""
    sigmas = given.pipe.scheduler.sigmas.double().numpy()[:-1]
    with np.errstate(divide="ignore"):
        return np.maximum(np.log((1 - sigmas) / sigmas), -7.0)


# --- weak passes ----------------------------------------------------------------------------------


def test_weak_difference_follows_a_line_in_the_noise_level() -> None:
    """Heard inside the guidance: c and, where it runs, p and u; outside: what the pipeline gets."""
    given = tiny.tiny("WanPipeline")
    with (
        oracle.listening(given) as inside,
        guide(given.pipe, STG([1], 1.3, every=2, extrapolate=1)),
        oracle.listening(given) as outside,
    ):
        oracle.run(given, **FOUR)
    raw, returned = (
        [oracle.samples(call.output)[0] for call in calls] for calls in (inside, outside)
    )
    assert len(raw) == 4 * 2 + 2
    assert len(returned) == len(raw)  # the passes of skipguide are heard on both sides
    x, known = log_ratios(given), dict[int, Tensor]()
    for step in range(4):
        c = raw.pop(0)
        if step % 2 == 0:
            known[step] = c - raw.pop(0)
            returned.pop(0)
        nodes = sorted(known)[-2:]
        values = np.stack([known[node].double().numpy().ravel() for node in nodes])
        line = np.polyfit(x[nodes], values, len(nodes) - 1)
        expected = torch.from_numpy(np.vander([x[step]], len(nodes)) @ line).reshape(c.shape)
        expected = known[step] if step in known else expected.to(c.dtype)
        torch.testing.assert_close(returned.pop(0), c + 1.3 * expected, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(
            returned.pop(0) - raw.pop(0), 1.3 * expected, rtol=1e-4, atol=1e-5
        )


@pytest.mark.parametrize("every", [0.5, "auto"])
@pytest.mark.parametrize(
    "name", ["MochiPipeline", "WanPipeline 2.2", "StableVideoDiffusionPipeline", "LTX2Pipeline"]
)
def test_fewer_weak_passes_come_near_the_exact_run(name: str, every: Any) -> None:
    given = tiny.tiny(name)
    layers = ["up:0"] if name.startswith("Stable") else [1]
    plain = oracle.run(given, **EIGHT)
    with guide(given.pipe, STG(layers, 1.0)) as handle:
        exact = oracle.run(given, **EIGHT)
    full = handle.passes.weak
    # Of the tiny SVD no step is as near to its line as 0.05 of the whole effect asks for.
    with guide(given.pipe, STG(layers, 1.0, every=every, tolerance=0.1)) as handle:
        found = oracle.run(given, **EIGHT)
        assert torch.equal(oracle.run(given, **EIGHT), found)  # a run begins anew
    assert handle.passes.weak < full
    assert 0 < (found - exact).norm() < (plain - exact).norm()
    if every == 0.5:
        assert sum(handle.passes.weak_runs.values()) == 4


# --- CFG ------------------------------------------------------------------------------------------


def combined(pair: list[Tensor], g: float) -> Tensor:
    c, u = pair
    return u + g * (c - u)


def test_cfg_without_u_goes_on_with_the_last_difference() -> None:
    given = tiny.tiny("WanPipeline")
    g = given.call["guidance_scale"]
    with (
        oracle.listening(given) as inside,
        guide(given.pipe, cfg=CFGReuse(2)) as handle,
        oracle.listening(given) as outside,
    ):
        oracle.run(given, **FOUR)
    assert handle.passes_per_step == 1.5
    raw, got = ([oracle.samples(call.output)[0] for call in calls] for calls in (inside, outside))
    difference = torch.zeros(())
    for step in range(4):
        c, u = raw[2 * step : 2 * step + 2]
        if step % 2 == 0:
            difference = c - u
            assert torch.equal(got[2 * step + 1], u)
        expected = c + (g - 1) * difference
        torch.testing.assert_close(
            combined(got[2 * step : 2 * step + 2], g), expected, rtol=1e-4, atol=1e-5
        )


def test_batched_cfg_runs_the_cond_half_alone_where_u_is_not_computed() -> None:
    given = tiny.tiny("MochiPipeline")
    g = given.call["guidance_scale"]
    with (
        oracle.listening(given) as inside,
        guide(given.pipe, STG([1], 0.7), cfg=CFGReuse(gate=0.5)) as handle,
        oracle.listening(given) as outside,
    ):
        oracle.run(given, **FOUR)
    ours = [oracle.samples(call.output)[0] for call in inside]
    batches = [
        oracle.samples(call.output)[0]
        for call in outside
        if len(oracle.samples(call.output)[0]) == 4
    ]
    assert [len(sample) for sample in ours] == [2] * (2 * 3 + 2 * 2)
    assert handle.passes.unweakened == 6
    c_1, _, u_1 = ours[3:6]
    c_3, p_3 = ours[8:10]
    u, c = batches[3].chunk(2)
    expected = c_3 + (g - 1) * (c_1 - u_1) + 0.7 * (c_3 - p_3)
    torch.testing.assert_close(combined([c, u], g), expected, rtol=1e-4, atol=1e-5)


def test_difference_of_cfg_begins_anew_with_another_u() -> None:
    """A weakened u, another denoiser and a step back are each other differences c - u."""
    given = tiny.tiny("WanPipeline")
    with guide(given.pipe, SLG([1], start=0.5), cfg=CFGReuse(4)) as handle:
        oracle.run(given, **FOUR)
    assert handle.passes.unweakened == 4 + 2
    given = tiny.tiny("WanPipeline 2.2")
    with guide(given.pipe, cfg=CFGReuse(8)) as handle:
        oracle.run(given, **FOUR)
    assert handle.passes.unweakened == 4 + 2
    given = tiny.tiny("MochiPipeline")
    with guide(given.pipe, cfg=CFGReuse(8), restart=Restart(window=(0.25, 0.75))) as handle:
        oracle.run(given, **FOUR)
    assert handle.passes.unweakened == 6 + 2


def test_u_is_computed_where_a_run_drops_frames() -> None:
    given = tiny.tiny("ChronoEditPipeline")
    options = dict(
        FOUR, num_frames=9, enable_temporal_reasoning=True, num_temporal_reasoning_steps=2
    )
    with guide(given.pipe, cfg=CFGReuse(4)) as handle:
        assert oracle.run(given, **options).isfinite().all()
    assert handle.passes.unweakened == 4 + 2


def test_rescaling_sees_the_same_whether_u_is_computed() -> None:
    """A pipeline's own rescaling and ours take their deviations from c and D."""
    given = tiny.tiny("MochiPipeline")
    with guide(given.pipe, STG([1], 0.7), rescale=0.7, cfg=CFGReuse(2)) as handle:
        assert oracle.run(given, **FOUR).isfinite().all()
    assert handle.passes.unweakened == 6


def test_u_of_every_step_is_the_pipeline_itself() -> None:
    given = tiny.tiny("WanPipeline")
    plain = oracle.run(given, **FOUR)
    with guide(given.pipe, budget=2.0) as handle:
        assert torch.equal(oracle.run(given, **FOUR), plain)
    assert handle.passes_per_step == 2


# --- a budget -------------------------------------------------------------------------------------

FAMILIES = [
    "MochiPipeline", "WanPipeline", "WanPipeline 2.2", "LTX2Pipeline", "CogVideoXPipeline",
    "HunyuanVideoPipeline", "StableVideoDiffusionPipeline", "LattePipeline",
]  # fmt: skip


@pytest.mark.parametrize("budget", [2.0, 1.6])
@pytest.mark.parametrize("name", FAMILIES)
def test_budget_is_kept(name: str, budget: float, caplog: pytest.LogCaptureFixture) -> None:
    given = tiny.tiny(name)
    layers = ["up:0"] if name.startswith("Stable") else [1]
    with (
        caplog.at_level(logging.INFO, "skipguide"),
        guide(given.pipe, STG(layers, 0.7), budget=budget) as handle,
    ):
        assert oracle.run(given, **EIGHT).isfinite().all()
    assert handle.plan is not None
    assert handle.passes_per_step <= budget + 1e-9
    assert handle.passes_per_step == pytest.approx(handle.plan.passes_per_step)
    assert handle.passes_per_step > budget - 0.25  # what is left would not pay another pass
    assert str(handle.plan) in caplog.text


@pytest.mark.parametrize(
    ("name", "terms", "options", "budget"),
    [
        ("MochiPipeline", [STG(Random(0.3), 0.25, seed=1)], {}, 2.0),
        ("WanPipeline", [STG(Random(0.3), 0.25, seed=1)], {}, 2.0),
        ("WanPipeline", [SLG([1], start=0.25, stop=0.6), STG([1], 0.7)], {}, 2.0),
        ("WanPipeline", [SLG([0], stop=0.4), SLG([1], start=0.6), STG([1], 0.7)], {}, 1.8),
        ("WanPipeline", [STG([1], 0.7)], {"cfg": CFGZero(2)}, 1.7),
        ("StableVideoDiffusionPipeline", [STG(["up:0"], 0.7)], {}, 1.7),
    ],
)
def test_budget_is_kept_where_passes_change_on_the_way(
    name: str, terms: Any, options: dict[str, Any], budget: float
) -> None:
    given = tiny.tiny(name)
    call = dict(min_guidance_scale=1.5, max_guidance_scale=3.0) if "Stable" in name else {}
    with guide(given.pipe, *terms, budget=budget, **options) as handle:
        assert oracle.run(given, **EIGHT, **call).isfinite().all()
    assert budget - 0.25 < handle.passes_per_step <= budget + 1e-9


def test_budget_of_the_rest_of_a_run() -> None:
    """guide() is called after step 2 of 8."""
    given, handles = tiny.tiny("WanPipeline"), []

    def begin(pipe: Any, step: int, timestep: Any, inputs: dict[str, Any]) -> dict[str, Any]:
        if step == 2:
            handles.append(guide(pipe, STG([1], 0.7), budget=1.5))
        return inputs

    oracle.run(given, **EIGHT, callback_on_step_end=begin)
    (handle,) = handles
    handle.remove()
    assert handle.passes.steps == 5
    assert handle.passes_per_step <= 1.5


def test_sound_alone_counts_as_much_as_a_video() -> None:
    counts = []
    for term in (STG([1], 1.0), STG([1], 0.0, audio_scale=1.0)):
        given = tiny.tiny("LTX2Pipeline")
        with guide(given.pipe, term, budget=1.7) as handle:
            oracle.run(given, **EIGHT)
        counts.append(sum(handle.passes.weak_runs.values()))
    assert counts[0] == counts[1] > 1


def test_large_budget_is_exact() -> None:
    given = tiny.tiny("MochiPipeline")
    with guide(given.pipe, STG([1], 0.7)):
        exact = oracle.run(given, **FOUR)
    with guide(given.pipe, STG([1], 0.7), budget=3.0) as handle:
        assert torch.equal(oracle.run(given, **FOUR), exact)
    assert "u at 4 of 4 steps, term 0 at 4 of 4 steps" in str(handle.plan)


def test_small_budget_says_what_is_possible() -> None:
    given = tiny.tiny("WanPipeline")
    with (
        guide(given.pipe, STG([1], 0.7), budget=1.1),
        pytest.raises(ValueError, match=r"must allow at least 1\.\d+ passes a step in this run"),
    ):
        oracle.run(given, **FOUR)


@pytest.mark.parametrize("name", ["WanPipeline", "StableVideoDiffusionPipeline"])
def test_small_budget_is_refused_before_the_denoiser_runs(name: str) -> None:
    """But for a UNet, whose costs are measured on the inputs of its first pass."""
    given = tiny.tiny(name)
    layers, seen = (["up:0"] if name.startswith("Stable") else [1]), []
    (denoiser,) = oracle.models(given)
    hook = denoiser.register_forward_hook(lambda *_: seen.append(1))
    with guide(given.pipe, STG(layers, 0.7), budget=1.1), pytest.raises(ValueError, match="budget"):
        oracle.run(given, **FOUR)
    hook.remove()
    assert len(seen) == (name != "WanPipeline")


@pytest.mark.filterwarnings("ignore:Deprecated in 0.9.0. BPE:DeprecationWarning")
@pytest.mark.parametrize(
    ("terms", "options", "budget", "least"),
    [
        ([STG([1], 0.7)], {}, 1.3, 1.375),  # u and a weak pass of 2 of the 4 blocks, once
        ([STG([1], 0.7)], {"guidance_scale": 1.0}, 1.1, 1.125),
        ([STG([1], 0.7), STG([0], 0.7, "attention", stop=0.5)], {}, 1.6, 1.625),
        ([], {}, 1.2, 1.25),
    ],
)
def test_small_budget_is_refused_before_a_text_encoder_runs(
    terms: Any, options: dict[str, Any], budget: float, least: float, tmp_path: Path
) -> None:
    given = tiny.builders()["MochiPipeline"](torch.float32)
    given.pipe.register_modules(**text_components("mochi", given.call, tmp_path))
    call, _ = without_embeddings(given.call)
    call |= dict(prompt="a red star", num_inference_steps=4, generator=torch.manual_seed(0))
    seen: list[int] = []
    given.pipe.text_encoder.register_forward_hook(lambda *_: seen.append(1))
    with (
        guide(given.pipe, *terms, budget=budget),
        pytest.raises(ValueError, match=f"at least {least:.2f} passes a step"),
    ):
        given.pipe(**call | options)
    assert not seen
    with guide(given.pipe, *terms, budget=least) as handle:  # it can be kept
        given.pipe(**call | options)
    assert seen
    assert handle.passes_per_step == pytest.approx(least)
    assert not given.pipe.text_encoder._forward_pre_hooks


def test_steps_alone_tell_of_a_budget() -> None:
    with guide(tiny.tiny("MochiPipeline").pipe, STG([1], 0.7), budget=1.2) as handle:
        handle.check_steps(4)
        with pytest.raises(ValueError, match=r"at least 1\.25 passes a step in this run of 2"):
            handle.check_steps(2)


# --- a Schedule, whose bins have scales of their own ----------------------------------------------


def halves(given: Any, **lower: Any) -> Schedule:
    """A bin for the first four of eight steps, and one for the others."""
    oracle.run(given, **EIGHT)
    sigmas = given.pipe.scheduler.sigmas[:8]
    noise = sorted((sigmas if sigmas[0] > sigmas[7] else 1 - sigmas).tolist(), reverse=True)
    bound = (noise[3] + noise[4]) / 2
    return Schedule([Bin((bound, 1.1), [1], 1.0), Bin((0.0, bound), **lower)])


def test_bin_without_cfg_has_no_pass_for_u() -> None:
    """The pipeline does the same when its own scale becomes 1 on the way."""
    given = tiny.tiny("WanPipeline")
    schedule = halves(given, guidance_scale=1.0)

    def switch_cfg_off(pipe: Any, step: int, timestep: Any, inputs: dict[str, Any]) -> Any:
        if step == 3:
            pipe._guidance_scale = 1.0
        return inputs

    with guide(given.pipe, STG([1], 1.0, stop=0.5)):
        expected = oracle.run(given, **EIGHT, callback_on_step_end=switch_cfg_off)
    with guide(given.pipe, schedule) as handle:
        assert torch.equal(oracle.run(given, **EIGHT), expected)
    assert handle.passes.unweakened == 8 + 4


@pytest.mark.parametrize("name", ["WanPipeline", "MochiPipeline"])
@pytest.mark.parametrize("budget", [1.6, 1.3])
def test_budget_knows_the_scales_of_bins(name: str, budget: float) -> None:
    given = tiny.tiny(name)
    schedule = halves(given, guidance_scale=1.0)
    with guide(given.pipe, schedule, budget=budget) as handle:
        assert oracle.run(given, **EIGHT).isfinite().all()
    assert handle.plan is not None
    uncond, weak = handle.plan.demands
    assert uncond.steps == weak.steps == (0, 1, 2, 3)
    assert handle.passes.unweakened == 8 + len(handle.plan.computed[0])
    assert budget - 0.25 < handle.passes_per_step <= budget + 1e-9


def test_budget_goes_to_the_steps_with_a_large_scale() -> None:
    given, computed = tiny.tiny("WanPipeline"), []
    for scale in (1.01, 12.0):
        schedule = halves(given, guidance_scale=scale)
        with guide(given.pipe, schedule, budget=1.6) as handle:
            oracle.run(given, **EIGHT)
        assert handle.plan is not None
        computed.append(sum(step > 3 for step in handle.plan.computed[0]))
    assert computed[0] < computed[1]


@pytest.mark.parametrize(
    ("terms", "options"),
    [
        ([STG([1], 0.7), STG([2], 0.3, "attention")], {}),
        ([STG([1], 0.7, start=0.25, stop=0.75)], {"rescale": 0.7}),
        ([STG([1], 0.7)], {"cfg": APG()}),
        ([STG([1], 0.7)], {"cfg": Interval((0.25, 0.75))}),
        ([STG([1], 0.7)], {"restart": Restart(window=(0.25, 0.5))}),
        ([SLG([1])], {}),
    ],
)
def test_budget_beside_other_parts(terms: Any, options: dict[str, Any]) -> None:
    given = tiny.tiny("MochiPipeline")
    with guide(given.pipe, *terms, budget=1.8, **options) as handle:
        assert oracle.run(given, **EIGHT).isfinite().all()
    assert 1 < handle.passes_per_step <= 1.8 + 1e-9
