"""I2VGen-XL: ModelScope's inputs, frames per second, the image as latents and as an embedding."""

from __future__ import annotations

import torch

from skipguide.families.examples import Config, Example, Inputs, Size, modelscope, noise


def _inputs(config: Config, size: Size, batch: int) -> Inputs:
    return dict(
        **modelscope.inputs(config, size, batch), fps=torch.full((batch,), 16.0),
        image_latents=noise(batch, 4, *size.latents),
        image_embeddings=noise(batch, config["cross_attention_dim"]),
    )  # fmt: skip


EXAMPLE = Example(
    modelscope.NARROW,
    _inputs,
    layer="up:4",
    narrow_size=Size(8, 16, 16, 77),
    small=modelscope.SMALL,
    small_size=Size(3, 8, 8, 7),
    full=dict(cross_attention_dim=1024),
    full_size=Size(16, 88, 160, 77),
)
