"""HunyuanVideo: latents, a timestep, a text with a mask and as one vector, the embedded guidance
scale."""

from __future__ import annotations

import torch

from skipguide.families.examples import (
    HEADS,
    Config,
    Example,
    Size,
    noise,
    timesteps,
    video_inputs,
    with_text_mask,
)

# FramePack is built on the same blocks.
NARROW = dict(
    **HEADS, num_layers=20, num_single_layers=40, num_refiner_layers=2, in_channels=16,
    text_embed_dim=256, pooled_projection_dim=64, rope_axes_dim=(16, 24, 24),
)  # fmt: skip
SMALL = dict(
    num_attention_heads=2, attention_head_dim=12, num_refiner_layers=1, in_channels=4,
    out_channels=4, text_embed_dim=16, pooled_projection_dim=8, rope_axes_dim=(4, 4, 4),
)  # fmt: skip


def pooled(config: Config, size: Size, batch: int) -> torch.Tensor:
    """Make the text as one vector."""
    return noise(batch, config["pooled_projection_dim"])


def guidance(config: Config, size: Size, batch: int) -> torch.Tensor:
    """Make the embedded guidance scale, in thousandths as a timestep is."""
    return timesteps(batch)


EXAMPLE = Example(
    narrow=NARROW,
    inputs=video_inputs(
        "text_embed_dim", encoder_attention_mask=with_text_mask, pooled_projections=pooled,
        guidance=guidance,
    ),
    layer="dual:2",
    small=SMALL,
)  # fmt: skip
