"""Prefix sharing: record the state that enters the first skipped layer in the strong pass, and start weak passes there.

The strong conditional pass and a weak pass are the same computation up to the first skipped layer k, so the weak pass
costs the blocks after k only: (L - k - 1) / L of a forward for a residual skip, (L - k) / L for an attention skip.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

from torch import nn

from skipguide import skips
from skipguide.families import Family, Stack


@dataclasses.dataclass(frozen=True)
class Place:
    """A block in the order in which a denoiser runs them."""

    stack: Stack
    name: str  # of its stack
    index: int  # in its stack
    parent: nn.Module  # the ModuleList

    @property
    def block(self) -> nn.Module:
        return self.parent[self.index]  # type: ignore[index,return-value]


def chain(family: Family, denoiser: nn.Module) -> tuple[Place, ...]:
    """Every block of a denoiser in the order in which it runs them: stack after stack, or in turn where paired."""
    stacks = {name: (stack, denoiser.get_submodule(stack.path)) for name, stack in family.stacks.items()}
    places = [Place(stack, name, i, blocks) for name, (stack, blocks) in stacks.items() for i in range(len(blocks))]  # type: ignore[arg-type]
    return tuple(sorted(places, key=lambda place: place.index) if family.paired else places)


class Strong:
    """What the strong pass keeps for the weak ones, of one denoiser: the state at certain places, and what is replayed.

    Args:
        firsts: where weak passes leave the strong one, as positions in the chain.
    """

    def __init__(self, family: Family, denoiser: nn.Module, places: Sequence[Place], firsts: set[int]):
        self.recordings = {k: skips.Recording(places[k].block, places[k].stack.streams) for k in sorted(firsts)}
        self.remembered = [
            (parent, name, skips.Remembering(real)) for parent, name, real in _named(denoiser, family.replayed)
        ]
        self._places = places

    def swaps(self, firsts: set[int]) -> list[skips.Swap]:
        """What stands where in a strong pass after which weak ones start at `firsts`."""
        places = ((self._places[k], self.recordings[k]) for k in firsts)
        recorded = [(place.parent, str(place.index), recording) for place, recording in places]
        return [*recorded, *self.remembered]

    def forget(self) -> None:
        """Free what was kept."""
        for recording in self.recordings.values():
            recording.__dict__["state"] = None
        for _, _, memory in self.remembered:
            memory.outputs.clear()


class WeakPass:
    """One weakened model: which places of the chain are skipped and how.

    Args:
        skipped: positions in the chain, sorted, not empty.
        skip: "residual" or "attention".
        strong: where the strong pass keeps the state to start from; None for a pass that is always run in full.
    """

    def __init__(
        self, family: Family, denoiser: nn.Module, places: Sequence[Place], skipped: Sequence[int], skip: str,
        strong: Strong | None,
    ):  # fmt: skip
        self.places, self.skipped, self.skip, self.strong = places, tuple(skipped), skip, strong
        self.full = [swap for k in skipped for swap in self._weakened(k, None)]
        self.shared = [] if strong is None else [*self._sharing(family, denoiser, strong)]

    @property
    def first(self) -> int:
        """The place at which this pass leaves the strong one."""
        return self.skipped[0]

    def swaps(self) -> list[skips.Swap]:
        """What stands where in this pass: from the state that the strong pass left, where there is one to share.

        Raises:
            RuntimeError: if the strong pass left nothing, because the first skipped layer did not run in it.
        """
        if self.strong is None:
            return self.full
        if self.strong.recordings[self.first].state is None:
            place = self.places[self.first]
            raise RuntimeError(
                f'layer "{place.name}:{place.index}" must run in the conditional pass for a weak pass to start there, '
                "but it did not (a cache, or an option that switches it off). Remove that, or pass share_prefix=False."
            )
        return self.shared

    def _weakened(self, k: int, source: skips.Recording | None) -> Iterator[skips.Swap]:
        place = self.places[k]
        if self.skip == "residual":
            yield place.parent, str(place.index), skips.Skipped(place.block, place.stack.streams, source)
            return
        for path, values in place.stack.attention.items():
            owner, _, name = path.rpartition(".")
            parent = place.block.get_submodule(owner)
            yield parent, name, skips.IdentityAttention(place.block.get_submodule(path), values)
        if source is not None:
            yield place.parent, str(place.index), skips.Resumed(place.block, place.stack.streams, source)

    def _sharing(self, family: Family, denoiser: nn.Module, strong: Strong) -> Iterator[skips.Swap]:
        for place in self.places[: self.first]:
            yield place.parent, str(place.index), skips.Skipped(place.block, place.stack.streams)
        yield from self._weakened(self.first, strong.recordings[self.first])
        for k in self.skipped[1:]:
            yield from self._weakened(k, None)
        for parent, name, memory in strong.remembered:
            yield parent, name, skips.Replayed(memory.real, memory)
        for path, interval in family.between:  # run after every interval-th block; those before the first are not read
            for parent, name, real in _named(denoiser, (path,)):
                if int(name) * _config(denoiser, interval) < self.first:
                    yield parent, name, skips.Nothing(real)

    def cost(self, shared: bool) -> float:
        """Blocks that this pass evaluates, as a fraction of a forward; an attention skip counts as a whole block."""
        skipped = len(self.skipped) if self.skip == "residual" else 0
        return (len(self.places) - (self.first if shared else 0) - skipped) / len(self.places)


def _named(denoiser: nn.Module, paths: Sequence[str]) -> Iterator[tuple[nn.Module, str, Any]]:
    """(parent, name, module) for each path that the denoiser has; for a ModuleList, for each of its entries."""
    for path in paths:
        owner, _, name = path.rpartition(".")
        parent = denoiser.get_submodule(owner)
        module = parent._modules.get(name)
        if isinstance(module, nn.ModuleList):
            yield from ((module, child, real) for child, real in module._modules.items())
        elif module is not None:
            yield parent, name, module


def _config(denoiser: Any, name: str) -> int:
    return denoiser.config[name]
