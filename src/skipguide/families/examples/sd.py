"""Stable Diffusion 1.5 and 2.1: latents, a timestep, a text."""

from __future__ import annotations

import torch

from skipguide.families.examples import Config, Example, Inputs, Size, noise


def inputs(config: Config, size: Size, batch: int) -> Inputs:
    """Make the inputs."""
    return dict(
        sample=noise(batch, 4, size.height, size.width), timestep=torch.tensor(500.0),
        encoder_hidden_states=noise(batch, size.text, config["cross_attention_dim"]),
    )  # fmt: skip


PAG = (dict(scale=3.0, skip="attention"),)
EXAMPLE = Example(
    narrow=dict(block_out_channels=(64, 128, 256, 256), cross_attention_dim=256),
    inputs=inputs,
    layer="mid:0",
    narrow_size=Size(1, 48, 48, 77),
    small=dict(
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"), block_out_channels=(8, 16),
        layers_per_block=1, norm_num_groups=4, cross_attention_dim=16, attention_head_dim=2,
        sample_size=8,
    ),
    small_size=Size(1, 8, 8, 7),
    full=dict(cross_attention_dim=768),
    full_size=Size(1, 64, 64, 77),
    terms=PAG,
)  # fmt: skip
