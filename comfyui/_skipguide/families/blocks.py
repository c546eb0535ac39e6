# Built by `make comfyui` from src/skipguide/families/blocks.py; do not edit.
"""Find the blocks of a model, and those that the layers of a term name.

A denoiser is a chain of sites, one for each block, or one for each half of a transformer layer of a
UNet (of a UNet for images one for each transformer block). The rest of the package speaks of layers
as positions in this chain."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence

from torch import nn

from ..families import schema
from ..families.schema import AxisLayers, Family, Stack, UNetLayout, ValueProjection
from ..method import parsing, perturbations
from ..method.terms import SLG, STG, Modality, Random

Term = STG | SLG


def resolve_layers(family: Family, sites: Sequence[LayerSite], term: Term) -> list[int]:
    """Return the layers of a term as sorted positions in the chain; of a Random all candidates.

    Args:
        family: the row of the model.
        sites: its chain, from layer_sites().
        term: what the user wrote.

    Raises:
        ValueError: for a layer out of range, an unknown stack, or a skip or axis that the family
            does not have.
    """
    _check_axis(family, term)
    _check_skip(family, term)
    if isinstance(term, STG) and term.audio_scale is not None and "audio" not in family.outputs:
        raise ValueError(
            f"audio_scale is for models that make sound, but {family.name} makes none. Leave it"
            " out."
        )
    if isinstance(term.layers, Random):
        return _random_candidates(family, sites, term)
    if isinstance(term, Modality) and not term.layers:
        return list(range(len(sites)))
    found = [k for layer in term.layers for k in find_positions(family, sites, layer, term.axis)]
    resolve_heads(family, sites, term)
    twice = next((k for k in found if found.count(k) > 1), None)
    if twice is not None:
        name = sites[twice].address if len(family.stacks) > 1 else sites[twice].index
        raise ValueError(
            f"each layer may be named once, but {name} is named repeatedly. Remove the copies"
            + (f', or write its heads once, as in "{name}@0,1".' if _names_heads(term) else ".")
        )
    return sorted(found)


def resolve_heads(
    family: Family, sites: Sequence[LayerSite], term: Term
) -> Mapping[int, tuple[int, ...]]:
    """Return the heads that a term names, by the positions of their layers.

    Raises:
        ValueError: for a head that the attention of a layer does not have.
    """
    if isinstance(term.layers, Random):
        return {}
    found = {}
    for layer in term.layers:
        heads = parsing.split_heads(layer)[1]
        for k in find_positions(family, sites, layer, term.axis) if heads else ():
            _check_heads_exist(family, sites[k], heads)
            found[k] = heads
    return found


def _check_heads_exist(family: Family, site: LayerSite, heads: tuple[int, ...]) -> None:
    count = min(count_heads(owner._modules[name]) for (owner, name), _ in site.attentions())
    if max(heads) >= count:
        raise ValueError(
            f'heads of "{site.address}" of this {family.model} must be from 0 to {count - 1}'
            f" ({count} heads), but got {max(heads)}. Heads count from 0."
        )


def count_heads(attention: nn.Module | None) -> int:
    """Return how many heads an attention has; Kandinsky has a name of its own for them."""
    named = (getattr(attention, name, None) for name in ("heads", "num_heads"))
    return next(int(found) for found in named if found is not None)


def check_term(family: Family, blocks: int, term: Term) -> None:
    """Check a term of which no model is at hand, as a preset's: all that is wrong for certain.

    Args:
        blocks: as `depth` counts them; 0 where it is not known.

    Raises:
        ValueError: as resolve_layers(); other stacks than the first are of any length.
    """
    _check_axis(family, term)
    _check_skip(family, term)
    if isinstance(term.layers, Random):
        return
    first = next(iter(family.stacks))
    for layer in term.layers:
        names, index = _stacks_of(family, layer, term.axis)
        for name in names:
            _check_stack(family, layer, name, index, term.axis)
        if blocks and index >= blocks and (family.unet or first in names):
            raise _no_such_layer(family, blocks, first, index)


def _check_skip(family: Family, term: Term) -> None:
    if isinstance(term, Modality):
        if not all(stack.isolation for stack in family.stacks.values()):
            raise ValueError(
                "Modality is for models in whose blocks video and sound attend to each other in"
                f" modules of their own (LTX-2), but {family.name} has none. Leave it out."
            )
        return
    reason = perturbations.unsupported_reason(term.skip, family.traits)
    if not reason and "softmax" not in family.traits and _names_heads(term):
        raise ValueError(
            f"heads must be those of an attention whose map can be changed for each of them, but"
            f" {family.name} has none: {perturbations.MISSING_TRAIT_REASONS['softmax']}. Leave the"
            " heads out."
        )
    if reason:
        raise ValueError(
            f"skip must be one that {family.name} has"
            f" ({', '.join(perturbations.available_skips(family.traits))}), but got "
            f'{term.skip!r}: {reason}. Use skip="residual".'
        )


def _names_heads(term: Term) -> bool:
    layers = () if isinstance(term.layers, Random) else term.layers
    return any(parsing.split_heads(layer)[1] for layer in layers)


def _random_candidates(family: Family, sites: Sequence[LayerSite], term: Term) -> list[int]:
    """Return what a Random may draw: all blocks of its axis but the first and the last.

    Where stacks run in turn, these are the first and the last of each."""
    if family.unet:
        raise ValueError(
            f"Random draws from blocks that are alike, but the layers of {family.model} differ in"
            ' size. Name some, as in layers=["up:0"].'
        )
    mine = [k for k, site in enumerate(sites) if term.axis in (None, site.axis)]
    ranks = {k: sites[k].index if family.interleaved else k for k in mine}
    found = [k for k in mine if min(ranks.values()) < ranks[k] < max(ranks.values())]
    if not found:
        raise ValueError(
            f"Random needs blocks between the first and the last one, but this {family.model} has"
            f" {len(mine)}. Name the layers instead."
        )
    return found


def find_positions(
    family: Family, sites: Sequence[LayerSite], layer: int | str, axis: str | None = None
) -> list[int]:
    """Return the positions of a layer: one, or one for each axis where those of space and time run
    in turn.

    Raises:
        ValueError: for a stack or a number that the model has not, or another axis.
    """
    names, index = _stacks_of(family, layer, axis)
    for name in names:
        _check_stack(family, layer, name, index, axis)
    found = [k for k, site in enumerate(sites) if site.name in names and site.index == index]
    if len({sites[k].name for k in found}) < len(names):
        name = next(name for name in names if name not in {sites[k].name for k in found})
        count = len({site.index for site in sites if site.name == name})
        raise _no_such_layer(family, count, name, index)
    wanted = [k for k in found if axis in (None, sites[k].axis)]
    if not wanted:
        has = " and ".join(str(sites[k].axis) for k in found)
        raise ValueError(
            f'the layers of axis="{axis}" must have {axis} attention, but {layer!r} of this'
            f" {family.model} is {has} only. Choose another; `skipguide layers` lists them."
        )
    return wanted


def _no_such_layer(family: Family, count: int, name: str, index: int) -> ValueError:
    return ValueError(
        f"layers of this {family.model} must be from 0 to {count - 1} ({count} {name}), but got"
        f" {index}. Layers count from 0."
    )


def _stacks_of(family: Family, layer: int | str, axis: str | None) -> tuple[list[str], int]:
    """Return the names of the stacks that a layer is in, and its number there."""
    layer = parsing.split_heads(layer)[0]
    if isinstance(layer, str):
        name, _, number = layer.partition(":")
        return [name], int(number)
    if family.unet:
        raise ValueError(
            f"a layer of a UNet must be written with its part (down, mid or up), but got {layer}."
            f' Write layers=["up:{layer}"], for example; `skipguide layers` lists them.'
        )
    if family.interleaved:
        return [name for name, one in family.stacks.items() if axis in (None, one.axis)], layer
    return [next(iter(family.stacks))], layer


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
        none = "its attention is joint over space and time"
        if family.makes == "image":
            none = "for it makes images, which are one frame"
        known = ", ".join(f'"{axis}"' for axis in family.axes) or f"none, {none}"
        raise ValueError(
            f"axis must be one that {family.name} has ({known}), but got {term.axis!r}. Leave"
            " axis=None."
        )


def check_disjoint(
    terms: Sequence[Term], skipped: Sequence[list[int]], sites: Sequence[LayerSite]
) -> None:
    """Reject SLG terms that skip the same layer, for they share one unconditional pass.

    Args:
        terms: all terms.
        skipped: the positions that each of them skips.
        sites: the chain.

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
                "SLG terms share the one unconditional pass, so each layer may be in one of them,"
                f' but "{site.address}" is in two. Merge them.'
            )
        seen |= set(where)


@dataclasses.dataclass(frozen=True)
class LayerSite:
    """A block, or half a transformer layer of a UNet: one link in the chain of a denoiser.

    Args:
        stack: the list that the block is in, as its family's row describes it.
        name: the name of the stack.
        index: the block's number in the stack.
        parent: the module that holds the block.
        key: the block's name in that module.
        axis: the axis along which its attention sees; None for joint attention.
        axis_layers: in a UNet, what the row says of layers of this axis.
        preceding_modules: in a UNet, the modules that run before it, each as large as can be; in a
            stack with long skip connections, the blocks before it.
        inner_block: in a UNet whose transformers are divided, the name of its block in them.
    """

    stack: Stack
    name: str
    index: int
    parent: nn.Module
    key: str
    axis: str | None = None
    axis_layers: AxisLayers | None = None
    preceding_modules: tuple[schema.Entry, ...] = ()
    inner_block: str = ""

    @property
    def block(self) -> nn.Module:
        """The module itself."""
        return self.parent._modules[self.key]  # type: ignore[return-value]

    @property
    def address(self) -> str:
        """The layer as a user writes it, such as "blocks:3" or "up:0"."""
        return f"{self.name}:{self.index}"

    @property
    def entry(self) -> schema.Entry:
        """The parent module and the name under which a proxy replaces this layer."""
        return self.parent, self.key

    def inner_blocks(self) -> list[schema.Entry]:
        """Return the transformer blocks in this half of a UNet's layer."""
        assert self.axis_layers is not None
        blocks = self.block.get_submodule(self.axis_layers.blocks)
        return [(blocks, name) for name in blocks._modules if self.inner_block in ("", name)]

    @property
    def text_block(self) -> nn.Module:
        """The module by whose paths the row names attention to the text."""
        if not self.inner_block:
            return self.block
        ((blocks, name),) = self.inner_blocks()
        return blocks.get_submodule(name)

    def attentions(self) -> Iterator[tuple[schema.Entry, ValueProjection]]:
        """Yield the self-attentions, each with what computes it when its map is the identity."""
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
            parent = self.block.get_submodule(owner)
            if parent._modules.get(name) is not None:  # SD3.5's second is in some blocks only
                yield (parent, name), values

    def audio_attentions(self) -> set[schema.Entry]:
        """Return the self-attentions that see sound instead of a video."""
        return set(self._entries(self.stack.audio))

    def isolating_modules(self) -> list[schema.Entry]:
        """Return the modules without which video and sound do not see each other."""
        return self._entries(self.stack.isolation)

    def _entries(self, paths: Sequence[str]) -> list[schema.Entry]:
        parts = [path.rpartition(".") for path in paths]
        return [(self.block.get_submodule(owner), name) for owner, _, name in parts]

    @property
    def token_layout(self) -> str:
        """The order of its attention's tokens, as `weak.shuffle.ShuffleTokens` has it."""
        return (
            self.stack.token_layout if self.axis_layers is None else self.axis_layers.token_layout
        )


def layer_sites(family: Family, denoiser: nn.Module) -> tuple[LayerSite, ...]:
    """Return the chain of a denoiser: every block, in the order in which they run."""
    if family.unet is not None:
        found = _unet_layer_sites(family, family.unet, denoiser)
        return tuple(_divide_sites(found) if family.unet.is_divided else found)
    stacks = {
        name: (stack, denoiser.get_submodule(stack.path)) for name, stack in family.stacks.items()
    }
    places = [
        LayerSite(stack, name, i, blocks, key, stack.axis)
        for name, (stack, blocks) in stacks.items()
        for i, key in enumerate(blocks._modules)
    ]
    if family.long_skips:
        entries = tuple(site.entry for site in places)
        places = [
            dataclasses.replace(site, preceding_modules=entries[:k])
            for k, site in enumerate(places)
        ]
    return tuple(sorted(places, key=lambda site: site.index) if family.interleaved else places)


def depth(family: Family, sites: Sequence[LayerSite]) -> int:
    """Count the blocks of the first stack, or of a UNet the layers of all parts.

    Presets tell checkpoints apart by it."""
    first = next(iter(family.stacks))
    return len({site.address for site in sites if family.unet or site.name == first})


def _unet_layer_sites(family: Family, unet: UNetLayout, denoiser: nn.Module) -> Iterator[LayerSite]:
    """Yield the halves of a UNet's transformer layers, each with the modules that run before it."""
    finished: list[schema.Entry] = []
    for name, stack in family.stacks.items():
        index = 0
        for owner, key, block in find_modules(denoiser, (stack.path,)):
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
                    layer = parent.get_submodule(child)
                    within = [(layer.get_submodule(h.blocks), "0") for h in earlier]
                    before = (*finished, *begun, *within)
                    yield LayerSite(stack, name, index + row, parent, child, axis, half, before)
                begun.append((parent, child))
            index += max(len(getattr(modules, "_modules", ())) for modules in lists.values())
            finished.append((owner, key))


def _divide_sites(sites: Iterable[LayerSite]) -> Iterator[LayerSite]:
    """Yield a site for each block inside of the transformers of a UNet, counted in its part."""
    counts: dict[str, int] = {}
    for site in sites:
        inner = site.inner_blocks()
        for n, (_, key) in enumerate(inner):
            before = (*site.preceding_modules, *inner[:n])
            index = counts.get(site.name, 0)
            counts[site.name] = index + 1
            yield dataclasses.replace(site, index=index, preceding_modules=before, inner_block=key)


def _modules_in_order(
    unet: UNetLayout, block: nn.Module, mid: bool
) -> list[tuple[nn.Module, str, int]]:
    """Return (list, name in it, row) of the modules of a UNet block, in the order of their run.

    A mid block runs its first resnet before its first row."""
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
    """Return the modules to bypass when site k is skipped.

    It is the whole module, or the site's blocks in it if another site there stays: the other half
    of a layer, or other blocks of a divided transformer.

    Args:
        sites: the chain.
        k: the position of the site.
        skipped: all positions that are skipped, k among them.
    """
    alike = {i for i, other in enumerate(sites) if other.entry == sites[k].entry}
    return [sites[k].entry] if alike <= set(skipped) else sites[k].inner_blocks()


def find_modules(
    denoiser: nn.Module, paths: Sequence[str]
) -> Iterator[tuple[nn.Module, str, nn.Module]]:
    """Yield (parent, name, module) for each path that the denoiser has.

    A path of a ModuleList stands for all modules in it."""
    for path in paths:
        owner, _, name = path.rpartition(".")
        parent = denoiser.get_submodule(owner)
        module = parent._modules.get(name)
        if isinstance(module, nn.ModuleList):
            yield from ((module, child, real) for child, real in module._modules.items())
        elif module is not None:
            yield parent, name, module
