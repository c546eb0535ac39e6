"""Restart sampling against what is known exactly: a Gaussian, whose score is a formula; and on
whole pipelines."""

from __future__ import annotations

import contextlib
import itertools
import math
from typing import Any

import pytest
import torch
from diffusers import schedulers as known

from skipguide import STG, Restart, guide
from skipguide.method.restart import renoise
from skipguide.opensora import OpenSoraRFlowScheduler
from skipguide.pipeline.noise_levels import check_keeps_noise, noise_levels, scheduler_kind
from skipguide.pipeline.restarting import RestartController
from support import oracle, tiny
from support.tiny.base import Tiny

MEAN = torch.tensor([0.7, -1.2], dtype=torch.float64)
COVARIANCE = torch.tensor([[0.8, 0.5], [0.5, 0.6]], dtype=torch.float64)
SAMPLES = 40_000

VP = dict(
    beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012, num_train_timesteps=1000
)
SCHEDULERS: dict[str, tuple[str, dict[str, Any]]] = {
    "flow": ("FlowMatchEulerDiscreteScheduler", dict(shift=3.0)),
    "flow inverted": ("FlowMatchEulerDiscreteScheduler", dict(invert_sigmas=True)),
    "flow multistep": (
        "UniPCMultistepScheduler",
        dict(prediction_type="flow_prediction", use_flow_sigmas=True),
    ),
    "vp": ("DDIMScheduler", dict(VP, clip_sample=False, timestep_spacing="trailing")),
    "vp linspace": ("DDIMScheduler", dict(VP, clip_sample=False, timestep_spacing="linspace")),
    "vp multistep": ("DPMSolverMultistepScheduler", dict(VP)),
    "vp unipc": ("UniPCMultistepScheduler", dict(VP, prediction_type="v_prediction")),
    "cog": (
        "CogVideoXDDIMScheduler",
        dict(
            timestep_spacing="trailing", rescale_betas_zero_snr=True, prediction_type="v_prediction"
        ),
    ),
    "cog dpm": (
        "CogVideoXDPMScheduler",
        dict(timestep_spacing="trailing", prediction_type="v_prediction"),
    ),
    "ve": (
        "EulerDiscreteScheduler",
        dict(VP, prediction_type="v_prediction", use_karras_sigmas=True),
    ),
    "edm": ("EDMEulerScheduler", dict()),
    "open-sora": ("OpenSoraRFlowScheduler", dict()),
}
SIZE = dict(height=240, width=426, num_frames=51)  # Open-Sora's timesteps depend on it


def scheduler_of(name: str, **more: Any) -> Any:
    kind, config = SCHEDULERS[name]
    return getattr(known, kind, OpenSoraRFlowScheduler)(**{**config, **more})


def set_timesteps(scheduler: Any, steps: int) -> None:
    scheduler.set_timesteps(
        steps, **(SIZE if isinstance(scheduler, OpenSoraRFlowScheduler) else {})
    )


def coefficients(kind: str, level: float) -> tuple[float, float]:
    """a and b of x = a x_0 + b eps."""
    if kind == "flow":
        return 1 - level, level
    if kind == "ve":
        return 1.0, level
    return 1 / math.sqrt(1 + level**2), (
        1.0 if level == math.inf else level / math.sqrt(1 + level**2)
    )


def moments(kind: str, level: float) -> tuple[torch.Tensor, torch.Tensor]:
    a, b = coefficients(kind, level)
    return a * MEAN, a**2 * COVARIANCE + b**2 * torch.eye(2, dtype=torch.float64)


def drawn(kind: str, level: float, generator: torch.Generator) -> torch.Tensor:
    a, b = coefficients(kind, level)
    x_0 = (
        MEAN
        + torch.randn(SAMPLES, 2, generator=generator, dtype=torch.float64)
        @ torch.linalg.cholesky(COVARIANCE).T
    )
    return a * x_0 + b * torch.randn(SAMPLES, 2, generator=generator, dtype=torch.float64)


def data_and_noise(x: torch.Tensor, kind: str, level: float) -> tuple[torch.Tensor, torch.Tensor]:
    """What an exact model expects of x_0 and of the noise, given x."""
    a, b = coefficients(kind, level)
    mean, covariance = moments(kind, level)
    x_0 = MEAN + (x - mean) @ torch.linalg.solve(covariance, a * COVARIANCE)
    return x_0, (x - a * x_0) / b


def prediction(scheduler: Any, x: torch.Tensor, kind: str, level: float) -> torch.Tensor:
    """The output of an exact model, as the scheduler's config asks for it."""
    x_0, noise = data_and_noise(x, kind, level)
    if kind == "flow":
        from_noise = isinstance(scheduler, OpenSoraRFlowScheduler) or scheduler.config.get(
            "invert_sigmas"
        )
        return x_0 - noise if from_noise else noise - x_0
    if type(scheduler).__name__ == "EDMEulerScheduler":
        return (x_0 - scheduler_c_skip(level) * x) / scheduler_c_out(level)
    if scheduler.config.prediction_type == "epsilon":
        return noise
    if kind == "ve":  # x = sqrt(s^2 + 1) times the VP sample
        return (noise - level * x_0) / math.sqrt(level**2 + 1)
    a, b = coefficients(kind, level)
    return a * noise - b * x_0


def scheduler_c_skip(level: float) -> float:
    return 0.5**2 / (level**2 + 0.5**2)


def scheduler_c_out(level: float) -> float:
    return level * 0.5 / math.sqrt(level**2 + 0.5**2)


def sampled(
    scheduler: Any, restarts: list[Restart], steps: int = 250
) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """A run of an exact model: the samples, and those after each step."""
    torch.manual_seed(0)
    restarting = RestartController(scheduler, restarts) if restarts else None
    set_timesteps(scheduler, steps)
    kind, before = scheduler_kind(scheduler), noise_levels(scheduler)[0]
    x = drawn(kind, before[0], torch.Generator().manual_seed(1))
    seen: list[torch.Tensor] = []
    old = None
    for i, t in enumerate(scheduler.timesteps):
        if hasattr(scheduler, "scale_model_input"):
            scheduler.scale_model_input(x, t)
        predicted = prediction(scheduler, x, kind, before[i])
        if type(scheduler).__name__ == "CogVideoXDPMScheduler":
            back = scheduler.timesteps[i - 1] if i > 0 else None
            x, old = scheduler.step(predicted, old, t, back, x, return_dict=False)
        else:
            x = scheduler.step(predicted, t, x, return_dict=False)[0]
        seen.append(x)
    if restarting:
        restarting.remove()
    return x, seen


def assert_has_moments(
    x: torch.Tensor, mean: torch.Tensor, covariance: torch.Tensor, slack: float
) -> None:
    scale = covariance.diagonal().max().item()
    torch.testing.assert_close(x.double().mean(0), mean, atol=slack * math.sqrt(scale), rtol=0)
    torch.testing.assert_close(x.double().T.cov(), covariance, atol=slack * scale, rtol=0)


# --- the forward jump -----------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["flow", "vp", "ve"])
@pytest.mark.parametrize(("low", "high"), [(0.0, 0.5), (0.2, 0.3), (0.4, 0.95), (0.9, 1.0)])
def test_jump_takes_one_marginal_to_the_other(kind: str, low: float, high: float) -> None:
    """Its two coefficients, read off, map mean and variance at one level exactly to those at the
    other."""
    zero, one = torch.zeros(1, 1, dtype=torch.float64), torch.ones(1, 1, dtype=torch.float64)
    r, s = renoise(one, kind, low, high, zero).item(), renoise(zero, kind, low, high, one).item()
    (mean, covariance), (wanted_mean, wanted_covariance) = moments(kind, low), moments(kind, high)
    torch.testing.assert_close(r * mean, wanted_mean)
    torch.testing.assert_close(
        r**2 * covariance + s**2 * torch.eye(2, dtype=torch.float64), wanted_covariance
    )


def test_jump_of_half_precision_is_rounded_once() -> None:
    z, noise = torch.randn(64, 8).bfloat16(), torch.randn(64, 8)
    found = renoise(z, "flow", 0.3, 0.6, noise)
    assert found.dtype == torch.bfloat16
    assert torch.equal(found, renoise(z.float(), "flow", 0.3, 0.6, noise).bfloat16())


# --- runs of schedulers with an exact model -------------------------------------------------------


KEY_SCHEDULERS = ("flow", "flow multistep", "vp", "cog dpm", "ve")  # each kind of noise


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[] if name in KEY_SCHEDULERS else [pytest.mark.long])
        for name in SCHEDULERS
    ],
)
def test_gaussian_stays_what_it_is(name: str) -> None:
    """Mean and covariance after the last jump and after the run are the true ones, to Monte Carlo
    error."""
    scheduler = scheduler_of(name)
    restart = Restart(window=(0.35, 0.7), repeats=3)
    x, seen = sampled(scheduler, [restart])
    set_timesteps(scheduler, 250)
    kind, (before, after) = scheduler_kind(scheduler), noise_levels(scheduler)
    first, end = restart.steps(before, after)
    assert (first, end) == (88, 175)
    num = end - first
    assert len(seen) == 250 + 3 * num
    assert_has_moments(
        seen[end - 1 + 2 * num], *moments(kind, before[first]), slack=0.03
    )  # after the last jump
    assert_has_moments(seen[end - 1 + 3 * num], *moments(kind, after[end - 1]), slack=0.03)
    assert_has_moments(x, MEAN, COVARIANCE, slack=0.04)


@pytest.mark.parametrize("window", [(0.5, 0.75), (0.75, 1.0), (0.0, 1.0)])
@pytest.mark.parametrize("name", SCHEDULERS)
def test_first_round_is_the_run_without_restarts(name: str, window: tuple[float, float]) -> None:
    """To the last step too, where multistep methods go down to first order, for a higher one
    divides by the noise that is left."""
    _, plain = sampled(scheduler_of(name), [], 20)
    x, seen = sampled(scheduler_of(name), [Restart(window=window)], 20)
    first, end = (round(edge * 20) for edge in window)
    assert len(seen) == 20 + end - first
    for a, b in zip(plain[: end - 1], seen[: end - 1], strict=True):
        assert torch.equal(a, b)
    assert not torch.equal(plain[end - 1], seen[end - 1])
    assert torch.isfinite(x).all()


@pytest.mark.parametrize("name", ["flow multistep", "vp multistep", "vp unipc"])
def test_gaussian_stays_what_it_is_where_the_last_step_is_repeated(name: str) -> None:
    scheduler = scheduler_of(name)
    x, seen = sampled(scheduler, [Restart(window=(0.7, 1.0), repeats=2)], 120)
    set_timesteps(scheduler, 120)
    kind, before = scheduler_kind(scheduler), noise_levels(scheduler)[0]
    assert_has_moments(seen[155], *moments(kind, before[84]), slack=0.03)  # after the last jump
    assert_has_moments(x, MEAN, COVARIANCE, slack=0.05)


def test_multistep_history_ends_at_a_jump() -> None:
    """Right after it a multistep method is as if it had just begun there."""
    for name in ("flow multistep", "vp multistep", "vp unipc"):
        scheduler = scheduler_of(name)
        _, seen = sampled(scheduler, [Restart(window=(0.5, 0.75))], 20)
        scheduler.set_timesteps(20)
        kind, level = scheduler_kind(scheduler), noise_levels(scheduler)[0][10]
        scheduler.set_begin_index(10)
        t = scheduler.timesteps[10]
        fresh = scheduler.step(
            prediction(scheduler, seen[14], kind, level), t, seen[14], return_dict=False
        )[0]
        torch.testing.assert_close(fresh, seen[15], msg=name)


def test_several_intervals_to_the_last_step() -> None:
    scheduler = scheduler_of("flow")
    restarts = [Restart(window=(0.7, 1.0)), Restart(window=(0.0, 0.2), repeats=2)]
    restarting = RestartController(scheduler, restarts)
    scheduler.set_timesteps(10)
    assert restarting.step_order == [0, 1, 0, 1, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 7, 8, 9]
    assert restarting.base_num_steps == 10
    assert len(scheduler.timesteps) == 17
    assert len(scheduler.sigmas) == 18
    assert scheduler.sigmas[-1] == 0
    restarting.remove()
    x, _ = sampled(scheduler_of("flow"), restarts, 100)
    assert_has_moments(x, MEAN, COVARIANCE, slack=0.05)


def test_remove_leaves_the_scheduler_as_it_was() -> None:
    scheduler = scheduler_of("vp")
    before = set(vars(scheduler))
    restarting = RestartController(scheduler, [Restart(window=(0.5, 0.75))])
    restarting.remove()
    assert set(vars(scheduler)) == before
    scheduler.set_timesteps(8)
    assert len(scheduler.timesteps) == 8


def test_intervals_by_noise_level() -> None:
    before, after = [1.0, 0.8, 0.6, 0.4, 0.2], [0.8, 0.6, 0.4, 0.2, 0.0]
    assert Restart(sigma=(0.2, 0.6)).steps(before, after) == (2, 4)
    assert Restart(sigma=(0.15, 0.65)).steps(before, after) == (2, 5)
    assert Restart(window=(0.4, 0.8)).steps(before, after) == (2, 4)
    with pytest.raises(
        ValueError,
        match=r"at least one whole step, but sigma=\(0.41, 0.59\) holds none of this run",
    ):
        Restart(sigma=(0.41, 0.59)).steps(before, after)


# --- whole pipelines ------------------------------------------------------------------------------


REFUSED = {  # by how the names of the tests' pipelines begin
    "Allegro": (
        "a scheduler of many small steps, one of .*, but this pipeline has"
        " EulerAncestralDiscreteScheduler"
    ),
    "AnyFlow": "but this pipeline has FlowMapEulerDiscreteScheduler",
    "Helios": "but this pipeline has HeliosScheduler",
    "LTX2": "a pipeline with one scheduler for all of the video, but this one makes copies",
    "Kandinsky6TI2VAPipeline": "this one makes copies",
    "SkyReelsV2DiffusionForcing": "this one makes copies",
    "LTXCondition": "one noise level for all of a sample, but this run has one for each token",
    "SanaWM": "this run has one for each token",
    "LTXI2VLong": "cannot guide",
}
ALLOWED = ("Kandinsky6TI2VAPipeline image",)  # without sound


def steps_of(calls: list[oracle.Call]) -> list[list[float]]:
    """The timesteps that a denoiser was called with, those of one step together."""
    times = (call.kwargs.get("timestep", call.kwargs.get("t")) for call in calls)  # t: Z-Image
    values = [float(torch.as_tensor(time).float().max()) for time in times]
    return [list(step) for _, step in itertools.groupby(values)]


@pytest.mark.parametrize("name", tiny.builders())
def test_every_pipeline_repeats_steps_or_says_why(name: str) -> None:
    """Steps 1 and 2 of 4 are done twice, in each segment of a video; terms hold in both rounds."""
    given, steps = tiny.tiny(name), {"num_inference_steps": 4}
    message = next(
        (text for start, text in REFUSED.items() if name.startswith(start) and name not in ALLOWED),
        None,
    )
    if message is not None:
        with (
            pytest.raises(ValueError, match=message),
            guide(given.pipe, restart=Restart(window=(0.25, 0.75))),
        ):
            oracle.run(given, **steps)
        return
    with oracle.listening(given) as calls:
        plain = oracle.run(given, **steps)
    usual = steps_of(calls)
    per_segment = 3 if "strength" in given.call else 4
    begin, end = 1 - (4 - per_segment), 3 - (4 - per_segment)
    segments = [usual[i : i + per_segment] for i in range(0, len(usual), per_segment)]
    with (
        guide(given.pipe, restart=Restart(window=(0.25, 0.75))) as handle,
        oracle.listening(given) as calls,
    ):
        restarted = oracle.run(given, **steps)
    assert steps_of(calls) == [
        step for seg in segments for step in (*seg[:end], *seg[begin:end], *seg[end:])
    ]
    assert handle.passes.steps == per_segment + 2
    assert restarted.shape == plain.shape
    assert torch.isfinite(restarted).all()
    assert not torch.equal(restarted, plain)
    assert not {"step", "set_timesteps"} & set(vars(given.pipe.scheduler))
    assert "progress_bar" not in vars(given.pipe)


@pytest.mark.parametrize(
    "name", ["MochiPipeline", "WanPipeline", "LattePipeline", "StableVideoDiffusionPipeline"]
)
def test_pipelines_add_new_noise_of_the_right_size(name: str) -> None:
    """What the denoiser sees when a round begins is r z + s eps, z being where the plain run
    was."""
    given = tiny.tiny(name)
    key = "sample" if name.startswith("Stable") else "hidden_states"

    def seen(restart: Restart | None) -> list[torch.Tensor]:
        guided = guide(given.pipe, restart=restart) if restart else contextlib.nullcontext()
        with guided, oracle.listening(given) as calls:
            oracle.run(given, num_inference_steps=4)
        per_step = len(calls) // (6 if restart else 4)
        return [call.kwargs[key] for call in calls[::per_step]]

    plain, restarted = seen(None), seen(Restart(window=(0.25, 0.75)))
    scheduler = given.pipe.scheduler
    kind, before = (
        scheduler_kind(scheduler),
        noise_levels(scheduler)[0],
    )  # of steps 0, 1, 2, 1, 2, 3
    z, jumped, low, high = plain[3], restarted[3], before[5], before[3]
    if (
        kind == "ve"
    ):  # of the channels only the latents are scaled, and their noise is what is looked at
        latents = jumped.shape[2] // 2
        z = z[:, :, :latents] * math.sqrt(low**2 + 1)
        jumped = jumped[:, :, :latents] * math.sqrt(high**2 + 1)
    one, zero = torch.ones(1), torch.zeros(1)
    r, s = (renoise(x, kind, low, high, eps).item() for x, eps in ((one, zero), (zero, one)))
    noise = (jumped - r * z).chunk(2)[0] / s  # both halves of a batch are the same latents
    assert abs(noise.mean()) < 5 / math.sqrt(noise.numel())
    assert abs(noise.std() - 1) < 5 / math.sqrt(2 * noise.numel())
    again = seen(Restart(window=(0.25, 0.75)))
    assert all(
        torch.equal(a, b) for a, b in zip(restarted, again, strict=True)
    )  # from the pipeline's generator


def latents_after_steps(given: Tiny, *restart: Restart, **call: Any) -> list[torch.Tensor]:
    """What a callback is shown at the end of each step of a run of 4."""
    seen: list[torch.Tensor] = []

    def keep(_: Any, __: int, ___: Any, kwargs: dict[str, Any]) -> dict[str, Any]:
        seen.append(kwargs["latents"].clone())
        return {}

    with guide(given.pipe, restart=restart) if restart else contextlib.nullcontext():
        oracle.run(given, num_inference_steps=4, callback_on_step_end=keep, **call)
    return seen


@pytest.mark.parametrize("generators", [1, 2])
def test_cosmos_calls_its_scheduler_twice_in_a_step_and_gets_its_noise_once(
    generators: int,
) -> None:
    """The noise that a jump adds is in the latents after the second call of the step."""
    given = tiny.tiny("CosmosTextToWorldPipeline")

    def seen(*restart: Restart) -> list[torch.Tensor]:
        made = [torch.Generator().manual_seed(i) for i in range(2)]
        call = {} if generators == 1 else {"generator": made}
        return latents_after_steps(given, *restart, **call)

    plain, restarted = seen(), seen(Restart(window=(0.25, 0.75)))
    levels = noise_levels(given.pipe.scheduler)[0]  # of steps 0, 1, 2, 1, 2, 3
    assert [torch.equal(a, b) for a, b in zip(plain, restarted, strict=False)][:3] == [
        True, True, False,
    ]  # fmt: skip
    added = (restarted[2] - plain[2]) / math.sqrt(levels[1] ** 2 - levels[5] ** 2)
    assert abs(added.mean()) < 5 / math.sqrt(added.numel())
    assert abs(added.std() - 1) < 5 / math.sqrt(2 * added.numel())
    assert len(restarted) == 6


@pytest.mark.parametrize("name", ["MochiPipeline", "OpenSoraPipeline"])
def test_terms_hold_in_every_round(name: str) -> None:
    """A window speaks of the usual steps: of the repeated ones the same are guided."""
    given = tiny.tiny(name)
    with guide(
        given.pipe, STG(layers=[1], start=0.5, stop=0.75), restart=Restart(window=(0.25, 0.75))
    ) as handle:
        oracle.run(given, num_inference_steps=4)
    assert handle.passes.steps == 6
    assert sum(handle.passes.weak_runs.values()) == 2  # step 2, twice


def test_progress_bar_counts_the_additional_steps(capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("MochiPipeline", "WanPipeline", "OpenSoraPipeline"):
        given = tiny.tiny(name)
        given.pipe.set_progress_bar_config(disable=False)
        try:
            with guide(given.pipe, restart=Restart(window=(0.25, 0.75))):
                oracle.run(given, num_inference_steps=4)
        finally:
            given.pipe.set_progress_bar_config(disable=True)
        assert "6/6" in capsys.readouterr().err, name


def test_generators_for_each_row() -> None:
    given = tiny.tiny("MochiPipeline")

    def run(seeds: list[int]) -> torch.Tensor:
        with guide(given.pipe, restart=Restart(window=(0.25, 0.75))):
            found = given.pipe(
                **given.call, generator=[torch.Generator().manual_seed(seed) for seed in seeds]
            )
        return found.frames

    both, swapped = run([1, 2]), run([3, 2])
    torch.testing.assert_close(both[1], swapped[1])
    assert not torch.allclose(both[0], swapped[0], atol=1e-3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, r"needs sigma=\(t_min, t_max\) or window=\(start, stop\), but got 0 of the two"),
        ({"sigma": (0.1, 0.2), "window": (0.1, 0.2)}, "but got 2 of the two"),
        (
            {"sigma": (0.5, 0.2)},
            r"sigma must be two numbers with 0 <= low < high, but got \(0.5, 0.2\)",
        ),
        ({"sigma": (0.5, math.nan)}, "sigma must be two numbers"),
        ({"sigma": 0.5}, "sigma must be two numbers with 0 <= low < high, but got 0.5"),
        ({"window": (0.5, 1.5)}, r"window must be two numbers with 0 <= low < high <= 1, but got"),
        ({"window": (0.5,)}, "window must be two numbers"),
        ({"window": (0.2, 0.4), "repeats": 0}, "repeats must be a whole number from 1, but got 0"),
        (
            {"window": (0.2, 0.4), "repeats": 1.5},
            "repeats must be a whole number from 1, but got 1.5",
        ),
        (
            {"window": (0.2, 0.4), "noise_scale": 0},
            "noise_scale must be a number above 0, but got 0",
        ),
    ],
)
def test_errors_of_a_restart(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Restart(**arguments)


def test_errors_of_a_run() -> None:
    given = tiny.tiny("MochiPipeline")
    pipe = given.pipe
    with pytest.raises(
        ValueError, match=r"restart must be a Restart or a list of them, but got 0\.5"
    ):
        guide(pipe, restart=0.5)  # type: ignore[arg-type]
    for restarts, message in (
        ([Restart(window=(0.0, 0.5)), Restart(window=(0.25, 0.75))], "restarts must not overlap"),
        ([Restart(window=(0.3, 0.4))], "holds none of this run, whose noise levels are"),
    ):
        with pytest.raises(ValueError, match=message), guide(pipe, restart=restarts):
            oracle.run(given, num_inference_steps=4)
    usual = pipe.scheduler
    try:
        with guide(pipe, restart=Restart(window=(0.25, 0.75))):
            pipe.scheduler = type(usual).from_config(usual.config)
            with pytest.raises(
                RuntimeError, match="restarts are on the scheduler that the pipeline had when guide"
            ):
                oracle.run(given, num_inference_steps=4)
    finally:
        pipe.scheduler = usual
    stochastic = type(usual).from_config(usual.config, stochastic_sampling=True)
    with pytest.raises(ValueError, match="with stochastic_sampling, made for distilled models"):
        check_keeps_noise(stochastic)
    handles = []

    def late(pipe: Any, i: int, t: Any, kwargs: dict[str, Any]) -> dict[str, Any]:
        if i == 0:
            handles.append(guide(pipe, restart=Restart(window=(0.25, 0.75))))
        return kwargs

    with pytest.raises(RuntimeError, match="restarts must be there before a run begins"):
        oracle.run(given, num_inference_steps=4, callback_on_step_end=late)
    handles[0].remove()
    assert not {"step", "set_timesteps"} & set(vars(pipe.scheduler))
    assert "progress_bar" not in vars(pipe)


def test_strength_that_leaves_out_the_restart() -> None:
    given = tiny.tiny("AnimateDiffVideoToVideoPipeline")
    message = r"this run begins at step 1 \(strength\) and the first restart goes back to step 0"
    with (
        pytest.raises(ValueError, match=message),
        guide(given.pipe, restart=Restart(window=(0.0, 0.5))),
    ):
        oracle.run(given, num_inference_steps=4)
