"""GLM-Image: latents of an image, a timestep, the glyphs of a text, tokens of a coarse image that a
language model made, and two pairs of numbers about its size."""

from __future__ import annotations

import torch

from skipguide.families.examples import HEADS, Config, Example, Size, image_inputs


def _prior(config: Config, size: Size, batch: int) -> torch.Tensor:
    tokens = size.height * size.width // config["patch_size"] ** 2
    return torch.randint(config["prior_vq_quantizer_codebook_size"], (batch, tokens))


def _drop(config: Config, size: Size, batch: int) -> torch.Tensor:
    tokens = size.height * size.width // config["patch_size"] ** 2
    return torch.zeros(batch, tokens, dtype=torch.bool)


def _pixels(config: Config, size: Size, batch: int) -> torch.Tensor:
    return torch.tensor([[8.0 * size.height, 8.0 * size.width]]).repeat(batch, 1)


def _crop(config: Config, size: Size, batch: int) -> torch.Tensor:
    return torch.zeros(batch, 2)


EXAMPLE = Example(
    narrow=dict(
        **HEADS, num_layers=30, in_channels=16, patch_size=2, text_embed_dim=256,
        time_embed_dim=128, condition_dim=32, prior_vq_quantizer_codebook_size=64,
    ),
    inputs=image_inputs(
        "text_embed_dim", prior_token_id=_prior, prior_token_drop=_drop, target_size=_pixels,
        crop_coords=_crop,
    ),
    layer=21,
    narrow_size=Size(1, 48, 48, 64),
    small=dict(
        num_attention_heads=2, attention_head_dim=16, in_channels=4, out_channels=4,
        text_embed_dim=32, time_embed_dim=16, condition_dim=8,
    ),
    small_size=Size(1, 4, 4, 8),
)  # fmt: skip
