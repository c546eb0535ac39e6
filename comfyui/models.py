"""The blocks of a model of ComfyUI, in the order in which they run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from ._skipguide.families.blocks import LayerSite, Term, layer_sites, resolve_layers
from ._skipguide.method.terms import SLG
from .model_rows import FAMILIES, OTHER_TITLES, ComfyFamily, ComfyStack

__all__ = ["FAMILIES", "BlockChain", "ComfyFamily", "block_chain"]


@dataclass(frozen=True)
class BlockChain:
    """All blocks of a model, in the order in which they run."""

    family: ComfyFamily
    sites: tuple[LayerSite, ...]
    width: int  # of the hidden states; 0 where the model does not say
    published_as: tuple[str, ...] = ()  # how presets name just this model
    config: Mapping[str, Any] = field(default_factory=dict)  # what presets ask of its config

    def skipped_by(self, term: Term) -> list[int]:
        """Return the positions in the chain of the blocks that a term skips, sorted.

        Raises:
            ValueError: for a stack or a block that the model does not have.
        """
        return resolve_layers(self.family, self.sites, term)

    def patch_key(self, position: int) -> tuple[str, int]:
        """Return the key of a block's replacement patch; its name is "" where there is none."""
        site = self.sites[position]
        assert isinstance(site.stack, ComfyStack)
        return site.stack.patch, site.index

    def depths(self) -> dict[str, int]:
        """Return how many blocks each stack has."""
        names = [site.name for site in self.sites]
        return {name: names.count(name) for name in self.family.stacks}

    @property
    def depth(self) -> int:
        """The number of blocks in the first stack, by which presets know a model."""
        return next(iter(self.depths().values()))

    def describe(self) -> str:
        """Return the model in words: Flux or Chroma, of 19 double blocks, 38 single blocks."""
        depths = ", ".join(f"{count} {name} blocks" for name, count in self.depths().items())
        return f"{self.family.title}, of {depths.replace('block blocks', 'blocks')}"

    def cost(self, term: Term, share_prefix: bool) -> float:
        """Return what a term adds to a guided step, in forward passes; SLG saves: below 0."""
        skipped = self.skipped_by(term)
        saved = len(skipped) if term.skip == "residual" else 0
        if isinstance(term, SLG):
            return -saved / len(self.sites)
        before = skipped[0] if share_prefix else 0
        return (len(self.sites) - before - saved) / len(self.sites)


def block_chain(model: nn.Module, known_as: str = "") -> BlockChain:
    """Return the blocks of a model.

    Args:
        known_as: ComfyUI's own name for the kind of model, for a refusal.

    Raises:
        ValueError: for a class without a row, its own or one that it derives from.
    """
    model = getattr(model, "_orig_mod", model)  # what torch.compile wraps
    names = [cls.__name__ for cls in type(model).__mro__]
    family = next((FAMILIES[name] for name in names if name in FAMILIES), None)
    if family is None:
        raise ValueError(_no_row(names[0], known_as))
    try:
        sites = layer_sites(family, model)
    except AttributeError as error:
        raise ValueError(
            f"skip guidance needs the blocks of {family.title}, but this {names[0]} has them in"
            f" other places: {error}. Update the nodes of skipguide, or load the model with"
            " ComfyUI's own loader."
        ) from error
    width = getattr(model, "dim", 0)
    return BlockChain(family, sites, width, family.published(model), family.config(model))


def _no_row(name: str, known_as: str) -> str:
    title = OTHER_TITLES.get(name) or known_as or name
    known = ", ".join(dict.fromkeys(family.title for family in FAMILIES.values()))
    advice = (
        "Use core's PerturbedAttentionGuidance, which skips attention in the middle of a UNet"
        if name == "UNetModel"
        else "Load one of these, or remove this node"
    )
    return (
        f"skip guidance needs a model whose blocks it knows, but this one is {title}. It knows:"
        f" {known}. {advice}."
    )
