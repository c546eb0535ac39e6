"""Bria 3.2: the inputs of Ovis-Image."""

from __future__ import annotations

from skipguide.families.examples import HEADS, Example, Size, ovis_image

EXAMPLE = Example(
    narrow=dict(
        **HEADS, num_layers=19, num_single_layers=38, in_channels=16, joint_attention_dim=256,
        axes_dims_rope=(16, 24, 24),
    ),
    inputs=ovis_image.inputs,
    layer="single:21",
    narrow_size=Size(1, 24, 24, 64),
    small=dict(
        num_attention_heads=2, attention_head_dim=16, joint_attention_dim=16,
        axes_dims_rope=(4, 6, 6),
    ),
    small_size=Size(1, 2, 2, 8),
)  # fmt: skip
