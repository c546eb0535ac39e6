"""Open-Sora 1.2: latents, a timestep, a text."""

from __future__ import annotations

from skipguide.families.examples import HEADS, Example, video_inputs

EXAMPLE = Example(
    narrow=dict(
        **HEADS, num_layers=28, in_channels=4, caption_channels=256, model_max_length=16
    ),
    inputs=video_inputs("caption_channels"),
    layer=11,
    small=dict(
        num_layers=3, num_attention_heads=2, attention_head_dim=8, caption_channels=32,
        input_sq_size=32,
    ),
)  # fmt: skip
