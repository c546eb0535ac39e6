"""Stable Diffusion 3 and 3.5: latents of an image, a timestep, a text with a pooled vector."""

from __future__ import annotations

from skipguide.families.examples import HEADS, Example, Size, image_inputs
from skipguide.families.examples.hunyuan import pooled

EXAMPLE = Example(
    narrow=dict(
        **HEADS, num_layers=24, in_channels=16, joint_attention_dim=256,
        caption_projection_dim=256, pooled_projection_dim=64, sample_size=48,
        dual_attention_layers=tuple(range(13)), qk_norm="rms_norm",
    ),
    inputs=image_inputs("joint_attention_dim", pooled_projections=pooled),
    layer=8,
    narrow_size=Size(1, 48, 48, 64),
    small=dict(
        num_attention_heads=2, attention_head_dim=8, in_channels=4, out_channels=4,
        joint_attention_dim=16, caption_projection_dim=16, pooled_projection_dim=8, sample_size=8,
        pos_embed_max_size=8, dual_attention_layers=(0, 1),
    ),
    small_size=Size(1, 4, 4, 8),
)  # fmt: skip
