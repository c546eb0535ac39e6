"""FramePack: HunyuanVideo's inputs, an image, and the latents of earlier frames, twice and four
times compressed, each with the positions of its frames."""

from __future__ import annotations

import torch

from skipguide.families.examples import (
    Config,
    Example,
    Inputs,
    Size,
    noise,
    video_inputs,
    with_text_mask,
)
from skipguide.families.examples.hunyuan import NARROW, SMALL, guidance, pooled

_common = video_inputs(
    "text_embed_dim", encoder_attention_mask=with_text_mask, pooled_projections=pooled,
    guidance=guidance,
)  # fmt: skip


def _inputs(config: Config, size: Size, batch: int) -> Inputs:
    def history(frames: int) -> torch.Tensor:
        return noise(batch, config["in_channels"], frames, size.height, size.width)

    return dict(
        **_common(config, size, batch), image_embeds=noise(batch, 16, config["image_proj_dim"]),
        indices_latents=torch.arange(20, 20 + size.frames),
        latents_clean=history(2), indices_latents_clean=torch.arange(0, 2),
        latents_history_2x=history(2), indices_latents_history_2x=torch.arange(2, 4),
        latents_history_4x=history(4), indices_latents_history_4x=torch.arange(4, 8),
    )  # fmt: skip


EXAMPLE = Example(
    narrow=dict(**NARROW, has_image_proj=True, image_proj_dim=64, has_clean_x_embedder=True),
    inputs=_inputs,
    layer="single:22",
    small=dict(**SMALL, image_proj_dim=8),
)
