"""Models without CFG: STG alone, from 4 steps on, on the schedulers and noise levels of distilled
checkpoints; equal to two full passes a step by hand, bit for bit."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import re
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from skipguide import SLG, STG, TCFG, CFGZero, Restart, guide
from skipguide.families.lookup import family_of
from skipguide.method.terms import Bin, Schedule
from skipguide.pipeline import noise_levels
from support import oracle
from support.tiny.base import Tiny
from support.tiny.minimax_h3 import WITHOUT_CFG
from support.without_cfg import CASES, LTX_TIMESTEPS, by_hand, run
from support.written import (
    addresses,
    attentions_of,
    has_attention,
    is_unet,
    modules_of,
    paths_of,
    trace_of,
)

SCALE = 1.3
H3 = "MiniMax-H3"


def layer_of(small: Tiny) -> str:
    """The second layer of the last stack, or of a UNet's way up."""
    last = list(addresses(small).values())[-1]
    return last[0] if is_unet(small) else last[1]


def paths(small: Tiny, layer: str, skip: str = "residual") -> list[str]:
    return paths_of(small, [layer], skip, None)


def pushed(c: torch.Tensor, p: torch.Tensor, _: int = 0) -> torch.Tensor:
    return c + SCALE * (c - p)


# --- the result -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CASES)
def test_stg_alone_is_two_full_passes_a_step(name: str) -> None:
    case = CASES[name]
    small = case.build()
    layer = layer_of(small)
    plain = run(small)
    with by_hand(small, paths(small, layer), pushed) as calls:
        theirs = run(small)
    with guide(small.pipe, STG([layer], SCALE)) as handle:
        ours = run(small)
    assert len(calls) == case.steps * case.runs
    assert handle.passes.steps == case.steps
    assert plain.isfinite().all()
    assert (ours - plain).abs().max() > 1e-3
    assert torch.equal(ours, theirs)
    assert 1 < handle.passes_per_step < 2
    assert torch.equal(run(small), plain)


@pytest.mark.parametrize("steps", [4, 6, 8])
@pytest.mark.parametrize("window", [(0.0, 0.5), (0.1, 0.9), (0.25, 1.0)])
def test_windows_count_the_steps_of_a_short_run(steps: int, window: tuple[float, float]) -> None:
    """Step i of N is guided when start <= i/N < stop, whatever N is."""
    small = CASES["Wan, LightX2V"].build()
    start, stop = window

    def within(c: torch.Tensor, p: torch.Tensor, call: int) -> torch.Tensor:
        return pushed(c, p) if start <= call / steps < stop else c

    with by_hand(small, paths(small, "blocks:1"), within):
        theirs = run(small, num_inference_steps=steps)
    term = STG([1], SCALE, start=start, stop=stop)
    with guide(small.pipe, term) as handle:
        assert torch.equal(run(small, num_inference_steps=steps), theirs)
    on = sum(start <= i / steps < stop for i in range(steps))
    assert handle.passes_per_step == pytest.approx(1 + 0.5 * on / steps)


@pytest.mark.parametrize(
    ("window", "steps", "advice"),
    [
        ((0.01, 0.2), 4, "start=0, stop=0.25"),
        ((0.1, 0.12), 6, "start=0, stop=0.1666"),
        ((0.3, 0.32), 6, "start=0.1666, stop=0.3333"),
        ((0.9, 1.0), 8, "start=0.875, stop=1"),
    ],
)
def test_a_window_without_a_step_says_what_to_type(
    window: tuple[float, float], steps: int, advice: str
) -> None:
    small = CASES["Wan, LightX2V"].build()
    term = STG([1], SCALE, start=window[0], stop=window[1])
    with (
        guide(small.pipe, term),
        pytest.raises(ValueError, match=rf"selects none of the {steps} of .* Write {advice} for"),
    ):
        run(small, num_inference_steps=steps)
    start, stop = (float(part.split("=")[1]) for part in advice.split(", "))
    with guide(small.pipe, dataclasses.replace(term, start=start, stop=stop)) as handle:
        run(small, num_inference_steps=steps)
    assert handle.passes.weak == pytest.approx(0.5)  # one step


def ours_of(caplog: pytest.LogCaptureFixture) -> list[str]:
    """What skipguide has said, without what diffusers has."""
    return [record.getMessage() for record in caplog.records if record.name == "skipguide"]


# --- the price ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [name for name in CASES if not name.startswith("AnimateDiff")])
def test_the_price_is_said_before_the_run(name: str, caplog: pytest.LogCaptureFixture) -> None:
    case = CASES[name]
    small = case.build()
    term = STG([layer_of(small)], SCALE, stop=0.5)
    with caplog.at_level(logging.INFO, "skipguide"), guide(small.pipe, term) as handle:
        said = handle.describe_price(case.steps)
        assert ours_of(caplog) == []
        run(small)
    assert said == f"no CFG here: 1 + {handle.passes_per_step - 1:.2g} passes a step"
    assert ours_of(caplog) == [said] * case.runs


def test_the_price_of_what_depends_on_the_run_is_not_said() -> None:
    small = CASES["Wan, LightX2V"].build()
    with guide(small.pipe, STG([1], SCALE, every=2)) as handle:
        assert handle.describe_price(4) == "no CFG here: 1 + 0.25 passes a step"
    with guide(small.pipe, STG([1], [1.0, 0.0, 0.0, 0.0])) as handle:
        assert handle.describe_price(4) == "no CFG here: 1 + 0.12 passes a step"
        assert handle.describe_price(5) is None
    with guide(small.pipe, Schedule([Bin((0.0, 1.1), [1], 1.0)])) as handle:
        assert handle.describe_price(4) is None
    with guide(small.pipe, restart=Restart(window=(0.25, 0.75))) as handle:
        assert handle.describe_price(4) is None


@pytest.mark.parametrize("name", ["Wan, LightX2V", "HunyuanVideo", "LTX-2 distilled", H3])
def test_a_budget_between_one_and_two(name: str, caplog: pytest.LogCaptureFixture) -> None:
    case = CASES[name]
    small = case.build()
    term = STG([next(iter(addresses(small).values()))[1]], SCALE)
    with (
        caplog.at_level(logging.INFO, "skipguide"),
        guide(small.pipe, term, budget=1.2) as handle,
    ):
        price = handle.describe_price(case.steps)
        assert run(small).isfinite().all()
    assert price is not None
    assert price.endswith("passes a step, 1.2 by the budget")
    assert 1 < handle.passes_per_step <= 1.2 + 1e-9
    assert re.fullmatch(
        rf"budget 1\.2, no CFG: term 0 at \d of {case.steps} steps; 1\.\d\d passes a step over .*",
        str(handle.plan),
    )
    assert ours_of(caplog)[:2] == [price, str(handle.plan)]
    with guide(small.pipe, term):
        exact = run(small)
    with guide(small.pipe, term, budget=2.0) as handle:
        assert torch.equal(run(small), exact)
    with pytest.raises(ValueError, match=r"or budget=1\.2 for a model without CFG"):
        guide(small.pipe, term, budget=1)


# --- schedulers of distilled models ---------------------------------------------------------------


RENOISING = {
    "LTX distilled, stochastic": "FlowMatchEulerDiscreteScheduler with stochastic_sampling",
    "Wan, LCM": "FlowMatchLCMScheduler",
    "Helios, distilled": "HeliosDMDScheduler",
    "AnimateDiff, LCM": "LCMScheduler",
    "AnimateDiff, TCD": "TCDScheduler",
}


@pytest.mark.parametrize("name", RENOISING)
def test_restarts_are_refused_where_each_step_begins_anew(name: str) -> None:
    small = CASES[name].build()
    message = f"but this pipeline has {RENOISING[name]}, made for distilled models: each of its"
    with pytest.raises(ValueError, match=message):
        guide(small.pipe, restart=Restart(window=(0.25, 0.75)))


@pytest.mark.parametrize(
    ("name", "reason"),
    [("AnyFlow", "mean velocity up to the noise level"), (H3, "for the video and for the sound")],
)
def test_restarts_that_are_refused_say_why(name: str, reason: str) -> None:
    small = CASES[name].build()
    with pytest.raises(ValueError, match=reason):
        guide(small.pipe, restart=Restart(window=(0.25, 0.75)))


def test_zero_steps_need_a_scheduler_that_leaves_the_sample() -> None:
    small = CASES["LTX distilled, stochastic"].build()
    with (
        guide(small.pipe, cfg=CFGZero(1)),
        pytest.raises(ValueError, match=r"CFG-Zero.* whose steps take noise away little by little"),
    ):
        run(small, guidance_scale=3.0)


@pytest.mark.parametrize("name", [*RENOISING, "LTX distilled"])
def test_data_space_is_where_the_scheduler_estimates_the_data(name: str) -> None:
    """D is rescaled as the estimate that the scheduler makes of it, from the sample it gets."""
    small = CASES[name].build()
    layer, phi = layer_of(small), 0.7
    levels: list[tuple[float, float]] = []

    def rescaled(c: torch.Tensor, p: torch.Tensor, call: int) -> torch.Tensor:
        a, b = coefficients(small, call % len(small.pipe.scheduler.timesteps))
        levels.append((a, b))
        x = samples[call]
        assert x.shape == c.shape
        data, moved = a * x + b * c, a * x + b * pushed(c, p)
        dims = tuple(range(1, c.ndim))
        ratio = data.std(dims, keepdim=True) / moved.std(dims, keepdim=True)
        return (moved * (phi * ratio + 1 - phi) - a * x) / b

    with by_hand(small, paths(small, layer), rescaled), samples_of(small) as samples:
        theirs = run(small)
    with guide(small.pipe, STG([layer], SCALE), rescale=phi, rescale_space="data"):
        ours = run(small)
    with guide(small.pipe, STG([layer], SCALE), rescale=phi):
        other = run(small)
    assert len(levels) == CASES[name].steps * CASES[name].runs
    torch.testing.assert_close(ours, theirs, atol=2e-4, rtol=1e-3)
    assert (ours - other).abs().max() > 1e-3


def coefficients(small: Tiny, step: int) -> tuple[float, float]:
    """(a, b) of the data a x + b F, read off the scheduler's own last step: it ends at the data."""
    scheduler = small.pipe.scheduler
    if hasattr(scheduler, "sigmas"):
        return 1.0, -float(scheduler.sigmas[step])
    ab = float(scheduler.alphas_cumprod[int(scheduler.timesteps[step])])
    return ab**-0.5, -((1 - ab) ** 0.5) / ab**0.5  # x_0 = (x - sqrt(1 - ab) eps) / sqrt(ab)


@contextlib.contextmanager
def samples_of(small: Tiny) -> Iterator[list[torch.Tensor]]:
    """The noisy sample that each call of the denoiser gets: its first input."""
    found: list[torch.Tensor] = []

    def look(_: Any, args: Any, kwargs: Any) -> None:
        named = [kwargs[name] for name in ("hidden_states", "sample") if name in kwargs]
        found.append([*args, *named][0].clone())

    hooks = [m.register_forward_pre_hook(look, with_kwargs=True) for m in oracle.models(small)]
    try:
        yield found
    finally:
        for hook in hooks:
            hook.remove()


def test_kinds_of_schedulers_of_distilled_models() -> None:
    schedulers = [CASES[name].build().pipe.scheduler for name in RENOISING]
    kinds = list(map(noise_levels.scheduler_kind, schedulers))
    assert kinds == ["flow", "flow", "flow", "vp", "vp"]


# --- schedules ------------------------------------------------------------------------------------


def test_a_schedule_without_its_cfg_on_the_noise_levels_of_a_distilled_model() -> None:
    """LTX-13B's published schedule begins with CFG: a distilled checkpoint takes the rest of it."""
    small = CASES["LTX distilled, its own timesteps"].build()
    schedule = Schedule([
        Bin((0.996, 1.1), guidance_scale=1.0), Bin((0.9767, 0.996), [2], 1.3, guidance_scale=6.0),
        Bin((0.0, 0.9767), [1], 0.7, guidance_scale=1.0),
    ])  # fmt: skip
    message = r"so needs CFG, but this run has none\. .* takes schedule\.without_cfg\(\)"
    with guide(small.pipe, schedule), pytest.raises(ValueError, match=message):
        run(small)
    with guide(small.pipe, schedule.without_cfg()) as handle:
        ours = run(small)
    sigmas = [t / 1000 for t in LTX_TIMESTEPS]
    first = [sum(0.9767 <= s < 0.996 for s in sigmas), sum(s < 0.9767 for s in sigmas)]
    assert sorted(handle.passes.weak_runs.values()) == sorted(first)

    def middle(c: torch.Tensor, p: torch.Tensor, call: int) -> torch.Tensor:
        return c + 1.3 * (c - p) if 0.9767 <= sigmas[call] < 0.996 else c

    def late(c: torch.Tensor, p: torch.Tensor, call: int) -> torch.Tensor:
        return c + 0.7 * (c - p) if sigmas[call] < 0.9767 else c

    with (
        by_hand(small, ["transformer_blocks.2"], middle),
        by_hand(small, ["transformer_blocks.1"], late),
    ):
        assert torch.equal(run(small), ours)


# --- MiniMax-H3 -----------------------------------------------------------------------------------


@pytest.fixture(params=WITHOUT_CFG)
def h3(request: pytest.FixtureRequest) -> Tiny:
    return WITHOUT_CFG[request.param]()


def test_h3_is_the_row_of_its_pipeline(h3: Tiny) -> None:
    family = family_of(h3.pipe)
    (model,) = oracle.models(h3)
    assert (family.name, type(model).__name__) == ("minimax-h3", family.model)
    assert [*addresses(h3)] == ["blocks"]


@pytest.mark.parametrize("skip", ["residual", "attention"])
def test_h3_terms_windows_and_prefix(h3: Tiny, skip: str) -> None:
    """Two layers in one term, and one of them with a window, of the video and of the sound."""
    assert has_attention(h3, "blocks:1")
    plain = run(h3)
    term = STG([1, 2], SCALE, skip, start=0.5)

    def late(c: torch.Tensor, p: torch.Tensor, call: int) -> torch.Tensor:
        return pushed(c, p) if call == 1 else c

    layers = ["transformer_blocks.1", "transformer_blocks.2"]
    with by_hand(h3, layers, late, skip, attentions_of(h3)):
        theirs = run(h3)
    with guide(h3.pipe, term):
        ours = run(h3)
    with guide(h3.pipe, term, share_prefix=False):
        assert torch.equal(run(h3), ours)
    torch.testing.assert_close(ours, theirs, atol=2e-5, rtol=1e-4)
    assert (ours - plain).abs().max() > 1e-3


@pytest.mark.parametrize("scales", [(0.0, 1.3), (1.3, 0.0)])
def test_h3_sound_has_a_scale_of_its_own(scales: tuple[float, float]) -> None:
    small = WITHOUT_CFG["MiniMaxH3ModularPipeline"]()
    term = STG([1], scales[0], audio_scale=scales[1])
    with guide(small.pipe, term):
        ours = run(small)
    outputs: list[int] = []

    def one(c: torch.Tensor, p: torch.Tensor, call: int) -> torch.Tensor:
        outputs.append(call)
        return c + scales[len(outputs) % 2 == 0] * (c - p)  # the video first

    with by_hand(small, ["transformer_blocks.1"], one):
        assert torch.equal(run(small), ours)


@pytest.mark.parametrize("skip", ["soft", "shuffle"])
def test_h3_other_skips(skip: str) -> None:
    small = WITHOUT_CFG["MiniMaxH3ModularPipeline"]()
    with guide(small.pipe, STG([1], SCALE, skip)) as handle:
        shared = run(small)
    assert handle.passes_per_step == pytest.approx(1.75)
    with guide(small.pipe, STG([1], SCALE, skip), share_prefix=False):
        assert torch.equal(run(small), shared)
    assert not torch.equal(run(small), shared)


def test_h3_in_bfloat16() -> None:
    """Its rows stay in float32, whatever the weights are in."""
    small = WITHOUT_CFG["MiniMaxH3ModularPipeline"](torch.bfloat16)
    plain = run(small)
    with guide(small.pipe, STG([1], SCALE)):
        shared = run(small)
    with guide(small.pipe, STG([1], SCALE), share_prefix=False):
        assert torch.equal(run(small), shared)
    assert shared.dtype == plain.dtype == torch.float32
    assert shared.isfinite().all()
    assert (shared - plain).abs().max() > 1e-3


def test_h3_leaves_no_trace(h3: Tiny) -> None:
    plain, before, real = run(h3), trace_of(h3), modules_of(h3)
    with guide(h3.pipe, STG([1], SCALE)):
        run(h3)
        hook = (
            oracle.models(h3)[0]
            .get_submodule("transformer_blocks.2")
            .register_forward_hook(lambda *_: (_ for _ in ()).throw(RuntimeError("out of memory")))
        )
        with contextlib.suppress(RuntimeError):
            run(h3)
        hook.remove()
        assert modules_of(h3) == real
    assert trace_of(h3) == before
    assert torch.equal(run(h3), plain)


@pytest.mark.parametrize(
    ("terms", "options", "message"),
    [
        ([SLG([1])], {}, "SLG needs CFG, .* a MiniMaxH3ModularPipeline never has any. Use STG"),
        ([], {"cfg": TCFG()}, "TCFG needs CFG, .* never has any. Leave cfg out"),
        ([Schedule([Bin((0.0, 2.0), [1], 1.0, guidance_scale=6.0)])], {}, "without_cfg"),
        (
            [STG([1], 1.0)],
            {"rescale": 0.7, "rescale_space": "data"},
            "but this pipeline has MiniMaxH3Scheduler, one of two that step together",
        ),
    ],
)
def test_h3_refuses_what_needs_cfg(terms: Any, options: dict[str, Any], message: str) -> None:
    small = WITHOUT_CFG["MiniMaxH3ModularPipeline"]()
    with guide(small.pipe, *terms, **options), pytest.raises(ValueError, match=message):
        run(small)


def test_a_denoiser_itself_is_no_pipeline() -> None:
    small = WITHOUT_CFG["MiniMaxH3ModularPipeline"]()
    with pytest.raises(ValueError, match=r"got the MiniMaxH3Transformer3DModel itself\. Write gui"):
        guide(small.pipe.transformer, STG([1]))


@pytest.mark.parametrize("name", ["Wan, LightX2V", "HunyuanVideo 1.5, distilled"])
def test_what_needs_cfg_is_refused_before_the_first_step(name: str) -> None:
    """An SLG whose window begins later, too; and where a guider that has a scale is disabled."""
    small = CASES[name].build()
    late = SLG([1], start=0.5)
    with (
        guide(small.pipe, late),
        oracle.listening(small) as calls,
        pytest.raises(ValueError, match="SLG needs CFG"),
    ):
        run(small)
    assert calls == []
