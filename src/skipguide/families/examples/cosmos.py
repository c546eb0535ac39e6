"""Cosmos: latents, a timestep, a text."""

from __future__ import annotations

from skipguide.families.examples import HEADS, Example, video_inputs

# The checkpoints take a mask of zeros beside the latents, for which the class needs torchvision.
EXAMPLE = Example(
    narrow=dict(
        **HEADS, num_layers=28, in_channels=16, text_embed_dim=256, adaln_lora_dim=64,
        concat_padding_mask=False,
    ),
    inputs=video_inputs("text_embed_dim"),
    layer=19,
    small=dict(
        in_channels=4, out_channels=4, num_attention_heads=2, attention_head_dim=12, mlp_ratio=2.0,
        text_embed_dim=16, adaln_lora_dim=4, max_size=(4, 8, 8), extra_pos_embed_type=None,
        rope_scale=(1.0, 3.0, 3.0),
    ),
)  # fmt: skip
