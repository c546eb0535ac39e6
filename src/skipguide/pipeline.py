"""guide(): puts the formula, the skips and the shared prefix on a diffusers pipeline, and takes them off again.

How a guided step runs, all with torch's own hooks on the unmodified denoiser:

    before the denoiser   which terms are active at this step; open the recorder at their first skipped layers
    a skipped block       the recorder copies the cond rows of what enters it
    after the denoiser    per active term: the denoiser again on the cond rows, skipping; then return u', c' such that
                          the pipeline's own CFG makes D out of them
"""

from __future__ import annotations

import dataclasses
import inspect
import math
import weakref
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any

import torch
from torch import nn

from skipguide import families, guidance, skips
from skipguide.prefix import Recorder, WeakPass
from skipguide.terms import STG

Tensor = torch.Tensor

_GUIDED: weakref.WeakSet[nn.Module] = weakref.WeakSet()


def guide(pipe: Any, *terms: STG, rescale: float = 0.0, share_prefix: bool = True) -> Guide:
    """Guide every call of `pipe` by skipping layers, until the handle is removed.

        D = u + g (c - u) + sum_j s_j (c - p_j)

    Args:
        pipe: an unmodified diffusers pipeline of a known family.
        terms: one or more STG; their pushes are added (Eq. 20).
        rescale: phi in [0, 1] (Algorithm 4), per sample, on the guided steps; 0 is off.
        share_prefix: start each weak pass at its first skipped layer. False runs it in full, for benchmarks and doubt.

    Returns:
        A handle: a context manager with `.remove()`. After it the pipeline is what it was, hooks and modules included.

    Raises:
        ValueError: for an unknown pipeline, a layer, skip or axis that the family has not, a bad number, no terms.
        RuntimeError: if the pipeline (or another one that shares its denoiser) is guided already.
    """
    family = families.family_of(pipe)
    if not terms or not all(isinstance(term, STG) for term in terms):
        came = ", ".join(type(term).__name__ for term in terms) or "none"
        raise ValueError(f"guide() needs one or more STG terms, but got {came}. Write guide(pipe, STG(layers=[34])).")
    if isinstance(rescale, bool) or not isinstance(rescale, (int, float)) or not 0 <= rescale <= 1:
        raise ValueError(f"rescale must be a number from 0 (off) to 1, but got {rescale!r}. The paper uses 0.7.")
    denoiser = getattr(pipe, family.denoiser)
    if denoiser in _GUIDED:
        raise RuntimeError(
            f"guide() needs an unguided pipeline, but this {type(pipe).__name__} (or one that shares its "
            f"{family.denoiser}) is guided already. Call .remove() on that handle or leave its with-block first; "
            "several terms go into one guide()."
        )
    weak = tuple(_weak_pass(family, denoiser, term) for term in terms)
    return Guide(pipe, family, denoiser, terms, weak, float(rescale), share_prefix)


def _weak_pass(family: families.Family, denoiser: nn.Module, term: STG) -> WeakPass:
    """Resolve the layers of a term against a denoiser.

    Raises:
        ValueError: for a layer out of range, an unknown stack, or a skip or axis that the family does not have.
    """
    if term.axis is not None and term.axis not in family.axes:
        known = ", ".join(f'"{axis}"' for axis in family.axes) or "none, its attention is joint over space and time"
        raise ValueError(f"axis must be one that {family.name} has ({known}), but got {term.axis!r}. Leave axis=None.")
    default = next(iter(family.stacks))
    named = [(layer.split(":") if isinstance(layer, str) else (default, layer)) for layer in term.layers]
    names = {str(name) for name, _ in named}
    unknown = names - set(family.stacks)
    if unknown:
        raise ValueError(
            f"a layer's stack must be one that {family.name} has ({', '.join(family.stacks)}), "
            f'but got {", ".join(sorted(unknown))}. Write layers=["{default}:{named[0][1]}"], for example.'
        )
    if len(names) > 1:
        raise ValueError(
            f"the layers of one term must be of one stack, but got {', '.join(sorted(names))}. Use one STG per stack."
        )
    name = names.pop()
    stack = family.stacks[name]
    blocks = denoiser.get_submodule(stack.path)
    assert isinstance(blocks, nn.ModuleList)
    positions = tuple(sorted(int(position) for _, position in named))
    outside = [p for p in positions if not 0 <= p < len(blocks)]
    if outside:
        raise ValueError(
            f"layers of this {family.denoiser_class} must be from 0 to {len(blocks) - 1} ({len(blocks)} {name}), "
            f"but got {', '.join(map(str, outside))}. Layers count from 0."
        )
    if len(set(positions)) < len(positions):
        twice = next(p for p in positions if positions.count(p) > 1)
        raise ValueError(f"each layer may be named once, but {twice} is named repeatedly. Remove the copies.")
    if term.skip == "residual":
        return WeakPass(blocks, stack.streams, positions)
    if stack.values is None:
        raise ValueError(
            f'skip must be one that {family.name} has (residual), but got {term.skip!r}. Use skip="residual".'
        )
    return WeakPass(blocks, stack.streams, positions, stack.attention, stack.values)


@dataclasses.dataclass
class Passes:
    """What the last run of a guided pipeline cost, counted in forward passes of one sample per prompt."""

    steps: int = 0
    strong: float = 0.0
    weak: float = 0.0

    @property
    def per_step(self) -> float:
        """Mean over the steps so far: 2 for plain CFG, plus what the weak passes evaluated."""
        return (self.strong + self.weak) / self.steps if self.steps else math.nan


class Guide:
    """The handle that guide() returns."""

    def __init__(
        self,
        pipe: Any,
        family: families.Family,
        denoiser: nn.Module,
        terms: tuple[STG, ...],
        weak: tuple[WeakPass, ...],
        rescale: float,
        share_prefix: bool,
    ):
        self.pipe, self.family, self.denoiser = pipe, family, denoiser
        self.terms, self.rescale, self.share_prefix = terms, rescale, share_prefix
        self.passes = Passes()
        self._weak = weak
        self._active: tuple[int, ...] = ()  # indices of the terms of the step under way
        self._inside = False  # a weak pass is under way: the hooks below let it through
        self._recorder = Recorder()
        self._signature = inspect.signature(denoiser.forward)
        self._hooks = [
            denoiser.register_forward_pre_hook(self._before, with_kwargs=True),
            denoiser.register_forward_hook(self._after, with_kwargs=True),
        ]
        if share_prefix:
            firsts = {p.blocks[p.first]: p.streams for p in weak}
            for block, streams in firsts.items():
                hook = self._recorder.hook(streams)
                self._hooks.append(block.register_forward_pre_hook(hook, with_kwargs=True))
        _GUIDED.add(denoiser)

    def remove(self) -> None:
        """Take everything off the pipeline again; a second call does nothing."""
        for hook in self._hooks:
            hook.remove()
        self._hooks = []
        self._recorder.close()
        _GUIDED.discard(self.denoiser)

    def __enter__(self) -> Guide:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.remove()

    @property
    def passes_per_step(self) -> float:
        """Forward passes of one sample, per step and prompt, in the last run; nan before it."""
        return self.passes.per_step

    # --- the step -----------------------------------------------------------------------------------------------------

    def _before(self, denoiser: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        if self._inside:
            return
        self._recorder.close()  # of a step that raised
        step, num_steps = _step_of(self.pipe)
        if step == 0:
            self.passes = Passes()
            self._check_windows(num_steps)
        self._active = tuple(
            j
            for j, term in enumerate(self.terms)
            if term.scale > 0 and guidance.selects(term.start, term.stop, step, num_steps)
        )
        self.passes.steps += 1
        self.passes.strong += 2 if self._cfg() else 1
        if self._active and self.share_prefix:
            firsts = {self._weak[j].blocks[self._weak[j].first] for j in self._active}
            self._recorder.open(firsts, self._cond_rows())

    def _after(self, denoiser: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any], output: Any) -> Any:
        if self._inside or not self._active:
            return None
        rows = self._cond_rows()
        try:
            inputs = self._cond_inputs(args, kwargs, rows)
            weaks = [self._run(self._weak[j], inputs) for j in self._active]
        finally:
            self._recorder.close()
        scales = [self.terms[j].scale for j in self._active]
        return _with_sample(output, self._guided(output[0], weaks, scales, rows))

    def _run(self, weak: WeakPass, inputs: Mapping[str, Any]) -> Tensor:
        """The prediction of one weakened model on the cond rows."""
        state = self._recorder.states[weak.blocks[weak.first]] if self.share_prefix else None
        self.passes.weak += weak.cost(self.share_prefix)
        try:
            self._inside = True
            with skips.swapped(weak.swaps(state)):
                return self.denoiser(**inputs)[0]
        finally:
            self._inside = False

    def _guided(
        self, sample: Tensor, weaks: list[Tensor], scales: list[float], rows: Callable[[Tensor], Tensor]
    ) -> Tensor:
        """What to hand to the pipeline, such that its own arithmetic arrives at D."""
        dtype = torch.float32 if self.family.float32_cfg else sample.dtype
        sample, weaks = sample.to(dtype), [p.to(dtype) for p in weaks]
        c = rows(sample)
        if self.rescale == 0:  # a constant shift of every row goes through u + g (c - u) unchanged, without knowing g
            delta = guidance.push(c, weaks, scales)
            return sample + (torch.cat([delta, delta]) if self._cfg() else delta)
        u = sample[: len(sample) // 2] if self._cfg() else None
        D = guidance.combine(c, u, self.pipe.guidance_scale, weaks, scales, self.rescale)
        return torch.cat([D, D]) if self._cfg() else D  # D + g (D - D) = D

    def _cfg(self) -> bool:
        return bool(self.pipe.do_classifier_free_guidance)

    def _cond_rows(self) -> Callable[[Tensor], Tensor]:
        """Picks the cond rows of a batch: the second half under CFG (the pipelines put uncond first), else all."""
        return (lambda tensor: tensor[len(tensor) // 2 :]) if self._cfg() else (lambda tensor: tensor)

    def _cond_inputs(
        self, args: tuple[Any, ...], kwargs: Mapping[str, Any], rows: Callable[[Tensor], Tensor]
    ) -> dict[str, Any]:
        inputs = dict(self._signature.bind(*args, **kwargs).arguments)
        for name in self.family.batched:
            if inputs.get(name) is not None:
                inputs[name] = rows(inputs[name])
        return inputs

    def _check_windows(self, num_steps: int) -> None:
        for term in self.terms:
            guided = any(guidance.selects(term.start, term.stop, i, num_steps) for i in range(num_steps))
            if term.scale > 0 and not guided:
                raise ValueError(
                    f"the window start={term.start}, stop={term.stop} must select a step, but selects none of the "
                    f"{num_steps} of this run (step i of N is guided when start <= i/N < stop). Widen it."
                )


def _step_of(pipe: Any) -> tuple[int, int]:
    """(step i, number of steps N) of the run under way, read from the pipeline without touching the device."""
    if getattr(pipe, "current_timestep", None) is None:
        raise RuntimeError(
            f"a guided denoiser must be called by the {type(pipe).__name__} that guide() got, which knows the step and "
            "the scales, but that one is not running. Call it, or remove the guidance first."
        )
    begin = pipe.scheduler.begin_index or 0
    index = pipe.scheduler.step_index
    return (begin if index is None else index) - begin, pipe.num_timesteps


def _with_sample(output: Any, sample: Tensor) -> Any:
    """`output` with its first entry replaced; tuples and diffusers' output classes alike."""
    if isinstance(output, tuple):
        return (sample, *output[1:])
    return type(output)(**{**output, "sample": sample})
