"""Qwen-Image: packed latents of an image and the sizes of it, a timestep, a text with a mask."""

from __future__ import annotations

import torch

from skipguide.families.examples import HEADS, Config, Example, Inputs, Size, noise


def _inputs(config: Config, size: Size, batch: int) -> Inputs:
    return dict(
        hidden_states=noise(batch, size.tokens, config["in_channels"]),
        encoder_hidden_states=noise(batch, size.text, config["joint_attention_dim"]),
        encoder_hidden_states_mask=torch.ones(batch, size.text, dtype=torch.long),
        timestep=torch.full((batch,), 0.5), img_shapes=[[(1, size.height, size.width)]] * batch,
    )  # fmt: skip


EXAMPLE = Example(
    narrow=dict(
        **HEADS, num_layers=60, in_channels=64, out_channels=16, joint_attention_dim=256,
        axes_dims_rope=(16, 24, 24),
    ),
    inputs=_inputs,
    layer=42,
    narrow_size=Size(1, 24, 24, 64),
    small=dict(
        num_attention_heads=2, attention_head_dim=8, in_channels=16, out_channels=4,
        joint_attention_dim=16, axes_dims_rope=(2, 2, 4),
    ),
    small_size=Size(1, 4, 4, 8),
)  # fmt: skip
