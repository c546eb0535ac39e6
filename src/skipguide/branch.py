"""One denoiser with what is needed to weaken it: where its layers are, what the strong pass keeps, the weak passes."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from skipguide import families, flops, layers, prefix, skips
from skipguide.terms import SLG, STG


class Branch:
    """A denoiser under guidance: Wan 2.2 has two, every other family one."""

    def __init__(self, family: families.Family, denoiser: nn.Module, terms: Sequence[STG | SLG], share_prefix: bool):
        layers.check_company(denoiser, family)
        places = prefix.chain(family, denoiser)
        skipped = [layers.resolve(family, places, term) for term in terms]
        layers.check_disjoint(terms, skipped, places)
        firsts = {where[0] for term, where in zip(terms, skipped, strict=True) if isinstance(term, STG)}
        self.family, self.places = family, places
        self.denoiser, self.modules = denoiser, list(denoiser.modules())[1:]
        self.signature = inspect.signature(denoiser.forward)
        self.strong = prefix.Strong(family, denoiser, places, firsts) if share_prefix and firsts else None
        self.weak = [
            prefix.WeakPass(family, denoiser, places, where, term.skip, self.strong if isinstance(term, STG) else None)
            for term, where in zip(terms, skipped, strict=True)
        ]

    def is_current(self) -> bool:
        """Whether the denoiser still has the modules that it had when this was made."""
        now = list(self.denoiser.modules())[1:]
        return len(now) == len(self.modules) and all(a is b for a, b in zip(now, self.modules, strict=True))

    def idle(self) -> list[skips.Swap]:
        """What stands where in a call whose result nobody reads; the resnets of a UNet run all the same."""
        if self.family.unet is not None:
            return []
        return [(*place.entry, skips.Skipped(place.block, place.stack.streams)) for place in self.places]

    def know_inputs(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
        """Tell the weak passes what a call looks like, so that what they cost can be measured when somebody asks."""
        inputs = flops.without_numbers(self.inputs(args, kwargs))
        for weak in self.weak:
            weak.told(inputs)

    def inputs(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
        """The inputs of a call of the denoiser, by name."""
        return skips.named_inputs(self.signature, args, kwargs)
