"""What a run and its pipeline say of each step: which terms are on, whether there is CFG and at
which scale."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from types import FrameType
from typing import Any

import torch

from skipguide.families import lookup
from skipguide.families.schema import CallConvention, Family
from skipguide.method import cfg_rules, formula, terms
from skipguide.method.request import GuidanceRequest, active_bins
from skipguide.method.terms import SLG, STG
from skipguide.pipeline import call_frame, compat, noise_levels
from skipguide.pipeline.restarting import RestartController
from skipguide.pipeline.step import GuidedStep

Tensor = torch.Tensor
Term = STG | SLG
_log = logging.getLogger("skipguide")


class RunState:
    """Of one guided pipeline.

    Args:
        options: what was asked for.
        restarting: what makes the run longer.
    """

    def __init__(
        self,
        pipe: Any,
        family: Family,
        request: GuidanceRequest,
        restart_controller: RestartController | None,
    ):
        self.pipe, self.family, self.calls = pipe, family, lookup.call_convention_of(pipe)
        self.request, self.restart_controller = request, restart_controller
        self.terms, self.schedule, self.rule = request.terms, request.schedule, request.rule
        self._had_cfg = False  # so far in this run
        self._warned = False  # in this run: what the user should know
        self._sigmas: list[float] = []  # of the run, for a schedule
        self._data_coefficients: list[
            tuple[float, float]
        ] = []  # of the run, where something speaks of data

    # --- the run ----------------------------------------------------------------------------------

    def begin_run(self) -> None:
        """A run begins: see that all is for it, and find out what stays as it is.

        Raises:
            ValueError: if they are not.
            RuntimeError: for restarts on another scheduler, or that come too late.
        """
        self._had_cfg = False
        self._warned = False
        self._check_restarts()
        self._check_noise_levels()
        self._check_rule(self.position(0)[1])
        self._data_coefficients = (
            self._compute_data_coefficients() if self.request.data_space_features else []
        )
        self._check_windows(self.position(0)[1])
        self._sigmas = self._compute_sigmas() if self.schedule else []

    def _check_restarts(self) -> None:
        if (
            self.restart_controller is not None
            and self.restart_controller.scheduler is not self.pipe.scheduler
        ):
            raise RuntimeError(
                "restarts are on the scheduler that the pipeline had when guide() got it, but now"
                f" it has another one, a {type(self.pipe.scheduler).__name__}. Exchange"
                " pipe.scheduler first, then call guide()."
            )
        if self.restart_controller is not None and not self.restart_controller.step_order:
            raise RuntimeError(
                "restarts must be there before a run begins, but guide() was called while one was"
                " under way. Call it before the pipeline."
            )

    def _check_noise_levels(self) -> None:
        """What goes by noise levels needs one per step; SkyReels-V2 gives each frame its own where
        `ar_step` is set."""
        what, levels = (
            "a Schedule" if self.schedule else self.request.data_space_features,
            len(self.pipe.scheduler.timesteps),
        )
        if what and self.num_steps() > levels:
            raise ValueError(
                f"{what} needs a noise level for each step, but this run has {self.num_steps()}"
                f" steps on {levels} levels. Use STG terms with start and stop, and"
                ' space="prediction"; or ar_step=0.'
            )

    def _check_rule(self, num_steps: int) -> None:
        scheduler, rule = self.pipe.scheduler, self.rule
        if isinstance(rule, cfg_rules.Interval):
            terms.check_window(rule.window, num_steps)
        if isinstance(rule, cfg_rules.CFGZero) and rule.zero_steps:
            if rule.zero_steps >= num_steps:
                raise ValueError(
                    f"zero_steps must leave steps to do, but got {rule.zero_steps} of the"
                    f" {num_steps} of this run. The usual is 1."
                )
            what = "CFG-Zero* with zero_steps above 0"
            if noise_levels.scheduler_kind(scheduler, what) != "flow":
                raise ValueError(
                    f"{what} needs flow matching, where a prediction of zero leaves the sample as"
                    f" it is, but this pipeline has {type(scheduler).__name__}. Write"
                    " CFGZero(zero_steps=0)."
                )

    def _compute_data_coefficients(self) -> list[tuple[float, float]]:
        """(a, b) of x_0 = a x + b F at each of the scheduler's timesteps: one transfer from the
        device per run.

        Raises:
            ValueError: for a scheduler of which that is not known.
        """
        scheduler, what = self.pipe.scheduler, self.request.data_space_features
        noise_levels.scheduler_kind(scheduler, what)
        before, _ = noise_levels.noise_levels(scheduler)
        kind = noise_levels.scheduler_kind_in_run(scheduler, max(before), what)
        return [noise_levels.data_coefficients(scheduler, kind, level, what) for level in before]

    def first_index(self) -> int:
        """The step of a run that was under way when guide() was called, from a callback; else 0."""
        index = getattr(self.pipe.scheduler, "step_index", None)
        return (
            0
            if index is None
            else max(0, min(index - self._first_timestep_index(), self.num_steps() - 1))
        )

    def _first_timestep_index(self) -> int:
        """Where in the scheduler's timesteps a run begins; pipelines with `strength` leave out the
        first ones."""
        scheduler = self.pipe.scheduler
        return getattr(scheduler, "begin_index", None) or max(
            0, len(scheduler.timesteps) - self.num_steps()
        )

    def num_steps(self) -> int:
        """Steps of the run: what the pipeline says, or else the timesteps that its call goes
        through."""
        steps = getattr(self.pipe, "num_timesteps", None)
        if steps is not None:
            return steps
        frame = call_frame.find_call_frame(self.pipe)
        timesteps = frame.f_locals.get("timesteps") if frame is not None else None
        return len(self.pipe.scheduler.timesteps if timesteps is None else timesteps)

    def position(self, index: int) -> tuple[int, int]:
        """Step `index` of this run as (i, N) of one without restarts, in which windows are
        given."""
        if self.restart_controller is None:
            return index, self.num_steps()
        offset = self._first_timestep_index()
        return (
            self.restart_controller.step_order[offset + index] - offset,
            self.restart_controller.base_num_steps - offset,
        )

    def is_restart(self, index: int) -> bool:
        """Whether a restart goes back to more noise before step `index`."""
        return (
            self.restart_controller is not None
            and self.position(index)[0] <= self.position(index - 1)[0]
        )

    def _check_windows(self, num_steps: int) -> None:
        for term in self.terms:
            if self._has_scale(term):
                terms.check_window((term.start, term.stop), num_steps)
            if isinstance(term, STG):
                term.check_steps(num_steps)

    def _has_scale(self, term: Term, step: int | None = None) -> bool:
        """At a step, or at any."""
        return isinstance(term, SLG) or max(term.scales(len(self.family.outputs), step)) > 0

    # --- a step -----------------------------------------------------------------------------------

    def make_step(self, frame: FrameType, index: int) -> GuidedStep:
        """Step `index` of the run under way, whose `__call__` runs in `frame`.

        Raises:
            ValueError: for what a run of this kind cannot have.
        """
        cfg = is_cfg_on(self.pipe, self.calls, frame)
        own = [
            name
            for name in self.calls.extra_guidance_flags
            if call_frame.is_enabled(self.pipe, frame, name)
        ]
        extra = len(own)
        batched = self.calls.cfg_mode == "batched"
        on, phi, g = self._find_active_guidance(index)
        step = GuidedStep(
            index, cfg, (1 if batched or not cfg else 2) + extra, phi, g if cfg else None,
            active_terms=tuple(j for j in on if isinstance(self.terms[j], STG)),
            uncond_terms=tuple(j for j in on if isinstance(self.terms[j], SLG)),
        )  # fmt: skip
        self._had_cfg = self._had_cfg or cfg
        if cfg and self.rule is not None:
            self._apply_rule(step)
        self._warn_of_own_stg(own, step)
        if not cfg and (step.uncond_terms or g not in (None, 1) or self.rule is not None):
            self._check_cfg_was_on(step)
            step.uncond_terms = ()
        rescaled = [
            name
            for name in self.calls.rescale_names
            if call_frame.is_enabled(self.pipe, frame, name)
        ]
        if step.zero_prediction and rescaled:
            raise ValueError(
                "a step whose prediction is zero (CFGZero with zero_steps above 0) has no"
                f" deviation to rescale, but the pipeline's own {rescaled[0]} is on. Pass"
                f" {rescaled[0]}=0, or write CFGZero(zero_steps=0)."
            )
        step.must_keep_cond = cfg and step.is_guided and bool(rescaled)
        step.split_batch = batched and cfg and step.is_guided
        if (
            step.is_guided
            and self.calls.unsupported_flag
            and call_frame.is_enabled(self.pipe, frame, self.calls.unsupported_flag)
        ):
            raise ValueError(
                "guidance needs a run whose CFG is u + g (c - u), but"
                f" {self.calls.unsupported_flag}=True is another formula, which a shift of u and c"
                " does not pass through. Pass"
                f" {self.calls.unsupported_hint or self.calls.unsupported_flag + '=False'}."
            )
        # nobody computes a u that is not needed, but for the resnets of a UNet that is called a
        # second time
        step.num_passes = (
            2 if cfg and not (step.cond_only and (batched or not self.family.unet)) else 1
        ) + extra
        return step

    def _warn_of_own_stg(self, own: Sequence[str], step: GuidedStep) -> None:
        """Once a run: STG of ours is added to STG of the pipeline's own, which may be what was
        wanted."""
        if step.active_terms and "do_spatio_temporal_guidance" in own and not self._warned:
            self._warned = True
            _log.warning(
                "this %s has STG of its own on, and skipguide's is added to it. For the latter"
                " alone pass stg_scale=0, audio_stg_scale=0 (and guidance_rescale=0,"
                " audio_guidance_rescale=0 where guide() rescales).",
                type(self.pipe).__name__,
            )

    def _apply_rule(self, step: GuidedStep) -> None:
        """What the rule makes of a step."""
        i, num_steps = self.position(step.index)
        step.cond_only = isinstance(self.rule, cfg_rules.Interval) and not formula.is_in_window(
            *self.rule.window, i, num_steps
        )
        step.zero_prediction = isinstance(self.rule, cfg_rules.CFGZero) and i < self.rule.zero_steps
        step.has_cfg_rule = not isinstance(self.rule, cfg_rules.Interval)
        if step.has_cfg_rule and self.schedule is None:
            step.phi = self.request.rescale
        if step.cond_only or step.zero_prediction:
            step.uncond_terms = ()
        if step.zero_prediction:
            step.active_terms, step.phi, step.cond_only = (), 0.0, True

    def _check_cfg_was_on(self, step: GuidedStep) -> None:
        """A run may switch CFG off on its way, and then these steps are left alone; one that never
        has it is refused.

        Raises:
            ValueError: for SLG, a rule, or a Schedule with guidance scales, in a run without CFG.
        """
        later = (
            self.calls.cfg_mode == "guider" and getattr(self.pipe.guider, "guidance_scale", 1) != 1
        )
        if self._had_cfg or later:
            return
        argument = self.guidance_scale_argument()
        if step.uncond_terms:
            raise ValueError(
                "SLG needs CFG, because it skips layers in the unconditional pass, but this run"
                f" has none. Set {argument} above 1 (with a negative prompt where the pipeline asks"
                " for one), or use STG."
            )
        if self.rule is not None:
            raise ValueError(
                f"{type(self.rule).__name__} needs CFG, for it is a rule for u and c, but this run"
                f" has none. Set {argument} above 1, or leave cfg out."
            )
        raise ValueError(
            f"this Schedule has guidance scales of its own, but the run has no CFG. Set {argument}"
            " above 1; what it is does not matter where the Schedule has its own."
        )

    def guidance_scale_argument(self) -> str:
        """What the pipeline's call calls the scale of CFG."""
        return self.calls.scale_argument or self.calls.scale_names[0].removeprefix("current_")

    def _find_active_guidance(self, index: int) -> tuple[list[int], float, float | None]:
        """Which terms are on at step `index`, phi, and g where it is not the pipeline's."""
        if self.schedule is None:
            on = [j for j, term in enumerate(self.terms) if self._is_on(term, index)]
            return on, self.request.rescale if on else 0.0, None
        here = self.schedule.at(self._sigmas[index])
        if here is None:
            return [], 0.0, None
        on = [j for j, entry in enumerate(active_bins(self.schedule)) if entry is here]
        return on, here.rescale, here.guidance_scale

    def _compute_sigmas(self) -> list[float]:
        """The noise level of each step: one transfer from the device per run.

        Raises:
            ValueError: for a scheduler without sigmas.
        """
        scheduler = self.pipe.scheduler
        if getattr(scheduler, "sigmas", None) is None:
            raise ValueError(
                "a Schedule needs a scheduler with sigmas, but this pipeline has"
                f" {type(scheduler).__name__}. Use STG terms with start and stop."
            )
        sigmas = noise_levels.noise_levels(scheduler)[0][self._first_timestep_index() :][
            : self.num_steps()
        ]
        if not any(self.schedule.at(sigma) for sigma in sigmas if self.schedule):
            raise ValueError(
                "a Schedule must hold at some step, but its bins hold at none of this run, whose"
                f" sigmas go from {sigmas[0]:.4g} to {sigmas[-1]:.4g}. Move the bins."
            )
        return sigmas

    def _is_on(self, term: Term, index: int) -> bool:
        i, num_steps = self.position(index)
        return self._has_scale(term, i) and formula.is_in_window(
            term.start, term.stop, i, num_steps
        )

    def guidance_scales(self, outputs: int) -> tuple[float, ...]:
        """g in u + g (c - u), per output, at the step under way.

        Raises:
            ValueError: where the pipeline sets it after the denoiser was called.
        """
        if self.calls.cfg_mode == "guider":
            guider = self.pipe.guider
            return (guider.guidance_scale + (1 if guider.use_original_formulation else 0),)
        frame = call_frame.find_call_frame(self.pipe)
        assert frame is not None
        if self.calls.dynamic_scale_flag and call_frame.is_enabled(
            self.pipe, frame, self.calls.dynamic_scale_flag
        ):
            raise ValueError(
                "rescale and rules for CFG need the guidance scale of the step, but with"
                f" {self.calls.dynamic_scale_flag}=True this pipeline sets it only afterwards. Pass"
                f" {self.calls.dynamic_scale_flag}=False, or leave them out."
            )
        shift = 1 if self.calls.scale_from_cond else 0
        return tuple(
            call_frame.read_value(self.pipe, frame, name) + shift for name in self.calls.scale_names
        )[:outputs]

    def estimate_data(self, step: GuidedStep, c: Tensor) -> tuple[Tensor, float]:
        """The estimate of the data that c is, and by how much it moves with c.

        Raises:
            ValueError: if the pipeline's latents are of another shape than what the model predicts.
        """
        latents = call_frame.find_tensor(self.pipe, "latents", c.shape)
        if latents is None:
            raise ValueError(
                f"{self.request.data_space_features} needs latents of the shape of a prediction,"
                f" {tuple(c.shape)}, but "
                f'{type(self.pipe).__name__} has none. Use space="prediction".'
            )
        a, b = self._data_coefficients[self._first_timestep_index() + step.index]
        return a * latents.to(c.dtype) + b * c, b


def is_cfg_on(pipe: Any, calls: CallConvention, frame: FrameType) -> bool:
    """Whether a pipeline whose `__call__` runs in `frame` has CFG at this step."""
    if calls.cfg_mode == "guider":
        return compat.check_guider(pipe.guider) == 2
    return call_frame.is_enabled(pipe, frame, calls.cfg_flag)
