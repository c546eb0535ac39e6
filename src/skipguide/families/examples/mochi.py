"""Mochi 1: latents, a timestep, a text with a mask."""

from __future__ import annotations

import torch

from skipguide.families.examples import HEADS, Config, Example, Size, text_mask, video_inputs


def _mask(config: Config, size: Size, batch: int) -> torch.Tensor:
    return text_mask(size, batch).bool()


EXAMPLE = Example(
    narrow=dict(
        patch_size=2, **HEADS, num_layers=48, pooled_projection_dim=128, in_channels=12,
        text_embed_dim=256, time_embed_dim=256,
    ),
    inputs=video_inputs("text_embed_dim", encoder_attention_mask=_mask),
    layer=34,
    small=dict(
        num_attention_heads=2, attention_head_dim=8, pooled_projection_dim=16, text_embed_dim=32,
        time_embed_dim=16, max_sequence_length=16,
    ),
    small_size=Size(2, 4, 4, 16),
    full=dict(in_channels=12, text_embed_dim=4096),
    full_size=Size(15, 60, 106, 256),
)  # fmt: skip
