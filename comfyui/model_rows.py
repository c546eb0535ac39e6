"""The models of ComfyUI that can be guided: one row of data per family, and no code of theirs.

A stack whose class honours ComfyUI's block replacement patches (`patches_replace["dit"]`) is
weakened through them. Where a class knows none, proxies take the places of blocks during a call.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from ._skipguide.families.schema import Family, Stack
from .attention import identity_attention

BOTH = ("img", "txt")
Published = Callable[[nn.Module], tuple[str, ...]]


@dataclass(frozen=True)
class ComfyStack(Stack):
    """A stack of blocks; `patch` names its block replacement patches, "" if it has none.

    `isolation` has the entries of transformer_options that cut the attention between video and
    sound where they are False.
    """

    patch: str = ""


def _nothing(_model: nn.Module) -> tuple[str, ...]:
    return ()


def _no_config(_model: nn.Module) -> dict[str, Any]:
    return {}


@dataclass(frozen=True)
class ComfyFamily(Family):
    """A row.

    Args:
        published_as: the pipelines of diffusers that have models of this row.
        published: of a model, the pipelines or checkpoints by which presets name just that one. It
            is narrow on purpose: what was measured on a model says nothing about its kin.
        config: of a model, what presets ask of its config in diffusers.
    """

    published_as: tuple[str, ...] = ()
    published: Published = field(default=_nothing, compare=False)
    config: Callable[[nn.Module], Mapping[str, Any]] = field(default=_no_config, compare=False)


def _stack(
    path: str, streams: tuple[str, ...] = ("img",), attention: str | tuple[str, ...] | None = "",
    patch: str = "double_block", **more: Any,
) -> ComfyStack:  # fmt: skip
    """Return a stack of blocks.

    Args:
        path: of the module that holds them.
        streams: the entries that a block changes among the arguments of its patch; where it has
            none, its first arguments.
        attention: where the self-attentions are within a block; "" is the block itself, for blocks
            all of whose attention is self-attention; None for blocks where it cannot be had.
    """
    paths = (attention,) if isinstance(attention, str) else attention or ()
    return ComfyStack(path=path, depth=0, streams=streams, patch=patch,
                      attention=dict.fromkeys(paths, identity_attention), **more)  # fmt: skip


def _family(
    title: str,
    models: tuple[str, ...],
    stacks: dict[str, ComfyStack],
    published_as: tuple[str, ...] = (),
    **more: Any,
) -> dict[str, ComfyFamily]:
    """Return a row by each of its classes of `model.diffusion_model`; stacks in running order.

    Classes that derive from one of them need not be named. The title stands in all messages, for
    users know Mochi, and not AsymmDiTJoint.
    """
    family = ComfyFamily(
        name=title, title=title, model=title, checkpoint="", pipelines={}, stacks=stacks,
        latent_layout="", published_as=published_as, **more,
    )  # fmt: skip
    return dict.fromkeys(models, family)


# --- for which presets a model is the one that was measured ---------------------------------------


def _is_exactly(model: nn.Module, name: str) -> bool:
    """Return whether a model is of this class, and of none that derives from it."""
    return type(model).__name__ == name


def _wan(model: nn.Module) -> tuple[str, ...]:
    """Tell image to video by the 20 channels that it has for the image beside the 16."""
    channels = getattr(getattr(model, "patch_embedding", None), "in_channels", 0)
    known = {16: ("WanPipeline",), 36: ("WanImageToVideoPipeline",)}
    return known.get(channels, ()) if _is_exactly(model, "WanModel") else ()


def _ltx(model: nn.Module) -> tuple[str, ...]:
    exactly = _is_exactly(model, "LTXVModel")
    return ("LTXPipeline", "LTXImageToVideoPipeline") if exactly else ()


def _ltx_2(model: nn.Module) -> tuple[str, ...]:
    later = ("Lightricks/LTX-2.3 (2.4 and the full 2.5: the same)", "Lightricks/LTX-2.3")
    return later if getattr(model, "apply_gated_attention", False) else ("Lightricks/LTX-2",)


def _hunyuan(model: nn.Module) -> tuple[str, ...]:
    """Tell HunyuanImage by its patches, and image to video by its channels."""
    shape = tuple(getattr(model, "patch_size", ())), getattr(model, "in_channels", 0)
    return ("HunyuanVideoPipeline",) if shape == ((1, 2, 2), 16) else ()


def _sd3(model: nn.Module) -> tuple[str, ...]:
    """Tell 3.5 medium by the second attention of its first blocks, and 3 by its lack of norms."""
    first = model.get_submodule("joint_blocks.0.x_block")
    if getattr(first, "x_block_self_attn", False):
        return ("stabilityai/stable-diffusion-3.5-medium",)
    plain = isinstance(first.get_submodule("attn.ln_q"), nn.Identity)
    return ("stabilityai/stable-diffusion-3-medium-diffusers",) if plain else ()


def _always(*names: str) -> Published:
    return lambda _model: names


# --- rows -----------------------------------------------------------------------------------------

FLUX = {
    "double": _stack("double_blocks", BOTH),
    "single": _stack("single_blocks", patch="single_block"),
}
AURA_FLOW = {
    "double": _stack("double_layers", BOTH),
    "single": _stack("single_layers", patch="single_block"),
}
_LTX_2_STACK = _stack(
    "transformer_blocks", attention=("attn1", "audio_attn1"), audio=("audio_attn1",),
    isolation=("a2v_cross_attn", "v2a_cross_attn"),
)  # fmt: skip
_SOUND = ("video", "audio")
FAMILIES = {
    **_family(
        "Wan", ("WanModel",), {"block": _stack("blocks", attention="self_attn")},
        ("WanPipeline", "WanImageToVideoPipeline"), published=_wan,
    ),
    **_family(  # its self-attention is called by other names than forward
        "Wan Animate 2", ("WanAnimate2Model",), {"block": _stack("blocks", attention=None)}
    ),
    **_family(
        "LTX-Video", ("LTXVModel",), {"block": _stack("transformer_blocks", attention="attn1")},
        ("LTXPipeline", "LTXImageToVideoPipeline"), published=_ltx,
    ),
    **_family(
        "LTX-2", ("LTXAVModel",), {"block": _LTX_2_STACK}, ("LTX2Pipeline",), outputs=_SOUND,
        published=_ltx_2,
        config=lambda model: {"gated_attn": bool(getattr(model, "apply_gated_attention", False))},
    ),
    **_family(
        "Mochi", ("AsymmDiTJoint",), {"block": _stack("blocks", BOTH, "attn")}, ("MochiPipeline",),
        published=_always("MochiPipeline"),
    ),
    **_family(
        "HunyuanVideo or HunyuanImage", ("HunyuanVideo",), FLUX, ("HunyuanVideoPipeline",),
        published=_hunyuan,
    ),
    **_family(
        "CogVideoX", ("CogVideoXTransformer3DModel",),
        {"block": _stack("blocks", ("hidden_states", "encoder_hidden_states"), patch="")},
        ("CogVideoXPipeline",), published=_always("CogVideoXPipeline"),
    ),
    **_family(
        "Cosmos 1", ("GeneralDIT",), {"block": _stack("blocks", attention="blocks.0", patch="")}
    ),
    **_family(
        "Cosmos Predict 2 or Anima", ("MiniTrainDIT",),
        {"block": _stack("blocks", attention="self_attn", patch="")},
    ),
    **_family(  # its replacement patches cannot run the block: they name arguments it has not
        "Kandinsky 5", ("Kandinsky5",),
        {"block": _stack("visual_transformer_blocks", attention="self_attention", patch="")},
    ),
    **_family("MiniMax H3", ("MiniMaxH3Model",), {"block": _stack("blocks", attention="attn")},
              outputs=_SOUND),
    **_family("Flux or Chroma", ("Flux", "Chroma"), FLUX),
    **_family(
        "SD3", ("OpenAISignatureMMDITWrapper",), {"block": _stack("joint_blocks", BOTH)},
        ("StableDiffusion3Pipeline",), published=_sd3,
        config=lambda model: {"qk_norm": "rms_norm"} if "3.5" in "".join(_sd3(model)) else {},
    ),
    **_family(
        "Qwen-Image", ("QwenImageTransformer2DModel",),
        {"block": _stack("transformer_blocks", BOTH, "attn")},
    ),
    **_family(
        "Lumina 2 or Z-Image", ("NextDiT",), {"block": _stack("layers", attention="attention",
                                                              patch="")},
    ),
    **_family("OmniGen2", ("OmniGen2Transformer2DModel",),
              {"block": _stack("layers", attention="attn", patch="")}),
    **_family("AuraFlow", ("MMDiT",), AURA_FLOW),
}  # fmt: skip

# What users call models without a row, by the class of `model.diffusion_model`.
OTHER_TITLES = {
    "UNetModel": "Stable Diffusion 1, 2 or XL",
    "StageB": "Stable Cascade",
    "StageC": "Stable Cascade",
    "HunYuanDiT": "Hunyuan-DiT",
    "PixArtMS": "PixArt",
    "HiDreamImageTransformer2DModel": "HiDream",
    "AudioDiffusionTransformer": "Stable Audio",
    "ACEStepTransformer2DModel": "ACE-Step",
    "Hunyuan3Dv2": "Hunyuan3D",
}
