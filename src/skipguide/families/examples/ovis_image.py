"""Ovis-Image: tokens of an image, a timestep from 0 to 1, a text, the positions of both."""

from __future__ import annotations

import torch

from skipguide.families.examples import HEADS, Config, Example, Inputs, Size, noise


def inputs(config: Config, size: Size, batch: int) -> Inputs:
    """Make the inputs; Bria has the same."""
    rows, columns = torch.arange(size.height), torch.arange(size.width)
    grid = torch.meshgrid(rows, columns, indexing="ij")
    positions = torch.stack([torch.zeros_like(grid[0]), *grid], -1).reshape(-1, 3)
    return dict(
        hidden_states=noise(batch, size.tokens, config["in_channels"]),
        encoder_hidden_states=noise(batch, size.text, config["joint_attention_dim"]),
        timestep=torch.full((batch,), 0.5), img_ids=positions.float(),
        txt_ids=torch.zeros(size.text, 3),
    )  # fmt: skip


EXAMPLE = Example(
    narrow=dict(
        **HEADS, num_layers=6, num_single_layers=27, in_channels=64, joint_attention_dim=256,
        axes_dims_rope=(16, 24, 24),
    ),
    inputs=inputs,
    layer="single:18",
    narrow_size=Size(1, 24, 24, 64),
    small=dict(
        num_attention_heads=2, attention_head_dim=16, in_channels=16, out_channels=16,
        joint_attention_dim=16, axes_dims_rope=(4, 6, 6),
    ),
    small_size=Size(1, 2, 2, 8),
)  # fmt: skip
