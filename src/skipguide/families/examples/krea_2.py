"""Krea 2: tokens of an image, a timestep from 0 to 1, a text by several layers of its encoder with
a mask, the positions of both."""

from __future__ import annotations

import torch

from skipguide.families.examples import Config, Example, Inputs, Size, noise, ovis_image


def _inputs(config: Config, size: Size, batch: int) -> Inputs:
    found = ovis_image.inputs({**config, "joint_attention_dim": 1}, size, batch)
    positions = torch.cat([found.pop("txt_ids"), found.pop("img_ids")])
    layers, width = config["num_text_layers"], config["text_hidden_dim"]
    return {
        **found,
        "encoder_hidden_states": noise(batch, size.text, layers, width),
        "position_ids": positions,
        "encoder_attention_mask": torch.ones(batch, size.text, dtype=torch.bool),
    }


EXAMPLE = Example(
    narrow=dict(
        num_attention_heads=4, attention_head_dim=64, num_key_value_heads=2, num_layers=28,
        in_channels=64, intermediate_size=1024, timestep_embed_dim=64, text_hidden_dim=256,
        num_text_layers=12, text_num_attention_heads=4, text_num_key_value_heads=4,
        text_intermediate_size=256, axes_dims_rope=(16, 24, 24),
    ),
    inputs=_inputs,
    layer=20,
    narrow_size=Size(1, 24, 24, 64),
    small=dict(
        num_attention_heads=2, attention_head_dim=16, num_key_value_heads=1, in_channels=16,
        intermediate_size=32, timestep_embed_dim=16, text_hidden_dim=16, num_text_layers=2,
        text_num_attention_heads=2, text_num_key_value_heads=2, text_intermediate_size=16,
        num_layerwise_text_blocks=1, num_refiner_text_blocks=1, axes_dims_rope=(4, 6, 6),
    ),
    small_size=Size(1, 2, 2, 8),
)  # fmt: skip
