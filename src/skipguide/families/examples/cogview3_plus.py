"""CogView3-Plus: the inputs of CogView4."""

from __future__ import annotations

from skipguide.families.examples import HEADS, Example, Size, cogview4

EXAMPLE = Example(
    narrow=dict(
        **HEADS, num_layers=30, in_channels=16, text_embed_dim=256, time_embed_dim=128,
        condition_dim=32, sample_size=48,
    ),
    inputs=cogview4.inputs,
    layer=21,
    narrow_size=Size(1, 48, 48, 64),
    small=dict(
        num_attention_heads=2, attention_head_dim=16, in_channels=4, out_channels=4,
        text_embed_dim=32, time_embed_dim=16, condition_dim=8, sample_size=4, pos_embed_max_size=8,
    ),
    small_size=Size(1, 4, 4, 8),
)  # fmt: skip
