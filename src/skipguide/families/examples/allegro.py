"""Allegro: latents, a timestep, a text with a mask; here without rotary embeddings, which its
pipeline makes."""

from __future__ import annotations

from skipguide.families.examples import HEADS, Example, video_inputs, with_text_mask

EXAMPLE = Example(
    narrow=dict(
        **HEADS, num_layers=32, cross_attention_dim=256, caption_channels=256, in_channels=4,
        out_channels=4, sample_height=24, sample_width=24, sample_frames=4,
    ),
    inputs=video_inputs(
        "caption_channels", encoder_attention_mask=with_text_mask, image_rotary_emb=None
    ),
    layer=22,
    small=dict(
        num_attention_heads=2, attention_head_dim=12, cross_attention_dim=24, caption_channels=32,
        sample_height=4, sample_width=4, sample_frames=2,
    ),
)  # fmt: skip
