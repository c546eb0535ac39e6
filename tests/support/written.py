"""Both sides of a comparison: terms as users write them, in the words of oracle.py; and what all
pipelines have."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, cast

import torch

from skipguide import STG
from skipguide.families.lookup import family_of
from skipguide.families.rows import FAMILIES, REFUSED_PIPELINES
from support import oracle
from support.tiny import builders
from support.tiny.base import Tiny

SELF_ATTENTIONS = (  # as the families call it; attn2 and cross_attention are not it, but for UNets
    "attn1", "audio_attn1", "attn", "self_attention", "video_dec_block.self_attention",
    "audio_dec_block.self_attention",
)  # fmt: skip
GUIDED = [
    name
    for name in builders()
    if name.split()[0] not in REFUSED_PIPELINES and not name.endswith(" zero")
]


def axes_of(name: str) -> list[str]:
    """Of a pipeline's family; none where attention is joint."""
    return [axis for row in FAMILIES if name.split()[0] in row.pipelines for axis in row.axes]


UNETS = [
    name for name in GUIDED if any(name.split()[0] in row.pipelines for row in FAMILIES if row.unet)
]
STACKED = [name for name in GUIDED if name not in UNETS]
HALVED = [name for name in UNETS if axes_of(name) == ["spatial", "temporal"]]


def is_unet(small: Tiny) -> bool:
    return hasattr(oracle.models(small)[0], "down_blocks")


def addresses(small: Tiny) -> dict[str, list[str]]:
    """Of all layers, by stack or by part of a UNet."""
    model = oracle.models(small)[0]
    if is_unet(small):
        found: dict[str, list[str]] = {"down": [], "mid": [], "up": []}
        for layer in oracle.layers_of_unet(model):
            found[layer.split(":")[0]].append(layer)
        return found
    stacks = family_of(small.pipe).stacks.items()
    return {
        name: [f"{name}:{i}" for i in range(len(model.get_submodule(stack.path)))]
        for name, stack in stacks
    }


def ends_of(layers: Sequence[str]) -> list[str]:
    """The first, a middle and the last one."""
    return list(dict.fromkeys([layers[0], layers[min(1, len(layers) - 1)], layers[-1]]))


def attentions_of(small: Tiny) -> list[str]:
    """The self-attentions of a block, by their paths in it."""
    if is_unet(small):
        return ["attn1", "attn2"]  # of those along time both are self-attentions
    first = next(iter(family_of(small.pipe).stacks.values()))
    paths = {
        path for path, _ in oracle.models(small)[0].get_submodule(f"{first.path}.0").named_modules()
    }
    return [name for name in (*SELF_ATTENTIONS, *small.attentions) if name in paths]


def has_attention(small: Tiny, layer: str) -> bool:
    return is_unet(small) or bool(family_of(small.pipe).stacks[layer.split(":")[0]].attention)


def paths_of(small: Tiny, layers: Sequence[int | str], skip: str, axis: str | None) -> list[str]:
    """The modules that layers are. An int is a block of each axis, or of one, where those of two
    run in turn."""
    if is_unet(small):
        unet = oracle.models(small)[0]
        found = oracle.layers_of_unet(unet)
        paths = [path for layer in layers for path in found[str(layer)].skipped(skip, axis)]
        layout = family_of(small.pipe).unet
        divided = layout is not None and layout.is_divided
        return oracle.whole_transformers(unet, paths) if divided and skip == "residual" else paths
    stacks = family_of(small.pipe).stacks
    in_turn = any(stack.axis for stack in stacks.values())
    paths = []
    for layer in layers:
        names = (
            [layer.split(":")[0]]
            if isinstance(layer, str)
            else list(stacks)
            if in_turn
            else list(stacks)[:1]
        )
        i = layer.split(":")[1] if isinstance(layer, str) else layer
        paths += [f"{stacks[name].path}.{i}" for name in names if axis in (None, stacks[name].axis)]
    return paths


def by_hand(small: Tiny, terms: Sequence[STG], phi: float = 0.0, **options: Any) -> torch.Tensor:
    """The latents of a run with these terms, by the oracle."""
    hand = [
        oracle.Term(
            paths_of(small, cast("list[Any]", term.layers), term.skip, term.axis), term.skip,
            term.scales(2), term.start, term.stop,
        )
        for term in terms
    ]  # fmt: skip
    return oracle.by_hand(small, hand, attentions_of(small), phi, **options)


def settings(small: Tiny) -> Iterator[dict[str, Any]]:
    """With CFG, and without where the pipeline can."""
    yield {}
    if small.off:
        yield small.off


def assert_equal(
    small: Tiny, ours: torch.Tensor, theirs: torch.Tensor, plain: torch.Tensor
) -> None:
    """Equal up to float32's rounding, in a run that the guidance changed much more than that."""
    atol = small.atol * max(1, float(plain.abs().max()))
    moved = (ours - plain).abs().max()
    assert moved > max(1e-3, 20 * atol), "the guidance had no effect"
    torch.testing.assert_close(ours, theirs, atol=atol, rtol=1e-4)


# --- without a trace ------------------------------------------------------------------------------


def modules_of(small: Tiny) -> list[int]:
    """The entries of every module's children, whatever stands there."""
    modules = [module for model in oracle.models(small) for module in model.modules()]
    return [id(child) for module in modules for child in module._modules.values()]


def trace_of(small: Tiny) -> list[Any]:
    """Everything that guidance could leave behind: modules, their attributes, their hooks."""
    found: list[Any] = []
    for model in oracle.models(small):
        for name, module in model.named_modules():
            found.append(
                (name, id(module), sorted(vars(module)), getattr(module.forward, "__func__", None))
            )
            hooks = {
                key: value
                for key, value in vars(module).items()
                if "hook" in key and isinstance(value, dict)
            }
            found += [(key, len(value)) for key, value in hooks.items()]
    return found
