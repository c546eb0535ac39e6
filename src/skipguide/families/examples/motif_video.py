"""Motif-Video: latents, a timestep, a text with a mask."""

from __future__ import annotations

from skipguide.families.examples import HEADS, Example, video_inputs, with_text_mask

EXAMPLE = Example(
    narrow=dict(
        **HEADS, in_channels=33, out_channels=16, num_layers=20, num_single_layers=40,
        text_embed_dim=256, rope_axes_dim=(16, 24, 24), patch_size=2,
    ),
    inputs=video_inputs("text_embed_dim", encoder_attention_mask=with_text_mask),
    layer="single:22",
    small=dict(
        in_channels=9, out_channels=4, num_attention_heads=2, attention_head_dim=12,
        num_decoder_layers=1, text_embed_dim=16, image_embed_dim=8, rope_axes_dim=(4, 4, 4),
        enable_text_cross_attention_dual=True, enable_text_cross_attention_single=True,
    ),
)  # fmt: skip
