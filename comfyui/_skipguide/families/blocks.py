# Built by `make comfyui` from src/skipguide/families/blocks.py; do not edit.
"""From what a user wrote to the blocks of a model, and whether the model is in a state in which
they can be skipped."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

from torch import nn

from ..families import schema
from ..families.schema import AxisLayers, Family, Stack, UNetLayout, ValueProjection
from ..method import perturbations
from ..method.terms import SLG, STG, Random

Term = STG | SLG


def resolve_layers(family: Family, sites: Sequence[LayerSite], term: Term) -> list[int]:
    """The layers of a term as sorted positions in the chain of blocks; of a Random all that may be
    drawn.

    Raises:
        ValueError: for a layer out of range, an unknown stack, or a skip or axis that the family
            does not have.
    """
    _check_axis(family, term)
    _check_skip(family, term)
    if isinstance(term, STG) and term.audio_scale is not None and "audio" not in family.outputs:
        raise ValueError(
            f"audio_scale is for models that make sound, but {family.name} makes none. Leave"
            " audio_scale=None."
        )
    if isinstance(term.layers, Random):
        return _random_candidates(family, sites, term)
    found = [k for layer in term.layers for k in _find_positions(family, sites, layer, term.axis)]
    twice = next((k for k in found if found.count(k) > 1), None)
    if twice is not None:
        name = sites[twice].address if len(family.stacks) > 1 else sites[twice].index
        raise ValueError(
            f"each layer may be named once, but {name} is named repeatedly. Remove the copies."
        )
    return sorted(found)


def _check_skip(family: Family, term: Term) -> None:
    reason = perturbations.unsupported_reason(term.skip, family.traits)
    if reason:
        raise ValueError(
            f"skip must be one that {family.name} has"
            f" ({', '.join(perturbations.available_skips(family.traits))}), but got "
            f'{term.skip!r}: {reason}. Use skip="residual".'
        )


def _random_candidates(family: Family, sites: Sequence[LayerSite], term: Term) -> list[int]:
    """What a Random may draw: all blocks (of its axis) but the first and the last of each stack
    that runs in turn."""
    if family.unet:
        raise ValueError(
            f"a Random draws from blocks that are alike, but the layers of {family.model} differ in"
            ' size. Name some, as in layers=["up:0"].'
        )
    mine = [k for k, site in enumerate(sites) if term.axis in (None, site.axis)]
    ranks = {k: sites[k].index if family.interleaved else k for k in mine}
    found = [k for k in mine if min(ranks.values()) < ranks[k] < max(ranks.values())]
    if not found:
        raise ValueError(
            f"a Random needs blocks between the first and the last one, but this {family.model} has"
            f" {len(mine)}. Name layers."
        )
    return found


def _find_positions(
    family: Family, sites: Sequence[LayerSite], layer: int | str, axis: str | None
) -> list[int]:
    """Where a layer is in the chain: one place, or one of each axis where those of space and time
    run in turn."""
    if isinstance(layer, str):
        names, index = [layer.split(":")[0]], int(layer.split(":")[1])
    elif family.unet:
        raise ValueError(
            f"a layer of a UNet must be written with its part (down, mid or up), but got {layer}."
            " Write "
            f'layers=["up:{layer}"], for example; `skipguide layers` lists them.'
        )
    elif family.interleaved:
        names, index = (
            [name for name, stack in family.stacks.items() if axis in (None, stack.axis)],
            layer,
        )
    else:
        names, index = [next(iter(family.stacks))], layer
    for name in names:
        _check_stack(family, layer, name, index, axis)
    found = [k for k, site in enumerate(sites) if site.name in names and site.index == index]
    if len({sites[k].name for k in found}) < len(names):
        name = next(name for name in names if name not in {sites[k].name for k in found})
        count = len({site.index for site in sites if site.name == name})
        raise ValueError(
            f"layers of this {family.model} must be from 0 to {count - 1} ({count} {name}), but got"
            f" {index}. Layers count from 0."
        )
    wanted = [k for k in found if axis in (None, sites[k].axis)]
    if not wanted:
        has = " and ".join(str(sites[k].axis) for k in found)
        raise ValueError(
            f'the layers of axis="{axis}" must have {axis} attention, but {layer!r} of this'
            f" {family.model} is {has} only. Choose another; `skipguide layers` lists them."
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
            f'the layers of axis="{axis}" must be in a {axis} stack, but {layer!r} is not. Leave'
            f" axis=None, or write layers=[{index}]."
        )


def _check_axis(family: Family, term: Term) -> None:
    if term.axis is not None and term.axis not in family.axes:
        known = (
            ", ".join(f'"{axis}"' for axis in family.axes)
            or "none, its attention is joint over space and time"
        )
        raise ValueError(
            f"axis must be one that {family.name} has ({known}), but got {term.axis!r}. Leave"
            " axis=None."
        )


def check_disjoint(
    terms: Sequence[Term], skipped: Sequence[list[int]], sites: Sequence[LayerSite]
) -> None:
    """See that no two SLG terms skip the same layer: there is one unconditional pass.

    Raises:
        ValueError: if two do.
    """
    seen: set[int] = set()
    for where in (
        where for term, where in zip(terms, skipped, strict=True) if isinstance(term, SLG)
    ):
        if both := seen & set(where):
            site = sites[min(both)]
            raise ValueError(
                f"SLG terms share the one unconditional pass, so each layer may be in one of them,"
                f" but "
                f'"{site.address}" is in two. Merge them.'
            )
        seen |= set(where)


@dataclasses.dataclass(frozen=True)
class LayerSite:
    """A block, or half a transformer layer of a UNet, in the order in which a denoiser runs
    them."""

    stack: Stack
    name: str  # of its stack
    index: int  # in its stack
    parent: nn.Module  # the list that holds it
    key: str  # in that list
    axis: str | None = None
    axis_layers: AxisLayers | None = None  # of a UNet's layer
    preceding_modules: tuple[schema.Entry, ...] = ()  # in a UNet: what runs before it

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

    def inner_blocks(self) -> list[schema.Entry]:
        """The transformer blocks of a UNet's half layer."""
        assert self.axis_layers is not None
        blocks = self.block.get_submodule(self.axis_layers.blocks)
        return [(blocks, name) for name in blocks._modules]

    def attentions(self) -> Iterator[tuple[schema.Entry, ValueProjection]]:
        """The self-attentions, and what is left of each with the identity map."""
        paths = self.stack.attention
        if self.axis_layers is not None:
            values = paths["attn1"]
            names = [
                f"{self.axis_layers.blocks}.{n}.{attn}"
                for _, n in self.inner_blocks()
                for attn in self.axis_layers.attention
            ]
            paths = dict.fromkeys(names, values)
        for path, values in paths.items():
            owner, _, name = path.rpartition(".")
            yield (self.block.get_submodule(owner), name), values

    def audio_attentions(self) -> set[schema.Entry]:
        """Those of them that see sound instead of a video."""
        parts = [path.rpartition(".") for path in self.stack.audio]
        return {(self.block.get_submodule(owner), name) for owner, _, name in parts}

    @property
    def token_layout(self) -> str:
        """As for weakening.Shuffled."""
        return (
            self.stack.token_layout if self.axis_layers is None else self.axis_layers.token_layout
        )


def layer_sites(family: Family, denoiser: nn.Module) -> tuple[LayerSite, ...]:
    """Every block of a denoiser in the order in which it runs them: stack after stack, or in turn
    where paired."""
    if family.unet is not None:
        return tuple(_unet_layer_sites(family, family.unet, denoiser))
    stacks = {
        name: (stack, denoiser.get_submodule(stack.path)) for name, stack in family.stacks.items()
    }
    places = [
        LayerSite(stack, name, i, blocks, key, stack.axis)
        for name, (stack, blocks) in stacks.items()
        for i, key in enumerate(blocks._modules)
    ]
    return tuple(sorted(places, key=lambda site: site.index) if family.interleaved else places)


def depth(family: Family, sites: Sequence[LayerSite]) -> int:
    """Blocks of the first stack, by which presets tell checkpoints apart; of a UNet the layers of
    all its parts."""
    first = next(iter(family.stacks))
    return len({site.address for site in sites if family.unet or site.name == first})


def _unet_layer_sites(family: Family, unet: UNetLayout, denoiser: nn.Module) -> Iterator[LayerSite]:
    """The halves of its transformer layers. What runs before one of them is named in modules as
    large as can be."""
    finished: list[schema.Entry] = []
    for name, stack in family.stacks.items():
        index = 0
        for owner, key, block in _find_modules(denoiser, (stack.path,)):
            begun: list[schema.Entry] = []
            lists = {
                half.modules: block._modules.get(half.modules) for half in unet.axis_layers.values()
            }
            for parent, child, row in _modules_in_order(unet, block, mid=name == "mid"):
                here = {
                    axis: half
                    for axis, half in unet.axis_layers.items()
                    if lists[half.modules] is parent
                }
                for n, (axis, half) in enumerate(here.items()):
                    earlier = list(here.values())[:n]
                    within = [
                        (parent._modules[child].get_submodule(h.blocks), "0") for h in earlier
                    ]  # type: ignore[union-attr]
                    yield LayerSite(
                        stack,
                        name,
                        index + row,
                        parent,
                        child,
                        axis,
                        half,
                        (*finished, *begun, *within),
                    )
                begun.append((parent, child))
            index += max(len(getattr(modules, "_modules", ())) for modules in lists.values())
            finished.append((owner, key))


def _modules_in_order(
    unet: UNetLayout, block: nn.Module, mid: bool
) -> list[tuple[nn.Module, str, int]]:
    """(list, name in it, row) of the modules of a block. A mid block runs its first resnet before
    its first row."""
    layers = {half.modules for half in unet.axis_layers.values()}
    found = []
    for column, name in enumerate(unet.module_order):
        for key in getattr(block._modules.get(name), "_modules", {}):
            row = int(key)
            order = (row - 1, 1, column) if mid and name not in layers else (row, 0, column)
            found.append((order, (block._modules[name], key, row)))
    return [module for _, module in sorted(found, key=lambda pair: pair[0])]  # type: ignore[misc]


def modules_to_bypass(
    sites: Sequence[LayerSite], k: int, skipped: Sequence[int]
) -> list[schema.Entry]:
    """What returns its input where place k is skipped: its module, or of one with two halves the
    blocks of its own."""
    alike = {i for i, other in enumerate(sites) if other.entry == sites[k].entry}
    return [sites[k].entry] if alike <= set(skipped) else sites[k].inner_blocks()


def _find_modules(
    denoiser: nn.Module, paths: Sequence[str]
) -> Iterator[tuple[nn.Module, str, Any]]:
    """(parent, name, module) for each path that the denoiser has; for a ModuleList, for each of its
    entries."""
    for path in paths:
        owner, _, name = path.rpartition(".")
        parent = denoiser.get_submodule(owner)
        module = parent._modules.get(name)
        if isinstance(module, nn.ModuleList):
            yield from ((module, child, real) for child, real in module._modules.items())
        elif module is not None:
            yield parent, name, module
