"""SANA-Video: latents, a timestep, a text with a mask."""

from __future__ import annotations

from skipguide.families.examples import HEADS, Example, video_inputs, with_text_mask

EXAMPLE = Example(
    narrow=dict(
        **HEADS, num_layers=20, in_channels=16, num_cross_attention_heads=4,
        cross_attention_head_dim=64, cross_attention_dim=256, caption_channels=256,
    ),
    inputs=video_inputs("caption_channels", encoder_attention_mask=with_text_mask),
    layer=14,
    small=dict(
        in_channels=4, out_channels=4, num_attention_heads=2, attention_head_dim=12,
        num_cross_attention_heads=2, cross_attention_head_dim=12, cross_attention_dim=24,
        caption_channels=32, rope_max_seq_len=8,
    ),
)  # fmt: skip
