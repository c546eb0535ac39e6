"""SDXL: Stable Diffusion's inputs, a pooled text, six numbers about the size of the image."""

from __future__ import annotations

import torch

from skipguide.families.examples import Config, Example, Inputs, Size, noise, sd


def _inputs(config: Config, size: Size, batch: int) -> Inputs:
    pixels = [8.0 * size.height, 8.0 * size.width]
    numbers = 6 * config["addition_time_embed_dim"]
    width = config["projection_class_embeddings_input_dim"] - numbers
    about = torch.tensor([[*pixels, 0.0, 0.0, *pixels]]).repeat(batch, 1)
    added = dict(text_embeds=noise(batch, width), time_ids=about)
    return dict(**sd.inputs(config, size, batch), added_cond_kwargs=added)


_XL = dict(
    down_block_types=("DownBlock2D", *("CrossAttnDownBlock2D",) * 2),
    up_block_types=(*("CrossAttnUpBlock2D",) * 2, "UpBlock2D"),
    transformer_layers_per_block=(1, 2, 10), use_linear_projection=True,
    addition_embed_type="text_time",
)  # fmt: skip
EXAMPLE = Example(
    narrow=dict(
        **_XL, block_out_channels=(64, 128, 256), attention_head_dim=(1, 2, 4),
        cross_attention_dim=256, addition_time_embed_dim=32,
        projection_class_embeddings_input_dim=320,
    ),
    inputs=_inputs,
    layer="mid:0",
    narrow_size=Size(1, 48, 48, 77),
    # Two blocks in a transformer on the inner level, one on the way between.
    small=dict(
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"), transformer_layers_per_block=(1, 2),
        block_out_channels=(8, 16), attention_head_dim=(1, 2), layers_per_block=1,
        norm_num_groups=4, cross_attention_dim=16, addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=64, sample_size=8,
    ),
    small_size=Size(1, 8, 8, 7),
    full=dict(
        **_XL, block_out_channels=(320, 640, 1280), attention_head_dim=(5, 10, 20),
        cross_attention_dim=2048, addition_time_embed_dim=256,
        projection_class_embeddings_input_dim=2816,
    ),
    full_size=Size(1, 128, 128, 77),
    terms=sd.PAG,
)  # fmt: skip
