"""Chroma: packed latents of an image, a timestep, a text, a mask over both and positions."""

from __future__ import annotations

import torch

from skipguide.families.examples import HEADS, Config, Example, Inputs, Size
from skipguide.families.examples.flux import packed_inputs


def _inputs(config: Config, size: Size, batch: int) -> Inputs:
    made = packed_inputs(has_pooled=False, has_guidance=False)(config, size, batch)
    return {**made, "attention_mask": torch.ones(batch, size.text + size.tokens)}


EXAMPLE = Example(
    narrow=dict(
        **HEADS, num_layers=19, num_single_layers=38, in_channels=64, joint_attention_dim=256,
        axes_dims_rope=(16, 24, 24), approximator_num_channels=64, approximator_hidden_dim=256,
        approximator_layers=5,
    ),
    inputs=_inputs,
    layer="single:21",
    narrow_size=Size(1, 24, 24, 64),
    small=dict(
        num_attention_heads=2, attention_head_dim=8, in_channels=16, joint_attention_dim=16,
        axes_dims_rope=(2, 2, 4), approximator_num_channels=8, approximator_hidden_dim=8,
        approximator_layers=1,
    ),
    small_size=Size(1, 4, 4, 8),
)  # fmt: skip
