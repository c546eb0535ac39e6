"""Rectified-CFG++: u and a second c at a point that the first c predicts.

A step of a flow goes from the noise level s to s' along c. The predicted point lies on that line,
at x + reach (s' - s) c, and the model is asked there as the pipeline would ask it: with other
latents and another timestep, and everything else as it was. u comes from the pipeline's own call
for it, whose inputs are moved in the same way; the second c is a pass more.

Conditions may lie behind the latents in the channels (a first frame, a mask), and stay.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from skipguide.families import schema
from skipguide.method.cfg_rules import RectifiedCFG
from skipguide.method.protocols import Inputs, ReadOnlyInputs, Scheduler
from skipguide.pipeline import noise_levels
from skipguide.pipeline.denoiser import GuidedDenoiser

Tensor = torch.Tensor
_SCHEDULER = "FlowMatchEulerDiscreteScheduler"
_LATENTS, _TIMESTEP = "hidden_states", "timestep"  # inputs of every transformer of a flow


class Corrector:
    """The predicted points of one run.

    Args:
        rule: how far they lie.
        scheduler: of the run that begins; its noise levels are read at once: one transfer from the
            device.
        order: which step of the run without restarts each step is.
        outputs: how many predictions the denoiser makes.

    Raises:
        ValueError: for another scheduler than Euler's of flow matching, or several predictions.
    """

    def __init__(
        self, rule: RectifiedCFG, scheduler: Scheduler, order: Sequence[int], outputs: int
    ):
        what = type(rule).__name__
        if type(scheduler).__name__ != _SCHEDULER:
            raise ValueError(
                f"{what} predicts where an Euler step of a flow leads, and needs {_SCHEDULER}, but"
                f" this pipeline has {type(scheduler).__name__}. Exchange pipe.scheduler, or use"
                " another rule."
            )
        levels, _ = noise_levels.noise_levels(scheduler)
        if noise_levels.scheduler_kind_in_run(scheduler, max(levels), what) != "flow":
            raise ValueError(
                f"{what} needs noise levels from 1 to 0, but those of this run begin at"
                f" {max(levels):.3g}. Use another rule."
            )
        if outputs > 1:
            raise ValueError(
                f"{what} moves the latents of one prediction, but this model makes {outputs} (sound"
                " beside a video). Use another rule."
            )
        sigmas = torch.as_tensor(scheduler.sigmas).tolist()
        usual = dict(zip(order, sigmas, strict=False))  # each step of the run without restarts
        usual[max(order) + 1] = sigmas[-1]
        self._steps = [(usual[i], usual[i + 1]) for i in order]
        self._reach, self._what = rule.reach, what
        self._count = scheduler.config.get("num_train_timesteps", 1000)
        self._unit: float | None = None  # of the timesteps that the denoiser gets, once it is known
        self._knows_latents = False  # they are where they are expected among its inputs

    def move(
        self,
        guided: GuidedDenoiser,
        inputs: ReadOnlyInputs,
        c: Tensor,
        step: int,
        latents: Tensor | None,
    ) -> Inputs:
        """Return the inputs of a call as they are at the predicted point.

        This waits for the device at the first step of a run, where it looks at the latents and at
        what the pipeline makes of a timestep; and at a second one where that begins at 0.

        Args:
            guided: the denoiser.
            inputs: by name, of the cond or the uncond rows.
            c: the prediction for the cond rows.
            step: of the run, restarts included, counted from the scheduler's first timestep.
            latents: of the pipeline's loop, shaped like c; None where there are none.

        Raises:
            ValueError: for latents that are not the first channels of the denoiser's, timesteps for
                each token, or timesteps that the pipeline converts.
        """
        given, timestep = inputs.get(_LATENTS), inputs.get(_TIMESTEP)
        channels = schema.channel_dimension(guided.family)
        self._check_latents(guided, given, c, latents, channels)
        assert torch.is_tensor(given)
        assert torch.is_tensor(timestep)
        before, after = self._steps[step]
        reached = before + self._reach * (after - before)
        unit = self._find_unit(timestep, before)
        x, *conditions = given.tensor_split([c.shape[channels]], channels)
        moved = (x.float() + (reached - before) * c.float()).to(given.dtype)
        time = torch.full_like(timestep, unit * reached)
        return {**inputs, _LATENTS: torch.cat([moved, *conditions], channels), _TIMESTEP: time}

    def _check_latents(
        self, guided: GuidedDenoiser, given: Any, c: Tensor, latents: Tensor | None, channels: int
    ) -> None:
        if self._knows_latents:
            return
        rows = None
        if torch.is_tensor(given) and given.ndim == c.ndim and latents is not None:
            rows = given.narrow(channels, 0, min(given.shape[channels], c.shape[channels]))
        if rows is None or rows.shape != c.shape or not torch.equal(rows, latents.to(rows.dtype)):  # type: ignore[union-attr]
            raise ValueError(
                f"{self._what} moves the latents that the denoiser gets, which must be the first"
                f" channels of its input, {tuple(c.shape)}, but those of a {guided.family.model} of"
                " this pipeline are others. Use another rule."
            )
        self._knows_latents = True

    def _find_unit(self, timestep: Tensor, sigma: float) -> float:
        """Return by what the pipeline multiplies noise levels: 1, or the number of timesteps."""
        if self._unit is not None:
            return self._unit
        found = timestep.flatten().float()
        value = float(found[0])
        if sigma == 0 and value == 0:  # Mochi's first step is at 0 in every unit
            return float(self._count)
        units = [unit for unit in (1.0, float(self._count)) if _near(value, unit * sigma)]
        if not units or not bool((found == found[0]).all()):
            raise ValueError(
                f"{self._what} needs a pipeline that hands its denoiser one noise level, or one"
                f" timestep, for all of a sample, but at the noise level {sigma:.3g} this one hands"
                f" over {found.unique()[:4].tolist()}. Use another rule."
            )
        self._unit = units[0]
        return self._unit


def _near(a: float, b: float) -> bool:
    return abs(a - b) <= 0.01 * abs(b)  # half precision
