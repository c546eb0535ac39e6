"""HunyuanVideo 1.5: latents, a timestep, the texts of two encoders with masks, an image."""

from __future__ import annotations

import torch

from skipguide.families.examples import (
    HEADS,
    Config,
    Example,
    Inputs,
    Size,
    noise,
    video_inputs,
    with_text_mask,
)

_common = video_inputs("text_embed_dim", encoder_attention_mask=with_text_mask)


def _inputs(config: Config, size: Size, batch: int) -> Inputs:
    """Return the inputs of text to video: no quoted text for the second encoder, no image."""
    return dict(
        **_common(config, size, batch),
        encoder_hidden_states_2=noise(batch, 16, config["text_embed_2_dim"]),
        encoder_attention_mask_2=torch.zeros(batch, 16, dtype=torch.long),
        image_embeds=torch.zeros(batch, 8, config["image_embed_dim"]),
    )


EXAMPLE = Example(
    narrow=dict(
        **HEADS, in_channels=33, out_channels=16, num_layers=54, num_refiner_layers=2,
        text_embed_dim=256, text_embed_2_dim=64, image_embed_dim=64, rope_axes_dim=(16, 24, 24),
        patch_size=2,
    ),
    inputs=_inputs,
    layer=37,
    narrow_size=Size(2, 20, 20, 64),
    small=dict(
        in_channels=9, out_channels=4, num_attention_heads=2, attention_head_dim=12,
        num_refiner_layers=1, text_embed_dim=16, text_embed_2_dim=8, image_embed_dim=8,
        rope_axes_dim=(4, 4, 4), patch_size=1, target_size=8,
    ),
)  # fmt: skip
