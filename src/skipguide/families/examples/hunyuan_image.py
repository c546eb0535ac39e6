"""HunyuanImage 2.1: latents of an image, a timestep, a text and the glyphs in it, each with a
mask."""

from __future__ import annotations

import torch

from skipguide.families.examples import (
    HEADS,
    Config,
    Example,
    Size,
    image_inputs,
    noise,
    with_text_mask,
)


def _glyphs(config: Config, size: Size, batch: int) -> torch.Tensor:
    return noise(batch, size.text, config["text_embed_2_dim"])


EXAMPLE = Example(
    narrow=dict(
        **HEADS, num_layers=20, num_single_layers=40, in_channels=64, out_channels=64,
        text_embed_dim=256, text_embed_2_dim=64, rope_axes_dim=(32, 32),
    ),
    inputs=image_inputs(
        "text_embed_dim", encoder_attention_mask=with_text_mask, encoder_hidden_states_2=_glyphs,
        encoder_attention_mask_2=with_text_mask,
    ),
    layer="dual:14",
    narrow_size=Size(1, 24, 24, 64),
    small=dict(
        num_attention_heads=2, attention_head_dim=16, num_refiner_layers=1, in_channels=4,
        out_channels=4, text_embed_dim=16, text_embed_2_dim=8, rope_axes_dim=(8, 8),
    ),
    small_size=Size(1, 4, 4, 8),
)  # fmt: skip
