"""Options of schedulers: what diffusers' classes refuse or fail with is said before a step."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from diffusers.schedulers.scheduling_flow_match_euler_discrete import (
    FlowMatchEulerDiscreteScheduler,
)
from diffusers.schedulers.scheduling_unipc_multistep import UniPCMultistepScheduler

from skipguide.generate import preflight
from skipguide.generate.settings import validate_settings
from skipguide.models import scheduler
from skipguide.models.settings import ModelSettings

EULER = FlowMatchEulerDiscreteScheduler(shift=5.0)
UNIPC = UniPCMultistepScheduler(
    use_flow_sigmas=True, prediction_type="flow_prediction", flow_shift=5.0
)
EULER_WORDS = "of FlowMatchEulerDiscreteScheduler must be"


def refusal(named: str, flow_shift: float | None = None, own: Any = UNIPC) -> str:
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - its words are what is tested
        scheduler.build_scheduler(own, named, flow_shift, 3)
    return str(caught.value)


@pytest.mark.parametrize(
    ("named", "words"),
    [
        ("FlowMatchEulerDiscrete:shift=abc", f"shift {EULER_WORDS} a finite number, but got 'abc'"),
        ("FlowMatchEulerDiscrete:shift=nan", f"shift {EULER_WORDS} a finite number, but got 'nan'"),
        ("FlowMatchEulerDiscrete:shift=true", f"shift {EULER_WORDS} a finite number, but got True"),
        ("FlowMatchEulerDiscrete:shift=0", f"shift {EULER_WORDS} a finite number above 0, but"),
        ("FlowMatchEulerDiscrete:time_shift_type=x", "must be exponential or linear, but got 'x'"),
        ("FlowMatchEulerDiscrete:invert_sigmas=x", f"{EULER_WORDS} true or false, but got 'x'"),
        ("FlowMatchEulerDiscrete:num_train_timesteps=1.5", "a whole number, but got 1.5"),
        ("FlowMatchEulerDiscrete:num_train_timesteps=0", "a whole number >= 1, but got 0"),
        ("UniPCMultistep:solver_type=foo", "must be bh1 or bh2, but got 'foo'. Correct it in --s"),
        ("UniPCMultistep:solver_order=0", "must be a whole number >= 1, but got 0"),
        ("UniPCMultistep:timestep_spacing=foo", "timestep_spacing"),
        ("UniPCMultistep:disable_corrector=1", "must be a list, but got 1"),
        ("UniPCMultistep:solver_p=UniPC", "solver_p of UniPCMultistepScheduler must be left out"),
        ("DPMSolverMultistep:solver_order=99", "must be 1, 2 or 3, but got 99"),
        ("DPMSolverMultistep:algorithm_type=foo", "must be dpmsolver or dpmsolver++ or sde-"),
    ],
)
def test_values_that_a_scheduler_does_not_take(named: str, words: str) -> None:
    assert words in refusal(named)


def test_values_that_fail_in_the_loop() -> None:
    """Two kinds of sigmas at once, which diffusers' class refuses in words of its own."""
    two = "UniPCMultistep:use_karras_sigmas=true,use_exponential_sigmas=true"
    assert refusal(two).startswith("the options of UniPCMultistepScheduler must be ones with which")
    assert "diffusers says: Only one of" in refusal(two)


def test_values_in_other_spellings() -> None:
    """1 is true, and 1e-4, which YAML takes for text, is a number."""
    found = scheduler.build_scheduler(UNIPC, "UniPCMultistep:use_karras_sigmas=1", None)
    assert found.config.use_karras_sigmas is True
    found = scheduler.build_scheduler(UNIPC, "UniPCMultistep:beta_start=1e-4", None)
    assert found.config.beta_start == 0.0001
    found = scheduler.build_scheduler(EULER, "FlowMatchEulerDiscrete:shift_terminal=null", None)
    assert found.config.shift_terminal is None


def test_two_shifts() -> None:
    named = "FlowMatchEulerDiscrete:shift=3"
    said = refusal(named, 5.0)
    assert said.startswith("flow_shift must be given once, but got --flow-shift 5 and shift=3 in")
    assert scheduler.build_scheduler(UNIPC, named, 3.0).shift == 3


@pytest.mark.parametrize(
    "written",
    ["UniPCMultistep:flow_shift=3,flow_shift=4", "FlowMatchEulerDiscrete:shift", "Uni PC"],
)
def test_the_example_in_the_words_is_taken(written: str) -> None:
    with pytest.raises(ValueError, match=r"each once with its value, as in .*, but got") as caught:
        validate_settings({"prompt": "x", "scheduler": written})
    example = str(caught.value).partition("as in ")[2].partition(",")[0]
    assert scheduler.build_scheduler(UNIPC, example, None).config.flow_shift == 3


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("Eulr", "FlowMatchEulerDiscrete"),
        ("Euler", "FlowMatchEulerDiscrete"),
        ("FlowMatchEuler", "FlowMatchEulerDiscrete"),
        ("unipc", "UniPCMultistep"),
        ("DPMSolver", "DPMSolverMultistep"),
    ],
)
def test_the_scheduler_that_was_meant(written: str, meant: str) -> None:
    said = refusal(written)
    assert f"Did you mean {meant}" in said
    close = said.partition("Did you mean ")[2].rstrip("?").split(" or ")
    for name in close:  # any that is proposed can be taken
        scheduler.build_scheduler(UNIPC, name, None)


def notes(own: Any, **given: Any) -> list[str]:
    """Return the notes on settings that have a number of steps."""
    settings = validate_settings({"prompt": "x", "steps": 3, **given})
    return list(scheduler.scheduler_notes(own, settings))


def test_options_that_cannot_matter() -> None:
    assert notes(UNIPC, scheduler="UniPCMultistep:solver_order=99") == [
        "solver_order=99 of UniPCMultistepScheduler is more than the video has steps, and no more"
        " than 3 can have an effect. Take 2 or 3."
    ]
    # Of the betas, in the place of which flow matching has its own noise levels.
    (said,) = notes(UNIPC, scheduler="UniPCMultistep:beta_start=0.01,flow_shift=3")
    assert said.startswith("beta_start=0.01 of UniPCMultistepScheduler has no effect on the steps")
    for named in ("UniPCMultistep:solver_type=bh1", "FlowMatchEulerDiscrete:shift=3"):
        assert notes(UNIPC, scheduler=named) == []
    assert list(scheduler.scheduler_notes(UNIPC, ModelSettings())) == []


def test_a_trial_leaves_the_random_numbers_alone() -> None:
    torch.manual_seed(7)
    expected = torch.randn(3)
    torch.manual_seed(7)
    scheduler.build_scheduler(UNIPC, "DPMSolverMultistep:algorithm_type=sde-dpmsolver++", None, 3)
    assert torch.equal(torch.randn(3), expected)


@pytest.mark.parametrize(
    ("model", "named", "words"),
    [
        ("lab-svd", "FlowMatchEulerDiscrete", "has no init_noise_sigma, scale_model_input, as the"),
        ("lab-opensora", "UniPCMultistep", "has no set_timesteps(height=...), set_timesteps(num_"),
    ],
)
def test_a_scheduler_that_a_pipeline_cannot_call(model: str, named: str, words: str) -> None:
    """Both were an AttributeError or a TypeError out of the pipeline."""
    pipe = preflight.find_skeleton(ModelSettings(model=model))
    own = pipe.scheduler
    wanted = ModelSettings.model_validate({"scheduler": named})
    with (
        pytest.raises(ValueError, match=r"^scheduler must be one that .* can call") as told,
        scheduler.use_scheduler(pipe, wanted),
    ):
        pass
    assert words in str(told.value)
    assert pipe.scheduler is own


def test_a_scheduler_that_fails_in_the_call() -> None:
    """CogVideoX' own DPM solver is called in another way, which another pipeline does not know."""
    pipe = preflight.find_skeleton(ModelSettings(model="lab-svd"))
    wanted = ModelSettings.model_validate({"scheduler": "CogVideoXDPM"})

    def step() -> None:
        sample = torch.zeros(1, 2, 4, 4, 4)
        pipe.scheduler.set_timesteps(2)
        pipe.scheduler.step(sample, pipe.scheduler.timesteps[0], sample)

    with (
        pytest.raises(ValueError, match=r"^scheduler must be one that goes with .*CogVideoXDPM"),
        scheduler.use_scheduler(pipe, wanted),
    ):
        step()
    with (
        pytest.raises(RuntimeError, match="another"),
        scheduler.use_scheduler(pipe, ModelSettings.model_validate({"scheduler": "DDIM"})),
    ):
        raise RuntimeError("another")
