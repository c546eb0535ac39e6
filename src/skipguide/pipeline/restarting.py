"""Restarts on a running scheduler: its list of timesteps, its steps and the noise between them."""

from __future__ import annotations

import contextlib
import functools
import inspect
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from skipguide.method.formula import upcast
from skipguide.method.protocols import Inputs, ReadOnlyInputs, Scheduler
from skipguide.method.restart import Restart, renoise
from skipguide.pipeline import call_frame, noise_levels
from skipguide.pipeline.restart_mask import MaskedRounds
from skipguide.weak import patching

Tensor = torch.Tensor


@dataclass(frozen=True)
class NoiseJump:
    """A jump that follows a step: from one noise level back up to another."""

    kind: str
    low: float
    high: float
    noise_scale: float


class RestartController:
    """Restarts on one scheduler, until `remove()`: its runs list the steps of each interval several
    times.

    Args:
        scheduler: one of `noise_levels.SCHEDULER_KINDS`; it gets `set_timesteps` and `step` as
            attributes, in front of its methods.
        restarts: intervals that do not overlap.
        pipe: whose generator draws the noise, and whose progress bar shows the additional steps
            too.
        channels: the dimension of the channels in its latents, for a mask.

    Raises:
        ValueError: for a scheduler that is not known or made for distilled models, or on which a
            mask is not right.
    """

    def __init__(
        self,
        scheduler: Scheduler,
        restarts: Sequence[Restart],
        pipe: Any = None,
        channels: int = 1,
    ):
        noise_levels.check_keeps_noise(scheduler)
        noise_levels.scheduler_kind(scheduler)
        self.scheduler, self.restarts, self.pipe = scheduler, tuple(restarts), pipe
        self._channels = channels
        if any(restart.mask is not None for restart in self.restarts):
            _check_mask(scheduler)
        self.step_order: list[int] = []  # which step of the usual run each step of this one is
        self._jumps: dict[int, NoiseJump] = {}  # what follows a step of this run
        self._usual_lists: dict[str, Tensor] = {}  # timesteps and sigmas of the usual run
        self._first_repeated = 0  # the first step that is done again
        self._masked: dict[int, tuple[int, MaskedRounds]] = {}  # (first, rounds) by usual step
        self._coefficients: list[tuple[float, float]] = []  # of x_0 by usual step, for a mask
        self._steps_done: int | None = None  # steps of this run, or None before the first one
        self._bar, self._extra_steps = (
            None,
            0,
        )  # additional steps that the pipeline's bar would not count
        self._wrap_method(scheduler, "set_timesteps", self._set_timesteps)
        self._wrap_method(scheduler, "step", self._step)
        if hasattr(pipe, "progress_bar"):
            self._wrap_method(pipe, "progress_bar", self._progress_bar)

    def _wrap_method(self, owner: Any, name: str, ours: Any) -> None:
        setattr(owner, name, MethodWrapper(getattr(owner, name), ours))

    def remove(self) -> None:
        """Give scheduler and pipeline their own methods back."""
        for owner, name in (
            (self.scheduler, "set_timesteps"),
            (self.scheduler, "step"),
            (self.pipe, "progress_bar"),
        ):
            if isinstance(vars(owner).get(name) if owner is not None else None, MethodWrapper):
                delattr(owner, name)
        self._bar, self._masked = None, {}

    @property
    def base_num_steps(self) -> int:
        """The number of steps that the run has without restarts."""
        return max(self.step_order, default=-1) + 1

    # --- a run begins -----------------------------------------------------------------------------

    def _set_timesteps(self, real: Any, *args: Any, **kwargs: Any) -> None:
        real(*args, **kwargs)
        scheduler = self.scheduler
        before, after = noise_levels.noise_levels(scheduler)
        if len(scheduler.timesteps) != len(before):
            raise ValueError(
                "a Restart needs a scheduler with one call per step, but this"
                f" {type(scheduler).__name__} has {len(scheduler.timesteps)} calls for"
                f" {len(before)} noise levels. Exchange pipe.scheduler."
            )
        self._plan_rounds(before, after)
        self._usual_lists = {"timesteps": scheduler.timesteps}
        order = torch.tensor(self.step_order, device=scheduler.timesteps.device)
        scheduler.timesteps = scheduler.timesteps[order]
        if getattr(scheduler, "sigmas", None) is not None:
            sigmas = self._usual_lists["sigmas"] = scheduler.sigmas
            scheduler.sigmas = torch.cat([sigmas[order.to(sigmas.device)], sigmas[-1:]])

    def _plan_rounds(self, before: list[float], after: list[float]) -> None:
        rounds = sorted(
            ((*r.steps(before, after), r) for r in self.restarts), key=lambda entry: entry[:2]
        )
        for (_, end, _), (first, _, _) in itertools.pairwise(rounds):
            if first < end:
                raise ValueError(
                    "restarts must not overlap, but two share a step of this run. Move one of them."
                )
        kind = noise_levels.scheduler_kind_in_run(self.scheduler, before[0])
        self.step_order, self._jumps, self._steps_done, self._first_repeated, begin = (
            [],
            {},
            None,
            rounds[0][0],
            0,
        )
        self._masked, self._coefficients = {}, []
        for first, end, restart in rounds:
            if restart.mask is not None:
                kept = MaskedRounds(restart.mask, self._channels)
                self._masked |= dict.fromkeys(range(first, end), (first, kept))
            self.step_order += range(begin, end)
            for _ in range(restart.repeats):
                self._jumps[len(self.step_order) - 1] = NoiseJump(
                    kind, after[end - 1], before[first], restart.noise_scale
                )
                self.step_order += range(first, end)
            begin = end
        self.step_order += range(begin, len(before))
        if self._masked:
            self._coefficients = [
                noise_levels.data_coefficients(self.scheduler, kind, level, "a Restart with a mask")
                for level in before
            ]

    # --- a step -----------------------------------------------------------------------------------

    def _step(self, real: Any, *args: Any, **kwargs: Any) -> Any:
        inputs = patching.bind_inputs(inspect.signature(real), args, kwargs)
        if inputs.get("per_token_timesteps") is not None:
            raise ValueError(
                "a Restart needs one noise level for all of a sample, but this run has one for each"
                " token. Leave the restart out, or the conditions that keep a part of the video."
            )
        index = self._find_index(inputs["timestep"])
        self._steps_done = index + 1
        if self._bar is not None and index < self._extra_steps:
            self._bar.update()
        if index - 1 in self._jumps:
            self._reset_multistep_history(inputs)
        with self._as_without_restarts(index):
            output = real(**inputs)
        if self.step_order[index] in self._masked:
            output = self._keep_what_agrees(index, output, inputs)
        jump = self._jumps.get(index)
        if jump is None or self._only_estimates_data(inputs):
            return output
        return self._renoise_output(output, jump, inputs)

    def _find_index(self, timestep: Any) -> int:
        """Return the index of a step in the list with the repeated ones.

        It is the scheduler's own where it keeps one, for Cosmos calls `step` twice in each step and
        takes the scheduler back in between.
        """
        if self._steps_done is None:
            return self._find_start(timestep)
        index = getattr(self.scheduler, "step_index", None)
        return self._steps_done if index is None else index

    def _only_estimates_data(self, inputs: ReadOnlyInputs) -> bool:
        """Return whether a pipeline calls `step` for its estimate of the data alone (Cosmos).

        It hands the estimate over in a second call, whose sample is the one that it goes on with.
        """
        scheduler: Any = self.scheduler
        own = inspect.signature(scheduler.step).parameters
        estimates = "pred_original_sample" in own and self.pipe is not None
        return estimates and inputs.get("pred_original_sample") is None

    @contextlib.contextmanager
    def _as_without_restarts(self, index: int) -> Iterator[None]:
        """Let the scheduler take a step as it takes it in the run without restarts.

        It goes to the noise level at the end of the step, although the next one of the list may
        begin higher; and the last steps have the lower order that they have at the end of a run,
        for a higher one divides by zero where no noise is left.
        """
        scheduler, lists = self.scheduler, vars(self.scheduler)
        repeated = {name: lists[name] for name in self._usual_lists}
        indexed = "_step_index" in lists
        lists.update(self._usual_lists)
        if indexed:
            scheduler._step_index = self.step_order[index]
        try:
            yield
        finally:
            lists.update(repeated)
            if indexed:
                scheduler._step_index = index + 1

    def _find_start(self, timestep: Any) -> int:
        """Return the index at which a run begins; with `strength` the first steps are left out."""
        timesteps = self.scheduler.timesteps
        index = int(
            (
                timesteps == torch.as_tensor(timestep, device=timesteps.device).flatten()[0]
            ).nonzero()[0]
        )
        if index > self._first_repeated:
            raise ValueError(
                "a Restart must lie after the step at which a run begins, but this run begins at"
                f" step {index} (strength) and the first restart goes back to step"
                f" {self._first_repeated}. Choose a later interval."
            )
        if getattr(self.scheduler, "step_index", index) != index:
            # of several steps with one timestep a scheduler takes the second one, unless it is told
            # where to begin
            self.scheduler.set_begin_index(index)
            self.scheduler._step_index = index
        return index

    def _renoise_output(self, output: Any, jump: NoiseJump, inputs: Inputs) -> Any:
        """Return what a step returned, with its sample taken back to the higher noise level."""
        sample = _sample_of(output)
        frame = call_frame.find_call_frame(self.pipe) if self.pipe is not None else None
        generator = inputs.get("generator") or (
            frame.f_locals.get("generator") if frame is not None else None
        )
        noise = _draw_noise(sample, generator)
        sample = renoise(sample, jump.kind, jump.low, jump.high, jump.noise_scale * noise)
        return _replace_sample(output, sample)

    def _keep_what_agrees(self, index: int, output: Any, inputs: ReadOnlyInputs) -> Any:
        """Return what a step returned, with latents of the round before where a mask keeps them."""
        usual, order = self.step_order[index], self.step_order
        first, rounds = self._masked[usual]
        if index == order.index(first):  # of this run, or of a segment of its video
            rounds.clear()
        if usual == first:
            a, b = self._coefficients[usual]
            x_0 = a * upcast(inputs["sample"]) + b * upcast(inputs["model_output"])
            rounds.observe_estimate(x_0)
        merged = rounds.merge(usual, _sample_of(output))
        following = self._masked.get(order[index + 1]) if index + 1 < len(order) else None
        if following is None or following[1] is not rounds:
            rounds.clear()
        return _replace_sample(output, merged)

    def _reset_multistep_history(self, inputs: Inputs) -> None:
        """Multistep methods extrapolate from the steps before: after a jump there are none."""
        if hasattr(self.scheduler, "lower_order_nums"):
            self.scheduler.lower_order_nums = 0
        if hasattr(self.scheduler, "last_sample"):
            self.scheduler.last_sample = None  # of the corrector
        if "old_pred_original_sample" in inputs:
            inputs["old_pred_original_sample"] = None

    def _progress_bar(self, real: Any, *args: Any, total: int | None = None, **kwargs: Any) -> Any:
        """Return the pipeline's progress bar, made long enough for the repeated steps.

        One that counts the usual steps begins when the additional ones are done.
        """
        own = len(self.step_order) if total == self.base_num_steps else total
        self._bar = real(*args, total=own, **kwargs)
        self._extra_steps = 0 if own is None or total is None else own - total
        return self._bar


class MethodWrapper:
    """Stands in front of a method of one object; `inspect.signature` sees the method's own."""

    def __init__(self, real: Any, ours: Any):
        functools.update_wrapper(self, real)
        self._real, self._ours = real, ours

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._ours(self._real, *args, **kwargs)

    def __deepcopy__(self, memo: Any) -> Any:
        raise ValueError(
            "a Restart needs a pipeline with one scheduler for all of the video, but this one makes"
            " copies of it (for sound, or for frames at different noise levels). Leave the restart"
            " out."
        )


def _check_mask(scheduler: Scheduler) -> None:
    """Reject schedulers whose next step depends on more than the latents that a mask merges."""
    history = hasattr(scheduler, "lower_order_nums")
    if history or "old_pred_original_sample" in inspect.signature(scheduler.step).parameters:
        raise ValueError(
            "a Restart with a mask needs a scheduler whose steps depend on the latents alone, such"
            " as FlowMatchEulerDiscreteScheduler or DDIMScheduler, but a"
            f" {type(scheduler).__name__} keeps earlier predictions. Exchange pipe.scheduler, or"
            " leave the mask out."
        )


def _sample_of(output: Any) -> Tensor:
    return output[0] if isinstance(output, tuple) else output.prev_sample


def _replace_sample(output: Any, sample: Tensor) -> Any:
    if isinstance(output, tuple):
        return (sample, *output[1:])
    output.prev_sample = sample
    return output


def _draw_noise(
    sample: Tensor, generator: torch.Generator | list[torch.Generator] | None
) -> Tensor:
    """Like `sample`, in float32, drawn where the generator is; of several generators one for each
    row."""
    if isinstance(generator, (list, tuple)):
        return torch.cat(
            [_draw_noise(row[None], one) for row, one in zip(sample, generator, strict=True)]
        )
    device = sample.device if generator is None else generator.device
    return torch.randn(sample.shape, generator=generator, device=device).to(sample.device)
