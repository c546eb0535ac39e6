"""PixArt alpha and sigma: latents of an image, a timestep, a text with a mask."""

from __future__ import annotations

from skipguide.families.examples import HEADS, Example, Size, image_inputs, with_text_mask

EXAMPLE = Example(
    narrow=dict(
        **HEADS, num_layers=28, in_channels=4, cross_attention_dim=256, caption_channels=256,
        sample_size=48,
    ),
    inputs=image_inputs("caption_channels", encoder_attention_mask=with_text_mask),
    layer=20,
    narrow_size=Size(1, 48, 48, 64),
    small=dict(
        num_attention_heads=2, attention_head_dim=12, cross_attention_dim=24, caption_channels=32,
        sample_size=4,
    ),
    small_size=Size(1, 4, 4, 8),
)  # fmt: skip
