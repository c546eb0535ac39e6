"""Restarts with a mask: what they keep and renew, against runs by hand and plain restarts."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from diffusers import schedulers as known

from skipguide import STG, Restart, guide
from skipguide.method.restart import renoise
from skipguide.opensora import OpenSoraRFlowScheduler
from skipguide.pipeline.restarting import RestartController
from support import oracle, tiny

Tensor = torch.Tensor
ALL, NOTHING = 0.0, 1e9  # thresholds
FOUR = {"num_inference_steps": 4}
ONE_STEP_PIPELINES = [
    "MochiPipeline",
    "LTXPipeline",
    "LattePipeline",
    "StableVideoDiffusionPipeline",
    "OpenSoraPipeline",
    "Kandinsky5T2VPipeline",
]


def restarted(name: str, restart: Restart | None, **more: Any) -> Tensor:
    given = tiny.tiny(name)
    with guide(given.pipe, STG([0 if "Stable" not in name else "mid:0"], 0.7), restart=restart):
        return oracle.run(given, **FOUR, **more)


@pytest.mark.parametrize("repeats", [1, 3])
@pytest.mark.parametrize("window", [(0.25, 0.5), (0.25, 1.0)])
@pytest.mark.parametrize("name", ONE_STEP_PIPELINES)
def test_all_is_a_plain_restart_and_nothing_is_none(
    name: str, window: tuple[float, float], repeats: int
) -> None:
    """To the bit."""
    plain = restarted(name, Restart(window=window, repeats=repeats))
    none = restarted(name, None)
    assert not torch.equal(plain, none)
    for mask, expected in ((ALL, plain), (NOTHING, none)):
        found = restarted(name, Restart(window=window, repeats=repeats, mask=mask))
        assert torch.equal(found, expected)


def test_what_is_between_keeps_some_and_renews_some() -> None:
    """After the last round a place is as in the run without restarts, or as nowhere there."""
    given, shown = tiny.tiny("MochiPipeline"), dict[Any, list[Tensor]]()

    def run(restart: Restart | None) -> list[Tensor]:
        def look(pipe: Any, i: int, t: Any, kwargs: dict[str, Tensor]) -> dict[str, Tensor]:
            shown.setdefault(restart, []).append(kwargs["latents"].clone())
            return {}

        with guide(given.pipe, STG([1], 0.7), restart=restart):
            oracle.run(given, **FOUR, callback_on_step_end=look)
        return shown[restart]

    none = run(None)
    plain = run(Restart(window=(0.25, 0.75)))
    masked = run(Restart(window=(0.25, 0.75), mask=1.3))
    assert len(plain) == len(masked) == 6
    kept = (masked[4] == none[2]).all(1)  # (B, F, H, W), after step 2 was done again
    share = kept.float().mean((1, 2, 3))
    assert ((share > 0.02) & (share < 0.98)).all(), f"choose another threshold: {share}"
    assert torch.equal(torch.where(kept[:, None], none[2], masked[4]), masked[4])
    assert not torch.equal(masked[3], plain[3])


SCHEDULERS: dict[str, tuple[str, dict[str, Any]]] = {
    "flow": ("FlowMatchEulerDiscreteScheduler", dict(shift=3.0)),
    "inverted": ("FlowMatchEulerDiscreteScheduler", dict(invert_sigmas=True)),
    "open-sora": ("OpenSoraRFlowScheduler", {}),
    "vp": (
        "DDIMScheduler",
        dict(clip_sample=False, timestep_spacing="trailing", prediction_type="v_prediction"),
    ),
    "ve": ("EulerDiscreteScheduler", dict(prediction_type="v_prediction")),
}


def toy_model(x: Tensor, seen: int) -> Tensor:
    """A prediction that depends on the latents, roughly in some places only."""
    weight = torch.linspace(-1.5, 1.5, x[0, 0].numel()).reshape(x.shape[2:])
    return torch.tanh(weight * x) + 0.1 * x.flip(1) + 0.05 * seen


@pytest.mark.parametrize("name", SCHEDULERS)
def test_rounds_by_hand(name: str) -> None:
    """The rule of the paper's code in an interval of two steps: places that agree once stay."""
    class_name, config = SCHEDULERS[name]
    kind: Any = getattr(known, class_name, OpenSoraRFlowScheduler)
    threshold, steps = 0.35, 6
    size = dict(height=240, width=426, num_frames=51) if name == "open-sora" else {}
    start = torch.randn(2, 3, 2, 4, 4, generator=torch.Generator().manual_seed(0))

    def step(scheduler: Any, index: int, x: Tensor) -> tuple[Tensor, Tensor]:
        """The sample after a step, and the scheduler's own estimate of the data."""
        t = scheduler.timesteps[index]
        scheduler._step_index = index
        if hasattr(scheduler, "scale_model_input"):
            scheduler.is_scale_input_called = True
        prediction = toy_model(x, index)
        after = scheduler.step(prediction, t, x, return_dict=True)
        if hasattr(after, "pred_original_sample"):
            return after.prev_sample, after.pred_original_sample
        sigma = float(scheduler.sigmas[index])
        factor = {"flow": -sigma, "inverted": 1 - sigma, "open-sora": sigma}[name]
        return after.prev_sample, x + factor * prediction

    scheduler = kind(**config)
    controller = RestartController(
        scheduler, [Restart(window=(1 / 3, 2 / 3), repeats=2, mask=threshold)]
    )
    scheduler.set_timesteps(steps, **size)
    torch.manual_seed(1)
    x, found = start, []
    for index, t in enumerate(scheduler.timesteps):
        if hasattr(scheduler, "scale_model_input"):
            scheduler.is_scale_input_called = True
        usual = controller.step_order[index]
        x = scheduler.step(toy_model(x, usual), t, x, return_dict=False)[0]
        found.append(x)
    jumps = controller._jumps
    controller.remove()

    by_hand = kind(**config)
    by_hand.set_timesteps(steps, **size)
    torch.manual_seed(1)
    x, expected, before = start, [], dict[int, Tensor]()
    kept, estimate = torch.zeros(2, 1, 2, 4, 4, dtype=torch.bool), None
    shares = []
    for index, usual in enumerate([0, 1, 2, 3, 2, 3, 2, 3, 4, 5]):
        x, x_0 = step(by_hand, usual, x)
        if usual == 2:
            if estimate is not None:
                difference = (x_0 - estimate).abs().sum(1, keepdim=True) / 3
                kept = kept | (difference < threshold)
                x_0 = kept * estimate + ~kept * x_0
                shares.append(float(kept.float().mean()))
            estimate = x_0
        if usual in (2, 3):
            x = kept * before.get(usual, x) + ~kept * x
            before[usual] = x
        if (jump := jumps.get(index)) is not None:
            x = renoise(x, jump.kind, jump.low, jump.high, torch.randn(x.shape))
        expected.append(x)
    assert 0.05 < shares[0] < shares[1] < 0.95, f"choose another threshold: {shares}"
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)


def test_one_sample_does_not_touch_another() -> None:
    given = tiny.tiny("MochiPipeline")
    restart = Restart(window=(0.25, 0.75), repeats=2, mask=1.3)
    generators = [torch.Generator().manual_seed(i) for i in range(2)]
    both = restarted("MochiPipeline", restart, generator=generators).reshape(2, -1)
    call = {
        name: value[1:]
        for name, value in given.call.items()
        if torch.is_tensor(value) and len(value) == 2
    }
    one = restarted("MochiPipeline", restart, generator=[torch.Generator().manual_seed(1)], **call)
    torch.testing.assert_close(both[1], one, atol=1e-4, rtol=1e-4)


def test_a_run_begins_anew() -> None:
    """Nothing of a run, nor of one that was stopped in an interval, goes into the next one."""
    given = tiny.tiny("MochiPipeline")
    with guide(given.pipe, restart=Restart(window=(0.25, 0.75), mask=1.3)) as handle:
        first = oracle.run(given, **FOUR)

        def stop(pipe: Any, i: int, t: Any, kwargs: dict[str, Tensor]) -> dict[str, Tensor]:
            if i == 2:
                raise KeyboardInterrupt
            return {}

        with pytest.raises(KeyboardInterrupt):
            oracle.run(given, **FOUR, callback_on_step_end=stop)
        assert torch.equal(oracle.run(given, **FOUR), first)
        assert handle.passes.steps == 6
    assert not {"step", "set_timesteps"} & set(vars(given.pipe.scheduler))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("WanPipeline", "needs a scheduler whose steps depend on the latents alone"),
        ("CosmosTextToWorldPipeline", "a Restart with a mask needs to know how predictions become"),
    ],
)
def test_where_a_mask_is_refused(name: str, message: str) -> None:
    given = tiny.tiny(name)
    with (
        pytest.raises(ValueError, match=message),
        guide(given.pipe, restart=Restart(window=(0.25, 0.5), mask=0.25)),
    ):
        oracle.run(given, **FOUR)


def test_schedulers_that_keep_predictions_are_refused() -> None:
    restart = Restart(window=(0.25, 0.5), mask=0.25)
    for name in ("CogVideoXDPMScheduler", "DPMSolverMultistepScheduler"):
        kind: Any = getattr(known, name)
        with pytest.raises(ValueError, match=f"but a {name} keeps earlier predictions"):
            RestartController(kind(), [restart])
        RestartController(kind(), [Restart(window=(0.25, 0.5))]).remove()


def test_errors_of_a_mask() -> None:
    with pytest.raises(ValueError, match=r"mask must be a finite number >= 0 .0 renews every"):
        Restart(window=(0.1, 0.2), mask=-0.1)
    assert Restart(window=(0.1, 0.2)).mask is None
