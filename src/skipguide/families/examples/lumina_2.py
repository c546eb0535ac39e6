"""Lumina 2: latents of an image, a timestep from 0 to 1, a text with a mask."""

from __future__ import annotations

import torch

from skipguide.families.examples import Config, Example, Size, image_inputs, with_text_mask


def timestep(config: Config, size: Size, batch: int) -> torch.Tensor:
    """Make a timestep in the middle of a run from 0 to 1."""
    return torch.full((batch,), 0.5)


EXAMPLE = Example(
    narrow=dict(
        hidden_size=256, num_attention_heads=4, num_kv_heads=2, num_layers=26, in_channels=16,
        multiple_of=64, axes_dim_rope=(16, 24, 24), cap_feat_dim=256,
    ),
    inputs=image_inputs("cap_feat_dim", encoder_attention_mask=with_text_mask, timestep=timestep),
    layer=18,
    narrow_size=Size(1, 48, 48, 64),
    small=dict(
        hidden_size=32, num_attention_heads=2, num_kv_heads=1, num_refiner_layers=1, in_channels=4,
        multiple_of=8, axes_dim_rope=(4, 6, 6), axes_lens=(320, 8, 8), cap_feat_dim=16,
    ),
    small_size=Size(1, 4, 4, 8),
)  # fmt: skip
