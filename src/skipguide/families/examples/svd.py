"""Stable Video Diffusion: latents beside those of the image with frames first, a noise level, the
image's embedding, three numbers about the video."""

from __future__ import annotations

import torch

from skipguide.families.examples import Config, Example, Inputs, Size, noise


def _inputs(config: Config, size: Size, batch: int) -> Inputs:
    return dict(
        sample=noise(batch, size.frames, 8, size.height, size.width), timestep=torch.tensor(1.6),
        encoder_hidden_states=noise(batch, size.text, config["cross_attention_dim"]),
        added_time_ids=torch.tensor([[6.0, 127.0, 0.02]]).repeat(batch, 1),
    )  # fmt: skip


# The norms of its transformers have 32 groups whatever the config, and so 32 channels at least.
EXAMPLE = Example(
    narrow=dict(
        block_out_channels=(64, 128, 256, 256), num_attention_heads=(1, 2, 4, 4),
        cross_attention_dim=256, addition_time_embed_dim=64,
        projection_class_embeddings_input_dim=192, num_frames=8,
    ),
    inputs=_inputs,
    layer="up:0",
    narrow_size=Size(8, 24, 24, 1),
    small=dict(
        down_block_types=(*("CrossAttnDownBlockSpatioTemporal",) * 2, "DownBlockSpatioTemporal"),
        up_block_types=("UpBlockSpatioTemporal", *("CrossAttnUpBlockSpatioTemporal",) * 2),
        block_out_channels=(32, 32, 64), num_attention_heads=(2, 2, 4), layers_per_block=1,
        transformer_layers_per_block=1, cross_attention_dim=16, addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=24, num_frames=3,
    ),
    small_size=Size(3, 8, 8, 1),
    full=dict(cross_attention_dim=1024),
    full_size=Size(25, 72, 128, 1),
    terms=(
        dict(scale=2.0, skip="attention", axis="spatial"),
        dict(scale=0.5, skip="attention", axis="temporal"),
    ),
)  # fmt: skip
