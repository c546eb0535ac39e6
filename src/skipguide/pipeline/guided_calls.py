"""The calls of a guided denoiser: what is done before and after each, and the passes of our own.

How a guided step runs, all with torch's own hooks on the unmodified denoiser:

    before the cond call   decide the step: which terms are on; let the first layer that each
                           skips record its inputs; of a batch [uncond, cond] run cond first
    after it               per active term: run the denoiser again, weakened; then the uncond
                           half of a batch; return u', c' of which the pipeline's CFG makes D
    later calls            shift u, where it comes separately, and the predictions for guidance of
                           the pipeline's own, by as much as c was

A batch runs in halves so that the conditional pass and a weak one are the same computation to the
last bit: a row of a matrix product is rounded differently in batches of different size. It also
halves the memory that activations take. With `exact=False` the batch stays one: the cond rows are
read from it, and the weak passes that start in the same layer are a batch of their own.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from skipguide.families import lookup, schema
from skipguide.families.schema import Family
from skipguide.method.cfg_rules import RectifiedCFG
from skipguide.method.protocols import Inputs, ReadOnlyInputs
from skipguide.method.request import GuidanceRequest
from skipguide.pipeline import (
    branch_plan,
    call_frame,
    combine,
    compat,
    foreign_code,
    negative_prompt,
    price,
)
from skipguide.pipeline.budget import TYPICAL_SCALE, BudgetPlan
from skipguide.pipeline.cache_contexts import COND, REPEAT, UNCOND, UNREAD
from skipguide.pipeline.corrector import Corrector
from skipguide.pipeline.denoiser import GuidedDenoiser
from skipguide.pipeline.guider_formula import GuiderFormula
from skipguide.pipeline.loop import PipelineLoop
from skipguide.pipeline.own_guidance import OwnGuidance
from skipguide.pipeline.restarting import RestartController
from skipguide.pipeline.run import RunState
from skipguide.pipeline.step import ActiveTerm, Combination, GuidedStep, PassCounts
from skipguide.weak import patching

Tensor = torch.Tensor

_log = logging.getLogger("skipguide")
_HALVES = (patching.UNCOND, patching.COND)


class GuidedCalls:
    """The state of one guided pipeline, and what happens around each call of its denoiser.

    Args:
        pipe: the pipeline.
        family: its row.
        request: what guide() was asked for.
    """

    def __init__(self, pipe: Any, family: Family, request: GuidanceRequest):
        self.pipe, self.family, self.request = pipe, family, request
        self.terms, self.passes = request.terms, PassCounts()
        self._guided_denoisers = {
            denoiser: self._make_guided_denoiser(denoiser)
            for denoiser in lookup.denoisers_of(pipe, family)
        }
        self._restart_controller = (
            RestartController(
                pipe.scheduler, request.restart, pipe, schema.channel_dimension(family)
            )
            if request.restart
            else None
        )
        self._loop = PipelineLoop(pipe, self._restart_controller)
        variance = family.learned_variance and compat.predicts_variance(pipe)
        self._run = RunState(request, len(family.outputs), self._loop, variance)
        self._run.layout = family.latent_layout
        self._guider_formula = GuiderFormula(self._add_to_guider)
        self._corrector: Corrector | None = None  # of this run, for a RectifiedCFG
        self._own_guidance = OwnGuidance(pipe, request.replace_own)
        self.plan: BudgetPlan | None = None  # of the last run with a budget
        self._step: GuidedStep | None = None
        self._timesteps: Tensor | None = None  # of the run: schedulers make new ones for each
        self._undo: list[patching.Patch] = []  # restores the modules after the call under way
        self._context = contextlib.ExitStack()  # of caches, in the call under way
        self._in_own_pass = False  # the hooks below let passes of ours through
        self._input_spec_set = False  # in this run: the weak passes know their inputs
        self._negative_inputs: Inputs | None = None  # in this run: the denoiser's, for NAG

    def _make_guided_denoiser(self, denoiser: nn.Module) -> GuidedDenoiser:
        request = self.request
        return GuidedDenoiser(self.family, denoiser, self.terms, request.share_prefix, request.nag)

    # --- before a call of the denoiser ------------------------------------------------------------

    def _before_forward(self, denoiser: nn.Module, args: tuple[Any, ...], kwargs: Inputs) -> Any:
        # A copy of the denoiser has copies of these hooks, and is none of ours.
        if self._in_own_pass or denoiser not in self._guided_denoisers or self._is_early(kwargs):
            return None
        self._clean_up()  # after a call that raised
        held = lookup.denoisers_of(self.pipe, self.family)
        foreign_code.check_caller(denoiser, held, type(self.pipe).__name__)
        step = self._find_step(self._guided_denoisers[denoiser])
        guided = self._guided_denoisers[denoiser]  # a run that begins may have made another
        if step.calls_done == 0 and self._run.may_guide:
            guided.begin_caches(step.index, self._loop.position(step.index)[0])
        return self._prepare_call(guided, step, args, kwargs)

    def _is_early(self, inputs: ReadOnlyInputs) -> bool:
        """Return whether a call of the denoiser comes before the loop, so that it is no step's."""
        is_early = self._loop.calls.is_early
        return is_early is not None and is_early(inputs)

    def _prepare_call(
        self, guided: GuidedDenoiser, step: GuidedStep, args: tuple[Any, ...], kwargs: Inputs
    ) -> Any:
        """Put the proxies of a call in place; return other inputs for it, or None."""
        if step.calls_done == 0 and self._run.uses_nag:
            self._find_negative_text(guided, step, args, kwargs)
        if step.calls_done == 0 and (step.active_terms or step.uncond_terms or step.has_nag):
            guided.begin_step(step.index)
            guided.observe_inputs(args, kwargs)
            active = [active.index for active in step.active_terms]
            if step.has_nag:
                guided.begin_negative_step(active)
            patches = guided.recording_patches(active, in_batch=step.keeps_batch)
            self._undo = patching.apply_patches(patches)
        if step.calls_done == 0 and step.combination is Combination.HELD:
            self._undo = patching.apply_patches(guided.idle_patches())
        if step.calls_done == 1 and step.has_uncond_call:
            self._undo = patching.apply_patches(self._uncond_patches(guided, step))
        if step.calls_done and step.calls_done >= step.num_calls - step.unread_calls:
            self._undo = patching.apply_patches(guided.idle_patches())
        if self._separates_contexts(guided):
            name = self._context_name(guided, step)
            self._context.enter_context(guided.caches.context(name))
        if step.calls_done == 1 and step.corrected:
            return (), self._move(guided, step, guided.bind_inputs(args, kwargs))
        if step.calls_done > 0 or not step.split_batch:
            return None
        step.inputs = guided.bind_inputs(args, kwargs)
        return (), self._select_rows(step.inputs, patching.COND)

    def _find_negative_text(
        self, guided: GuidedDenoiser, step: GuidedStep, args: tuple[Any, ...], kwargs: Inputs
    ) -> None:
        """Find the negative text as the denoiser takes it, once a run, and as its blocks do.

        The former comes with the first step, be NAG on at it or not: later the text encoder would
        need the memory that the denoiser has."""
        text = guided.negative_text
        assert text is not None
        if self._negative_inputs is not None and (text.is_known or not step.has_nag):
            return
        inputs, uncond = guided.bind_inputs(args, kwargs), None
        if step.is_batched:
            uncond, inputs = (self._select_rows(inputs, half) for half in _HALVES)
        if self._negative_inputs is None:
            found = negative_prompt.find_inputs(self.pipe, self.family, inputs, uncond)
            self._negative_inputs = found
        if step.has_nag and not text.is_known:
            with text.recording() as patches:
                negative = {**inputs, **self._negative_inputs}
                self._run_denoiser(guided.denoiser, (), negative, patches)

    def _separates_contexts(self, guided: GuidedDenoiser) -> bool:
        """Return whether each pass has a context of its own; a run that nothing guides has not."""
        return guided.caches.is_on and self._run.may_guide

    def _context_name(self, guided: GuidedDenoiser, step: GuidedStep) -> str:
        """Return the context of a call of the pipeline's; "" for guidance of its own."""
        if step.calls_done == 0:
            return UNREAD if step.combination is Combination.HELD else COND
        if step.calls_done > 1 or not step.has_uncond_call:
            return ""
        is_unread = step.leaves_out_uncond or step.us is not None
        return UNREAD if is_unread else guided.uncond_context(step.uncond_terms)

    def _find_step(self, guided: GuidedDenoiser) -> GuidedStep:
        """Return the step that a call of the denoiser belongs to: the one under way, or the
        next."""
        frame = call_frame.find_call_frame(self.pipe)
        if frame is None:
            raise RuntimeError(
                f"a guided denoiser must be called by the {type(self.pipe).__name__} that guide()"
                " got, which knows the step and the scales, but that one is not running. Call it,"
                " or remove the guidance first."
            )
        timesteps, step = self.pipe.scheduler.timesteps, self._step
        same_run = timesteps is self._timesteps
        if same_run and step is not None and step.calls_done < step.num_calls:
            return step
        if same_run:
            index = self._next_index()
        else:
            self._timesteps, self.passes = timesteps, PassCounts()
            self._begin_run()
            index = self._loop.first_index() if step is None else 0
            for known in self._guided_denoisers.values():
                known.begin_run(joins=index > 0)
        before = self._step if same_run else None
        has_cfg = self._loop.has_cfg(frame)
        if not same_run and not has_cfg:
            self._log_price(guided)
        if self._run.differences.needs_plan and self.family.unet is None:
            self._choose_plan(guided, index, has_cfg)
        self._step = step = self._run.decide_step(index, has_cfg, guided)
        if before is not None and before.has_nag != step.has_nag:
            for known in self._guided_denoisers.values():
                known.forget_caches()  # which are those of c with NAG, or without it
        split = any(map(self._separates_contexts, self._guided_denoisers.values()))
        self._own_guidance.settle(frame, bool(step.active_terms))
        self._loop.add_calls(step, frame, self.request.replace_own)
        other_order = self._loop.calls.cond_first and step.is_guided
        step.choose_batch(self.request.exact, split or step.has_nag or other_order)
        if step.combination is Combination.GUIDER:
            self._guider_formula.attach(compat.guider_of(self.pipe, frame))
        self.passes.steps += 1
        self.passes.unweakened += step.num_passes
        return step

    def _log_price(self, guided: GuidedDenoiser) -> None:
        """Say once in a run without CFG what it takes."""
        if _log.isEnabledFor(logging.INFO):
            said = self._describe_price(guided, self._loop.position(0)[1])
            if said is not None:
                _log.info("%s", said)

    def _describe_price(self, guided: GuidedDenoiser, num_steps: int) -> str | None:
        if self.family.unet:  # whose operations are counted when inputs have come
            costs = [branch_plan.weak_work(guided, j).cost for j in range(len(self.terms))]
        else:
            costs = guided.weak_costs(num_steps)
        weak = price.weak_passes_per_step(self.request, costs, num_steps)
        return price.describe_price(weak, self.request.budget) if weak else None

    def _next_index(self) -> int:
        index = 0 if self._step is None else self._step.index + 1
        if index >= self._loop.num_steps():  # the next segment of a video, on the same timesteps
            index = 0
        if index == 0 or self._loop.is_restart(index):  # what is kept is of another noise level
            self._run.forget_history()
            for guided in self._guided_denoisers.values():
                guided.forget_caches()
        if index == 0:
            self._forget_negative_prompt()
        return index

    def _forget_negative_prompt(self) -> None:
        self._negative_inputs = None
        for guided in self._guided_denoisers.values():
            if guided.negative_text is not None:
                guided.negative_text.forget()

    def _begin_run(self) -> None:
        self._input_spec_set = False
        self._own_guidance.begin_run()
        self._loop.begin_run()
        self._run.begin_run()
        self._corrector = self._make_corrector()
        for denoiser, guided in self._guided_denoisers.items():
            if not guided.is_current():  # FreeNoise was switched on, adapters were loaded
                self._guided_denoisers[denoiser] = self._make_guided_denoiser(denoiser)
        self._forget_negative_prompt()

    def _make_corrector(self) -> Corrector | None:
        rule = self.request.cfg
        if not isinstance(rule, RectifiedCFG):
            return None
        scheduler, restarts = self.pipe.scheduler, self._restart_controller
        order = range(len(scheduler.timesteps)) if restarts is None else restarts.step_order
        return Corrector(rule, scheduler, order, len(self.family.outputs))

    def _uncond_patches(self, guided: GuidedDenoiser, step: GuidedStep) -> list[patching.Patch]:
        if step.leaves_out_uncond or step.us is not None:
            return guided.idle_patches()
        self.passes.uncond_weakened.update(guided.weak_passes[j] for j in step.uncond_terms)
        return guided.uncond_patches(step.uncond_terms)

    # --- after it ---------------------------------------------------------------------------------

    def _after_forward(
        self, denoiser: nn.Module, args: tuple[Any, ...], kwargs: ReadOnlyInputs, output: Any
    ) -> Any:
        step = self._step
        if self._in_own_pass or step is None or denoiser not in self._guided_denoisers:
            return None
        if self._is_early(kwargs):
            return None
        if output is None:  # the call raised
            step.clear()
            self._clean_up()
            return None
        self._restore_modules()
        guided = self._guided_denoisers[denoiser]
        self._count_call(guided, step)
        first, step.calls_done = step.calls_done == 0, step.calls_done + 1
        try:
            guided.watch.check_calls()
            if not self._takes_part(step):
                return None
            after = self._after_cond_call if first else self._after_later_call
            return after(guided, step, args, kwargs, output)
        finally:
            if step.calls_done == step.num_calls and step.combination is not Combination.GUIDER:
                step.clear()
            self._clean_up()

    def _takes_part(self, step: GuidedStep) -> bool:
        """Return whether the pipeline gets something of ours at a step."""
        return step.is_guided or step.split_batch

    def _after_cond_call(
        self,
        guided: GuidedDenoiser,
        step: GuidedStep,
        args: tuple[Any, ...],
        kwargs: ReadOnlyInputs,
        output: Any,
    ) -> Any:
        """Run the weak passes and, of a batch, the uncond half; return what the pipeline gets."""
        step.c, us = self._cond_predictions(output), None
        call = args, kwargs  # as it ran
        if step.keeps_batch:
            us, step.c = (patching.select_half(half, step.c) for half in _HALVES)
            inputs = guided.bind_inputs(args, kwargs)
            args, kwargs = (), self._select_rows(inputs, patching.COND)
        if self.family.unet and not self._input_spec_set:
            guided.set_input_spec(args, kwargs)
            self._input_spec_set = True
        if self._run.differences.needs_plan:  # of a UNet, whose costs were not known before
            self._choose_plan(guided, step.index, step.has_cfg)
        weaks = self._weak_predictions(guided, step, args, kwargs)
        channels = step.c[0].shape[1] // 2 if self._run.variance else None
        masks = guided.push_masks(step.active_terms, step.c)
        step.compute_push(weaks, self.request.orthogonalize, channels, masks)
        del weaks
        if guided.watch.repeat_is_due and step.combination is not Combination.HELD:
            self._repeat_cond_pass(guided, step, *call)
        guided.clear_prefix()  # before the other half takes its memory
        if self._corrector is not None and step.rule is not None:
            self._correct(guided, step, guided.bind_inputs(args, kwargs))
        if step.reuses_uncond:
            step.us = self._run.reused_uncond(guided, step)
            self.passes.unweakened += step.us is None
        if step.split_batch and not step.leaves_out_uncond:
            us = step.us or self._uncond_predictions(guided, step)
        if us is not None:
            self._run.keep_uncond(guided, step, us)
        step.returned, us = combine.after_cond_call(self._run, self._loop, step, us)
        if us is None:
            return combine.replace_samples(output, step.returned)
        halves = (step.returned, us) if self._loop.calls.cond_first else (us, step.returned)
        pairs = zip(*halves, strict=True)
        return combine.replace_samples(output, [torch.cat(pair) for pair in pairs])

    def _choose_plan(self, guided: GuidedDenoiser, index: int, has_cfg: bool) -> None:
        """Choose what a budget is spent on from a step on, the first of a run, and say it."""
        costs = guided.weak_costs(self._loop.num_steps())
        g = self._typical_scale() if has_cfg else None
        self.plan = self._run.differences.choose_plan(costs, g, index)
        _log.info("%s", self.plan)

    def _typical_scale(self) -> float:
        """Return g of this step, which stands for those of the run; SVD has one for each frame."""
        try:
            scale = self._loop.guidance_scales(len(self.family.outputs))[0]
        except ValueError:  # the pipeline sets it after the denoiser was called
            return TYPICAL_SCALE
        return float(torch.as_tensor(scale).max())

    def _after_later_call(
        self,
        guided: GuidedDenoiser,
        step: GuidedStep,
        args: tuple[Any, ...],
        kwargs: ReadOnlyInputs,
        output: Any,
    ) -> Any:
        """Return what the pipeline gets from the call of u, or for guidance of its own."""
        found = self._extract_predictions(output)
        if step.calls_done == 2 and step.has_uncond_call:
            found = step.us or found
            self._run.keep_uncond(guided, step, found)
        returned = combine.after_later_call(self._run, self._loop, step, found)
        return combine.replace_samples(output, returned)

    def _add_to_guider(self, pred_cond: Tensor, pred: Tensor) -> Tensor:
        """Return what a guider with a formula of its own makes of u and c, with the push added."""
        step = self._step
        if step is None or step.combination is not Combination.GUIDER or not step.push:
            return pred
        step.c = (pred_cond,)  # as the pipeline hands it to its guider
        (D,) = self._run.guided_predictions(step, (pred_cond,), (1.0,), cfg=lambda c, u, g: pred)
        step.clear()
        return D

    # --- passes of ours ---------------------------------------------------------------------------

    def _cond_predictions(self, output: Any) -> tuple[Tensor, ...]:
        """Return what the model predicts with the prompt, which the first call returned."""
        return self._extract_predictions(output)

    def _uncond_predictions(self, guided: GuidedDenoiser, step: GuidedStep) -> tuple[Tensor, ...]:
        """Run the uncond half of a batch."""
        inputs, name = self._select_rows(step.inputs, patching.UNCOND), ""
        if step.corrected:
            inputs = self._move(guided, step, inputs)
        patches = self._uncond_patches(guided, step)
        if self._separates_contexts(guided):
            name = guided.uncond_context(step.uncond_terms)
        with guided.caches.context(name):
            us = self._run_denoiser(guided.denoiser, (), inputs, patches)
        if name:
            self._count_uncond(guided, step)
        return us

    def _correct(self, guided: GuidedDenoiser, step: GuidedStep, inputs: ReadOnlyInputs) -> None:
        """Run the conditional pass at the point that c predicts.

        Raises:
            ValueError: on a model with a cache, which would take it for the next step.
        """
        if guided.caches.is_on:
            raise ValueError(
                "RectifiedCFG asks the model between two steps, which code that keeps results from"
                f" step to step would take for one, but there is some on this {self.family.model}."
                " Switch it off, or use another rule."
            )
        moved, patches = self._move(guided, step, inputs), guided.watch.patches([])
        step.corrected = self._run_denoiser(guided.denoiser, (), moved, patches)
        self.passes.unweakened += 1

    def _move(self, guided: GuidedDenoiser, step: GuidedStep, inputs: ReadOnlyInputs) -> Inputs:
        """Return the inputs of a call at the point that c predicts."""
        assert self._corrector is not None
        index = self._loop.first_timestep_index() + step.index
        c = -step.c[0] if self._loop.negates_predictions else step.c[0]
        return self._corrector.move(guided, inputs, c, index, self._loop.latents(c.shape))

    def _repeat_cond_pass(
        self,
        guided: GuidedDenoiser,
        step: GuidedStep,
        args: tuple[Any, ...],
        kwargs: ReadOnlyInputs,
    ) -> None:
        """Run the conditional pass once more, which must give the same."""
        self.passes.unweakened += 1
        with guided.caches.context(REPEAT):
            again = self._run_denoiser(guided.denoiser, args, kwargs, guided.repeat_patches())
        self.passes.left_out_by_caches += 1 - guided.caches.cost(REPEAT, 1)
        rows = patching.select_half(patching.COND, again) if step.keeps_batch else again
        guided.watch.check_repeat(step.c, rows)

    def _weak_predictions(
        self,
        guided: GuidedDenoiser,
        step: GuidedStep,
        args: tuple[Any, ...],
        kwargs: ReadOnlyInputs,
    ) -> list[tuple[Tensor, ...]]:
        """Return what each weakened model predicts from the inputs of the cond call.

        Where a term does not run at every step, this is c less what earlier differences give.
        """
        found, running = dict[int, tuple[Tensor, ...]](), dict[int, ActiveTerm]()
        for active in step.active_terms:
            reused = self._run.reused_weak(guided, active, step)
            if reused is None:
                running[active.index] = active
            else:
                found[active.index] = reused
        exact = self.request.exact or guided.caches.is_on or step.has_nag
        for terms in [[j] for j in running] if exact else guided.join_terms(list(running)):
            self.passes.weak_runs.update(guided.weak_passes[j] for j in terms)
            predictions = self._run_weak_passes(guided, terms, args, kwargs)
            for j, weak in zip(terms, predictions, strict=True):
                self._run.check_effect(guided, running[j], step.c, weak)
                self._run.keep_weak(guided, running[j], step, weak)
                found[j] = weak
        return [found[active.index] for active in step.active_terms]

    def _run_weak_passes(
        self,
        guided: GuidedDenoiser,
        terms: Sequence[int],
        args: tuple[Any, ...],
        kwargs: ReadOnlyInputs,
    ) -> list[tuple[Tensor, ...]]:
        """Run the weak pass of a term, or of several in one batch."""
        if len(terms) == 1:
            return [self._run_weak_pass(guided, terms[0], args, kwargs)]
        joint = guided.joint_pass(terms)
        inputs = joint.repeat_inputs(guided.bind_inputs(args, kwargs))
        patches = guided.joint_patches(joint)
        return joint.split_outputs(self._run_denoiser(joint.denoiser, (), inputs, patches))

    def _run_weak_pass(
        self, guided: GuidedDenoiser, j: int, args: tuple[Any, ...], kwargs: ReadOnlyInputs
    ) -> tuple[Tensor, ...]:
        guided.begin_negative_weak_pass(j)
        patches, shared = guided.weak_patches(j), guided.starts_from_prefix(j)
        with guided.in_weak_context(j):
            found = self._run_denoiser(guided.weak_passes[j].denoiser, args, kwargs, patches)
        self.passes.left_out_by_caches += guided.left_out_of_weak_pass(j, shared)
        return found

    def _run_denoiser(
        self,
        denoiser: nn.Module,
        args: tuple[Any, ...],
        kwargs: ReadOnlyInputs,
        patches: Sequence[patching.Patch],
    ) -> tuple[Tensor, ...]:
        try:
            self._in_own_pass = True
            with patching.patched(patches):
                found = self._extract_predictions(denoiser(*args, **kwargs))
            if denoiser in self._guided_denoisers:
                self._guided_denoisers[denoiser].watch.check_calls()
            return found
        finally:
            self._in_own_pass = False

    def _select_rows(self, inputs: ReadOnlyInputs, half: int) -> Inputs:
        """Return the inputs of the denoiser for one half of the batch."""
        position = 1 - half if self._loop.calls.cond_first else half
        family = self.family
        return patching.select_rows(position, inputs, family.batch_dims, family.listed_inputs)

    def _extract_predictions(self, output: Any) -> tuple[Tensor, ...]:
        """Return what is guided of an output, in float32 where the pipeline takes that.

        In half precision g would magnify the rounding of two shifted rows.
        """
        samples = combine.output_samples(output)[: len(self.family.outputs)]
        if self._loop.calls.cuts_tokens:
            count = self._loop.count_tokens()
            samples = [sample[:, :count] for sample in samples]
        if self._loop.calls.float32_prediction:
            return tuple(sample.float() for sample in samples)
        return tuple(samples)

    # --- what caches left out ---------------------------------------------------------------------

    def _count_call(self, guided: GuidedDenoiser, step: GuidedStep) -> None:
        """Count what a cache left out of the pipeline's call that ended."""
        if not guided.caches.is_on:
            return
        name = self._context_name(guided, step) if self._separates_contexts(guided) else ""
        if step.calls_done == 1 and name.startswith(UNCOND):
            self._count_uncond(guided, step)
        elif name != UNREAD:
            rows = step.num_passes / step.num_calls if not step.split_batch else 1
            context = guided.caches.pipeline_context
            left_out = 1 - guided.caches.cost(name or getattr(context, "name", ""), 1)
            self.passes.left_out_by_caches += rows * left_out

    def _count_uncond(self, guided: GuidedDenoiser, step: GuidedStep) -> None:
        skipped = sum(1 - guided.weak_passes[j].cost(shared=False) for j in step.uncond_terms)
        cost = guided.caches.cost(guided.uncond_context(step.uncond_terms), 1 - skipped)
        self.passes.left_out_by_caches += 1 - skipped - cost

    # --- housekeeping -----------------------------------------------------------------------------

    def _restore_modules(self) -> None:
        """Put the real modules back after a call of the denoiser, or after one that raised."""
        patching.apply_patches(self._undo)
        self._undo = []

    def _clean_up(self) -> None:
        self._restore_modules()
        self._context.close()
        for guided in self._guided_denoisers.values():
            guided.watch.end_step()
            guided.clear_prefix()
            if guided.negative_text is not None:
                self.passes.negative_text += guided.negative_text.take_cost()
