"""The models of ComfyUI that can be guided: one row of data per family.

A stack whose class honours ComfyUI's block replacement patches (`patches_replace["dit"]`) is
weakened through them. Where a class knows none, proxies take the places of blocks during a call.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from ._skipguide.families.blocks import LayerSite, Term, layer_sites, resolve_layers
from ._skipguide.families.schema import Family, Stack
from ._skipguide.method.terms import SLG
from .attention import identity_attention

BOTH = ("img", "txt")


@dataclass(frozen=True)
class ComfyStack(Stack):
    """A stack of blocks; `patch` names its block replacement patches, "" if it has none."""

    patch: str = ""


@dataclass(frozen=True)
class ComfyFamily(Family):
    """A row; `published_as` is how presets name it: pipelines of diffusers, or a checkpoint."""

    published_as: tuple[str, ...] = ()


def _stack(
    path: str, streams: tuple[str, ...] = ("img",), attention: str = "", patch: str = "double_block"
) -> ComfyStack:
    """Return a stack of blocks.

    Args:
        path: of the module that holds them.
        streams: the entries that a block changes among the arguments of its patch.
        attention: where the self-attention is within a block; "" is the block itself, for blocks
            all of whose attention is self-attention.
    """
    attentions = {attention: identity_attention}
    return ComfyStack(path=path, depth=0, streams=streams, attention=attentions, patch=patch)


def _family(
    title: str,
    models: tuple[str, ...],
    stacks: dict[str, ComfyStack],
    published_as: tuple[str, ...] = (),
) -> dict[str, ComfyFamily]:
    """Return a row by each of its classes of `model.diffusion_model`; stacks in running order."""
    return {
        model: ComfyFamily(
            name=title,
            title=title,
            model=model,
            checkpoint="",
            pipelines={},
            stacks=stacks,
            latent_layout="",
            published_as=published_as,
        )
        for model in models
    }


FLUX = {
    "double": _stack("double_blocks", BOTH),
    "single": _stack("single_blocks", patch="single_block"),
}
AURA_FLOW = {
    "double": _stack("double_layers", BOTH),
    "single": _stack("single_layers", patch="single_block"),
}
FAMILIES = {
    **_family(
        "Wan",
        ("WanModel", "VaceWanModel", "CameraWanModel", "HumoWanModel", "AnimateWanModel",
         "WanModel_S2V"),
        {"block": _stack("blocks", attention="self_attn")},
        ("WanPipeline",),
    ),
    **_family(
        "LTX-Video", ("LTXVModel",), {"block": _stack("transformer_blocks", attention="attn1")},
        ("LTXPipeline", "LTXImageToVideoPipeline"),
    ),
    **_family(
        "Mochi", ("AsymmDiTJoint",), {"block": _stack("blocks", BOTH, "attn")}, ("MochiPipeline",)
    ),
    **_family(  # HunyuanImage too
        "HunyuanVideo", ("HunyuanVideo",), FLUX, ("HunyuanVideoPipeline",)
    ),
    **_family(
        "Cosmos 1", ("GeneralDIT",), {"block": _stack("blocks", attention="blocks.0", patch="")}
    ),
    **_family(
        "Cosmos Predict 2", ("MiniTrainDIT",),
        {"block": _stack("blocks", attention="self_attn", patch="")},
    ),
    **_family("Flux", ("Flux", "Chroma"), FLUX),
    **_family(
        "SD3", ("OpenAISignatureMMDITWrapper",), {"block": _stack("joint_blocks", BOTH)},
        ("stabilityai/stable-diffusion-3.5-medium",),
    ),
    **_family(
        "Qwen-Image", ("QwenImageTransformer2DModel",),
        {"block": _stack("transformer_blocks", BOTH, "attn")},
    ),
    **_family("AuraFlow", ("MMDiT",), AURA_FLOW),
}  # fmt: skip


@dataclass(frozen=True)
class BlockChain:
    """All blocks of a model, in the order in which they run."""

    family: ComfyFamily
    sites: tuple[LayerSite, ...]
    width: int  # of the hidden states; 0 where the model does not say

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
        """Return the model in words: a HunyuanVideo of 20 double blocks, 40 single blocks."""
        depths = ", ".join(f"{count} {name} blocks" for name, count in self.depths().items())
        return f"a {self.family.model} of {depths.replace('block blocks', 'blocks')}"

    def cost(self, term: Term, share_prefix: bool) -> float:
        """Return what a term adds to a guided step, in forward passes; SLG saves: below 0."""
        skipped = self.skipped_by(term)
        saved = len(skipped) if term.skip == "residual" else 0
        if isinstance(term, SLG):
            return -saved / len(self.sites)
        before = skipped[0] if share_prefix else 0
        return (len(self.sites) - before - saved) / len(self.sites)


def block_chain(model: nn.Module) -> BlockChain:
    """Return the blocks of a model.

    Raises:
        ValueError: for a class without a row.
    """
    model = getattr(model, "_orig_mod", model)  # what torch.compile wraps
    name = type(model).__name__
    if name not in FAMILIES:
        raise ValueError(
            f"skip guidance needs a model whose blocks it knows, but this one is a {name}. It"
            f" knows: {', '.join(FAMILIES)}."
        )
    family = FAMILIES[name]
    return BlockChain(family, layer_sites(family, model), getattr(model, "dim", 0))
