"""EasyAnimate: latents, a timestep, a text."""

from __future__ import annotations

from skipguide.families.examples import HEADS, Example, video_inputs

EXAMPLE = Example(
    narrow=dict(
        **HEADS, num_layers=48, in_channels=16, out_channels=16, text_embed_dim=256,
        time_embed_dim=128, patch_size=2,
    ),
    inputs=video_inputs("text_embed_dim"),
    layer=33,
    small=dict(
        num_attention_heads=2, attention_head_dim=16, mmdit_layers=2, in_channels=4, out_channels=4,
        sample_width=4, sample_height=4, time_embed_dim=8, text_embed_dim=32,
        add_norm_text_encoder=True,
    ),
)  # fmt: skip
