"""ModelScope and Zeroscope: latents, a timestep, a text."""

from __future__ import annotations

import torch

from skipguide.families.examples import Config, Example, Inputs, Size, noise

# I2VGen-XL is built of the same blocks.
NARROW = dict(block_out_channels=(64, 128, 256, 256), cross_attention_dim=256)
SMALL = dict(
    down_block_types=("CrossAttnDownBlock3D", "DownBlock3D"),
    up_block_types=("UpBlock3D", "CrossAttnUpBlock3D"), block_out_channels=(8, 16),
    layers_per_block=1, norm_num_groups=4, cross_attention_dim=16, attention_head_dim=4,
)  # fmt: skip


def inputs(config: Config, size: Size, batch: int) -> Inputs:
    """Make the inputs."""
    return dict(
        sample=noise(batch, 4, *size.latents), timestep=torch.tensor(500.0),
        encoder_hidden_states=noise(batch, size.text, config["cross_attention_dim"]),
    )  # fmt: skip


EXAMPLE = Example(
    NARROW,
    inputs,
    layer="up:4",
    narrow_size=Size(8, 16, 16, 77),
    small=SMALL,
    small_size=Size(3, 8, 8, 7),
    full=dict(cross_attention_dim=1024),
    full_size=Size(16, 32, 32, 77),
)
