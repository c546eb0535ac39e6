"""Take another model as the weak one (Autoguidance).

D = c + s (c - p), where p is the prediction of a smaller or less trained model: Karras et al. 2024,
"Guiding a Diffusion Model with a Bad Version of Itself", arXiv 2406.02507."""

from __future__ import annotations

import torch
from torch import nn

from skipguide.families.protocols import Config, Inputs, as_denoiser
from skipguide.families.schema import Family
from skipguide.weak.patching import Patch

# Entries of a denoiser's config that are about its inputs and outputs. A model whose config differs
# in other entries only can take its place.
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
    """A forward pass of another model, with the methods of a `weak_pass.WeakPass`.

    It skips nothing and shares nothing with the conditional pass.

    Args:
        family: the row of the denoiser.
        denoiser: the pipeline's own.
        model: the weak one.

    Raises:
        ValueError: if the model cannot take the denoiser's place.
    """

    prefix_cache = None

    def __init__(self, family: Family, denoiser: nn.Module, model: nn.Module):
        check_compatible(family, denoiser, model)
        self.denoiser = model
        self.full_patches: list[Patch] = []
        self._cost = count_parameters(model) / count_parameters(denoiser)

    def patches(self) -> list[Patch]:
        """Return no patches."""
        return self.full_patches

    def cost(self, shared: bool) -> float:
        """Return the cost over that of a forward pass of the denoiser, by their parameters."""
        return self._cost

    def set_input_spec(self, inputs: Inputs) -> None:
        """Do nothing, for no cost is measured."""


def check_compatible(family: Family, denoiser: nn.Module, model: nn.Module) -> None:
    """Reject a model that does not take and return the same as the denoiser.

    Args:
        family: the row of the denoiser.
        denoiser: the pipeline's own.
        model: the one to stand beside it.

    Raises:
        ValueError: with the first difference.
    """
    if model is denoiser:
        raise ValueError(
            f"weak must be another model, but got the pipeline's own {family.model}, with which"
            " c - p is 0. Load one that is smaller or less trained."
        )
    if family.model not in (cls.__name__ for cls in type(model).__mro__):
        raise ValueError(
            f"weak must be a {family.model}, as the pipeline's denoiser is, but got a"
            f" {type(model).__name__}. Use the denoiser of another checkpoint of the same family."
        )
    ours, theirs = as_denoiser(denoiser), as_denoiser(model)
    for name in _interface_keys(ours.config):
        hint = "Use one for the same latents and text."
        _check_same(name, theirs.config.get(name), ours.config.get(name), hint)
    _check_same("dtype", theirs.dtype, ours.dtype, "Move it with .to().")
    _check_same(
        "device", _execution_device(model), _execution_device(denoiser), "Move it with .to()."
    )


def _interface_keys(config: Config) -> tuple[str, ...]:
    """List the entries to compare.

    Without caption_channels nothing projects the text before the cross-attentions, and their
    width is the text's."""
    if "caption_channels" in config:
        return _INTERFACE_CONFIG_KEYS
    return (*_INTERFACE_CONFIG_KEYS, "cross_attention_dim")


def _check_same(name: str, got: object, wanted: object, hint: str) -> None:
    if got != wanted:
        raise ValueError(
            f"weak must have the {name} of the pipeline's denoiser, {wanted}, but got {got}. {hint}"
        )


def _execution_device(model: nn.Module) -> torch.device:
    """Return where a model computes; of an offloaded one its hook knows."""
    found = getattr(getattr(model, "_hf_hook", None), "execution_device", None)
    device = torch.device(as_denoiser(model).device if found is None else found)
    return torch.device(device.type, device.index or 0)


def count_parameters(model: nn.Module) -> int:
    """Return how many numbers a model has learned."""
    return sum(parameter.numel() for parameter in model.parameters())
