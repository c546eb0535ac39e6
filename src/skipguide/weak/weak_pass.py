"""Prefix sharing: keep what the strong pass computed before the first skipped layer, and start weak passes there.

The strong conditional pass and a weak pass are the same computation up to the first skipped layer k, so the weak pass
costs the blocks after k only: (L - k - 1) / L of a forward for a residual skip, (L - k) / L for an attention skip. In a
stack, the state that enters block k is recorded, and the blocks before it compute nothing. In a UNet, skip connections
run past layer k: there the outputs of all that ran before it are kept, and given again in the weak pass.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from torch import nn

from skipguide.families import schema
from skipguide.families.blocks import Place, _named, chain, returning
from skipguide.families.schema import Family, Values
from skipguide.method import perturbations
from skipguide.weak import attention as weak_attention
from skipguide.weak import flops, patching, shuffle, step_context
from skipguide.weak.prefix_cache import Strong


@dataclasses.dataclass(frozen=True)
class How:
    """What a weak pass takes beside the layers and the kind of skip."""

    moment: step_context.Moment | None = None  # None for kinds of the paper alone
    strength: float | None = None
    seed: int = 0


class WeakPass:
    """One weakened model: which places of the chain are skipped and how.

    Args:
        skipped: positions in the chain, sorted, not empty.
        skip: one of `kinds.KINDS`.
        strong: where the strong pass keeps the state to start from; None for a pass that is always run in full.
        how: what kinds that are not the paper's own need to know.
    """

    def __init__(
        self, family: Family, denoiser: nn.Module, places: Sequence[Place], skipped: Sequence[int], skip: str,
        strong: Strong | None, how: How = How(),
    ):  # fmt: skip
        self.family, self.denoiser, self.how = family, denoiser, how
        self.places, self.skipped, self.skip, self.strong = places, tuple(skipped), skip, strong
        self.full = _once(swap for k in skipped for swap in self._weakened(k, None))
        self.shared = [] if strong is None else _once(self._sharing(strong))
        self.inputs: dict[str, Any] = {}  # of the denoiser, on the meta device; a UNet's costs are measured with them
        self._measured: dict[bool, float] = {}

    @property
    def first(self) -> int:
        """The place at which this pass leaves the strong one."""
        return self.skipped[0]

    def swaps(self) -> list[patching.Swap]:
        """What stands where in this pass: from the state that the strong pass left, where there is one to share.

        Raises:
            RuntimeError: if the strong pass left nothing, because the first skipped layer did not run in it.
        """
        if self.strong is None:
            return self.full
        if not self.strong.has_left(self.first):
            raise RuntimeError(
                f'layer "{self.places[self.first].address}" must run in the conditional pass for a weak pass to start '
                "there, but it did not (a cache, or an option that switches it off). Remove that, or pass "
                "share_prefix=False."
            )
        return self.shared

    def _weakened(self, k: int, source: patching.Recording | None) -> Iterator[patching.Swap]:
        place = self.places[k]
        if self.skip == "residual":
            for entry in returning(self.places, k, self.skipped):
                yield *entry, patching.Skipped(patching.child(*entry), place.stack.streams, source)
        elif self.skip == "shuffle":
            yield from self._shuffled(place, source)
        else:
            for entry, values in place.attention():
                yield *entry, self._attention(place, entry, values)
            if source is not None:
                yield *place.entry, patching.Resumed(place.block, place.stack.streams, source)

    def _attention(self, place: Place, entry: schema.Entry, values: Values) -> patching.StandIn:
        real = patching.child(*entry)
        if self.skip == "attention":
            return patching.IdentityAttention(real, values)
        seen = self._seen(place, sound=entry in place.sounds())
        return weak_attention.Changed(real, self.skip, seen, perturbations.strength_of(self.skip, self.how.strength))

    def _shuffled(self, place: Place, source: patching.Recording | None) -> Iterator[patching.Swap]:
        seen = self._seen(place)
        for n, entry in enumerate([place.entry] if place.half is None else place.inside()):
            name = f"{place.address} {place.axis} {n}"
            yield *entry, shuffle.Shuffled(
                patching.child(*entry), place.stack.streams, source, seen, place.lie, self.how.seed, name,
                restored=place.half is None,
            )  # fmt: skip

    def _seen(self, place: Place, sound: bool = False) -> weak_attention.Seen:
        assert self.how.moment is not None
        return weak_attention.Seen(self.how.moment, place.axis, self.family.text, sound)

    def _sharing(self, strong: Strong) -> Iterator[patching.Swap]:
        recording = strong.recordings.get(self.first)
        if recording is not None:
            for place in self.places[: self.first]:
                yield *place.entry, patching.Skipped(place.block, place.stack.streams)
        yield from self._weakened(self.first, recording)
        for k in self.skipped[1:]:
            yield from self._weakened(k, None)
        for parent, name, memory in strong.remembered[self.first]:
            yield parent, name, patching.Replayed(memory.real, memory)
        for path, interval in self.family.between:  # run after every interval-th block; those before are not read
            for parent, name, real in _named(self.denoiser, (path,)):
                if int(name) * _config(self.denoiser, interval) < self.first:
                    yield parent, name, patching.Nothing(real)

    def cost(self, shared: bool) -> float:
        """What this pass computes, as a fraction of a forward pass.

        In a stack blocks are counted, and an attention skip counts as a whole block. The blocks of a UNet differ in
        size: there floating point operations are, in a pass without numbers over a copy without weights; where that
        cannot be run, layers are counted.
        """
        if self.family.unet is None:
            skipped = len(self.skipped) if self.skip == "residual" else 0
            return (len(self.places) - (self.first if shared else 0) - skipped) / len(self.places)
        if shared not in self._measured:
            try:
                self._measured[shared] = self._measure(shared)
            except Exception:  # a model that its config does not rebuild, as with FreeNoise: this is only for people
                self._measured[shared] = 1 - (self.first if shared else 0) / len(self.places)
        return self._measured[shared]

    def told(self, inputs: dict[str, Any]) -> None:
        """What a call of the denoiser looks like, on the meta device; of other sizes other costs are measured."""
        if repr(inputs) != repr(self.inputs):
            self.inputs, self._measured = inputs, {}

    def _measure(self, shared: bool) -> float:
        model = flops.without_weights(self.denoiser)
        places = chain(self.family, model)
        strong = Strong(self.family, model, places, {self.first}) if shared else None
        moment = step_context.Moment(self.family.layout, self.denoiser.config)  # type: ignore[arg-type]
        moment.see(self.inputs)
        how = dataclasses.replace(self.how, moment=moment)
        weak = WeakPass(self.family, model, places, self.skipped, self.skip, strong, how)
        with patching.swapped(strong.swaps({self.first}) if strong else []):
            whole = flops.count(model, self.inputs)
        with patching.swapped(weak.swaps()):
            return flops.count(model, self.inputs) / whole


def _once(swaps: Iterable[patching.Swap]) -> list[patching.Swap]:
    """One stand-in for each module: both halves of a layer of SVD name the one that holds them."""
    return [(*entry, stand_in) for entry, stand_in in {(p, name): stand_in for p, name, stand_in in swaps}.items()]


def _config(denoiser: Any, name: str) -> int:
    return denoiser.config[name]
