"""The mixture of data and noise at each level, and the way from a prediction to data.

flow    x = (1 - s) x_0 + s eps              the model predicts v = eps - x_0, or -v (FROM_NOISE)
vp      x = (x_0 + s eps) / sqrt(1 + s^2)    eps, x_0, or v = (eps - s x_0) / sqrt(1 + s^2)
ve      x = x_0 + s eps                      the same
"""

from __future__ import annotations

import math

import torch

from skipguide.method.protocols import Scheduler

SCHEDULER_KINDS = {  # by the class of the scheduler; "sigmas": its config says which
    "FlowMatchEulerDiscreteScheduler": "flow",
    "OpenSoraRFlowScheduler": "flow",
    "UniPCMultistepScheduler": "sigmas",
    "DPMSolverMultistepScheduler": "sigmas",
    "EulerDiscreteScheduler": "ve",
    "EDMEulerScheduler": "ve",
    "DDIMScheduler": "vp",
    "CogVideoXDDIMScheduler": "vp",
    "CogVideoXDPMScheduler": "vp",
    "FlowMatchLCMScheduler": "flow",
    "HeliosDMDScheduler": "flow",
    "LCMScheduler": "vp",
    "TCDScheduler": "vp",
}
# Those of distilled models: each step begins anew, from its estimate of the data and new noise.
RENOISING_SCHEDULERS = {
    "FlowMatchLCMScheduler", "HeliosDMDScheduler", "LCMScheduler", "TCDScheduler"
}  # fmt: skip
_UNKNOWN_BECAUSE = {  # why a scheduler is not among SCHEDULER_KINDS
    "FlowMapEulerDiscreteScheduler": (
        ", whose model predicts the mean velocity up to the noise level that follows in the list"
    ),
    "MiniMaxH3Scheduler": ", one of two that step together, for the video and for the sound",
}

REVERSED_FLOWS = {
    "OpenSoraRFlowScheduler"
}  # flows whose model predicts x_0 - eps, as it does with `invert_sigmas`


def scheduler_kind(scheduler: Scheduler, what: str = "a Restart") -> str:
    """Return how a scheduler's samples are made: "flow", "vp" or "ve".

    Args:
        what: what needs to know it, for the error.

    Raises:
        ValueError: for a scheduler of which that is not known.
    """
    name = type(scheduler).__name__
    config = getattr(scheduler, "config", {})
    if name not in SCHEDULER_KINDS:
        known = [kind for kind in SCHEDULER_KINDS if kind not in RENOISING_SCHEDULERS]
        raise ValueError(
            f"{what} needs a scheduler of many small steps, one of {', '.join(known)},"
            f" but this pipeline has {name}{_UNKNOWN_BECAUSE.get(name, '')}. Exchange"
            " pipe.scheduler, or leave it out."
        )
    if SCHEDULER_KINDS[name] != "sigmas":
        return SCHEDULER_KINDS[name]
    flow = config.get("use_flow_sigmas") or config.get("prediction_type") == "flow_prediction"
    return "flow" if flow else "vp"


def check_keeps_noise(scheduler: Scheduler, what: str = "a Restart") -> None:
    """Reject a scheduler that draws new noise at every step, as distilled models are sampled.

    Raises:
        ValueError: for one of RENOISING_SCHEDULERS, or of stochastic sampling.
    """
    name = type(scheduler).__name__
    stochastic = getattr(scheduler, "config", {}).get("stochastic_sampling")
    if name not in RENOISING_SCHEDULERS and not stochastic:
        return
    how = " with stochastic_sampling" if stochastic else ""
    raise ValueError(
        f"{what} needs a scheduler whose steps take noise away little by little, but this pipeline"
        f" has {name}{how}, made for distilled models: each of its steps begins anew, from the"
        " estimate of the data and new noise. Leave it out, or exchange pipe.scheduler."
    )


def noise_levels(scheduler: Scheduler) -> tuple[list[float], list[float]]:
    """Return sigma before each step of a run and after it: one transfer from the device."""
    if getattr(scheduler, "sigmas", None) is None:
        stride = scheduler.config.num_train_timesteps // scheduler.num_inference_steps
        steps = scheduler.timesteps.tolist()
        return [_noise_level(scheduler, t) for t in steps], [
            _noise_level(scheduler, t - stride) for t in steps
        ]
    sigmas = torch.as_tensor(scheduler.sigmas)
    found = (1 - sigmas if scheduler.config.get("invert_sigmas") else sigmas).tolist()
    return found[:-1], found[1:]


def noise_shares(scheduler: Scheduler) -> list[float]:
    """Return the share of noise in the sample before each step of a run, from 0 to 1.

    It is s where x = (1 - s) x_0 + s eps. Where x is x_0 + s eps at some scale it is
    s / sqrt(1 + s^2), which is sqrt(1 - alpha_bar). Of a scheduler whose kind is not known its
    levels tell: those of a flow begin at 1 or below. One transfer from the device.
    """
    try:
        levels, _ = noise_levels(scheduler)
    except (AttributeError, IndexError, TypeError):  # it has neither sigmas nor alphas
        count = scheduler.config.get("num_train_timesteps", 1000)
        return [float(t) / count for t in torch.as_tensor(scheduler.timesteps).tolist()]
    try:
        kind = scheduler_kind_in_run(scheduler, max(levels), "the share of noise")
    except ValueError:
        flow = getattr(scheduler, "sigmas", None) is not None and max(levels) <= 1 + 1e-6
        kind = "flow" if flow else "vp"
    return levels if kind == "flow" else [_noise_coefficient(level) for level in levels]


def run_times(scheduler: Scheduler, what: str) -> list[float]:
    """Return t / t_max before each step of a run, from 1 at pure noise to 0.

    t is the noise level of a flow, the timestep of a discrete schedule, and the noise level where
    timesteps are its logarithm (SVD). One transfer from the device.

    Args:
        what: what needs it, for the error.

    Raises:
        ValueError: for a scheduler of which it is not known.
    """
    scheduler_kind(scheduler, what)
    levels, _ = noise_levels(scheduler)
    if scheduler_kind_in_run(scheduler, max(levels), what) == "flow":
        return levels
    discrete = type(scheduler).__name__ != "EDMEulerScheduler"
    if discrete and scheduler.config.get("timestep_type", "discrete") == "discrete":
        count = scheduler.config.get("num_train_timesteps", 1000)
        return [float(t) / count for t in torch.as_tensor(scheduler.timesteps).tolist()]
    return [level / max(levels) for level in levels]


def check_timesteps(scheduler: Scheduler, owner: str) -> None:
    """Reject a run whose timesteps are no numbers, as those of LTX are in a run of one step.

    Its scheduler stretches the list so that it ends at `shift_terminal`, and a list that begins and
    ends at 1 has no length to stretch. This waits for the device once, when a run begins.

    Args:
        owner: the name of the pipeline's class.

    Raises:
        ValueError: for timesteps that are not finite.
    """
    timesteps = torch.as_tensor(scheduler.timesteps)
    if not bool(torch.isfinite(timesteps).all()):
        count = "1 step" if len(timesteps) == 1 else f"{len(timesteps)} steps"
        raise ValueError(
            f"steps must be enough for the schedule of {owner}, but its"
            f" {type(scheduler).__name__} has no number as a timestep in a run of {count}. Take"
            f" {len(timesteps) + 1} or more."
        )


def _noise_level(scheduler: Scheduler, timestep: int) -> float:
    ab = float(
        scheduler.alphas_cumprod[timestep] if timestep >= 0 else scheduler.final_alpha_cumprod
    )
    return math.sqrt((1 - ab) / ab) if ab > 0 else math.inf


def scheduler_kind_in_run(scheduler: Scheduler, first_level: float, what: str = "a Restart") -> str:
    """Return the kind as `scheduler_kind` does, in a run that begins at a noise level.

    Cosmos takes Euler steps of a flow scheduler on the noise levels of EDM, which begin far above
    1.
    """
    kind = scheduler_kind(scheduler, what)
    return "ve" if kind == "flow" and first_level > 1 + 1e-6 else kind


def data_coefficients(
    scheduler: Scheduler, kind: str, level: float, what: str
) -> tuple[float, float]:
    """Return (a, b) of x_0 = a x + b F, where F is the prediction for the sample x at a level.

    Raises:
        ValueError: where the pipeline itself, and not its scheduler, makes data out of predictions
            (Cosmos).
    """
    if kind == "flow":
        from_noise = type(scheduler).__name__ in REVERSED_FLOWS or scheduler.config.get(
            "invert_sigmas"
        )
        return 1.0, level if from_noise else -level
    predicts = scheduler.config.get("prediction_type", "flow")
    if type(scheduler).__name__ == "EDMEulerScheduler" or predicts not in (
        "epsilon",
        "sample",
        "v_prediction",
    ):
        raise ValueError(
            f"{what} needs to know how predictions become data, but with this"
            f" {type(scheduler).__name__} the pipeline keeps that to itself. Use"
            ' space="prediction".'
        )
    a, b = (
        (1.0, level) if kind == "ve" else (1 / math.sqrt(1 + level**2), _noise_coefficient(level))
    )  # x = a x_0 + b eps
    if predicts == "sample":
        return 0.0, 1.0
    if predicts == "epsilon":
        return 1 / a, -b / a
    if kind == "vp":
        return a, -b
    return 1 / (level**2 + 1), -level / math.sqrt(level**2 + 1)


def all_data_coefficients(scheduler: Scheduler, what: str) -> list[tuple[float, float]]:
    """Return `data_coefficients` at each timestep of a run: one transfer from the device.

    Args:
        what: what needs them, for errors.

    Raises:
        ValueError: for a scheduler of which they are not known.
    """
    scheduler_kind(scheduler, what)
    before, _ = noise_levels(scheduler)
    kind = scheduler_kind_in_run(scheduler, max(before), what)
    return [data_coefficients(scheduler, kind, level, what) for level in before]


def _noise_coefficient(level: float) -> float:
    return 1.0 if level == math.inf else level / math.sqrt(1 + level**2)
