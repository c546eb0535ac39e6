"""AuraFlow: latents of an image, a timestep from 0 to 1, a text."""

from __future__ import annotations

from skipguide.families.examples import HEADS, Example, Size, image_inputs, lumina_2

EXAMPLE = Example(
    narrow=dict(
        **HEADS, num_mmdit_layers=4, num_single_dit_layers=32, in_channels=4, sample_size=48,
        joint_attention_dim=256, caption_projection_dim=256,
    ),
    inputs=image_inputs("joint_attention_dim", timestep=lumina_2.timestep),
    layer="single:21",
    narrow_size=Size(1, 48, 48, 64),
    small=dict(
        num_attention_heads=2, attention_head_dim=16, num_mmdit_layers=2, num_single_dit_layers=3,
        sample_size=4, joint_attention_dim=16, caption_projection_dim=32, pos_embed_max_size=16,
    ),
    small_size=Size(1, 4, 4, 8),
)  # fmt: skip
