"""guide(): puts the formula, the skips and the shared prefix on a diffusers pipeline, and takes
them off again.

How a guided step runs, all with torch's own hooks on the unmodified denoiser:

    before the cond call   which terms are active at this step; recordings take the place of their first skipped layers;
                           of a batch [uncond, cond] the cond half goes first
    after it               per active term: the denoiser again, skipping; the uncond half of a batch; then return u', c'
                           such that the pipeline's own CFG makes D out of them
    later calls            (uncond where it is separate, and a pipeline's own guidance) are shifted by as much as c was

A batch is run in halves so that the strong pass and a weak one are the same computation to the last
bit: a row of a matrix product is rounded differently in batches of different size. It also halves
the memory that activations take."""

from __future__ import annotations

import logging
import weakref
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any

import torch
from torch import nn

from skipguide.families import lookup
from skipguide.families.schema import Family
from skipguide.method import cfg_rules, formula
from skipguide.method.request import GuidanceRequest, published_rescale, unpack_terms
from skipguide.method.restart import Restart, to_restarts
from skipguide.method.terms import SLG, STG, Schedule
from skipguide.pipeline import call_frame, compat
from skipguide.pipeline.denoiser import GuidedDenoiser
from skipguide.pipeline.restarting import RestartController
from skipguide.pipeline.run import RunState
from skipguide.pipeline.step import CachedDifference, GuidedStep, PassCounts
from skipguide.weak import patching

Tensor = torch.Tensor
Term = STG | SLG

_log = logging.getLogger("skipguide")
_GUIDED_DENOISERS: weakref.WeakSet[nn.Module] = weakref.WeakSet()


def guide(
    pipe: Any,
    *terms: Term | Schedule | Sequence[Term],
    rescale: float | None = None,
    rescale_space: str = "prediction",
    orthogonalize: bool = False,
    cfg: cfg_rules.CFGRule | None = None,
    restart: Restart | Sequence[Restart] | None = None,
    share_prefix: bool = True,
) -> Guide:
    """Guide every call of `pipe` by skipping layers, until the handle is removed.

        D = u + g (c - u) + sum_j s_j (c - p_j)

    Args:
        pipe: an unmodified diffusers pipeline of a known family. terms: one or more STG, whose
        pushes are added (Eq. 20), and SLG, which weaken u; or one Schedule alone. A list
            or tuple of terms, such as a preset of several, stands for its entries.
        rescale: phi in [0, 1] (Algorithm 4), per sample, at steps with a term or a rule; 0 is off.
            None is 0, or what was published with a preset.
        rescale_space: "prediction", as the paper's code has it, or "data": the deviations are those
            of the estimates of the clean video that c and D are, as in LTX-2's and ComfyUI's code.
        orthogonalize: each STG term loses its components along those before it, in the order given
            (Eq. 21), per sample and output. A term that is parallel to those before it vanishes; a
            zero one takes nothing away. The paper found no gain in it.
        cfg: what stands in the place of u + g (c - u): an APG, CFGZero, TCFG or Interval; g is the
            pipeline's.
        restart: do the steps of an interval of noise levels again (Algorithm 3); alone, or with
            terms, which hold in the repeated steps as they do in the first round. The additional
            passes are in `handle.passes`.
        share_prefix: start each weak pass at its first skipped layer. False runs it in full, for
            benchmarks and doubt.

    Returns:
        A handle: a context manager with `.remove()`. After it the pipeline is what it was, hooks
            and modules included.

    Raises:
        ValueError: for an unknown pipeline, a layer, skip or axis that the family has not, a bad
            number, nothing to do, a scheduler on which a restart is not known to be right, or a
            model with a cache that they would spoil.
        RuntimeError: if the pipeline (or another one that shares a denoiser) is guided already.
    """
    family, restarts = lookup.family_of(pipe), to_restarts(restart)
    schedule, single = unpack_terms(terms, allow_empty=bool(restarts) or cfg is not None)
    phi = published_rescale(single) if rescale is None else rescale
    request = GuidanceRequest(
        single, schedule, phi, rescale_space, orthogonalize, cfg, restarts, share_prefix
    )
    _check_weak_models(pipe, family, single)
    if any(denoiser in _GUIDED_DENOISERS for denoiser in lookup.denoisers_of(pipe, family)):
        raise RuntimeError(
            f"guide() needs an unguided pipeline, but this {type(pipe).__name__} (or one that"
            f" shares its {family.denoisers[0]}) is guided already. Call .remove() on that handle"
            " or leave its with-block first; several terms go into one guide()."
        )
    return Guide(pipe, family, request)


def _check_weak_models(pipe: Any, family: Family, terms: Sequence[Term]) -> None:
    models = [term.weak for term in terms if isinstance(term, STG) and term.weak is not None]
    count = len(lookup.denoisers_of(pipe, family))
    if models and count > 1:
        raise ValueError(
            f"weak is one model in the place of one denoiser, but this {type(pipe).__name__}"
            f" divides the run between {count}. Skip layers instead."
        )
    if any(model in _GUIDED_DENOISERS for model in models):
        raise RuntimeError(
            "weak must be a model that is not guided itself, but it is. Call .remove() on that"
            " handle."
        )


class Guide:
    """The handle that guide() returns."""

    def __init__(self, pipe: Any, family: Family, request: GuidanceRequest):
        self.pipe, self.family, self.calls, self.request = (
            pipe,
            family,
            lookup.call_convention_of(pipe),
            request,
        )
        self.terms, self.rule, self.passes = request.terms, request.rule, PassCounts()
        self._input_spec_set = False  # in this run: the weak passes know their inputs
        self._momentum: dict[int, cfg_rules.MomentumBuffer] = {}  # of the rule, per output
        self._cached_differences: dict[
            tuple[GuidedDenoiser, int], CachedDifference
        ] = {}  # of terms that do not run at every step
        self._guided_denoisers = {
            denoiser: self._make_guided_denoiser(denoiser)
            for denoiser in lookup.denoisers_of(pipe, family)
        }
        self._step: GuidedStep | None = None
        self._run_timesteps: Tensor | None = (
            None  # the timesteps of the run under way: schedulers make new ones for each run
        )
        self._undo_patches: list[
            patching.Patch
        ] = []  # what puts the denoiser right again while a call is under way
        self._in_weak_pass = False  # a weak pass is under way: the hooks below let it through
        self._restart_controller = (
            RestartController(pipe.scheduler, request.restarts, pipe) if request.restarts else None
        )
        self._run_state = RunState(pipe, family, request, self._restart_controller)
        self._hooks = []
        before: Any = torch.compiler.disable(self._before_forward)
        after: Any = torch.compiler.disable(self._after_forward)
        for denoiser in self._guided_denoisers:
            self._hooks += [
                denoiser.register_forward_pre_hook(before, with_kwargs=True),
                denoiser.register_forward_hook(after, with_kwargs=True, always_call=True),
            ]
            _GUIDED_DENOISERS.add(denoiser)

    def _make_guided_denoiser(self, denoiser: nn.Module) -> GuidedDenoiser:
        return GuidedDenoiser(self.family, denoiser, self.terms, self.request.share_prefix)

    def remove(self) -> None:
        """Take everything off the pipeline again; a second call does nothing."""
        self._clean_up()
        if self._hooks:
            self._warn_if_denoiser_replaced()
        for hook in self._hooks:
            hook.remove()
        self._hooks = []
        if self._restart_controller is not None:
            self._restart_controller.remove()
        self._step = self._run_timesteps = None  # tensors among them
        self._cached_differences, self._momentum = {}, {}
        for denoiser in self._guided_denoisers:
            _GUIDED_DENOISERS.discard(denoiser)

    def _warn_if_denoiser_replaced(self) -> None:
        """Nothing of ours is called when the pipeline calls another denoiser, so that it cannot be
        refused."""
        held = (
            getattr(denoiser, "_orig_mod", denoiser)
            for denoiser in lookup.denoisers_of(self.pipe, self.family)
        )
        if new := [
            type(denoiser).__name__ for denoiser in held if denoiser not in self._guided_denoisers
        ]:
            _log.warning(
                "this %s got another denoiser (%s) after guide(), which was not guided. Exchange it first, then call " "guide().",
                type(self.pipe).__name__, ", ".join(new),
            )  # fmt: skip

    def __enter__(self) -> Guide:
        if not self._hooks:
            raise RuntimeError(
                f"this guidance was taken off its {type(self.pipe).__name__}, by .remove() or at"
                " the end of a with-block. Call guide() again."
            )
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.remove()

    @property
    def rescale(self) -> float:
        """phi: what was asked for, or what was published with the preset."""
        return self.request.rescale

    @property
    def passes_per_step(self) -> float:
        """Forward passes of one sample, per step and prompt, in the last run; nan before it."""
        return self.passes.per_step

    # --- before a call of the denoiser ------------------------------------------------------------

    def _before_forward(
        self, denoiser: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        if (
            self._in_weak_pass or denoiser not in self._guided_denoisers
        ):  # a copy of the denoiser has copies of these hooks
            return None
        self._clean_up()  # after a call that raised
        step = self._find_step()
        guided = self._guided_denoisers[denoiser]
        if step.calls_done == 0 and (step.active_terms or step.uncond_terms):
            guided.begin_step(step.index)
            guided.observe_inputs(args, kwargs)
            self._undo_patches = patching.apply_patches(guided.recording_patches(step.active_terms))
        if (
            step.calls_done == 1 and step.has_cfg and not step.split_batch
        ):  # of separate calls the second one is uncond
            self._undo_patches = patching.apply_patches(
                guided.idle_patches() if step.cond_only else self._uncond_patches(guided, step)
            )
        if step.calls_done > 0 or not step.split_batch:
            return None
        step.inputs = guided.bind_inputs(args, kwargs)
        return (), self._select_rows(step.inputs, patching.COND)

    def _find_step(self) -> GuidedStep:
        """The step that a call of the denoiser belongs to: the one under way, or the next."""
        frame = call_frame.find_call_frame(self.pipe)
        if frame is None:
            raise RuntimeError(
                f"a guided denoiser must be called by the {type(self.pipe).__name__} that guide()"
                " got, which knows the step and the scales, but that one is not running. Call it,"
                " or remove the guidance first."
            )
        timesteps, step, plan = self.pipe.scheduler.timesteps, self._step, self._run_state
        if (
            timesteps is self._run_timesteps
            and step is not None
            and step.calls_done < step.num_calls
        ):
            return step
        if timesteps is not self._run_timesteps:
            self._run_timesteps, self.passes = timesteps, PassCounts()
            self._begin_run()
            index = plan.first_index() if step is None else 0
        else:
            index = 0 if step is None else step.index + 1
            if index >= plan.num_steps():  # the next segment of a video, with the same timesteps
                index = 0
            if index == 0 or plan.is_restart(
                index
            ):  # what is kept of the step before is of another noise level
                self._cached_differences, self._momentum = {}, {}
        self._step = step = plan.make_step(frame, index)
        self.passes.steps += 1
        self.passes.unweakened += step.num_passes
        return step

    def _begin_run(self) -> None:
        self._input_spec_set = False
        self._cached_differences, self._momentum = {}, {}
        self._run_state.begin_run()
        for denoiser, guided in self._guided_denoisers.items():
            if not guided.is_current():  # FreeNoise was switched on, adapters were loaded
                self._guided_denoisers[denoiser] = self._make_guided_denoiser(denoiser)
        for denoiser in self._guided_denoisers:
            compat.check_no_stateful_hooks(
                denoiser, self.family
            )  # again: a cache can be switched on after guide()

    def _uncond_patches(self, guided: GuidedDenoiser, step: GuidedStep) -> list[patching.Patch]:
        self.passes.uncond_weakened.update(guided.weak_passes[j] for j in step.uncond_terms)
        return [swap for j in step.uncond_terms for swap in guided.weak_passes[j].full_patches]

    # --- after it ---------------------------------------------------------------------------------

    def _after_forward(
        self, denoiser: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any], output: Any
    ) -> Any:
        step = self._step
        if self._in_weak_pass or step is None or denoiser not in self._guided_denoisers:
            return None
        if output is None:  # the call raised
            step.clear()
            self._clean_up()
            return None
        self._restore_modules()
        first, step.calls_done = step.calls_done == 0, step.calls_done + 1
        try:
            if not step.is_guided:
                return None
            guided = self._guided_denoisers[denoiser]
            return (
                self._after_cond_call(guided, step, args, kwargs, output)
                if first
                else self._after_later_call(step, output)
            )
        finally:
            if step.calls_done == step.num_calls:
                step.clear()
            self._clean_up()

    def _after_cond_call(
        self, guided: GuidedDenoiser, step: GuidedStep, args: tuple[Any, ...],
        kwargs: Mapping[str, Any], output: Any
    ) -> Any:  # fmt: skip
        """What to hand to the pipeline after the cond call, such that its own arithmetic arrives at
        D."""
        if self.family.unet and not self._input_spec_set:
            guided.set_input_spec(args, kwargs)
            self._input_spec_set = True
        step.c = self._extract_predictions(output)
        weaks = [self._run_weak_pass(guided, j, step.c, args, kwargs) for j in step.active_terms]
        channels = step.c[0].shape[1] // 2 if self._predicts_variance() else None
        terms = [self.terms[j] for j in step.active_terms]
        normalized = [isinstance(term, STG) and term.normalize for term in terms]
        step.skip_guidance = tuple(
            formula.skip_guidance(
                c,
                [weak[k] for weak in weaks],
                self._term_scales(step, k),
                self.request.orthogonalize,
                channels,
                normalized,
            )
            for k, c in enumerate(step.c)
        )
        if guided.prefix_cache is not None:
            guided.prefix_cache.clear()  # before the other half takes its memory
        us = (
            self._run_uncond_half(guided, step) if step.split_batch and not step.cond_only else None
        )
        if (
            step.is_plain_shift
        ):  # a constant shift of u and c goes through u + g (c - u) unchanged, without knowing g
            step.returned = tuple(
                c + push for c, push in zip(step.c, step.skip_guidance, strict=True)
            )
            us = us and tuple(u + push for u, push in zip(us, step.skip_guidance, strict=True))
        elif step.cond_only:
            step.returned = self._guided_predictions(step, None)
            us = step.returned if step.split_batch else None
        elif step.has_cfg and us is None:  # u comes with the next call, and makes D out of this c
            step.returned = self._cond_before_uncond(step)
        elif us is None or not step.must_keep_cond:
            step.returned = self._guided_predictions(step, us)
            us = us and step.returned  # D + g (D - D) = D
        else:
            step.returned, us = self._solve_keeping_cond(step, us)
        if us is None:
            return _replace_samples(output, step.returned)
        return _replace_samples(
            output, [torch.cat(pair) for pair in zip(us, step.returned, strict=True)]
        )

    def _cond_before_uncond(self, step: GuidedStep) -> tuple[Tensor, ...]:
        """c itself; but where g is 1 the pipeline arrives at what comes back here, whatever u is:
        D."""
        scales = self._run_state.guidance_scales(len(step.c))
        if step.guidance_scale is not None and 1 in scales:
            raise ValueError(
                f"this Schedule sets guidance_scale={step.guidance_scale:g} at this step, which"
                " needs u, but the pipeline's own is 1 and leaves it out. Set"
                f" {self._run_state.guidance_scale_argument()} above 1."
            )
        pushed = (
            self._rescale(step, c + push, c)
            for c, push in zip(step.c, step.skip_guidance, strict=True)
        )
        return tuple(D if g == 1 else c for D, c, g in zip(pushed, step.c, scales, strict=True))

    def _solve_keeping_cond(
        self, step: GuidedStep, us: Sequence[Tensor]
    ) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        """(c', u') of which the pipeline makes D, with c' = c where g allows it."""
        pairs = []
        for D, c, u, g in zip(
            self._guided_predictions(step, us),
            step.c,
            us,
            self._run_state.guidance_scales(len(step.c)),
            strict=True,
        ):
            pairs.append((D, u) if g == 1 else (c, _solve_uncond(D, c, g)))
        return tuple(c for c, _ in pairs), tuple(u for _, u in pairs)

    def _run_uncond_half(self, guided: GuidedDenoiser, step: GuidedStep) -> tuple[Tensor, ...]:
        inputs = self._select_rows(step.inputs, patching.UNCOND)
        return self._extract_predictions(
            self._run_denoiser(guided.denoiser, (), inputs, self._uncond_patches(guided, step))
        )

    def _after_later_call(self, step: GuidedStep, output: Any) -> Any:
        """A call after the first one: uncond, or one for guidance of the pipeline's own."""
        samples = self._extract_predictions(output)
        uncond = step.calls_done == 2 and step.has_cfg and not step.split_batch
        if step.zero_prediction or (
            uncond and step.cond_only
        ):  # guidance of the pipeline's own has no difference to go by either
            return _replace_samples(output, step.returned)
        if step.is_plain_shift or not uncond:
            shifts = [after - c for after, c in zip(step.returned, step.c, strict=True)]
            return _replace_samples(
                output, [sample + shift for sample, shift in zip(samples, shifts, strict=True)]
            )
        found = zip(
            samples,
            self._guided_predictions(step, samples),
            step.c,
            self._run_state.guidance_scales(len(step.c)),
            strict=True,
        )
        return _replace_samples(
            output, [u if g == 1 else _solve_uncond(D, c, g) for u, D, c, g in found]
        )

    def _guided_predictions(
        self, step: GuidedStep, us: Sequence[Tensor] | None
    ) -> tuple[Tensor, ...]:
        """Per output; without u where the step has none."""
        if step.zero_prediction:
            return tuple(torch.zeros_like(c) for c in step.c)
        if us is None:
            return tuple(
                self._rescale(step, c + push, c)
                for c, push in zip(step.c, step.skip_guidance, strict=True)
            )
        scales = (
            self._run_state.guidance_scales(len(step.c))
            if step.guidance_scale is None
            else (step.guidance_scale,) * len(step.c)
        )
        parts = enumerate(zip(step.c, us, scales, step.skip_guidance, strict=True))
        return tuple(
            self._rescale(step, self._apply_cfg(step, k, c, u, g) + push, c)
            for k, (c, u, g, push) in parts
        )

    def _apply_cfg(self, step: GuidedStep, output: int, c: Tensor, u: Tensor, g: float) -> Tensor:
        """u + g (c - u), or what the rule has in its place."""
        if not step.has_cfg_rule:
            return formula.classifier_free_guidance(c, u, g)
        if self._predicts_variance():
            (c, variance), u = c.chunk(2, dim=1), u.chunk(2, dim=1)[0]
            return torch.cat([self._apply_cfg_rule(step, output, c, u, g), variance], dim=1)
        return self._apply_cfg_rule(step, output, c, u, g)

    def _apply_cfg_rule(
        self, step: GuidedStep, output: int, c: Tensor, u: Tensor, g: float
    ) -> Tensor:
        if isinstance(self.rule, cfg_rules.CFGZero):
            return cfg_rules.cfg_zero_star(c, u, g)
        if isinstance(self.rule, cfg_rules.TCFG):
            return cfg_rules.tangential_cfg(c, u, g)
        assert isinstance(self.rule, cfg_rules.APG)
        data, b = (
            (c, 1.0) if self.rule.space == "prediction" else self._run_state.estimate_data(step, c)
        )
        return cfg_rules.apg(
            c,
            u,
            g,
            self.rule,
            self._momentum.setdefault(output, cfg_rules.MomentumBuffer()),
            data,
            b,
        )

    def _rescale(self, step: GuidedStep, D: Tensor, c: Tensor) -> Tensor:
        """Rescale the prediction, but not a variance that the model returns behind it."""
        if step.phi == 0:
            return D
        if self._predicts_variance():
            (D, variance), (c, _) = D.chunk(2, dim=1), c.chunk(2, dim=1)
            return torch.cat([self._rescale_in_space(step, D, c), variance], dim=1)
        return self._rescale_in_space(step, D, c)

    def _rescale_in_space(self, step: GuidedStep, D: Tensor, c: Tensor) -> Tensor:
        if self.request.rescale_space == "prediction":
            return formula.rescale(D, c, step.phi)
        wide = c.to(torch.promote_types(c.dtype, torch.float32))
        data, b = self._run_state.estimate_data(step, wide)
        return (wide + (formula.rescale(data + b * (D - wide), data, step.phi) - data) / b).to(
            D.dtype
        )

    def _predicts_variance(self) -> bool:
        return self.family.learned_variance and compat.predicts_variance(self.pipe)

    # --- a weak pass ------------------------------------------------------------------------------

    def _run_weak_pass(
        self,
        guided: GuidedDenoiser,
        j: int,
        c: tuple[Tensor, ...],
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
    ) -> tuple[Tensor, ...]:
        """The predictions of one weakened model for what the cond call got, or (`every`) c less the
        last difference."""
        kept, every = self._cached_differences.get((guided, j)), getattr(self.terms[j], "every", 1)
        if kept is not None and kept.uses < every and kept.has_shapes_of(c):
            kept.uses += 1
            return tuple(
                own - difference for own, difference in zip(c, kept.differences, strict=True)
            )
        weak = guided.weak_passes[j]
        self.passes.weak_runs[weak] += 1
        found = self._extract_predictions(
            self._run_denoiser(weak.denoiser, args, kwargs, weak.patches())
        )
        if every > 1:
            self._cached_differences[guided, j] = CachedDifference(
                tuple(own - p for own, p in zip(c, found, strict=True))
            )
        return found

    def _run_denoiser(
        self, denoiser: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any],
        patches: Sequence[patching.Patch]
    ) -> Any:  # fmt: skip
        try:
            self._in_weak_pass = True
            with patching.patched(patches):
                return denoiser(*args, **kwargs)
        finally:
            self._in_weak_pass = False

    def _select_rows(self, inputs: Mapping[str, Any], half: int) -> dict[str, Any]:
        """The inputs of the denoiser for one half of the batch."""
        batched = self.family.batched_inputs
        return {
            name: patching.select_half(half, value) if name in batched else value
            for name, value in inputs.items()
        }

    def _extract_predictions(self, output: Any) -> tuple[Tensor, ...]:
        """In float32 where the pipeline takes that, so that g does not magnify the rounding of two
        shifted rows."""
        samples = output_samples(output)[: len(self.family.outputs)]
        return tuple(
            sample.float() if self.calls.float32_prediction else sample for sample in samples
        )

    def _term_scales(self, step: GuidedStep, output: int) -> list[float]:
        terms: Sequence[Any] = [self.terms[j] for j in step.active_terms]
        position = self._run_state.position(step.index)[0]
        return [term.scales(len(self.family.outputs), position)[output] for term in terms]

    # --- housekeeping -----------------------------------------------------------------------------

    def _restore_modules(self) -> None:
        """Put the real modules back after a call of the denoiser, or after one that raised."""
        patching.apply_patches(self._undo_patches)
        self._undo_patches = []

    def _clean_up(self) -> None:
        self._restore_modules()
        for guided in self._guided_denoisers.values():
            if guided.prefix_cache is not None:
                guided.prefix_cache.clear()


def _solve_uncond(D: Tensor, c: Tensor, g: float) -> Tensor:
    """The u' with u' + g (c - u') = D."""
    return (g * c - D) / (g - 1)


def output_samples(output: Any) -> list[Tensor]:
    """The predictions in what a denoiser returns: a tensor, a tuple, or one of diffusers' output
    classes."""
    if torch.is_tensor(output):
        return [output]
    return list(output) if isinstance(output, tuple) else list(output.values())


def _replace_samples(output: Any, samples: Sequence[Tensor]) -> Any:
    """`output` with its first entries replaced."""
    if torch.is_tensor(output):
        return samples[0]
    if isinstance(output, tuple):
        return (*samples, *output[len(samples) :])
    return type(output)(**{**output, **dict(zip(output, samples))})  # as many as there are samples  # noqa: B905
