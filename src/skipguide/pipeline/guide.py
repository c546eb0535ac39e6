"""guide(): puts the formula, the skips and the shared prefix on a diffusers pipeline, and takes them off again.

How a guided step runs, all with torch's own hooks on the unmodified denoiser:

    before the cond call   which terms are active at this step; recordings take the place of their first skipped layers;
                           of a batch [uncond, cond] the cond half goes first
    after it               per active term: the denoiser again, skipping; the uncond half of a batch; then return u', c'
                           such that the pipeline's own CFG makes D out of them
    later calls            (uncond where it is separate, and a pipeline's own guidance) are shifted by as much as c was

A batch is run in halves so that the strong pass and a weak one are the same computation to the last bit: a row of a
matrix product is rounded differently in batches of different size. It also halves the memory that activations take.
"""

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
from skipguide.method.request import Options, published_rescale, unpacked
from skipguide.method.restart import Restart, checked
from skipguide.method.terms import SLG, STG, Schedule
from skipguide.pipeline import call_frame, compat
from skipguide.pipeline.denoiser import Branch
from skipguide.pipeline.restarting import Restarting
from skipguide.pipeline.run import Plan
from skipguide.pipeline.step import Kept, Passes, Step
from skipguide.weak import patching

Tensor = torch.Tensor
Term = STG | SLG

_log = logging.getLogger("skipguide")
_GUIDED: weakref.WeakSet[nn.Module] = weakref.WeakSet()


def guide(
    pipe: Any,
    *terms: Term | Schedule | Sequence[Term],
    rescale: float | None = None,
    rescale_space: str = "prediction",
    orthogonalize: bool = False,
    cfg: cfg_rules.Rule | None = None,
    restart: Restart | Sequence[Restart] | None = None,
    share_prefix: bool = True,
) -> Guide:
    """Guide every call of `pipe` by skipping layers, until the handle is removed.

        D = u + g (c - u) + sum_j s_j (c - p_j)

    Args:
        pipe: an unmodified diffusers pipeline of a known family.
        terms: one or more STG, whose pushes are added (Eq. 20), and SLG, which weaken u; or one Schedule alone. A list
            or tuple of terms, such as a preset of several, stands for its entries.
        rescale: phi in [0, 1] (Algorithm 4), per sample, at steps with a term or a rule; 0 is off. None is 0, or what
            was published with a preset.
        rescale_space: "prediction", as the paper's code has it, or "data": the deviations are those of the estimates of
            the clean video that c and D are, as in LTX-2's and ComfyUI's code.
        orthogonalize: each STG term loses its components along those before it, in the order given (Eq. 21), per sample
            and output. A term that is parallel to those before it vanishes; a zero one takes nothing away. The paper
            found no gain in it.
        cfg: what stands in the place of u + g (c - u): an APG, CFGZero, TCFG or Interval; g is the pipeline's.
        restart: do the steps of an interval of noise levels again (Algorithm 3); alone, or with terms, which hold in
            the repeated steps as they do in the first round. The additional passes are in `handle.passes`.
        share_prefix: start each weak pass at its first skipped layer. False runs it in full, for benchmarks and doubt.

    Returns:
        A handle: a context manager with `.remove()`. After it the pipeline is what it was, hooks and modules included.

    Raises:
        ValueError: for an unknown pipeline, a layer, skip or axis that the family has not, a bad number, nothing to do,
            a scheduler on which a restart is not known to be right, or a model with a cache that they would spoil.
        RuntimeError: if the pipeline (or another one that shares a denoiser) is guided already.
    """
    family, restarts = lookup.family_of(pipe), checked(restart)
    schedule, single = unpacked(terms, alone=bool(restarts) or cfg is not None)
    phi = published_rescale(single) if rescale is None else rescale
    options = Options(single, schedule, phi, rescale_space, orthogonalize, cfg, restarts, share_prefix)
    _check_weak_models(pipe, family, single)
    if any(denoiser in _GUIDED for denoiser in lookup.denoisers_of(pipe, family)):
        raise RuntimeError(
            f"guide() needs an unguided pipeline, but this {type(pipe).__name__} (or one that shares its "
            f"{family.denoisers[0]}) is guided already. Call .remove() on that handle or leave its with-block first; "
            "several terms go into one guide()."
        )
    return Guide(pipe, family, options)


def _check_weak_models(pipe: Any, family: Family, terms: Sequence[Term]) -> None:
    models = [term.weak for term in terms if isinstance(term, STG) and term.weak is not None]
    count = len(lookup.denoisers_of(pipe, family))
    if models and count > 1:
        raise ValueError(
            f"weak is one model in the place of one denoiser, but this {type(pipe).__name__} divides the run between "
            f"{count}. Skip layers instead."
        )
    if any(model in _GUIDED for model in models):
        raise RuntimeError("weak must be a model that is not guided itself, but it is. Call .remove() on that handle.")


class Guide:
    """The handle that guide() returns."""

    def __init__(self, pipe: Any, family: Family, options: Options):
        self.pipe, self.family, self.calls, self.options = pipe, family, lookup.calls_of(pipe), options
        self.terms, self.rule, self.passes = options.terms, options.rule, Passes()
        self._told = False  # in this run: the weak passes know their inputs
        self._memories: dict[int, cfg_rules.Memory] = {}  # of the rule, per output
        self._kept: dict[tuple[Branch, int], Kept] = {}  # of terms that do not run at every step
        self._branches = {denoiser: self._branch(denoiser) for denoiser in lookup.denoisers_of(pipe, family)}
        self._step: Step | None = None
        self._run: Tensor | None = None  # the timesteps of the run under way: schedulers make new ones for each run
        self._undo: list[patching.Swap] = []  # what puts the denoiser right again while a call is under way
        self._inside = False  # a weak pass is under way: the hooks below let it through
        self._restarting = Restarting(pipe.scheduler, options.restarts, pipe) if options.restarts else None
        self._plan = Plan(pipe, family, options, self._restarting)
        self._hooks = []
        before: Any = torch.compiler.disable(self._before)
        after: Any = torch.compiler.disable(self._after)
        for denoiser in self._branches:
            self._hooks += [
                denoiser.register_forward_pre_hook(before, with_kwargs=True),
                denoiser.register_forward_hook(after, with_kwargs=True, always_call=True),
            ]
            _GUIDED.add(denoiser)

    def _branch(self, denoiser: nn.Module) -> Branch:
        return Branch(self.family, denoiser, self.terms, self.options.share_prefix)

    def remove(self) -> None:
        """Take everything off the pipeline again; a second call does nothing."""
        self._tidy()
        if self._hooks:
            self._tell_if_exchanged()
        for hook in self._hooks:
            hook.remove()
        self._hooks = []
        if self._restarting is not None:
            self._restarting.remove()
        self._step = self._run = None  # tensors among them
        self._kept, self._memories = {}, {}
        for denoiser in self._branches:
            _GUIDED.discard(denoiser)

    def _tell_if_exchanged(self) -> None:
        """Nothing of ours is called when the pipeline calls another denoiser, so that it cannot be refused."""
        held = (getattr(denoiser, "_orig_mod", denoiser) for denoiser in lookup.denoisers_of(self.pipe, self.family))
        if new := [type(denoiser).__name__ for denoiser in held if denoiser not in self._branches]:
            _log.warning(
                "this %s got another denoiser (%s) after guide(), which was not guided. Exchange it first, then call "
                "guide().",
                type(self.pipe).__name__, ", ".join(new),
            )  # fmt: skip

    def __enter__(self) -> Guide:
        if not self._hooks:
            raise RuntimeError(
                f"this guidance was taken off its {type(self.pipe).__name__}, by .remove() or at the end of a "
                "with-block. Call guide() again."
            )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.remove()

    @property
    def rescale(self) -> float:
        """phi: what was asked for, or what was published with the preset."""
        return self.options.rescale

    @property
    def passes_per_step(self) -> float:
        """Forward passes of one sample, per step and prompt, in the last run; nan before it."""
        return self.passes.per_step

    # --- before a call of the denoiser --------------------------------------------------------------------------------

    def _before(self, denoiser: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if self._inside or denoiser not in self._branches:  # a copy of the denoiser has copies of these hooks
            return None
        self._tidy()  # after a call that raised
        step = self._step_of_this_call()
        branch = self._branches[denoiser]
        if step.done == 0 and (step.active or step.weakened):
            branch.begin(step.index)
            branch.see(args, kwargs)
            self._undo = patching.put(branch.recordings(step.active))
        if step.done == 1 and step.cfg and not step.split:  # of separate calls the second one is uncond
            self._undo = patching.put(branch.idle() if step.alone else self._weakened(branch, step))
        if step.done > 0 or not step.split:
            return None
        step.inputs = branch.inputs(args, kwargs)
        return (), self._rows(step.inputs, patching.COND)

    def _step_of_this_call(self) -> Step:
        """The step that a call of the denoiser belongs to: the one under way, or the next."""
        frame = call_frame.frame_of(self.pipe)
        if frame is None:
            raise RuntimeError(
                f"a guided denoiser must be called by the {type(self.pipe).__name__} that guide() got, which knows the "
                "step and the scales, but that one is not running. Call it, or remove the guidance first."
            )
        timesteps, step, plan = self.pipe.scheduler.timesteps, self._step, self._plan
        if timesteps is self._run and step is not None and step.done < step.calls:
            return step
        if timesteps is not self._run:
            self._run, self.passes = timesteps, Passes()
            self._begin_run()
            index = plan.first_index() if step is None else 0
        else:
            index = 0 if step is None else step.index + 1
            if index >= plan.num_steps():  # the next segment of a video, with the same timesteps
                index = 0
            if index == 0 or plan.goes_back(index):  # what is kept of the step before is of another noise level
                self._kept, self._memories = {}, {}
        self._step = step = plan.step_of(frame, index)
        self.passes.steps += 1
        self.passes.strong += step.passes
        return step

    def _begin_run(self) -> None:
        self._told = False
        self._kept, self._memories = {}, {}
        self._plan.begin()
        for denoiser, branch in self._branches.items():
            if not branch.is_current():  # FreeNoise was switched on, adapters were loaded
                self._branches[denoiser] = self._branch(denoiser)
        for denoiser in self._branches:
            compat.check_company(denoiser, self.family)  # again: a cache can be switched on after guide()

    def _weakened(self, branch: Branch, step: Step) -> list[patching.Swap]:
        self.passes.instead.update(branch.weak[j] for j in step.weakened)
        return [swap for j in step.weakened for swap in branch.weak[j].full]

    # --- after it -----------------------------------------------------------------------------------------------------

    def _after(self, denoiser: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any], output: Any) -> Any:
        step = self._step
        if self._inside or step is None or denoiser not in self._branches:
            return None
        if output is None:  # the call raised
            step.forget()
            self._tidy()
            return None
        self._restore()
        first, step.done = step.done == 0, step.done + 1
        try:
            if not step.guided:
                return None
            branch = self._branches[denoiser]
            return self._first(branch, step, args, kwargs, output) if first else self._later(step, output)
        finally:
            if step.done == step.calls:
                step.forget()
            self._tidy()

    def _first(
        self, branch: Branch, step: Step, args: tuple[Any, ...], kwargs: Mapping[str, Any], output: Any
    ) -> Any:  # fmt: skip
        """What to hand to the pipeline after the cond call, such that its own arithmetic arrives at D."""
        if self.family.unet and not self._told:
            branch.know_inputs(args, kwargs)
            self._told = True
        step.c = self._predictions(output)
        weaks = [self._weak(branch, j, step.c, args, kwargs) for j in step.active]
        channels = step.c[0].shape[1] // 2 if self._has_variance() else None
        terms = [self.terms[j] for j in step.active]
        normalized = [isinstance(term, STG) and term.normalize for term in terms]
        step.push = tuple(
            formula.push(
                c, [weak[k] for weak in weaks], self._scales(step, k), self.options.orthogonalize, channels, normalized
            )
            for k, c in enumerate(step.c)
        )
        if branch.strong is not None:
            branch.strong.forget()  # before the other half takes its memory
        us = self._uncond_half(branch, step) if step.split and not step.alone else None
        if step.shifts:  # a constant shift of u and c goes through u + g (c - u) unchanged, without knowing g
            step.returned = tuple(c + push for c, push in zip(step.c, step.push, strict=True))
            us = us and tuple(u + push for u, push in zip(us, step.push, strict=True))
        elif step.alone:
            step.returned = self._D(step, None)
            us = step.returned if step.split else None
        elif step.cfg and us is None:  # u comes with the next call, and makes D out of this c
            step.returned = self._c_for_later(step)
        elif us is None or not step.keeps_c:
            step.returned = self._D(step, us)
            us = us and step.returned  # D + g (D - D) = D
        else:
            step.returned, us = self._keeping_c(step, us)
        if us is None:
            return _with_samples(output, step.returned)
        return _with_samples(output, [torch.cat(pair) for pair in zip(us, step.returned, strict=True)])

    def _c_for_later(self, step: Step) -> tuple[Tensor, ...]:
        """c itself; but where g is 1 the pipeline arrives at what comes back here, whatever u is: D."""
        scales = self._plan.g(len(step.c))
        if step.g is not None and 1 in scales:
            raise ValueError(
                f"this Schedule sets guidance_scale={step.g:g} at this step, which needs u, but the pipeline's own is "
                f"1 and leaves it out. Set {self._plan.argument_of_g()} above 1."
            )
        pushed = (self._rescaled(step, c + push, c) for c, push in zip(step.c, step.push, strict=True))
        return tuple(D if g == 1 else c for D, c, g in zip(pushed, step.c, scales, strict=True))

    def _keeping_c(self, step: Step, us: Sequence[Tensor]) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        """(c', u') of which the pipeline makes D, with c' = c where g allows it."""
        pairs = []
        for D, c, u, g in zip(self._D(step, us), step.c, us, self._plan.g(len(step.c)), strict=True):
            pairs.append((D, u) if g == 1 else (c, _uncond_for(D, c, g)))
        return tuple(c for c, _ in pairs), tuple(u for _, u in pairs)

    def _uncond_half(self, branch: Branch, step: Step) -> tuple[Tensor, ...]:
        inputs = self._rows(step.inputs, patching.UNCOND)
        return self._predictions(self._pass(branch.denoiser, (), inputs, self._weakened(branch, step)))

    def _later(self, step: Step, output: Any) -> Any:
        """A call after the first one: uncond, or one for guidance of the pipeline's own."""
        samples = self._predictions(output)
        uncond = step.done == 2 and step.cfg and not step.split
        if step.zero or (uncond and step.alone):  # guidance of the pipeline's own has no difference to go by either
            return _with_samples(output, step.returned)
        if step.shifts or not uncond:
            shifts = [after - c for after, c in zip(step.returned, step.c, strict=True)]
            return _with_samples(output, [sample + shift for sample, shift in zip(samples, shifts, strict=True)])
        found = zip(samples, self._D(step, samples), step.c, self._plan.g(len(step.c)), strict=True)
        return _with_samples(output, [u if g == 1 else _uncond_for(D, c, g) for u, D, c, g in found])

    def _D(self, step: Step, us: Sequence[Tensor] | None) -> tuple[Tensor, ...]:
        """Per output; without u where the step has none."""
        if step.zero:
            return tuple(torch.zeros_like(c) for c in step.c)
        if us is None:
            return tuple(self._rescaled(step, c + push, c) for c, push in zip(step.c, step.push, strict=True))
        scales = self._plan.g(len(step.c)) if step.g is None else (step.g,) * len(step.c)
        parts = enumerate(zip(step.c, us, scales, step.push, strict=True))
        return tuple(self._rescaled(step, self._cfg(step, k, c, u, g) + push, c) for k, (c, u, g, push) in parts)

    def _cfg(self, step: Step, output: int, c: Tensor, u: Tensor, g: float) -> Tensor:
        """u + g (c - u), or what the rule has in its place."""
        if not step.rule:
            return formula.cfg(c, u, g)
        if self._has_variance():
            (c, variance), u = c.chunk(2, dim=1), u.chunk(2, dim=1)[0]
            return torch.cat([self._by_rule(step, output, c, u, g), variance], dim=1)
        return self._by_rule(step, output, c, u, g)

    def _by_rule(self, step: Step, output: int, c: Tensor, u: Tensor, g: float) -> Tensor:
        if isinstance(self.rule, cfg_rules.CFGZero):
            return cfg_rules.zero_star(c, u, g)
        if isinstance(self.rule, cfg_rules.TCFG):
            return cfg_rules.tangential(c, u, g)
        assert isinstance(self.rule, cfg_rules.APG)
        data, b = (c, 1.0) if self.rule.space == "prediction" else self._plan.data(step, c)
        return cfg_rules.apg(c, u, g, self.rule, self._memories.setdefault(output, cfg_rules.Memory()), data, b)

    def _rescaled(self, step: Step, D: Tensor, c: Tensor) -> Tensor:
        """Rescale the prediction, but not a variance that the model returns behind it."""
        if step.phi == 0:
            return D
        if self._has_variance():
            (D, variance), (c, _) = D.chunk(2, dim=1), c.chunk(2, dim=1)
            return torch.cat([self._rescaled_by(step, D, c), variance], dim=1)
        return self._rescaled_by(step, D, c)

    def _rescaled_by(self, step: Step, D: Tensor, c: Tensor) -> Tensor:
        if self.options.rescale_space == "prediction":
            return formula.rescale(D, c, step.phi)
        wide = c.to(torch.promote_types(c.dtype, torch.float32))
        data, b = self._plan.data(step, wide)
        return (wide + (formula.rescale(data + b * (D - wide), data, step.phi) - data) / b).to(D.dtype)

    def _has_variance(self) -> bool:
        return self.family.learned_variance and compat.predicts_variance(self.pipe)

    # --- a weak pass --------------------------------------------------------------------------------------------------

    def _weak(
        self, branch: Branch, j: int, c: tuple[Tensor, ...], args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> tuple[Tensor, ...]:
        """The predictions of one weakened model for what the cond call got, or (`every`) c less the last difference."""
        kept, every = self._kept.get((branch, j)), getattr(self.terms[j], "every", 1)
        if kept is not None and kept.uses < every and kept.fits(c):
            kept.uses += 1
            return tuple(own - difference for own, difference in zip(c, kept.differences, strict=True))
        weak = branch.weak[j]
        self.passes.runs[weak] += 1
        found = self._predictions(self._pass(weak.denoiser, args, kwargs, weak.swaps()))
        if every > 1:
            self._kept[branch, j] = Kept(tuple(own - p for own, p in zip(c, found, strict=True)))
        return found

    def _pass(
        self, denoiser: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any], swaps: Sequence[patching.Swap]
    ) -> Any:  # fmt: skip
        try:
            self._inside = True
            with patching.swapped(swaps):
                return denoiser(*args, **kwargs)
        finally:
            self._inside = False

    def _rows(self, inputs: Mapping[str, Any], half: int) -> dict[str, Any]:
        """The inputs of the denoiser for one half of the batch."""
        batched = self.family.batched
        return {name: patching.picked(half, value) if name in batched else value for name, value in inputs.items()}

    def _predictions(self, output: Any) -> tuple[Tensor, ...]:
        """In float32 where the pipeline takes that, so that g does not magnify the rounding of two shifted rows."""
        samples = _samples(output)[: len(self.family.outputs)]
        return tuple(sample.float() if self.calls.float32 else sample for sample in samples)

    def _scales(self, step: Step, output: int) -> list[float]:
        terms: Sequence[Any] = [self.terms[j] for j in step.active]
        position = self._plan.position(step.index)[0]
        return [term.scales(len(self.family.outputs), position)[output] for term in terms]

    # --- housekeeping -------------------------------------------------------------------------------------------------

    def _restore(self) -> None:
        """Put the real modules back after a call of the denoiser, or after one that raised."""
        patching.put(self._undo)
        self._undo = []

    def _tidy(self) -> None:
        self._restore()
        for branch in self._branches.values():
            if branch.strong is not None:
                branch.strong.forget()


def _uncond_for(D: Tensor, c: Tensor, g: float) -> Tensor:
    """The u' with u' + g (c - u') = D."""
    return (g * c - D) / (g - 1)


def _samples(output: Any) -> list[Tensor]:
    """The predictions in what a denoiser returns: a tensor, a tuple, or one of diffusers' output classes."""
    if torch.is_tensor(output):
        return [output]
    return list(output) if isinstance(output, tuple) else list(output.values())


def _with_samples(output: Any, samples: Sequence[Tensor]) -> Any:
    """`output` with its first entries replaced."""
    if torch.is_tensor(output):
        return samples[0]
    if isinstance(output, tuple):
        return (*samples, *output[len(samples) :])
    return type(output)(**{**output, **dict(zip(output, samples))})  # noqa: B905  # as many as there are samples
