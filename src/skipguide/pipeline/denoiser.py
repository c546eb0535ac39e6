"""One denoiser with what is needed to weaken it: where its layers are, what the strong pass keeps, the weak passes."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from skipguide.families import blocks
from skipguide.families.schema import Family
from skipguide.method import perturbations
from skipguide.method.terms import SLG, STG, Random
from skipguide.pipeline import compat
from skipguide.weak import attention, flops, patching, prefix_cache, step_context, weak_pass
from skipguide.weak.autoguidance import OtherModel

Term = STG | SLG
_OF_GRID = {"shuffle", *(name for name, kind in perturbations.KINDS.items() if "grid" in kind.needs)}


class Branch:
    """A denoiser under guidance: Wan 2.2 has two, every other family one.

    `weak` has the weak pass of each term; that of a Random is another one at every step.
    """

    def __init__(self, family: Family, denoiser: nn.Module, terms: Sequence[Term], share_prefix: bool):
        compat.check_company(denoiser, family)
        places = blocks.chain(family, denoiser)
        where = {j: blocks.resolve(family, places, term) for j, term in enumerate(terms) if _skips(term)}
        fixed = [j for j in where if not isinstance(terms[j].layers, Random)]
        blocks.check_disjoint([terms[j] for j in fixed], [where[j] for j in fixed], places)
        compat.check_backends(places, {k for j, ks in where.items() if _is_caught(terms[j]) for k in ks})
        self.family, self.places, self.terms = family, places, tuple(terms)
        self.denoiser, self.modules = denoiser, list(denoiser.modules())[1:]
        self.signature = inspect.signature(denoiser.forward)
        self.strong = None
        if share_prefix and (firsts := _firsts(terms, where)):
            self.strong = prefix_cache.Strong(family, denoiser, places, firsts)
        self._moment = step_context.Moment(family.layout, getattr(denoiser, "config", {}))
        self._where, self._made = where, dict[Any, weak_pass.WeakPass]()
        self.weak = [self._weak(j, 0) for j in range(len(terms))]

    def is_current(self) -> bool:
        """Whether the denoiser still has the modules that it had when this was made."""
        now = list(self.denoiser.modules())[1:]
        return len(now) == len(self.modules) and all(a is b for a, b in zip(now, self.modules, strict=True))

    # --- a step -------------------------------------------------------------------------------------------------------

    def begin(self, step: int) -> None:
        """A step of the run begins: draw what is drawn at each."""
        self._moment.begin(step)
        for j, term in enumerate(self.terms):
            if isinstance(term.layers, Random):
                self.weak[j] = self._weak(j, step)

    def see(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
        """The denoiser is about to be called with these inputs, whose shape some weak passes have to know."""
        if any(term.skip in _OF_GRID for term in self.terms):
            self._moment.see(self.inputs(args, kwargs))

    def recordings(self, active: Sequence[int]) -> list[patching.Swap]:
        """What stands where in the strong pass before the weak ones of these terms."""
        if self.strong is None:
            return []
        sharing = [weak for j in active if isinstance(weak := self.weak[j], weak_pass.WeakPass)]
        return self.strong.swaps({weak.first for weak in sharing})

    def idle(self) -> list[patching.Swap]:
        """What stands where in a call whose result nobody reads; the resnets of a UNet run all the same."""
        if self.family.unet is not None:
            return []
        return [(*place.entry, patching.Skipped(place.block, place.stack.streams)) for place in self.places]

    def know_inputs(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
        """Tell the weak passes what a call looks like, so that what they cost can be measured when somebody asks."""
        inputs = flops.without_numbers(self.inputs(args, kwargs))
        for weak in self.weak:
            weak.told(inputs)

    def inputs(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
        """The inputs of a call of the denoiser, by name."""
        return patching.named_inputs(self.signature, args, kwargs)

    # --- the weak passes ----------------------------------------------------------------------------------------------

    def _weak(self, j: int, step: int) -> weak_pass.WeakPass | OtherModel:
        term = self.terms[j]
        if not _skips(term):
            assert isinstance(term, STG)
            compat.check_company(term.weak, self.family)
            return OtherModel(self.family, self.denoiser, term.weak)
        skipped = tuple(self._where[j])
        if isinstance(term, STG) and isinstance(term.layers, Random):
            count = sum(term.axis in (None, place.axis) for place in self.places)
            skipped = drawn(skipped, count, term, step)
        if (j, skipped) not in self._made:
            strong = self.strong if isinstance(term, STG) else None
            how = weak_pass.How(self._moment, term.strength, term.seed)
            self._made[j, skipped] = weak_pass.WeakPass(
                self.family, self.denoiser, self.places, skipped, term.skip, strong, how
            )
        return self._made[j, skipped]


def _skips(term: Term) -> bool:
    return getattr(term, "weak", None) is None


def _is_caught(term: Term) -> bool:
    return term.skip in attention.CHANGES


def _firsts(terms: Sequence[Term], where: Mapping[int, Sequence[int]]) -> set[int]:
    """Where weak passes can leave the strong one; those of SLG are passes of u."""
    pushing = {j: ks for j, ks in where.items() if isinstance(terms[j], STG)}
    return {k for j, ks in pushing.items() for k in (ks if isinstance(terms[j].layers, Random) else ks[:1])}


def drawn(middle: Sequence[int], count: int, term: STG, step: int) -> tuple[int, ...]:
    """The positions that a Random skips at a step, sorted.

    Args:
        middle: what `resolve` returned.
        count: of all blocks of the term's axis.
    """
    assert isinstance(term.layers, Random)
    number = min(max(1, round(term.layers.share * count)), len(middle))
    order = step_context.order_of(len(middle), term.seed, step, "layers")
    return tuple(sorted(middle[int(i)] for i in order[:number]))
