"""HunyuanDiT: latents of an image, a timestep, two texts with masks, its size and style; here
without rotary embeddings, which its pipeline makes."""

from __future__ import annotations

import torch

from skipguide.families.examples import (
    HEADS,
    Config,
    Example,
    Size,
    image_inputs,
    noise,
    text_mask,
    with_text_mask,
)


def _second_text(config: Config, size: Size, batch: int) -> torch.Tensor:
    return noise(batch, config["text_len_t5"], config["cross_attention_dim_t5"])


def _second_mask(config: Config, size: Size, batch: int) -> torch.Tensor:
    return text_mask(Size(1, 1, 1, config["text_len_t5"]), batch)


def _image_size(config: Config, size: Size, batch: int) -> torch.Tensor:
    pixels = [8.0 * size.height, 8.0 * size.width]
    return torch.tensor([[*pixels, *pixels, 0.0, 0.0]]).repeat(batch, 1)


def _style(config: Config, size: Size, batch: int) -> torch.Tensor:
    return torch.zeros(batch, dtype=torch.long)


EXAMPLE = Example(
    narrow=dict(
        **HEADS, num_layers=40, hidden_size=256, in_channels=4, patch_size=2, sample_size=48,
        cross_attention_dim=256, cross_attention_dim_t5=256, pooled_projection_dim=64, text_len=64,
        text_len_t5=64,
    ),
    inputs=image_inputs(
        "cross_attention_dim", text_embedding_mask=with_text_mask,
        encoder_hidden_states_t5=_second_text, text_embedding_mask_t5=_second_mask,
        image_meta_size=_image_size, style=_style,
    ),
    layer=28,
    narrow_size=Size(1, 48, 48, 64),
    small=dict(
        num_attention_heads=2, attention_head_dim=16, hidden_size=32, cross_attention_dim=16,
        cross_attention_dim_t5=16, pooled_projection_dim=8, text_len=8, text_len_t5=6,
        sample_size=4,
    ),
    small_size=Size(1, 4, 4, 8),
)  # fmt: skip
