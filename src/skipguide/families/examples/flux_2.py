"""Flux 2: packed latents of an image, a timestep, a text, positions of both, the embedded guidance
scale."""

from __future__ import annotations

from skipguide.families.examples import HEADS, Example, Size
from skipguide.families.examples.flux import packed_inputs

EXAMPLE = Example(
    narrow=dict(
        **HEADS, num_layers=8, num_single_layers=48, in_channels=128, joint_attention_dim=256,
        timestep_guidance_channels=64, axes_dims_rope=(16, 16, 16, 16),
    ),
    inputs=packed_inputs(axes=4, has_pooled=False),
    layer="single:31",
    narrow_size=Size(1, 24, 24, 64),
    small=dict(
        num_attention_heads=2, attention_head_dim=8, in_channels=16, joint_attention_dim=24,
        timestep_guidance_channels=8, axes_dims_rope=(2, 2, 2, 2),
    ),
    small_size=Size(1, 4, 4, 8),
)  # fmt: skip
