"""CogView3-Plus: text to image, batched CFG; joint attention over text and image."""

from __future__ import annotations

import torch
from diffusers.pipelines.cogview3.pipeline_cogview3plus import CogView3PlusPipeline
from diffusers.schedulers.scheduling_dpm_cogvideox import CogVideoXDPMScheduler

from support.tiny.base import Tiny, config, denoiser, matter, quiet
from support.tiny.unet3d import autoencoder


def cogview3(dtype: torch.dtype = torch.float32) -> Tiny:
    torch.manual_seed(0)
    width = config("cogview3-plus")["text_embed_dim"]
    pipe = CogView3PlusPipeline(
        tokenizer=None, text_encoder=None, vae=autoencoder(),  # type: ignore[arg-type]
        transformer=matter(denoiser("cogview3-plus")),
        scheduler=CogVideoXDPMScheduler(),
    )  # fmt: skip
    call = dict(
        prompt_embeds=torch.randn(2, 8, width),
        negative_prompt_embeds=torch.zeros(2, 8, width),  # which it puts in the place of others
        height=8, width=8, num_inference_steps=3, guidance_scale=4.5, output_type="latent",
    )  # fmt: skip
    return Tiny(quiet(pipe, dtype), call, off=dict(guidance_scale=1.0))


PIPELINES = {"CogView3PlusPipeline": cogview3}
