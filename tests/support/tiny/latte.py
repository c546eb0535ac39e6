"""Latte: text to video, batched CFG, blocks of space and time in turn; predicts a variance beside
the noise."""

from __future__ import annotations

from typing import Any

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.pipelines.latte.pipeline_latte import LattePipeline
from diffusers.schedulers.scheduling_ddim import DDIMScheduler

from support.tiny.base import Tiny, denoiser, matter, quiet


def latte(dtype: torch.dtype = torch.float32) -> Tiny:
    torch.manual_seed(0)
    transformer = denoiser("latte")
    blocks: Any = dict(
        down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2,
        block_out_channels=(8, 8), norm_num_groups=4,
    )  # fmt: skip
    parts: Any = dict(
        tokenizer=None,
        text_encoder=None,
        vae=AutoencoderKL(**blocks).eval(),
        transformer=matter(transformer),
        scheduler=DDIMScheduler(
            beta_start=0.0001, beta_end=0.02, beta_schedule="linear", clip_sample=False
        ),
    )
    call = dict(
        prompt_embeds=torch.randn(2, 8, 32), negative_prompt=None,
        negative_prompt_embeds=torch.randn(2, 8, 32), height=8, width=8, video_length=2,
        num_inference_steps=3, guidance_scale=4.5, output_type="latent",
    )  # fmt: skip
    return Tiny(
        quiet(LattePipeline(**parts), dtype), call, off=dict(guidance_scale=1.0), variance=True
    )


PIPELINES = {"LattePipeline": latte}
