"""One guided run: which terms are on at each step, what the run remembers, and D.

`RunState` is the state machine of both drivers, `guide()` (pipeline/guide.py) and `SkipGuidance`
(guider.py). What it has to know of the sampling loop it asks a `Loop`, of which each driver has
one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import torch

from skipguide.method import cfg_formulas, cfg_rules, formula, rule_table, terms
from skipguide.method.cfg_formulas import RuleContext
from skipguide.method.formula import DataSpace
from skipguide.method.request import GuidanceRequest, active_bins
from skipguide.method.reuse import DifferenceHistory
from skipguide.method.terms import SLG, STG
from skipguide.pipeline import noise_levels
from skipguide.pipeline.denoiser import GuidedDenoiser
from skipguide.pipeline.differences import RunDifferences, needs_no_uncond
from skipguide.pipeline.step import ActiveTerm, Combination, GuidedStep

Tensor = torch.Tensor
Term = STG | SLG


class Loop(Protocol):
    """The sampling loop around a run, as far as the run has to know it."""

    @property
    def owner(self) -> str:
        """The name of the pipeline's class, for errors."""
        ...

    @property
    def scale_argument(self) -> str:
        """The name of the setting that switches CFG on, for errors."""
        ...

    @property
    def scheduler(self) -> Any:
        """The scheduler of the run."""
        ...

    @property
    def negates_predictions(self) -> bool:
        """True if the scheduler gets predictions with the other sign."""
        ...

    def num_steps(self) -> int:
        """Return the number of steps of the run, restarts included."""
        ...

    def first_timestep_index(self) -> int:
        """Return where in the scheduler's timesteps the run begins."""
        ...

    def position(self, index: int) -> tuple[int, int]:
        """Return step `index` as (i, N) of the run without restarts, in which windows are given."""
        ...

    def denoiser_changes(self) -> list[int]:
        """Return the steps at which the run goes on with another denoiser."""
        ...

    def latents(self, shape: Sequence[int], output: int = 0) -> Tensor | None:
        """Return the noisy latents of the step for an output of the denoiser if they have this
        shape, else None."""
        ...

    def scheduler_of(self, output: int) -> Any:
        """Return the scheduler of the latents of an output."""
        ...

    def cfg_may_follow(self) -> bool:
        """Return whether a step without CFG may be followed by one that has it."""
        ...


class RunState:
    """The decisions and the memory of one guided run; `begin_run` starts the next one.

    Args:
        request: what was asked for.
        outputs: how many predictions the denoiser returns that are guided.
        variance: as for `formula.combine`.
    """

    def __init__(self, request: GuidanceRequest, outputs: int, loop: Loop, variance: bool = False):
        self.request, self.outputs, self.loop, self.variance = request, outputs, loop, variance
        self.terms, self.schedule, self.rule = request.terms, request.schedule, request.cfg
        self.layout = "bcthw"  # of predictions, as a family's `latent_layout`
        self.uses_nag = request.nag is not None and not request.nag.is_off
        self._had_cfg = False  # so far in this run
        self._had_nag = False  # at the last step
        self._sigmas: list[float] = []  # per step, for a schedule
        # Per output and timestep, where data is used.
        self._data_coefficients: list[list[tuple[float, float]]] = []
        self._times: list[float] = []  # t / t_max per timestep, where a rule needs it
        self._momentum: dict[int, cfg_formulas.MomentumBuffer] = {}  # of the rule, per output
        self._kept_data: tuple[Tensor, ...] = ()  # per output, for steps that do not run
        self.differences = RunDifferences(request, loop, self._guided_steps, self._bin_scale)
        self._effective = set[tuple[GuidedDenoiser, int]]()  # terms that changed something

    # --- the run ----------------------------------------------------------------------------------

    def begin_run(self) -> None:
        """Check that the request suits the run that begins, and find out what stays as it is in it.

        Raises:
            ValueError: for a window, schedule, rule or list of scales that does not suit the run.
        """
        self._had_cfg, self._had_nag, self._effective = False, False, set()
        self.forget_history()
        num_steps = self.loop.position(0)[1]
        self._check_noise_levels()
        self.check_steps(num_steps)
        self._data_coefficients = self._find_data_coefficients()
        self._times = self._find_times()
        self._sigmas = self._find_sigmas() if self.schedule else []
        self.differences.begin_run()

    def check_steps(self, num_steps: int) -> None:
        """Check what a number of steps alone decides: windows, lists of scales, zero steps.

        Raises:
            ValueError: for what does not suit a run of so many steps.
        """
        self._check_rule(num_steps)
        self._check_windows(num_steps)

    def forget_history(self) -> None:
        """Forget what is kept from step to step, as at another noise level."""
        self._momentum, self._kept_data = {}, ()
        self.differences.forget()

    def _check_noise_levels(self) -> None:
        """SkyReels-V2 gives each frame a noise level of its own where `ar_step` is set."""
        what = "a Schedule" if self.schedule else self.request.data_space_features
        what = what or self.differences.feature or self._timed_rule
        if not what:
            return
        steps, levels = self.loop.num_steps(), len(self.loop.scheduler.timesteps)
        if steps > levels:
            raise ValueError(
                f"{what} needs a noise level for each step, but this run has {steps} steps on"
                f" {levels} levels. Use STG terms with start and stop, and space="
                '"prediction"; or ar_step=0.'
            )

    @property
    def _timed_rule(self) -> str:
        """The name of the rule, for errors, if it needs the time of each step; else ""."""
        timed = self.rule is not None and "time" in rule_table.row_of(self.rule).needs
        return type(self.rule).__name__ if timed else ""

    def _check_rule(self, num_steps: int) -> None:
        rule = self.rule
        if isinstance(rule, cfg_rules.Interval):
            terms.check_window(rule.window, num_steps)
        zero_steps = self.request.zero_steps
        if not zero_steps:
            return
        if zero_steps >= num_steps:
            raise ValueError(
                f"zero_steps must leave steps to do, but got {zero_steps} of the"
                f" {num_steps} of this run. The usual is 1."
            )
        what, scheduler = "CFG-Zero* with zero_steps above 0", self.loop.scheduler
        noise_levels.check_keeps_noise(scheduler, what)
        if noise_levels.scheduler_kind(scheduler, what) != "flow":
            raise ValueError(
                f"{what} needs flow matching, where a prediction of zero leaves the sample as it"
                f" is, but this pipeline has {type(scheduler).__name__}. Write"
                " CFGZero(zero_steps=0)."
            )

    def _find_data_coefficients(self) -> list[list[tuple[float, float]]]:
        """Return (a, b) of x_0 = a x + b F per output and timestep: a transfer from the device for
        each output, once a run."""
        what = self.request.data_space_features
        if not what:
            return []
        schedulers = [self.loop.scheduler_of(output) for output in range(self.outputs)]
        return [noise_levels.all_data_coefficients(scheduler, what) for scheduler in schedulers]

    def _find_times(self) -> list[float]:
        """Return t / t_max per timestep, if the rule needs it: one transfer from the device."""
        what = self._timed_rule
        return noise_levels.run_times(self.loop.scheduler, what) if what else []

    def _check_windows(self, num_steps: int) -> None:
        if (nag := self.request.nag) is not None and self.uses_nag:
            terms.check_window((nag.start, nag.stop), num_steps)
        for term in self.terms:
            if self._has_scale(term):
                terms.check_window((term.start, term.stop), num_steps)
            if isinstance(term, STG):
                term.check_steps(num_steps)

    def _find_sigmas(self) -> list[float]:
        """Return the noise level of each step: one transfer from the device per run."""
        scheduler = self.loop.scheduler
        if getattr(scheduler, "sigmas", None) is None:
            raise ValueError(
                "a Schedule needs a scheduler with sigmas, but this pipeline has"
                f" {type(scheduler).__name__}. Use STG terms with start and stop."
            )
        first = self.loop.first_timestep_index()
        sigmas = noise_levels.noise_levels(scheduler)[0][first:][: self.loop.num_steps()]
        if not any(self.schedule.at(sigma) for sigma in sigmas if self.schedule):
            raise ValueError(
                "a Schedule must hold at some step, but its bins hold at none of this run, whose"
                f" sigmas go from {sigmas[0]:.4g} to {sigmas[-1]:.4g}. Move the bins."
            )
        return sigmas

    @property
    def may_guide(self) -> bool:
        """False where every scale is 0, so that no step can differ from the pipeline's own."""
        request = self.request
        asked = (request.schedule, request.cfg, request.restart, request.budget, request.skip_step)
        others = any(map(bool, asked)) or self.uses_nag
        return others or any(map(self._has_scale, self.terms))

    # --- a step -----------------------------------------------------------------------------------

    def decide_step(
        self, index: int, has_cfg: bool, guided: GuidedDenoiser | None = None
    ) -> GuidedStep:
        """Return step `index` of the run: its terms, scales and rule. The driver adds its calls.

        Args:
            guided: the denoiser of the step, as far as the driver knows it.
            has_cfg: whether the loop computes u at this step, were it not guided.

        Raises:
            ValueError: for SLG, a rule, or a Schedule with guidance scales, in a run without CFG.
        """
        if self._is_held(index):
            return GuidedStep(index, has_cfg, combination=Combination.HELD)
        on, phi, g = self._active_guidance(index)
        i = self.loop.position(index)[0]
        step = GuidedStep(index, has_cfg, phi, g if has_cfg else None)
        step.is_kept = self.request.skip_step > 0
        step.audio_phi = self.request.audio_rescale if on else None
        step.active_terms = tuple(
            ActiveTerm(j, term, term.scales(self.outputs, i))
            for j in on
            if isinstance(term := self.terms[j], STG)
        )
        step.uncond_terms = tuple(j for j in on if isinstance(self.terms[j], SLG))
        self._decide_nag(step)
        self._had_cfg = self._had_cfg or has_cfg
        if self.rule is not None and (has_cfg or not self.request.rule_needs_cfg):
            self._apply_rule(step)
        if has_cfg and needs_no_uncond(self.rule, g):
            step.combination, step.uncond_terms = Combination.COND_ONLY, ()
        if not has_cfg:
            self._check_cfg_was_on(step, g)
            step.uncond_terms = ()
        if has_cfg and not step.leaves_out_uncond:
            self._decide_uncond(step, guided)
        return step

    def _decide_nag(self, step: GuidedStep) -> None:
        """Settle whether attention is guided by the negative prompt at a step.

        Where that changes, differences of earlier steps are those of another model."""
        nag = self.request.nag
        if nag is not None and self.uses_nag:
            position = self.loop.position(step.index)
            step.has_nag = formula.is_in_window(nag.start, nag.stop, *position)
        if step.has_nag != self._had_nag:
            self.differences.forget()
        self._had_nag = step.has_nag

    def _is_held(self, index: int) -> bool:
        """Return whether the model does not run at a step (`skip_step`)."""
        return bool(self._kept_data) and index % (self.request.skip_step + 1) != 0

    def _decide_uncond(self, step: GuidedStep, guided: GuidedDenoiser | None) -> None:
        """Settle whether u is computed at a step, or c - u is that of earlier ones."""
        history = self.differences.of_uncond(guided, step.uncond_terms)
        step.keeps_uncond = history is not None or self.differences.needs_plan
        step.reuses_uncond = history is not None and not history.is_due(step.index)

    def _bin_scale(self, index: int) -> float | None:
        """Return g of a step where a Schedule has its own."""
        return self._active_guidance(index)[2]

    def _guided_steps(self, j: int) -> list[int]:
        """Return the steps of the run at which a term is on."""
        return [
            i
            for i in range(self.loop.num_steps())
            if j in self._active_guidance(i)[0]
            and self.loop.position(i)[0] >= self.request.zero_steps
        ]

    def _active_guidance(self, index: int) -> tuple[list[int], float, float | None]:
        """Return which terms are on at a step, phi, and g where it is not the pipeline's."""
        if self.schedule is None:
            i, num_steps = self.loop.position(index)
            on = [
                j
                for j, term in enumerate(self.terms)
                if self._has_scale(term, i)
                and formula.is_in_window(term.start, term.stop, i, num_steps)
            ]
            return on, self.request.rescale if on else 0.0, None
        here = self.schedule.at(self._sigmas[index])
        if here is None:
            return [], 0.0, None
        on = [j for j, entry in enumerate(active_bins(self.schedule)) if entry is here]
        return on, here.rescale, here.guidance_scale

    def _has_scale(self, term: Term, step: int | None = None) -> bool:
        """Return whether a term's scale is above 0 at a step, or at any."""
        return isinstance(term, SLG) or max(term.scales(self.outputs, step)) > 0

    def _apply_rule(self, step: GuidedStep) -> None:
        i, num_steps = self.loop.position(step.index)
        if isinstance(self.rule, cfg_rules.Interval):
            if not formula.is_in_window(*self.rule.window, i, num_steps):
                step.combination, step.uncond_terms = Combination.COND_ONLY, ()
            return
        if isinstance(self.rule, cfg_rules.CFGReuse):
            return  # CFG as it is, whether u is computed or not
        step.rule = self.rule
        if self.schedule is None:
            step.phi, step.audio_phi = self.request.rescale, self.request.audio_rescale
        if i < self.request.zero_steps:
            step.combination = Combination.ZERO
            step.active_terms, step.uncond_terms, step.phi = (), (), 0.0
            step.has_nag = False
            step.audio_phi = None

    def _check_cfg_was_on(self, step: GuidedStep, g: float | None) -> None:
        """Let a run switch CFG off on its way; its last steps are then left alone.

        A run that begins without CFG is checked for all of its steps at once.

        Raises:
            ValueError: in a run that never has CFG, for what needs it.
        """
        if self._had_cfg or self.loop.cfg_may_follow():
            return
        begins = step.index == 0
        slg = any(isinstance(term, SLG) for term in self.terms) if begins else step.uncond_terms
        scales = self._scales_of_schedule() if begins else {g}
        argument, owner = self.loop.scale_argument, self.loop.owner
        none = "this run has none" if argument else f"a {owner} never has any"
        if slg:
            how = f"Set {argument} above 1 (with a negative prompt where the pipeline asks for one)"
            raise ValueError(
                "SLG needs CFG, because it skips layers in the unconditional pass, but"
                f" {none}. {f'{how}, or use STG' if argument else 'Use STG'}."
            )
        if self.request.rule_needs_cfg:
            how = f"Set {argument} above 1, or leave" if argument else "Leave"
            raise ValueError(
                f"{type(self.rule).__name__} needs CFG, for it is a rule for u and c, but {none}."
                f" {how} cfg out."
            )
        if scales - {None, 1}:
            how = f" Set {argument} above 1; what it is does not matter where the Schedule has its"
            raise ValueError(
                "this Schedule has guidance scales of its own, and so needs CFG, but"
                f" {none}.{f'{how} own.' if argument else ''} A model that was distilled to run"
                " without CFG takes schedule.without_cfg(), or --layers and --stg-scale."
            )

    def _scales_of_schedule(self) -> set[float | None]:
        """Return the guidance scales of the bins that hold at some step of the run."""
        if self.schedule is None:
            return set()
        found = (self.schedule.at(sigma) for sigma in self._sigmas)
        return {here.guidance_scale for here in found if here is not None}

    # --- what is kept from step to step -----------------------------------------------------------

    def runs_weak_pass(self, guided: GuidedDenoiser, active: ActiveTerm, step: GuidedStep) -> bool:
        """Return whether a term's weak pass runs at a step, or earlier differences are used."""
        history = self.differences.of_term(guided, active.index)
        return history is None or history.is_due(step.index)

    def reused_weak(
        self, guided: GuidedDenoiser, active: ActiveTerm, step: GuidedStep
    ) -> tuple[Tensor, ...] | None:
        """Return the p that earlier differences stand for; None if the weak pass has to run."""
        history = self.differences.of_term(guided, active.index)
        return _continue(history, step)

    def keep_weak(
        self,
        guided: GuidedDenoiser,
        active: ActiveTerm,
        step: GuidedStep,
        weak: Sequence[Tensor],
    ) -> None:
        """Keep c - p for later steps, where the term does not run at each of them."""
        history = self.differences.of_term(guided, active.index)
        if history is not None:
            history.add(step.index, tuple(c - p for c, p in zip(step.c, weak, strict=True)))

    def reused_uncond(
        self, guided: GuidedDenoiser | None, step: GuidedStep
    ) -> tuple[Tensor, ...] | None:
        """Return the u that earlier differences stand for; None if it has to be computed.

        After None the step knows that it computes u."""
        history = self.differences.of_uncond(guided, step.uncond_terms)
        found = _continue(history, step) if step.reuses_uncond else None
        step.reuses_uncond = found is not None
        return found

    def keep_uncond(
        self, guided: GuidedDenoiser | None, step: GuidedStep, us: Sequence[Tensor]
    ) -> None:
        """Keep c - u for later steps, where u is not computed at each of them."""
        history = self.differences.of_uncond(guided, step.uncond_terms)
        if history is not None and step.keeps_uncond and not step.reuses_uncond:
            history.add(step.index, tuple(c - u for c, u in zip(step.c, us, strict=True)))

    def check_effect(
        self,
        guided: GuidedDenoiser,
        active: ActiveTerm,
        c: Sequence[Tensor],
        weak: Sequence[Tensor],
    ) -> None:
        """Check once in a run that a weak pass differs: looking at values waits for the device.

        Raises:
            ValueError: for a weak pass that is the conditional one, but for rounding.
        """
        if (guided, active.index) in self._effective:
            return
        # a model of two outputs may make one of them alone: Kandinsky 6, an image
        pairs = [(own, p) for own, p, s in zip(c, weak, active.scales, strict=False) if s > 0]
        if not all(formula.equal_but_for_rounding(own, p) for own, p in pairs):
            self._effective.add((guided, active.index))
            return
        raise ValueError(
            "a weak pass must differ from the conditional one, but that of"
            f" {_describe(active.term)} is the same but for rounding, and cannot push anything."
            " Attention along an axis of one token (time, in a video of one frame) has nothing to"
            " skip, neither has a layer whose gate is zero, and a layer that knows no positions"
            " gives shuffled tokens back as they were. Choose other layers, another skip or axis,"
            " or more frames. A cache that returns what it kept of the conditional pass does this"
            " too: switch it off."
        )

    # --- D ----------------------------------------------------------------------------------------

    def guided_predictions(
        self,
        step: GuidedStep,
        us: Sequence[Tensor] | None,
        scales: Sequence[float] = (),
        cfg: formula.CFG | None = None,
    ) -> tuple[Tensor, ...]:
        """Return D for each output of the denoiser.

        Args:
            us: unconditional predictions; None where the step has none.
            scales: g of each output; those of a Schedule come first.
            cfg: what the loop has in the place of u + g (c - u), where the request has no rule.
        """
        if step.combination is Combination.ZERO:
            return tuple(torch.zeros_like(c) for c in step.c)
        if step.combination is Combination.HELD:
            return self._held_predictions(step)
        if step.guidance_scale is not None:
            scales = (step.guidance_scale,) * len(step.c)
        if us is None:
            found = tuple(self._combine(step, k, None, 1.0, cfg) for k in range(len(step.c)))
        else:
            pairs = enumerate(zip(us, scales, strict=True))
            found = tuple(self._combine(step, k, u, g, cfg) for k, (u, g) in pairs)
        if step.is_kept:
            self._kept_data = tuple(
                self._data_space(step, k, D).estimate(formula.upcast(D))
                for k, D in enumerate(found)
            )
        return found

    def _held_predictions(self, step: GuidedStep) -> tuple[Tensor, ...]:
        """Return the predictions whose estimates of the clean data are those that were kept."""
        found = []
        for k, (x_0, c) in enumerate(zip(self._kept_data, step.c, strict=True)):
            data = self._data_space(step, k, x_0)
            found.append(((x_0 - data.a * formula.upcast(data.x)) / data.b).to(c.dtype))
        return tuple(found)

    def _combine(
        self, step: GuidedStep, k: int, u: Tensor | None, g: float, cfg: formula.CFG | None
    ) -> Tensor:
        c, phi, data, finish = step.c[k], step.phi_of(k), None, None
        own = c.chunk(2, dim=1)[0] if self.variance else c
        rescales_data = phi > 0 and self.request.rescale_space == "data"
        if rescales_data or (u is not None and getattr(step.rule, "space", "") == "data"):
            data = self._data_space(step, k, own)
        if step.rule is not None:
            context = self._rule_context(step, step.rule, k, own, data)
            cfg = rule_table.cfg_function(step.rule, context)
            finish = rule_table.finish_function(step.rule, context)
        return formula.combine(
            c,
            u,
            g,
            step.push[k],
            cfg=cfg,
            finish=finish,
            phi=phi,
            data=data if rescales_data else None,
            variance=self.variance,
        )

    def _rule_context(
        self,
        step: GuidedStep,
        rule: cfg_rules.CFGRule,
        k: int,
        c: Tensor,
        data: DataSpace | None,
    ) -> RuleContext:
        """Return what a rule has to know of a step, for one output.

        Args:
            c: the prediction of that output, without a variance.
            data: as `_data_space` has it, if it is known.
        """
        needs, (i, num_steps) = rule_table.row_of(rule).needs, self.loop.position(step.index)
        advice = "Use another rule."
        return RuleContext(
            self._momentum.setdefault(k, cfg_formulas.MomentumBuffer()),
            i / num_steps,
            self._times[self._timestep_index(step)] if "time" in needs else 1.0,
            data,
            self._latents(c, k, type(rule).__name__, advice) if "latents" in needs else None,
            step.corrected[k] if step.corrected else None,
            self.layout,
        )

    def _data_space(self, step: GuidedStep, output: int, c: Tensor) -> DataSpace:
        advice = 'Use space="prediction".'
        latents = self._latents(c, output, self.request.data_space_features, advice)
        a, b = self._data_coefficients[output][self._timestep_index(step)]
        return DataSpace(latents, a, -b if self.loop.negates_predictions else b)

    def _latents(self, c: Tensor, output: int, what: str, advice: str) -> Tensor:
        """Return the noisy latents of the step for an output.

        Args:
            c: a prediction of that output, whose shape they have.
            what: what needs them; advice: what to do where there are none. For the error.
        """
        latents = self.loop.latents(c.shape, output)
        if latents is None:
            raise ValueError(
                f"{what} needs latents of the shape of a prediction, {tuple(c.shape)}, but"
                f" {self.loop.owner} has none. {advice}"
            )
        return latents

    def _timestep_index(self, step: GuidedStep) -> int:
        """Return where in the scheduler's timesteps a step is."""
        return self.loop.first_timestep_index() + step.index


def _continue(history: DifferenceHistory | None, step: GuidedStep) -> tuple[Tensor, ...] | None:
    """Return c less the continued difference; None where it is due, or of another shape."""
    if history is None or history.is_due(step.index) or not history.fits(step.c):
        return None
    differences = history.extrapolate(step.index)
    history.count_reuse(step.index)
    return tuple(c - d for c, d in zip(step.c, differences, strict=True))


def _describe(term: STG) -> str:
    """Return what weakens the model of a term, as a user wrote it."""
    if term.weak is not None:
        return f"weak={term.weak if term.changes_lora else type(term.weak).__name__}"
    axis = "" if term.axis is None else f", axis={term.axis!r}"
    return f"layers={term.layers!r}, skip={term.skip!r}{axis}"
