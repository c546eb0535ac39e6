"""Weaken a denoiser by its own LoRAs: run it without them, or with one of them at another scale.

peft puts a layer of its own around each layer that a LoRA changes. In the weak pass another module
stands in its place: the layer inside of it, or a copy of peft's layer that shares all weights and
has another number for the scale. Nothing of the model is changed, so there is nothing to give back
but the modules, whatever happens in the pass."""

from __future__ import annotations

import copy
import sys
from collections.abc import Iterator, Sequence
from typing import Any

from torch import nn

from skipguide.families.blocks import LayerSite
from skipguide.families.schema import Entry, Family
from skipguide.method.loras import WeakLoRA, WithoutLoRA
from skipguide.weak import patching
from skipguide.weak.prefix_cache import PrefixCache
from skipguide.weak.weak_pass import WeakPass, stack_cost

_SKIP = "lora"  # in the place of a kind of skip: no layer is skipped


def adapter_layers(denoiser: nn.Module) -> Iterator[tuple[Entry, Any]]:
    """Yield the layers that peft has put into a model, each with its place."""
    tuners = sys.modules.get("peft.tuners.tuners_utils")
    if tuners is None:  # nobody can have loaded a LoRA
        return
    for parent in denoiser.modules():
        for name, child in parent._modules.items():
            if isinstance(child, tuners.BaseTunerLayer):
                yield (parent, name), child


def find_changed(family: Family, denoiser: nn.Module, weak: WeakLoRA) -> list[tuple[Entry, Any]]:
    """Return the layers that are others in the weak pass, each with its place.

    Raises:
        ValueError: without a LoRA on the denoiser, or without the one that is named; for LoRAs that
            are fused into the weights, or switched off.
    """
    found = list(adapter_layers(denoiser))
    if not found:
        raise ValueError(
            f"weak={weak!r} needs a LoRA on the {family.model}, but none is loaded. Load one with"
            " pipe.load_lora_weights() before guide(), or leave weak out."
        )
    if any(layer.merged for _, layer in found):
        raise ValueError(
            f"weak={weak!r} needs LoRAs beside the weights, but those of this {family.model} are"
            " fused into them. Call pipe.unfuse_lora()."
        )
    if isinstance(weak, WithoutLoRA):
        if all(layer.disable_adapters for _, layer in found):
            raise ValueError(
                f"weak={weak!r} needs a LoRA that is on, but those of this {family.model} are"
                " switched off, so that there is nothing to leave out. Call pipe.enable_lora()."
            )
        return found
    names = sorted({name for _, layer in found for name in _adapter_names(layer)})
    if weak.name not in names:
        raise ValueError(
            f"weak={weak!r} needs the LoRA {weak.name!r} on the {family.model}, but those that are"
            f" loaded are called {', '.join(names)}. Name one of them."
        )
    return [(entry, layer) for entry, layer in found if weak.name in _adapter_names(layer)]


def _adapter_names(layer: Any) -> set[str]:
    return {name for kind in layer.adapter_layer_names for name in getattr(layer, kind, ())}


def first_changed(
    family: Family, denoiser: nn.Module, sites: Sequence[LayerSite], weak: WeakLoRA
) -> int | None:
    """Return the first position whose block has LoRAs that differ in the weak pass.

    Up to there the weak pass is the conditional one. None where that cannot be said: in a UNet, and
    where LoRAs are on modules that are in no block.

    Raises:
        ValueError: as find_changed().
    """
    changed = find_changed(family, denoiser, weak)
    if family.unet is not None:
        return None
    where = {id(module): k for k, site in enumerate(sites) for module in site.block.modules()}
    found = [where.get(id(layer)) for _, layer in changed]
    return None if None in found else min(k for k in found if k is not None)


class LoRAPass(WeakPass):
    """The pass of a denoiser whose LoRAs are others in it.

    Args:
        family: the row of the model.
        denoiser: the model.
        sites: its chain.
        weak: what becomes of the LoRAs.
        first: the position from `first_changed`, at which the pass may start; 0 without one.
        prefix_cache: what the conditional pass keeps to start from; None for a pass that is always
            run in full.

    Raises:
        ValueError: as find_changed().
    """

    def __init__(
        self, family: Family, denoiser: nn.Module, sites: Sequence[LayerSite], weak: WeakLoRA,
        first: int, prefix_cache: PrefixCache | None,
    ):  # fmt: skip
        self._weak = weak
        self._changed = find_changed(family, denoiser, weak)
        self._state = self._read_state()
        super().__init__(family, denoiser, sites, [first], _SKIP, prefix_cache)

    def refresh(self) -> None:
        """Look for what `set_adapters` and the like changed since this was made.

        Raises:
            ValueError: as find_changed().
        """
        self._changed = find_changed(self.family, self.denoiser, self._weak)
        state = self._read_state()
        if state != self._state:
            self._state = state
            self._make_patches()

    def _read_state(self) -> list[Any]:
        return [
            (dict(layer.scaling), list(layer.active_adapters), layer.disable_adapters)
            for _, layer in self._changed
        ]

    def _weaken_site(self, k: int, source: patching.RecordInput | None) -> Iterator[patching.Patch]:
        for entry, layer in self._changed:
            yield *entry, _without_or_scaled(layer, self._weak)
        if source is not None:
            site = self.sites[k]
            yield *site.entry, patching.ResumeFrom(site.block, site.stack.streams, source)

    def cost(self, shared: bool) -> float:
        """Return what this pass computes, as a fraction of a forward pass; LoRAs count as free."""
        return stack_cost(len(self.sites), self.first_skipped if shared else 0, 0)


def _without_or_scaled(layer: Any, weak: WeakLoRA) -> nn.Module:
    if isinstance(weak, WithoutLoRA):
        return layer.base_layer
    made = copy.copy(layer)  # which shares all modules and parameters
    made.scaling = dict(layer.scaling)
    made.set_scale(weak.name, weak.scale)
    if weak.name not in layer.active_adapters:
        others = [] if layer.disable_adapters else layer.active_adapters
        made._active_adapter, made._disable_adapters = [*others, weak.name], False
    return made
