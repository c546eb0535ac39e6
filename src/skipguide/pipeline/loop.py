"""The sampling loop of a diffusers pipeline, read from its running `__call__`: CFG, scales,
steps."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from types import FrameType
from typing import Any

import torch

from skipguide.families import lookup
from skipguide.families.schema import CallConvention
from skipguide.method.protocols import Pipeline
from skipguide.pipeline import call_frame, compat, noise_levels
from skipguide.pipeline.restarting import RestartController
from skipguide.pipeline.step import Combination, GuidedStep

Tensor = torch.Tensor
_log = logging.getLogger("skipguide")


class PipelineLoop:
    """A `Loop` of a pipeline under guide().

    Args:
        restart_controller: what makes the run longer, if anything does.
    """

    def __init__(self, pipe: Pipeline, restart_controller: RestartController | None = None):
        self.pipe, self.restart_controller = pipe, restart_controller
        self.family, self.calls = lookup.family_of(pipe), lookup.call_convention_of(pipe)
        self._said_length = False  # in this run

    @property
    def owner(self) -> str:
        """The name of the pipeline's class."""
        return type(self.pipe).__name__

    @property
    def scheduler(self) -> Any:
        """The pipeline's scheduler."""
        return self.pipe.scheduler

    @property
    def scale_argument(self) -> str:
        """The name of the argument that sets the scale of CFG; "" where there never is CFG."""
        if self.calls.cfg_mode == "none":
            return ""
        return self.calls.scale_argument or self.calls.scale_names[0].removeprefix("current_")

    @property
    def negates_predictions(self) -> bool:
        """True if the scheduler gets predictions with the other sign."""
        return self.calls.negated

    # --- the run ----------------------------------------------------------------------------------

    def begin_run(self) -> None:
        """Check the timesteps of this run, and that the restarts, if there are any, are on it.

        Raises:
            ValueError: for timesteps that are no numbers.
            RuntimeError: for restarts on another scheduler, or that come too late.
        """
        self._said_length = False
        noise_levels.check_timesteps(self.pipe.scheduler, self.owner)
        restarts, scheduler = self.restart_controller, self.pipe.scheduler
        if restarts is not None and restarts.scheduler is not scheduler:
            raise RuntimeError(
                "restarts are on the scheduler that the pipeline had when guide() got it, but now"
                f" it has another one, a {type(scheduler).__name__}. Exchange pipe.scheduler first,"
                " then call guide()."
            )
        if restarts is not None and not restarts.step_order:
            raise RuntimeError(
                "restarts must be there before a run begins, but guide() was called while one was"
                " under way. Call it before the pipeline."
            )

    def first_index(self) -> int:
        """Return the step that the run is at when its first guided step begins.

        It is not 0 where guide() was called from a callback. The loop of the pipeline knows it;
        not every scheduler does (DDIM), and some pipelines let copies of theirs do the steps
        (SkyReels-V2). This looks at the device once, in a run that was under way.
        """
        found = call_frame.find_loop_variables(self.pipe)
        if found is not None and (index := self._find_index(*found)) is not None:
            return index
        index = getattr(self.pipe.scheduler, "step_index", None)
        if index is None:
            return 0
        return max(0, min(index - self.first_timestep_index(), self.num_steps() - 1))

    def _find_index(self, i: Any, t: Any) -> int | None:
        """Return the step of the run whose timestep is t.

        Of several steps with one timestep it is step i, which is also taken where t has a timestep
        for each frame. None if there is no such step.
        """
        counted = isinstance(i, int) and not isinstance(i, bool) and 0 <= i < self.num_steps()
        if torch.is_tensor(t) and t.numel() != 1:
            return i if counted else None
        timesteps = self.pipe.scheduler.timesteps[self.first_timestep_index() :]
        alike = [k for k, same in enumerate((timesteps == t).tolist()) if same]
        if counted and i in alike:
            return i
        return alike[0] if alike else None

    def first_timestep_index(self) -> int:
        """Return where in the scheduler's timesteps a run begins; `strength` leaves out the
        first."""
        scheduler = self.pipe.scheduler
        begin = getattr(scheduler, "begin_index", None)
        return begin or max(0, len(scheduler.timesteps) - self.num_steps())

    def num_steps(self) -> int:
        """Return what the pipeline says, or the number of timesteps that its call goes through."""
        steps = getattr(self.pipe, "num_timesteps", None)
        if steps is not None:
            return steps
        frame = call_frame.find_call_frame(self.pipe)
        timesteps = frame.f_locals.get("timesteps") if frame is not None else None
        return len(self.pipe.scheduler.timesteps if timesteps is None else timesteps)

    def position(self, index: int) -> tuple[int, int]:
        """Return step `index` as (i, N) of the run without restarts."""
        if self.restart_controller is None:
            return index, self.num_steps()
        first, restarts = self.first_timestep_index(), self.restart_controller
        return restarts.step_order[first + index] - first, restarts.base_num_steps - first

    def denoiser_changes(self) -> list[int]:
        """Return the step at which Wan 2.2 goes on with its second denoiser, if it has two.

        This looks at the device."""
        ratio = getattr(self.pipe, "config", {}).get("boundary_ratio")
        if ratio is None or len(lookup.denoisers_of(self.pipe, self.family)) < 2:
            return []
        scheduler, first = self.pipe.scheduler, self.first_timestep_index()
        timesteps = scheduler.timesteps[first:][: self.num_steps()].tolist()
        boundary = ratio * scheduler.config.num_train_timesteps
        below = [t < boundary for t in timesteps]
        return [i for i in range(1, len(below)) if below[i] != below[i - 1]]

    def is_restart(self, index: int) -> bool:
        """Return whether a restart goes back to more noise before step `index`."""
        if self.restart_controller is None:
            return False
        return self.position(index)[0] <= self.position(index - 1)[0]

    # --- a step -----------------------------------------------------------------------------------

    def has_cfg(self, frame: FrameType) -> bool:
        """Return whether the step under way has CFG."""
        return is_cfg_on(self.pipe, self.calls, frame)

    def will_have_cfg(self, frame: FrameType) -> bool:
        """Return whether a call that has just begun is known to have CFG.

        The pipeline may not have taken over its arguments yet, so the scale is looked at too."""
        scale = frame.f_locals.get(self.scale_argument, 2.0)
        try:
            return is_cfg_on(self.pipe, self.calls, frame) and scale > 1
        except (AttributeError, LookupError, TypeError):
            return False

    def add_calls(self, step: GuidedStep, frame: FrameType, replaces_own: bool) -> None:
        """Settle how the pipeline calls its denoiser at a step, and what it gets back.

        Args:
            step: the step, which is completed here.
            frame: that of the pipeline's call.
            replaces_own: the pipeline's own guidance is switched off.

        Raises:
            ValueError: for a formula of the pipeline's own that guidance cannot pass through, or
                passes of its own beside NAG.
        """
        own = [
            name
            for name in self.calls.extra_guidance_flags
            if call_frame.is_enabled(self.pipe, frame, name)
        ]
        if self.calls.own_pass is not None and self.calls.own_pass(frame.f_locals):
            step.unread_calls = int(replaces_own)
            own += [] if replaces_own else [self.calls.own_guidance_argument]
        if own and step.has_nag:
            raise ValueError(
                f"NAG guides the passes of c, but the {self.owner} has guidance of its own on"
                f" ({own[0]}), whose passes would be without it. Pass replace_own=True to guide(),"
                " or leave NAG out."
            )
        rescaled = [
            name
            for name in self.calls.rescale_names
            if call_frame.is_enabled(self.pipe, frame, name)
        ]
        if step.combination is Combination.ZERO and rescaled:
            raise ValueError(
                "a step whose prediction is zero (CFGZero with zero_steps above 0) has no deviation"
                f" to rescale, but the pipeline's own {rescaled[0]} is on. Pass {rescaled[0]}=0, or"
                " write CFGZero(zero_steps=0)."
            )
        kept = step.is_kept or step.combination is Combination.HELD
        if kept and (own or rescaled):
            raise ValueError(
                "skip_step goes towards the same estimate again, to which the pipeline's own"
                f" guidance would be added ({', '.join([*own, *rescaled])}). Pass replace_own=True,"
                " or switch it off in the call."
            )
        by_guider = self.calls.cfg_mode == "guider" and compat.has_own_formula(
            compat.guider_of(self.pipe, frame)
        )
        keeps_length = step.has_cfg and self._keeps_length(frame)
        if keeps_length:
            self._check_length(step)
        step.choose_combination((step.has_cfg and bool(rescaled)) or keeps_length, by_guider)
        if step.is_guided:
            self._check_formula(step, frame)
        batched = self.calls.cfg_mode == "batched"
        step.is_batched = batched and step.has_cfg
        step.num_calls = (1 if batched or not step.has_cfg else 2) + len(own) + step.unread_calls
        # nobody computes a u that is not needed, but for the resnets of a UNet called a second time
        unneeded = (step.leaves_out_uncond or step.reuses_uncond) and (
            batched or not self.family.unet
        )
        step.num_passes = (2 if step.has_cfg and not unneeded else 1) + len(own)
        if step.combination is Combination.HELD:
            step.num_passes = 0

    def _keeps_length(self, frame: FrameType) -> bool:
        """Return whether the pipeline gives the result of CFG the length of c."""
        flag = self.calls.keeps_length
        return flag == "always" or bool(flag and call_frame.is_enabled(self.pipe, frame, flag))

    def _check_length(self, step: GuidedStep) -> None:
        if step.rescales and not self._said_length:
            self._said_length = True
            _log.warning(
                "rescale changes nothing in a step with CFG of a %s, which gives the result the"
                " length of c at each place anyway.",
                self.owner,
            )
        held = step.is_kept or step.combination is Combination.HELD
        if held or step.combination is Combination.ZERO:
            name = "skip_step" if held else "CFGZero with zero_steps above 0"
            raise ValueError(
                f"{name} needs a pipeline that takes D as it is, but a {self.owner} gives the"
                " result of CFG the length of c at each place. Leave it out."
            )

    def _check_formula(self, step: GuidedStep, frame: FrameType) -> None:
        flag = self.calls.unsupported_flag
        if flag and call_frame.is_enabled(self.pipe, frame, flag):
            raise ValueError(
                "guidance needs a run whose CFG is u + g (c - u), but"
                f" {flag}=True is another formula, which a shift of u and c does not pass through."
                f" Pass {self.calls.unsupported_hint or flag + '=False'}."
            )
        replaced = step.rule is not None or step.guidance_scale is not None
        interval = step.leaves_out_uncond
        if self.calls.cfg_mode == "guider" and (replaced or interval):
            compat.check_plain_guider(compat.guider_of(self.pipe, frame))

    def cfg_may_follow(self) -> bool:
        """Return whether a guider has CFG in a window of the run."""
        if self.calls.cfg_mode != "guider":
            return False
        guider = compat.guider_of(self.pipe, call_frame.find_call_frame(self.pipe))
        return getattr(guider, "_enabled", True) and getattr(guider, "guidance_scale", 1) != 1

    def guidance_scales(self, outputs: int) -> tuple[float, ...]:
        """Return g in u + g (c - u) at the step under way, per output.

        Raises:
            ValueError: where the pipeline sets it after the denoiser was called.
        """
        if self.calls.cfg_mode == "guider":
            guider = compat.guider_of(self.pipe, call_frame.find_call_frame(self.pipe))
            return (guider.guidance_scale + (1 if guider.use_original_formulation else 0),)
        frame, flag = call_frame.find_call_frame(self.pipe), self.calls.dynamic_scale_flag
        assert frame is not None
        if flag and call_frame.is_enabled(self.pipe, frame, flag):
            raise ValueError(
                "rescale and rules for CFG need the guidance scale of the step, but with"
                f" {flag}=True this pipeline sets it only afterwards. Pass {flag}=False, or leave"
                " them out."
            )
        shift = 1 if self.calls.scale_from_cond else 0
        names = self.calls.scale_names
        return tuple(call_frame.read_value(self.pipe, frame, name) + shift for name in names)[
            :outputs
        ]

    def latents(self, shape: Sequence[int], output: int = 0) -> Tensor | None:
        """Return the latents of an output in the running call, if they have this shape."""
        names = ("latents", *self.calls.audio_names[:1])
        if output >= len(names):
            return None
        return call_frame.find_tensor(self.pipe, names[output], shape)

    def count_tokens(self) -> int | None:
        """Return how many tokens the latents of the running call have; None if it has none yet."""
        frame = call_frame.find_call_frame(self.pipe)
        assert frame is not None
        latents = frame.f_locals.get("latents")
        return None if latents is None else latents.shape[1]

    def scheduler_of(self, output: int) -> Any:
        """Return the scheduler of the latents of an output; sound may have a copy of its own."""
        if output == 0 or not self.calls.audio_names:
            return self.pipe.scheduler
        frame = call_frame.find_call_frame(self.pipe)
        assert frame is not None  # a run is asked in its call only
        # the component of that name may be None, and the call then makes a copy
        return frame.f_locals[self.calls.audio_names[1]]


def is_cfg_on(pipe: Pipeline, calls: CallConvention, frame: FrameType) -> bool:
    """Return whether a pipeline whose `__call__` runs in `frame` has CFG at this step."""
    if calls.cfg_mode == "none":
        return False
    if calls.cfg_mode == "guider":
        return compat.count_conditions(compat.guider_of(pipe, frame)) == 2
    if calls.cfg_off_flag and frame.f_locals.get(calls.cfg_off_flag):  # not there before the loop
        return False
    return call_frame.is_enabled(pipe, frame, calls.cfg_flag)
