"""Another model as the weak one: Autoguidance (Karras et al. 2024, "Guiding a Diffusion Model with
a Bad Version of Itself", arXiv 2406.02507), D = c + s (c - p) with p of a smaller or less trained
model."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from skipguide.families.schema import Family
from skipguide.weak.patching import Patch

# What the config of a denoiser says of its inputs and outputs. One that differs elsewhere only can
# take its place.
_INTERFACE_CONFIG_KEYS = (
    "in_channels", "out_channels", "patch_size", "patch_size_t", "text_dim", "text_embed_dim",
    "text_embed_dim_t5", "text_embed_2_dim", "caption_channels", "encoder_hidden_states_channels",
    "crossattn_proj_in_channels", "pooled_projection_dim", "image_dim", "image_embed_dim",
    "image_proj_dim", "img_context_dim_in", "in_visual_dim", "out_visual_dim", "in_text_dim",
    "in_text_dim2", "in_audio_dim", "out_audio_dim", "audio_in_channels", "audio_out_channels",
    "audio_patch_size", "audio_patch_size_t", "vace_in_channels", "guidance_embeds",
    "projection_class_embeddings_input_dim",
)  # fmt: skip


class AutoguidancePass:
    """Stands where a `prefix.WeakPass` does; it shares nothing with the strong pass and skips
    nothing.

    Raises:
        ValueError: if the model cannot take the denoiser's place.
    """

    prefix_cache = None

    def __init__(self, family: Family, denoiser: nn.Module, model: nn.Module):
        check_compatible(family, denoiser, model)
        self.denoiser = model
        self.full_patches: list[Patch] = []  # nothing stands anywhere
        self._cost = _count_parameters(model) / _count_parameters(denoiser)

    def patches(self) -> list[Patch]:
        """None."""
        return self.full_patches

    def cost(self, shared: bool) -> float:
        """As a fraction of a forward pass of the denoiser: its parameters as a fraction of the
        denoiser's."""
        return self._cost

    def set_input_spec(self, inputs: dict[str, Any]) -> None:
        """Nothing is measured."""


def check_compatible(family: Family, denoiser: Any, model: Any) -> None:
    """See that a model takes what the denoiser takes, and returns what it returns.

    Raises:
        ValueError: with the first thing that differs.
    """
    if model is denoiser:
        raise ValueError(
            f"weak must be another model, but got the pipeline's own {family.model}, and c - p"
            " would be 0. Load one that is smaller or less trained."
        )
    if family.model not in (cls.__name__ for cls in type(model).__mro__):
        raise ValueError(
            f"weak must be a {family.model}, as the pipeline's denoiser is, but got a"
            f" {type(model).__name__}. Use the denoiser of another checkpoint of the same family."
        )
    # the width of the text, where nothing stands between it and the cross-attentions
    outside = (
        _INTERFACE_CONFIG_KEYS
        if "caption_channels" in denoiser.config
        else (*_INTERFACE_CONFIG_KEYS, "cross_attention_dim")
    )
    for name in outside:
        _check_same(
            name,
            model.config.get(name),
            denoiser.config.get(name),
            "Use one for the same latents and text.",
        )
    for name, value in (("dtype", lambda one: one.dtype), ("device", _execution_device)):
        _check_same(name, value(model), value(denoiser), "Move it with .to().")


def _check_same(name: str, got: Any, wanted: Any, hint: str) -> None:
    if got != wanted:
        raise ValueError(
            f"weak must have the {name} of the pipeline's denoiser, {wanted}, but got {got}. {hint}"
        )


def _execution_device(model: Any) -> torch.device:
    """Where a model computes; of one that is offloaded its hook knows."""
    found = getattr(getattr(model, "_hf_hook", None), "execution_device", None)
    device = torch.device(model.device if found is None else found)
    return torch.device(device.type, device.index or 0)


def _count_parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())
