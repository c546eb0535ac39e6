"""Latte: latents, a timestep, a text."""

from __future__ import annotations

from skipguide.families.examples import HEADS, Example, video_inputs

EXAMPLE = Example(
    narrow=dict(
        **HEADS, num_layers=28, in_channels=4, out_channels=8, cross_attention_dim=256,
        caption_channels=256, sample_size=24, video_length=4, activation_fn="gelu-approximate",
        norm_elementwise_affine=False, norm_type="ada_norm_single", patch_size=2,
        attention_bias=True, norm_eps=1e-6,
    ),
    inputs=video_inputs("caption_channels"),
    layer=19,
    small=dict(
        num_layers=3, num_attention_heads=2, attention_head_dim=8, cross_attention_dim=16,
        caption_channels=32, sample_size=4, video_length=2, num_embeds_ada_norm=1000,
    ),
)  # fmt: skip
