"""Scales that change along a run, terms of one length, and pushes that are used again."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import pytest
import torch

from skipguide import STG, Bin, Restart, Schedule, guide
from skipguide.method import formula
from support import oracle, tiny

Tensor = torch.Tensor
FOUR = {"num_inference_steps": 4}


def guided(name: str, *terms: STG, **options: Any) -> tuple[Tensor, Any]:
    given = tiny.tiny(name)
    with guide(given.pipe, *terms, **options) as handle:
        return oracle.run(given, **FOUR), handle


# --- a scale for each step ------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["MochiPipeline", "WanPipeline", "StableVideoDiffusionPipeline"])
def test_list_of_scales_is_a_term_for_each_part(name: str) -> None:
    layers = ["up:0"] if name.startswith("Stable") else [1]
    listed, handle = guided(name, STG(layers, [0.5, 0.5, 0, 2.0]))
    parts, _ = guided(name, STG(layers, 0.5, stop=0.5), STG(layers, 2.0, start=0.75))
    assert torch.equal(listed, parts)
    assert sum(handle.passes.weak_runs.values()) == 3  # the step whose scale is 0 costs nothing


def test_list_of_one_scale_is_that_scale() -> None:
    assert torch.equal(
        guided("MochiPipeline", STG([1], [1.5] * 4))[0], guided("MochiPipeline", STG([1], 1.5))[0]
    )
    plain, handle = guided("MochiPipeline", STG([1], [0.0] * 4))
    assert torch.equal(plain, oracle.run(tiny.tiny("MochiPipeline"), **FOUR))
    assert handle.passes_per_step == 2


@pytest.mark.parametrize(
    ("scale", "message"),
    [
        ([1.0, -1.0], "scale must be a finite number >= 0"),
        ([1.0, "2"], "scale must be a finite number >= 0"),
        ([], "a list of scales must have one for each step, but got an empty one"),
        ("2", "scale must be a finite number >= 0"),
    ],
)
def test_errors_of_scales(scale: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        STG([1], scale)


def test_list_of_another_length_is_refused_before_the_first_step() -> None:
    given = tiny.tiny("MochiPipeline")
    message = "a list of scales must have one for each step, but this one has 3 and the run 4"
    with (
        guide(given.pipe, STG([1], [1.0, 1.0, 1.0])) as handle,
        pytest.raises(ValueError, match=message),
    ):
        oracle.run(given, **FOUR)
    assert handle.passes.steps == 0


def test_schedule_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "schedule.yaml"
    rows = (
        "- {sigma: [0.9, 1.1], layers: [1], scale: 2.0, guidance_scale: 6.0}\n- {sigma: [0, 0.9],"
        " rescale: 0.5}\n"
    )
    written = Schedule([Bin((0.9, 1.1), [1], 2.0, guidance_scale=6.0), Bin((0, 0.9), rescale=0.5)])
    path.write_text(rows, encoding="utf-8")
    assert Schedule.from_yaml(path) == written
    path.write_text("source: here\nbins:\n" + rows, encoding="utf-8")
    assert Schedule.from_yaml(str(path)) == written
    assert Schedule.from_yaml(path).source == "here"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("bins: 3", "must be a list of bins with sigma, layers, scale, .* has something else"),
        (
            "- {sigma: [0, 1], scales: 2}",
            r"must be a list of bins with .* has scales\. Did you mean 'scale'\?",
        ),
        ("- {layers: [1], scale: 2}", r"every bin of a schedule must have sigma: \[low, high\]"),
        ("- {sigma: [1, 0], scale: 2, layers: [1]}", "sigma must be a pair"),
        ("- {sigma: 5, scale: 2, layers: [1]}", "sigma must be a pair .* but got 5"),
        ("- {sigma: [0, high], scale: 2, layers: [1]}", "sigma must be a pair"),
        ("- {sigma: [0, .nan], scale: 2, layers: [1]}", "sigma must be a pair"),
        ("source: 2020-13-45", "must be a YAML file that can be read"),
        ("- {sigma: [0, 1], scale: two, layers: [1]}", "scale must be a finite number"),
        ("a: [", "must be a YAML file that can be read"),
        ("[]", "Schedule needs one or more Bin"),
    ],
)
def test_errors_of_a_schedule_in_a_file(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "schedule.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=message):
        Schedule.from_yaml(path)
    with pytest.raises(ValueError, match="must be a YAML file that can be read"):
        Schedule.from_yaml(tmp_path / "none.yaml")


# --- normalized -----------------------------------------------------------------------------------


def test_normalized_push_has_the_length_that_was_asked_for() -> None:
    generator = torch.Generator().manual_seed(0)
    c, p = (torch.randn(3, 4, 5, generator=generator, dtype=torch.float64) for _ in range(2))
    p[1] = c[1] + 1e-6 * p[1]  # nearly the same, of one sample
    p[2] = c[2]
    push = formula.skip_guidance(c, [p], [2.5], normalized=[True])
    lengths, of_c = push.flatten(1).norm(dim=1), c.flatten(1).norm(dim=1)
    torch.testing.assert_close(lengths[:2], 2.5 * formula.NORMALIZED_RATIO * of_c[:2])
    assert lengths[2] == 0  # a zero difference has no direction
    cosine = torch.nn.functional.cosine_similarity(push.flatten(1), (c - p).flatten(1))
    torch.testing.assert_close(cosine[:2], torch.ones(2, dtype=torch.float64))


def test_normalized_is_of_each_term_by_itself_and_after_eq_21() -> None:
    generator = torch.Generator().manual_seed(1)
    c, p, q = (torch.randn(2, 64, generator=generator, dtype=torch.float64) for _ in range(3))
    both = formula.skip_guidance(c, [p, q], [1.0, 3.0], normalized=[False, True])
    torch.testing.assert_close(
        both, (c - p) + formula.skip_guidance(c, [q], [3.0], normalized=[True])
    )
    across = formula.skip_guidance(
        c, [p, q], [1.0, 3.0], orthogonalize=True, normalized=[False, True]
    ) - (c - p)
    torch.testing.assert_close(across.norm(dim=1), 0.3 * c.norm(dim=1))
    torch.testing.assert_close(
        (across * (c - p)).sum(1), torch.zeros(2, dtype=torch.float64), atol=1e-12, rtol=0
    )


def test_normalized_lengths_see_the_prediction_and_not_the_variance() -> None:
    c, p = torch.randn(2, 4, 8), torch.randn(2, 4, 8)
    push = formula.skip_guidance(c, [p], [1.0], channels=2, normalized=[True])
    torch.testing.assert_close(
        push[:, :2].flatten(1).norm(dim=1), 0.1 * c[:, :2].flatten(1).norm(dim=1)
    )


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_normalized_in_half_precision_does_not_overflow(dtype: torch.dtype) -> None:
    c = torch.full((1, 100_000), 300.0).to(dtype)  # whose square is beyond float16
    push = formula.skip_guidance(c, [c - 2], [1.0], normalized=[True])
    torch.testing.assert_close(push.float(), torch.full((1, 100_000), 30.0), rtol=0.01, atol=0)


# --- every n-th step ------------------------------------------------------------------------------


@pytest.mark.parametrize("every", [1, 2, 3])
def test_reused_push_is_that_of_the_last_weak_pass(every: int) -> None:
    """Heard on both sides of the guidance: c, p and u inside, and what the pipeline gets
    outside."""
    given = tiny.tiny("WanPipeline")
    with (
        oracle.listening(given) as inside,
        guide(given.pipe, STG([1], 1.3, every=every)) as handle,
        oracle.listening(given) as outside,
    ):
        oracle.run(given, **FOUR)
    raw, returned = (
        [oracle.samples(call.output)[0] for call in calls] for calls in (inside, outside)
    )
    assert handle.passes.steps == 4
    assert sum(handle.passes.weak_runs.values()) == len(range(0, 4, every))
    difference = torch.zeros(())
    for step in range(4):
        c = raw.pop(0)
        if step % every == 0:
            p = raw.pop(0)
            assert torch.equal(returned.pop(0), p)
            difference = c - p
            assert difference.abs().max() > 0.01
        torch.testing.assert_close(returned.pop(0), c + 1.3 * difference)
        torch.testing.assert_close(returned.pop(0), raw.pop(0) + 1.3 * difference)
    assert not raw
    assert not returned


def test_reuse_begins_anew_in_each_run_and_for_each_denoiser() -> None:
    given = tiny.tiny("WanPipeline 2.2")
    with guide(given.pipe, STG([1], 1.3, every=4)) as handle:
        first = oracle.run(given, **FOUR)
        runs = sum(handle.passes.weak_runs.values())
        assert runs == 2  # one of each transformer
        assert torch.equal(oracle.run(given, **FOUR), first)
        assert sum(handle.passes.weak_runs.values()) == runs
    assert not handle._run.differences._histories


def test_reuse_begins_anew_where_a_scheduler_keeps_its_timesteps(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Then a run can be told from the next one only by its number of steps."""
    given = tiny.tiny("MochiPipeline")
    scheduler, kept = given.pipe.scheduler, list[Tensor]()
    real = scheduler.set_timesteps

    @functools.wraps(real)
    def same(*args: Any, **kwargs: Any) -> None:
        real(*args, **kwargs)
        kept.append(scheduler.timesteps)
        scheduler.timesteps = kept[0]

    monkeypatch.setattr(scheduler, "set_timesteps", same)
    with guide(given.pipe, STG([1], 1.3, every=3)):
        first = oracle.run(given, **FOUR)
        assert torch.equal(oracle.run(given, **FOUR), first)


def test_reuse_begins_anew_where_a_restart_goes_back() -> None:
    """The difference that was kept is of little noise, and the step that comes is of much."""
    given = tiny.tiny("MochiPipeline")
    restart = Restart(window=(0.25, 0.75))
    with guide(given.pipe, STG([1], 1.3, every=6), restart=restart) as handle:
        oracle.run(given, **FOUR)
    assert handle.passes.steps == 6
    assert sum(handle.passes.weak_runs.values()) == 2


def test_every_one_is_exact_and_more_is_near() -> None:
    plain, _ = guided("MochiPipeline", STG([1], 0.0))
    exact, _ = guided("MochiPipeline", STG([1], 1.3))
    assert torch.equal(guided("MochiPipeline", STG([1], 1.3, every=1))[0], exact)
    near, handle = guided("MochiPipeline", STG([1], 1.3, every=2))
    assert 0 < (near - exact).norm() < (plain - exact).norm()
    assert handle.passes_per_step < 3


def test_guider_knows_lists_and_lengths() -> None:
    from skipguide.guider import SkipGuidance

    guider = SkipGuidance(
        [1], [0.0, 2.0], guidance_scale=1.0, terms=[{"layers": [2], "normalize": True}]
    )
    c, p, q = torch.randn(3, 2, 4, 8)
    guider.set_state(0, 2, 0)
    assert guider.active_predictions() == [
        "pred_cond",
        "pred_weak_1",
    ]  # the first term's scale is 0 here
    pushed = formula.skip_guidance(c, [q], [1.0], normalized=[True])
    torch.testing.assert_close(guider.forward(c, pred_weak_1=q).pred, c + pushed)
    guider.set_state(1, 2, 0)
    assert guider.active_predictions() == ["pred_cond", "pred_weak", "pred_weak_1"]
    torch.testing.assert_close(
        guider.forward(c, pred_weak=p, pred_weak_1=q).pred, c + 2.0 * (c - p) + pushed
    )
    with pytest.raises(ValueError, match="this one has 2 and the run 3"):
        guider.set_state(0, 3, 0)
    again: Any = SkipGuidance.from_config(guider.config)
    assert [term.scales(1, 1) for term in again.terms] == [(2.0,), (1.0,)]
