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

from skipguide import flops, kinds, skips, weakening
from skipguide.family import Family, Half, Stack, UNet, Values


@dataclasses.dataclass(frozen=True)
class Place:
    """A block, or half a transformer layer of a UNet, in the order in which a denoiser runs them."""

    stack: Stack
    name: str  # of its stack
    index: int  # in its stack
    parent: nn.Module  # the list that holds it
    key: str  # in that list
    axis: str | None = None
    half: Half | None = None  # of a UNet's layer
    before: tuple[skips.Entry, ...] = ()  # in a UNet: what runs before it

    @property
    def block(self) -> nn.Module:
        return self.parent._modules[self.key]  # type: ignore[return-value]

    @property
    def address(self) -> str:
        """As in `layers`."""
        return f"{self.name}:{self.index}"

    @property
    def entry(self) -> skips.Entry:
        return self.parent, self.key

    def inside(self) -> list[skips.Entry]:
        """The transformer blocks of a UNet's half layer."""
        assert self.half is not None
        blocks = self.block.get_submodule(self.half.blocks)
        return [(blocks, name) for name in blocks._modules]

    def attention(self) -> Iterator[tuple[skips.Entry, Values]]:
        """The self-attentions, and what is left of each with the identity map."""
        paths = self.stack.attention
        if self.half is not None:
            values = paths["attn1"]
            names = [f"{self.half.blocks}.{n}.{attn}" for _, n in self.inside() for attn in self.half.attention]
            paths = dict.fromkeys(names, values)
        for path, values in paths.items():
            owner, _, name = path.rpartition(".")
            yield (self.block.get_submodule(owner), name), values

    def sounds(self) -> set[skips.Entry]:
        """Those of them that see sound instead of a video."""
        parts = [path.rpartition(".") for path in self.stack.sound]
        return {(self.block.get_submodule(owner), name) for owner, _, name in parts}

    @property
    def lie(self) -> str:
        """As for weakening.Shuffled."""
        return self.stack.lie if self.half is None else self.half.lie


def chain(family: Family, denoiser: nn.Module) -> tuple[Place, ...]:
    """Every block of a denoiser in the order in which it runs them: stack after stack, or in turn where paired."""
    if family.unet is not None:
        return tuple(_chain_of_unet(family, family.unet, denoiser))
    stacks = {name: (stack, denoiser.get_submodule(stack.path)) for name, stack in family.stacks.items()}
    places = [
        Place(stack, name, i, blocks, str(i), stack.axis)
        for name, (stack, blocks) in stacks.items()
        for i in range(len(blocks))  # type: ignore[arg-type]
    ]
    return tuple(sorted(places, key=lambda place: place.index) if family.paired else places)


def depth(family: Family, places: Sequence[Place]) -> int:
    """Blocks of the first stack, by which presets tell checkpoints apart; of a UNet the layers of all its parts."""
    first = next(iter(family.stacks))
    return len({place.address for place in places if family.unet or place.name == first})


def _chain_of_unet(family: Family, unet: UNet, denoiser: nn.Module) -> Iterator[Place]:
    """The halves of its transformer layers. What runs before one of them is named in modules as large as can be."""
    finished: list[skips.Entry] = []
    for name, stack in family.stacks.items():
        index = 0
        for owner, key, block in _named(denoiser, (stack.path,)):
            begun: list[skips.Entry] = []
            lists = {half.modules: block._modules.get(half.modules) for half in unet.halves.values()}
            for parent, child, row in _modules_in_order(unet, block, mid=name == "mid"):
                here = {axis: half for axis, half in unet.halves.items() if lists[half.modules] is parent}
                for n, (axis, half) in enumerate(here.items()):
                    earlier = list(here.values())[:n]
                    within = [(parent._modules[child].get_submodule(h.blocks), "0") for h in earlier]  # type: ignore[union-attr]
                    yield Place(stack, name, index + row, parent, child, axis, half, (*finished, *begun, *within))
                begun.append((parent, child))
            index += max(len(getattr(modules, "_modules", ())) for modules in lists.values())
            finished.append((owner, key))


def _modules_in_order(unet: UNet, block: nn.Module, mid: bool) -> list[tuple[nn.Module, str, int]]:
    """(list, name in it, row) of the modules of a block. A mid block runs its first resnet before its first row."""
    layers = {half.modules for half in unet.halves.values()}
    found = []
    for column, name in enumerate(unet.order):
        for key in getattr(block._modules.get(name), "_modules", {}):
            row = int(key)
            order = (row - 1, 1, column) if mid and name not in layers else (row, 0, column)
            found.append((order, (block._modules[name], key, row)))
    return [module for _, module in sorted(found, key=lambda pair: pair[0])]  # type: ignore[misc]


def returning(places: Sequence[Place], k: int, skipped: Sequence[int]) -> list[skips.Entry]:
    """What returns its input where place k is skipped: its module, or of one with two halves the blocks of its own."""
    alike = {i for i, other in enumerate(places) if other.entry == places[k].entry}
    return [places[k].entry] if alike <= set(skipped) else places[k].inside()


class Strong:
    """What the strong pass keeps for the weak ones, of one denoiser: the state at certain places, and what is replayed.

    Args:
        firsts: where weak passes leave the strong one, as positions in the chain.
    """

    def __init__(self, family: Family, denoiser: nn.Module, places: Sequence[Place], firsts: set[int]):
        stacked = [] if family.unet else sorted(firsts)
        self.recordings = {k: skips.Recording(places[k].block, places[k].stack.streams) for k in stacked}
        always = [(parent, name) for parent, name, _ in _named(denoiser, family.replayed)]
        needed = {k: [*always, *places[k].before] for k in firsts}
        memories = {entry: skips.Remembering(skips.child(*entry)) for entries in needed.values() for entry in entries}
        self.remembered = {k: [(*entry, memories[entry]) for entry in entries] for k, entries in needed.items()}
        self._places = places

    def swaps(self, firsts: set[int]) -> list[skips.Swap]:
        """What stands where in a strong pass after which weak ones start at `firsts`."""
        recorded = [(*self._places[k].entry, self.recordings[k]) for k in firsts if k in self.recordings]
        return [*recorded, *dict.fromkeys(swap for k in firsts for swap in self.remembered[k])]

    def has_left(self, first: int) -> bool:
        """Whether the strong pass left what a weak pass needs that starts at `first`."""
        if first in self.recordings:
            return self.recordings[first].state is not None
        return all(memory.outputs for _, _, memory in self.remembered[first])

    def forget(self) -> None:
        """Free what was kept."""
        for recording in self.recordings.values():
            recording.__dict__["state"] = None
        for remembered in self.remembered.values():
            for _, _, memory in remembered:
                memory.outputs.clear()


@dataclasses.dataclass(frozen=True)
class How:
    """What a weak pass takes beside the layers and the kind of skip."""

    moment: weakening.Moment | None = None  # None for kinds of the paper alone
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

    def swaps(self) -> list[skips.Swap]:
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

    def _weakened(self, k: int, source: skips.Recording | None) -> Iterator[skips.Swap]:
        place = self.places[k]
        if self.skip == "residual":
            for entry in returning(self.places, k, self.skipped):
                yield *entry, skips.Skipped(skips.child(*entry), place.stack.streams, source)
        elif self.skip == "shuffle":
            yield from self._shuffled(place, source)
        else:
            for entry, values in place.attention():
                yield *entry, self._attention(place, entry, values)
            if source is not None:
                yield *place.entry, skips.Resumed(place.block, place.stack.streams, source)

    def _attention(self, place: Place, entry: skips.Entry, values: Values) -> skips.StandIn:
        real = skips.child(*entry)
        if self.skip == "attention":
            return skips.IdentityAttention(real, values)
        seen = self._seen(place, sound=entry in place.sounds())
        return weakening.Changed(real, self.skip, seen, kinds.strength_of(self.skip, self.how.strength))

    def _shuffled(self, place: Place, source: skips.Recording | None) -> Iterator[skips.Swap]:
        seen = self._seen(place)
        for n, entry in enumerate([place.entry] if place.half is None else place.inside()):
            name = f"{place.address} {place.axis} {n}"
            yield *entry, weakening.Shuffled(
                skips.child(*entry), place.stack.streams, source, seen, place.lie, self.how.seed, name,
                restored=place.half is None,
            )  # fmt: skip

    def _seen(self, place: Place, sound: bool = False) -> weakening.Seen:
        assert self.how.moment is not None
        return weakening.Seen(self.how.moment, place.axis, self.family.text, sound)

    def _sharing(self, strong: Strong) -> Iterator[skips.Swap]:
        recording = strong.recordings.get(self.first)
        if recording is not None:
            for place in self.places[: self.first]:
                yield *place.entry, skips.Skipped(place.block, place.stack.streams)
        yield from self._weakened(self.first, recording)
        for k in self.skipped[1:]:
            yield from self._weakened(k, None)
        for parent, name, memory in strong.remembered[self.first]:
            yield parent, name, skips.Replayed(memory.real, memory)
        for path, interval in self.family.between:  # run after every interval-th block; those before are not read
            for parent, name, real in _named(self.denoiser, (path,)):
                if int(name) * _config(self.denoiser, interval) < self.first:
                    yield parent, name, skips.Nothing(real)

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
        moment = weakening.Moment(self.family.layout, self.denoiser.config)  # type: ignore[arg-type]
        moment.see(self.inputs)
        how = dataclasses.replace(self.how, moment=moment)
        weak = WeakPass(self.family, model, places, self.skipped, self.skip, strong, how)
        with skips.swapped(strong.swaps({self.first}) if strong else []):
            whole = flops.count(model, self.inputs)
        with skips.swapped(weak.swaps()):
            return flops.count(model, self.inputs) / whole


def _once(swaps: Iterable[skips.Swap]) -> list[skips.Swap]:
    """One stand-in for each module: both halves of a layer of SVD name the one that holds them."""
    return [(*entry, stand_in) for entry, stand_in in {(p, name): stand_in for p, name, stand_in in swaps}.items()]


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
