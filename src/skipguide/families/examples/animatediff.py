"""AnimateDiff: latents, a timestep, a text for each frame."""

from __future__ import annotations

import torch

from skipguide.families.examples import Config, Example, Inputs, Size, noise


def _inputs(config: Config, size: Size, batch: int) -> Inputs:
    return dict(
        sample=noise(batch, 4, *size.latents), timestep=torch.tensor(500.0),
        encoder_hidden_states=noise(batch * size.frames, size.text, config["cross_attention_dim"]),
    )  # fmt: skip


EXAMPLE = Example(
    narrow=dict(block_out_channels=(64, 128, 256, 256), cross_attention_dim=256),
    inputs=_inputs,
    layer="up:5",
    narrow_size=Size(8, 24, 24, 77),
    small=dict(
        down_block_types=("CrossAttnDownBlockMotion", "DownBlockMotion"),
        up_block_types=("UpBlockMotion", "CrossAttnUpBlockMotion"), block_out_channels=(8, 16),
        layers_per_block=1, norm_num_groups=4, cross_attention_dim=16, num_attention_heads=2,
        motion_num_attention_heads=2,
    ),
    small_size=Size(3, 8, 8, 7),
    full=dict(cross_attention_dim=768),
    full_size=Size(16, 64, 64, 77),
)  # fmt: skip
