"""From what a user wrote to the blocks of a model, and whether the model is in a state in which they can be skipped."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

from torch import nn

from skipguide.families import schema
from skipguide.families.schema import Family, Half, Stack, UNet, Values
from skipguide.method import perturbations
from skipguide.method.terms import SLG, STG, Random

Term = STG | SLG


def resolve(family: Family, places: Sequence[Place], term: Term) -> list[int]:
    """The layers of a term as sorted positions in the chain of blocks; of a Random all that may be drawn.

    Raises:
        ValueError: for a layer out of range, an unknown stack, or a skip or axis that the family does not have.
    """
    _check_axis(family, term)
    _check_skip(family, term)
    if isinstance(term, STG) and term.audio_scale is not None and "audio" not in family.outputs:
        raise ValueError(
            f"audio_scale is for models that make sound, but {family.name} makes none. Leave audio_scale=None."
        )
    if isinstance(term.layers, Random):
        return _middle(family, places, term)
    found = [k for layer in term.layers for k in _positions(family, places, layer, term.axis)]
    twice = next((k for k in found if found.count(k) > 1), None)
    if twice is not None:
        name = places[twice].address if len(family.stacks) > 1 else places[twice].index
        raise ValueError(f"each layer may be named once, but {name} is named repeatedly. Remove the copies.")
    return sorted(found)


def _check_skip(family: Family, term: Term) -> None:
    reason = perturbations.reason_against(term.skip, family.traits)
    if reason:
        raise ValueError(
            f"skip must be one that {family.name} has ({', '.join(perturbations.available(family.traits))}), but got "
            f'{term.skip!r}: {reason}. Use skip="residual".'
        )


def _middle(family: Family, places: Sequence[Place], term: Term) -> list[int]:
    """What a Random may draw: all blocks (of its axis) but the first and the last of each stack that runs in turn."""
    if family.unet:
        raise ValueError(
            f"a Random draws from blocks that are alike, but the layers of {family.model} differ in size. Name some, "
            'as in layers=["up:0"].'
        )
    mine = [k for k, place in enumerate(places) if term.axis in (None, place.axis)]
    ranks = {k: places[k].index if family.paired else k for k in mine}
    found = [k for k in mine if min(ranks.values()) < ranks[k] < max(ranks.values())]
    if not found:
        raise ValueError(
            f"a Random needs blocks between the first and the last one, but this {family.model} has {len(mine)}. Name "
            "layers."
        )
    return found


def _positions(family: Family, places: Sequence[Place], layer: int | str, axis: str | None) -> list[int]:
    """Where a layer is in the chain: one place, or one of each axis where those of space and time run in turn."""
    if isinstance(layer, str):
        names, index = [layer.split(":")[0]], int(layer.split(":")[1])
    elif family.unet:
        raise ValueError(
            f"a layer of a UNet must be written with its part (down, mid or up), but got {layer}. Write "
            f'layers=["up:{layer}"], for example; `skipguide layers` lists them.'
        )
    elif family.paired:
        names, index = [name for name, stack in family.stacks.items() if axis in (None, stack.axis)], layer
    else:
        names, index = [next(iter(family.stacks))], layer
    for name in names:
        _check_stack(family, layer, name, index, axis)
    found = [k for k, place in enumerate(places) if place.name in names and place.index == index]
    if len({places[k].name for k in found}) < len(names):
        name = next(name for name in names if name not in {places[k].name for k in found})
        count = len({place.index for place in places if place.name == name})
        raise ValueError(
            f"layers of this {family.model} must be from 0 to {count - 1} ({count} {name}), but got {index}. "
            "Layers count from 0."
        )
    wanted = [k for k in found if axis in (None, places[k].axis)]
    if not wanted:
        has = " and ".join(str(places[k].axis) for k in found)
        raise ValueError(
            f'the layers of axis="{axis}" must have {axis} attention, but {layer!r} of this {family.model} is {has} '
            "only. Choose another; `skipguide layers` lists them."
        )
    return wanted


def _check_stack(family: Family, layer: int | str, name: str, index: int, axis: str | None) -> None:
    if name not in family.stacks:
        known = ", ".join(family.stacks)
        raise ValueError(
            f"a layer's stack must be one that {family.name} has ({known}), but got {name}. "
            f'Write layers=["{next(iter(family.stacks))}:{index}"], for example.'
        )
    if axis is not None and not family.unet and family.stacks[name].axis != axis:
        raise ValueError(
            f'the layers of axis="{axis}" must be in a {axis} stack, but {layer!r} is not. Leave axis=None, or '
            f"write layers=[{index}]."
        )


def _check_axis(family: Family, term: Term) -> None:
    if term.axis is not None and term.axis not in family.axes:
        known = ", ".join(f'"{axis}"' for axis in family.axes) or "none, its attention is joint over space and time"
        raise ValueError(f"axis must be one that {family.name} has ({known}), but got {term.axis!r}. Leave axis=None.")


def check_disjoint(terms: Sequence[Term], skipped: Sequence[list[int]], places: Sequence[Place]) -> None:
    """See that no two SLG terms skip the same layer: there is one unconditional pass.

    Raises:
        ValueError: if two do.
    """
    seen: set[int] = set()
    for where in (where for term, where in zip(terms, skipped, strict=True) if isinstance(term, SLG)):
        if both := seen & set(where):
            place = places[min(both)]
            raise ValueError(
                f"SLG terms share the one unconditional pass, so each layer may be in one of them, but "
                f'"{place.address}" is in two. Merge them.'
            )
        seen |= set(where)


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
    before: tuple[schema.Entry, ...] = ()  # in a UNet: what runs before it

    @property
    def block(self) -> nn.Module:
        return self.parent._modules[self.key]  # type: ignore[return-value]

    @property
    def address(self) -> str:
        """As in `layers`."""
        return f"{self.name}:{self.index}"

    @property
    def entry(self) -> schema.Entry:
        return self.parent, self.key

    def inside(self) -> list[schema.Entry]:
        """The transformer blocks of a UNet's half layer."""
        assert self.half is not None
        blocks = self.block.get_submodule(self.half.blocks)
        return [(blocks, name) for name in blocks._modules]

    def attention(self) -> Iterator[tuple[schema.Entry, Values]]:
        """The self-attentions, and what is left of each with the identity map."""
        paths = self.stack.attention
        if self.half is not None:
            values = paths["attn1"]
            names = [f"{self.half.blocks}.{n}.{attn}" for _, n in self.inside() for attn in self.half.attention]
            paths = dict.fromkeys(names, values)
        for path, values in paths.items():
            owner, _, name = path.rpartition(".")
            yield (self.block.get_submodule(owner), name), values

    def sounds(self) -> set[schema.Entry]:
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
    finished: list[schema.Entry] = []
    for name, stack in family.stacks.items():
        index = 0
        for owner, key, block in _named(denoiser, (stack.path,)):
            begun: list[schema.Entry] = []
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


def returning(places: Sequence[Place], k: int, skipped: Sequence[int]) -> list[schema.Entry]:
    """What returns its input where place k is skipped: its module, or of one with two halves the blocks of its own."""
    alike = {i for i, other in enumerate(places) if other.entry == places[k].entry}
    return [places[k].entry] if alike <= set(skipped) else places[k].inside()


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
