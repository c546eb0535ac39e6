"""SkipGuidance: skip guidance as a guider, the component to which some pipelines leave their CFG.

    pipe.update_components(guider=SkipGuidance(layers=[34], scale=1.0, guidance_scale=5.0))

A pipeline with a guider, such as all of diffusers' Modular ones, runs each step in its own loop: it
asks the guider for batches of inputs, runs the denoiser on each of them between prepare_models()
and cleanup_models(), and has the guider combine what came out. The batches here:

    pred_cond      the denoiser as it is; the first layers that will be skipped record their inputs
    pred_uncond    where CFG is on at this step; SLG skips its layers here
    pred_weak      the conditional inputs again, weakened, from the recorded state on; one per term

Which terms are on, what is kept between steps and what D is, `RunState` decides, as for guide().
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from diffusers.configuration_utils import register_to_config
from diffusers.guiders.guider_utils import BaseGuidance, GuiderOutput
from torch import nn

from skipguide.families.lookup import family_of_denoiser
from skipguide.method import cfg_rules, validate
from skipguide.method.protocols import Inputs, ReadOnlyInputs
from skipguide.method.request import (
    GuidanceRequest,
    published_rescale,
    read_cfg_rule,
    read_schedule,
    read_term,
    unpack_terms,
)
from skipguide.method.terms import NAG, SLG, STG, Layer, Random, Schedule
from skipguide.pipeline import combine
from skipguide.pipeline.budget import BudgetPlan
from skipguide.pipeline.cache_contexts import COND as COND_CONTEXT
from skipguide.pipeline.cache_contexts import REPEAT
from skipguide.pipeline.denoiser import GuidedDenoiser
from skipguide.pipeline.guider_loop import GuiderLoop
from skipguide.pipeline.run import RunState
from skipguide.pipeline.step import ActiveTerm, GuidedStep
from skipguide.weak import patching

Tensor = torch.Tensor
Term = STG | SLG

COND, UNCOND, WEAK = "pred_cond", "pred_uncond", "pred_weak"
_LAYER_ARGUMENTS = ("scale", "skip", "axis", "start", "stop")  # what belongs to `layers`
_FIXED_ARGUMENTS = {
    "layers", "terms", "share_prefix", "cfg_start", "cfg_stop", "cfg", "rescale_space", "budget",
    *_LAYER_ARGUMENTS
}  # fmt: skip
_OF_RUNS = (
    "_guided_denoisers", "_undo_patches", "_hooks", "_run", "_guided_step", "_guided",
    "_cond_output", "_context", "_checked_denoisers",
)  # fmt: skip


class SkipGuidance(BaseGuidance):
    """Classifier-free guidance and skip guidance in one guider.

        D = u + g (c - u) + sum_j s_j (c - p_j)      with CFG
        D = c             + sum_j s_j (c - p_j)      without: guidance_scale is 1, or outside
                                                     the window of CFG

    Args:
        layers, scale, skip, axis, start, stop: one STG term, as skipguide.STG has it. Steps i of N
            are pushed when start <= i/N < stop.
        terms: further terms: STG, SLG or Modality, or dicts of their arguments (`"kind": "slg"` or
            "modality"; `"layers": {"random": 0.1}` for a Random); or one Schedule, or `{"bins":
            [...]}`. With them `layers` may be left out.
        guidance_scale: g; 1 is no CFG. With use_original_formulation CFG is c + g (c - u), and 0 is
            none.
        rescale: phi in [0, 1], on the steps that are pushed; 0 is off. None is 0, or what was
            published with a preset.
        share_prefix: start each weak pass at its first skipped layer. The result is the same to the
            last bit.
        cfg_start, cfg_stop: the window of CFG as all guiders of diffusers round it: int(start N) <=
            i < int(stop N).
        enabled: False is the conditional prediction alone.
        orthogonalize: each term loses its components along those before it (Eq. 21), as in guide().
        rescale_space: "prediction" or "data", as in guide().
        cfg: a rule in the place of plain CFG, as in guide(), or a dict such as {"name": "apg"}.
        budget: forward passes a step, as in guide(); in `plan`, after the first step, is what was
            chosen.
        restart: refused: the timesteps of a run are fixed before its guider hears of it.

    `guidance_scale`, `rescale`, `orthogonalize` and `use_original_formulation` may be set later;
    for the rest there is `.new(...)`.

    Raises:
        ValueError: for anything outside these ranges, at once; for layers that the denoiser has
            not, a cache on it, or a window without a step, when a run starts.
    """

    _input_predictions = [COND, UNCOND, WEAK]  # noqa: RUF012  # BaseGuidance wants a list
    spatio_temporal_guidance_blocks = None  # LTX-2's Modular pipelines ask for it: no STG of theirs

    @register_to_config
    def __init__(
        self,
        layers: Sequence[Layer] | None = None,
        scale: float | Sequence[float] = 1.0,
        skip: str = "residual",
        axis: str | None = None,
        start: float = 0.0,
        stop: float = 1.0,
        terms: Any = (),
        guidance_scale: float = 7.5,
        rescale: float | None = None,
        share_prefix: bool = True,
        use_original_formulation: bool = False,
        cfg_start: float = 0.0,
        cfg_stop: float = 1.0,
        enabled: bool = True,
        orthogonalize: bool = False,
        rescale_space: str = "prediction",
        cfg: cfg_rules.CFGRule | ReadOnlyInputs | None = None,
        restart: None = None,
        budget: float | None = None,
    ):
        super().__init__(cfg_start, cfg_stop, enabled)
        _check_layer_arguments(
            layers, dict(scale=scale, skip=skip, axis=axis, start=start, stop=stop)
        )
        _check_restart(restart)
        own = [] if layers is None else [STG(layers, scale, skip, axis, start, stop)]
        more = _to_terms(terms)
        rule = read_cfg_rule(cfg) if isinstance(cfg, (Mapping, str)) else cfg
        if not own and not more and rule is budget is None:
            raise ValueError(
                "SkipGuidance needs layers to skip, but got none. Write SkipGuidance(layers=[34])."
            )
        self._schedule, found = unpack_terms(
            [*own, *more], allow_empty=not (rule is budget is None)
        )
        self.terms = tuple(_with_listed_layers(term) for term in found)
        self.layers, self.scale, self.skip, self.axis = layers, scale, skip, axis
        self.start, self.stop = start, stop
        phi = published_rescale(self.terms) if rescale is None else rescale
        self.guidance_scale, self.rescale, self.share_prefix = guidance_scale, phi, share_prefix
        self.rescale_space, self.cfg, self.budget = rescale_space, rule, budget
        self.orthogonalize, self.cfg_start, self.cfg_stop = orthogonalize, cfg_start, cfg_stop
        self.use_original_formulation = use_original_formulation
        # JSON, and all of it: from_config() would leave out what it believes to be a default,
        # positional arguments too
        self.register_to_config(
            layers=layers and list(layers), terms=_to_json(more), rescale=phi,
            cfg=GuidanceRequest(cfg=rule).to_dict().get("cfg"), _use_default_values=[],
        )  # fmt: skip
        self._forget_runs()
        self.make_request()  # refuses what does not go together
        _check_rule(rule)

    def make_request(self) -> GuidanceRequest:
        """Return what is asked for now: some arguments may be set between runs."""
        several = sum(isinstance(term, STG) for term in self.terms) > 1 and self._schedule is None
        return GuidanceRequest(
            self.terms,
            self._schedule,
            self.rescale,
            self.rescale_space,
            self.orthogonalize and several,
            self.cfg,
            share_prefix=self.share_prefix,
            budget=self.budget,
        )

    def __setattr__(self, name: str, value: Any) -> None:
        if name in _FIXED_ARGUMENTS and name in self.__dict__:
            raise AttributeError(
                f"{name} of a SkipGuidance is fixed, but was set to {value!r}. Use"
                f" .new({name}=...)."
            )
        if name == "rescale":
            validate.check_number("rescale", value, 0.0, 1.0, "0 is off, the paper uses 0.7")
        super().__setattr__(name, value)
        run = self.__dict__.get("_run")
        if name == "rescale" and run is not None:  # a run is under way
            run.request = self.make_request()

    def new(self, **kwargs: Any) -> SkipGuidance:
        """Return a copy with other arguments; weak models, which are no configuration, come
        along."""
        unwritten = self._weak_models() or any(map(_has_unnamed_mask, self.terms))
        if unwritten and "terms" not in kwargs:
            first = [] if self.layers is None else [None]
            kwargs["terms"] = list(self.terms[len(first) :])
        return super().new(**kwargs)  # type: ignore[return-value]  # no unused arguments asked for

    def save_config(self, *args: Any, **kwargs: Any) -> None:
        """Write the configuration as all guiders do.

        Raises:
            ValueError: for a term with a weak model, which no configuration can hold.
        """
        if self._weak_models():
            raise ValueError(
                "the configuration of a guider holds numbers and names, but a term of this one has"
                " a weak model. Save the model itself, and write weak= again after loading."
            )
        if any(map(_has_unnamed_mask, self.terms)):
            raise ValueError(
                "the configuration of a guider holds numbers and names, but a term of this one has"
                ' a mask that is a tensor. Save it as a picture or video, and write mask="file".'
            )
        super().save_config(*args, **kwargs)

    def _weak_models(self) -> list[Any]:
        found = (getattr(term, "weak_model", None) for term in self.terms)
        return [model for model in found if model is not None]

    def __getstate__(self) -> Inputs:
        """Return the state for a copy, without that of runs: a copy meets other models."""
        return {key: value for key, value in self.__dict__.items() if key not in _OF_RUNS}

    def __setstate__(self, state: Inputs) -> None:
        self.__dict__.update(state)
        self._forget_runs()

    def _forget_runs(self) -> None:
        self._guided_denoisers: weakref.WeakKeyDictionary[nn.Module, GuidedDenoiser] = (
            weakref.WeakKeyDictionary()
        )
        self._checked_denoisers: weakref.WeakSet[nn.Module] = weakref.WeakSet()  # in this run
        self._run: RunState | None = None
        self.plan: BudgetPlan | None = None  # of the last run with a budget
        self._guided_step: GuidedStep | None = None
        self._guided: GuidedDenoiser | None = None  # of the batch under way, or the last one
        self._undo_patches: list[patching.Patch] = []  # restores the denoiser after a batch
        self._hooks: list[Any] = []  # on the denoiser, while a batch is under way
        self._num_calls = 0  # of the denoiser since the batch was prepared
        self._cond_output: Any = None  # of this step, where it is looked at once more
        self._context = contextlib.ExitStack()  # of caches, in the batch under way

    # --- what runs at a step ----------------------------------------------------------------------

    def set_state(self, step: int, num_inference_steps: int, timestep: Any) -> None:
        """Begin a step of the pipeline.

        Raises:
            ValueError: for a window that selects no step of the run, or a step beyond its last one.
        """
        if step >= num_inference_steps:
            raise ValueError(
                f"step i of N must be from 0 to N - 1, but got {step} of {num_inference_steps}."
                " Schedulers of second order count on, and no window can say which of their steps"
                " are guided: use one of first order."
            )
        self._restore_modules()
        self._clear_caches()
        new_run = (
            self._step is None
            or step <= self._step
            or num_inference_steps != self._num_inference_steps
        )
        super().set_state(step, num_inference_steps, timestep)
        if new_run:
            self._begin_run()
        self._guided_step = None
        if self._run is not None:
            self._guided_step = self._run.decide_step(step, self._cfg_is_on(), self._guided)
            self._guided_step.choose_combination()

    def _begin_run(self) -> None:
        self._checked_denoisers.clear()
        self._run = None
        if self._enabled:
            loop = GuiderLoop(self)
            loop.check()
            self._run = RunState(self.make_request(), 1, loop)
            self._run.begin_run()

    def active_predictions(self) -> list[str]:
        """Return the names of the batches of this step, in the order in which they run."""
        step, run = self._guided_step, self._run
        if step is None or run is None:
            weak = list(self._weak_terms()) if self._enabled and self._step is None else []
            return [COND, *([UNCOND] if self._cfg_is_on() else []), *weak]
        computes_uncond = step.has_cfg and not (step.leaves_out_uncond or step.reuses_uncond)
        uncond = [UNCOND] if computes_uncond else []
        return [COND, *uncond, *(_weak_name(active) for active in self._terms_that_run())]

    def _terms_that_run(self) -> list[ActiveTerm]:
        """Return the active terms whose difference is not that of an earlier step (`every`)."""
        step, run, guided = self._guided_step, self._run, self._denoiser_of_run()
        if step is None or run is None:
            return []
        return [
            active
            for active in step.active_terms
            if guided is None or run.runs_weak_pass(guided, active, step)
        ]

    def _denoiser_of_run(self) -> GuidedDenoiser | None:
        """Return the denoiser under guidance; LTX-2's audio guider is never given it, and asks the
        guider that is."""
        if self._guided is None:
            return getattr(GuiderLoop(self).find_video_guider(), "_guided", None)
        return self._guided

    def _batches_of_step(self) -> list[str]:
        """Return the batches that run: this guider's, and then those of an audio guider alone."""
        own, audio = self.active_predictions(), GuiderLoop(self).find_audio_guider()
        more = [] if audio is None else audio.active_predictions()
        return [*own, *(name for name in more if name not in own)]

    def _weak_terms(self) -> dict[str, ActiveTerm]:
        """Return each STG term that has a scale, by the name of its prediction."""
        found = (
            ActiveTerm(j, term, term.scales(1))
            for j, term in enumerate(self.terms)
            if isinstance(term, STG)
        )
        return {_weak_name(active): active for active in found if max(active.scales) > 0}

    def has_passes_of(self, other: Any) -> bool:
        """Return whether another guider has the same terms, whatever their scales."""
        return isinstance(other, SkipGuidance) and other._unscaled_terms() == self._unscaled_terms()

    def _unscaled_terms(self) -> list[Term]:
        return [
            dataclasses.replace(term, scale=1.0, audio_scale=None, normalize=False)
            if isinstance(term, STG)
            else term
            for term in self.terms
        ]

    def _cfg_is_on(self) -> bool:
        if not self.uses_cfg() or self._step is None:
            return self.uses_cfg()
        steps = self._num_inference_steps
        return int(self._start * steps) <= self._step < int(self._stop * steps)

    def uses_cfg(self) -> bool:
        """Return whether there is CFG at any step."""
        none = 0.0 if self.use_original_formulation else 1.0
        on = self._enabled and self._start < self._stop
        return on and not math.isclose(self.guidance_scale, none)

    @property
    def num_conditions(self) -> int:
        """The number of texts that a run needs: 2 with CFG, 1 without.

        Pipelines read it before a run to know whether to encode a negative prompt, and between
        steps to know whether to hand one over; so it does not depend on the step (of an earlier
        run), nor on the weak passes, which need no text of their own.
        """
        return 2 if self.uses_cfg() else 1

    @property
    def is_conditional(self) -> bool:
        """True if the batch under way has the conditional inputs."""
        return self._current_batch() != UNCOND

    def _current_batch(self) -> str:
        batches = self._batches_of_step()
        if self._count_prepared > len(batches):
            raise RuntimeError(
                f"this step has {len(batches)} batches ({', '.join(batches)}), but"
                f" prepare_models() was called {self._count_prepared} times in it. Call set_state()"
                " at the start of each step."
            )
        return batches[max(self._count_prepared - 1, 0)]

    def prepare_inputs(self, data: Any) -> list[Any]:
        """Return the batches of this step from inputs: a tensor, or a tuple (for cond, for
        uncond)."""
        return [
            self._prepare_batch(data, int(name == UNCOND), name)
            for name in self.active_predictions()
        ]

    def prepare_inputs_from_block_state(self, data: Any, input_fields: Any) -> list[Any]:
        """Return the same from the state of a Modular pipeline: a field's name, or a tuple of
        two."""
        return [
            self._prepare_batch_from_block_state(input_fields, data, int(name == UNCOND), name)
            for name in self.active_predictions()
        ]

    # --- the denoiser -----------------------------------------------------------------------------

    def prepare_models(self, denoiser: nn.Module) -> None:
        """Patch the denoiser for the forward of a batch.

        Raises:
            ValueError: for a model of an unknown family, a layer, skip or axis that it has not, or
                a cache on it.
        """
        super().prepare_models(denoiser)
        self._restore_modules()
        self._num_calls = 0
        weakened = any(name.startswith(WEAK) for name in self._batches_of_step())
        if not self._enabled or not (self._weak_terms() or self._slg_terms() or weakened):
            return
        guided = self._guided = self._find_guided_denoiser(denoiser)
        if self._run is not None:
            self._run.layout = guided.family.latent_layout
        guided.begin_caches(self._step or 0, self._step or 0)
        if self._run is not None and self._run.differences.needs_plan:
            self._choose_plan(self._run, self._cfg_is_on())
        patches, other = self._patches(guided, self._current_batch())
        if not patches and other is None and not guided.caches.is_on:
            return
        self._undo_patches = patching.apply_patches(patches)
        before: Any = torch.compiler.disable(self._before_forward)
        after: Any = torch.compiler.disable(self._after_forward(other))
        self._hooks = [
            denoiser.register_forward_pre_hook(before, with_kwargs=True),
            denoiser.register_forward_hook(after, with_kwargs=True, always_call=True),
        ]

    def _slg_terms(self) -> list[SLG]:
        return [term for term in self.terms if isinstance(term, SLG)]

    def cleanup_models(self, denoiser: nn.Module) -> None:
        """Take the patches off again.

        Raises:
            RuntimeError: if the denoiser was called more than once, for only the first call was the
                batch's.
        """
        self._restore_modules()
        if self._num_calls > 1:
            raise RuntimeError(
                "SkipGuidance needs one call of the denoiser between prepare_models() and"
                " cleanup_models(), but got another one. Call set_state() and prepare_inputs() for"
                " each part of the inputs."
            )

    def _patches(
        self, guided: GuidedDenoiser, batch: str
    ) -> tuple[Sequence[patching.Patch], nn.Module | None]:
        """Return what stands where in the forward of a batch, and a model that runs in its
        place."""
        step = self._guided_step
        if batch == UNCOND:
            return guided.uncond_patches(step.uncond_terms if step is not None else ()), None
        if batch == COND:
            running = [_term_index(n) for n in self._batches_of_step() if n.startswith(WEAK)]
            if step is not None and (step.active_terms or step.uncond_terms or running):
                guided.begin_step(step.index)
            return guided.recording_patches(running) if running else [], None
        if not batch.startswith(WEAK):  # of another kind of audio guider
            return [], None
        weak = guided.weak_passes[_term_index(batch)]
        if weak.denoiser is not guided.denoiser:  # nobody reads what the denoiser itself returns
            return guided.idle_patches(), weak.denoiser
        return guided.weak_patches(_term_index(batch)), None

    def _context_of(
        self, guided: GuidedDenoiser, batch: str
    ) -> contextlib.AbstractContextManager[None]:
        """Return the context of caches in which a batch runs."""
        if batch.startswith(WEAK):
            return guided.in_weak_context(_term_index(batch))
        if batch not in (COND, UNCOND):
            return guided.caches.context(batch)
        terms = self._guided_step.uncond_terms if self._guided_step is not None else ()
        name = COND_CONTEXT if batch == COND else guided.uncond_context(terms)
        return guided.caches.context(name)

    def _find_guided_denoiser(self, denoiser: nn.Module) -> GuidedDenoiser:
        """Return what is needed to weaken a denoiser.

        It is made once, so that torch.compile meets the same modules in every run, and again where
        modules of the denoiser were replaced.
        """
        known = self._guided_denoisers.get(denoiser)
        if known is not None and denoiser in self._checked_denoisers:
            return known
        family = family_of_denoiser(denoiser)
        if known is None or not known.is_current():
            known = GuidedDenoiser(family, denoiser, self.terms, self.share_prefix)
            self._guided_denoisers[denoiser] = known
        known.begin_run()
        self._checked_denoisers.add(denoiser)
        return known

    # --- housekeeping -----------------------------------------------------------------------------
    # Pipelines do not clean up after a forward that raised. The second hook sees any exception but
    # a KeyboardInterrupt, the first one the next call of the denoiser, if nobody prepared it.

    def _before_forward(self, denoiser: nn.Module, args: tuple[Any, ...], kwargs: Inputs) -> None:
        self._num_calls += 1
        if self._num_calls > 1 or not self._hooks:
            self._restore_modules()
        elif self._guided is not None:
            self._guided.observe_inputs(args, kwargs)
            self._context.enter_context(self._context_of(self._guided, self._current_batch()))

    def _after_forward(self, other: nn.Module | None) -> Callable[..., Any]:
        """Return a hook that restores the modules, and runs the model that stands in for them."""

        def after(denoiser: nn.Module, args: tuple[Any, ...], kwargs: Inputs, output: Any) -> Any:
            was_prepared = bool(self._hooks)
            patching.apply_patches(self._undo_patches)
            self._undo_patches = []
            if output is None:  # it raised
                self._context.close()
                self._clear_caches()
                return None
            if other is not None and was_prepared and self._num_calls == 1:
                output = other(*args, **kwargs)
            self._context.close()
            if was_prepared and self._guided is not None:
                self._check_state(self._guided, args, kwargs, output)
            return output if other is not None else None

        return after

    def _check_state(
        self, guided: GuidedDenoiser, args: tuple[Any, ...], kwargs: ReadOnlyInputs, output: Any
    ) -> None:
        """Look for what a cache does in the batch that ran; see pipeline/state_watch.py."""
        watch, batch = guided.watch, self._current_batch()
        watch.check_calls()
        if batch == COND and watch.is_probed:
            self._cond_output = output
        last = batch == self._batches_of_step()[-1] and batch.startswith(WEAK)
        if last and self._cond_output is not None and watch.repeat_is_due:
            self._restore_modules()
            with patching.patched(watch.patches([])), guided.caches.context(REPEAT):
                again = guided.denoiser(*args, **kwargs)
            watch.check_calls()
            found = [combine.output_samples(given)[:1] for given in (self._cond_output, again)]
            watch.check_repeat(*found)

    def _restore_modules(self) -> None:
        """Put the real modules back and take the hooks off."""
        patching.apply_patches(self._undo_patches)
        self._context.close()
        for hook in self._hooks:
            hook.remove()
        self._undo_patches, self._hooks = [], []

    def _clear_caches(self) -> None:
        self._cond_output = None
        for known in self._guided_denoisers.values():
            known.watch.end_step()
            known.clear_prefix()

    # --- the formula ------------------------------------------------------------------------------

    def __call__(self, data: list[Any]) -> Any:
        """Combine the predictions of the batches that prepare_inputs() made."""
        self._clear_caches()
        came = [getattr(batch, self._identifier_key) for batch in data]
        needed = self.active_predictions()
        # of two guiders each gets its own, in the order in which the batches of both ran
        if sorted(came) != sorted(needed) or not all(
            hasattr(batch, "noise_pred") for batch in data
        ):
            raise ValueError(
                f"SkipGuidance combines {', '.join(needed)} at this step, each with its noise_pred,"
                f" but got {', '.join(came)}. Hand over all batches that prepare_inputs() returned."
            )
        found = {name: batch.noise_pred for name, batch in zip(came, data, strict=True)}
        return self.forward(**found)

    def forward(
        self, pred_cond: Tensor, pred_uncond: Tensor | None = None, **pred_weak: Tensor
    ) -> GuiderOutput:
        """Return D from c, u and p_j; without u there is no CFG, without p_j no push."""
        run = self._run or RunState(self.make_request(), 1, GuiderLoop(self))
        step = self._guided_step or self._step_without_run(pred_uncond is not None, pred_weak)
        step.c = (pred_cond,)
        if self._run is not None and run.differences.needs_plan:  # without terms
            self._choose_plan(run, pred_uncond is not None)
        weaks = [self._weak_prediction(run, active, pred_weak) for active in step.active_terms]
        known = self._guided
        masks = [] if known is None else known.push_masks(step.active_terms, step.c)
        pairs = [(p.to(pred_cond.dtype),) for p in weaks]
        step.compute_push(pairs, self.orthogonalize, masks=masks)
        from_cond = self.use_original_formulation and step.guidance_scale is None
        g = self.guidance_scale + (from_cond and step.rule is not None)
        us = None if pred_uncond is None else (pred_uncond,)
        if step.reuses_uncond:
            us = run.reused_uncond(self._guided, step)
            assert us is not None  # a guider's predictions have one shape
        elif us is not None:
            run.keep_uncond(self._guided, step, us)
        # not with g + 1: to the last bit what CFG's own guider gives
        cfg = _cfg_from_cond if from_cond else None
        (D,) = run.guided_predictions(step, us, (g,), cfg)
        step.clear()
        return GuiderOutput(pred=D, pred_cond=pred_cond, pred_uncond=pred_uncond)  # type: ignore[call-arg]

    def _choose_plan(self, run: RunState, has_cfg: bool) -> None:
        """Choose what a budget is spent on, in the first step of a run."""
        known, step = self._guided, self._guided_step
        costs = [] if known is None else known.weak_costs(run.loop.num_steps())
        g = self.guidance_scale + self.use_original_formulation if has_cfg else None
        self.plan = run.differences.choose_plan(costs, g, 0 if step is None else step.index)

    def _weak_prediction(
        self, run: RunState, active: ActiveTerm, pred_weak: Mapping[str, Tensor]
    ) -> Tensor:
        """Return p of a term: of this step, or by the difference of an earlier one (`every`)."""
        step, guided = self._guided_step, self._denoiser_of_run()
        found = pred_weak.get(_weak_name(active))
        if step is None or guided is None:
            assert found is not None
            return found
        if found is not None:
            run.check_effect(guided, active, step.c, (found,))
            run.keep_weak(guided, active, step, (found,))
            return found
        reused = run.reused_weak(guided, active, step)
        assert reused is not None  # else active_predictions() would have asked for it
        return reused[0]

    def _step_without_run(self, has_cfg: bool, pred_weak: Iterable[str]) -> GuidedStep:
        """Return the step of a forward() that no pipeline began."""
        terms = self._weak_terms()
        step = GuidedStep(0, has_cfg)
        step.active_terms = tuple(terms[name] for name in pred_weak)
        step.phi = self.rescale if step.active_terms else 0.0
        return step


def _cfg_from_cond(c: Tensor, u: Tensor, g: float | Tensor) -> Tensor:
    """Return c + g (c - u), CFG in its original formulation."""
    return c + g * (c - u)


def _weak_name(active: ActiveTerm) -> str:
    return f"{WEAK}_{active.index}" if active.index else WEAK


def _term_index(name: str) -> int:
    """Return the index of the term whose weak prediction has this name."""
    return int(name.removeprefix(WEAK).removeprefix("_") or 0)


# --- arguments ------------------------------------------------------------------------------------


def _to_terms(given: Any) -> list[Term | Schedule]:
    """Return `terms` as STG and SLG, or as one Schedule."""
    if isinstance(given, (NAG, STG, SLG, Schedule)):
        return [_to_term(given)]
    if isinstance(given, Mapping) and "schedule" in given:
        return [read_schedule(given["schedule"])]
    return [_to_term(entry) for entry in ([given] if isinstance(given, Mapping) else given)]


def _to_term(entry: Any) -> Term | Schedule:
    if isinstance(entry, NAG):
        raise ValueError(
            "NAG needs the negative prompt in the conditional batch, but a guider is asked for the"
            " inputs of one text at a time, and without CFG gets no other. Use guide(pipe, NAG())"
            " on a pipeline that is no Modular one."
        )
    if isinstance(entry, (STG, SLG, Schedule)):
        return entry
    if isinstance(entry, Mapping):  # a configuration of an older version has empty ones of these
        unused = (
            "source", "preset_rescale", "preset_options",
            *(["weak"] if entry.get("weak") is None else []),
        )  # fmt: skip
        entry = {name: value for name, value in entry.items() if name not in unused}
        if isinstance(entry.get("layers"), range):
            entry["layers"] = list(entry["layers"])
    return read_term(entry)


def _with_listed_layers(term: Term) -> Term:
    if isinstance(term.layers, Random) or not term.layers:
        return term
    return dataclasses.replace(term, layers=list(term.layers))


def _to_json(terms: Sequence[Any]) -> Any:
    """Return terms as JSON has them, without weak models."""
    if len(terms) == 1 and isinstance(terms[0], Schedule):
        return GuidanceRequest(schedule=terms[0]).to_dict()
    kept = tuple(
        term
        for term in terms
        if getattr(term, "weak_model", None) is None and not _has_unnamed_mask(term)
    )
    return GuidanceRequest(kept).to_dict().get("terms", [])


def _has_unnamed_mask(term: Any) -> bool:
    mask = getattr(term, "mask", None)
    return mask is not None and not mask.file


def _check_restart(restart: Any) -> None:
    if restart is not None:
        raise ValueError(
            "a restart lengthens the list of timesteps, which is fixed before a run's guider hears"
            " of the run, but SkipGuidance got one. Use guide(pipe, restart=...) on a pipeline that"
            " is no Modular one."
        )


def _check_rule(rule: cfg_rules.CFGRule | None) -> None:
    if isinstance(rule, cfg_rules.RectifiedCFG):
        raise ValueError(
            "RectifiedCFG asks the model at other latents than the step's, but a guider only gets"
            " what the pipeline computes at those. Use guide(pipe, cfg=...) on a pipeline that is"
            " no Modular one, or another rule."
        )


def _check_layer_arguments(layers: Any, own: ReadOnlyInputs) -> None:
    """Check what STG does not check itself."""
    usual = {field.name: field.default for field in dataclasses.fields(STG)}
    changed = [name for name in _LAYER_ARGUMENTS if own[name] != usual[name]]
    if layers is None and changed:
        raise ValueError(
            f"{', '.join(changed)} needs layers to belong to, but layers is None. Pass layers, or"
            " write it in terms."
        )
