"""CogView4: latents of an image, a timestep, a text, and three pairs of numbers about its size."""

from __future__ import annotations

import torch

from skipguide.families.examples import HEADS, Config, Example, Inputs, Size, noise, timesteps


def inputs(config: Config, size: Size, batch: int) -> Inputs:
    """Make the inputs; CogView3-Plus has the same."""
    pixels = torch.tensor([[8.0 * size.height, 8.0 * size.width]]).repeat(batch, 1)
    return dict(
        hidden_states=noise(batch, config["in_channels"], size.height, size.width),
        encoder_hidden_states=noise(batch, size.text, config["text_embed_dim"]),
        timestep=timesteps(batch), original_size=pixels, target_size=pixels,
        crop_coords=torch.zeros_like(pixels),
    )  # fmt: skip


EXAMPLE = Example(
    narrow=dict(
        **HEADS, num_layers=30, in_channels=16, text_embed_dim=256, time_embed_dim=128,
        condition_dim=32,
    ),
    inputs=inputs,
    layer=21,
    narrow_size=Size(1, 48, 48, 64),
    small=dict(
        num_attention_heads=2, attention_head_dim=16, in_channels=4, out_channels=4,
        text_embed_dim=32, time_embed_dim=16, condition_dim=8, sample_size=4,
    ),
    small_size=Size(1, 4, 4, 8),
)  # fmt: skip
