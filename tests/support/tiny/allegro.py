"""Allegro: text to video, batched CFG, self-attention and cross-attention with a mask over the
text."""

from __future__ import annotations

from typing import Any

import torch
from diffusers.models.autoencoders.autoencoder_kl_allegro import AutoencoderKLAllegro
from diffusers.pipelines.allegro.pipeline_allegro import AllegroPipeline
from diffusers.schedulers.scheduling_euler_ancestral_discrete import EulerAncestralDiscreteScheduler

from support.tiny.base import Tiny, denoiser, matter, quiet


def allegro(dtype: torch.dtype = torch.float32) -> Tiny:
    torch.manual_seed(0)
    transformer = denoiser("allegro")
    vae = AutoencoderKLAllegro(
        block_out_channels=(8, 8, 8, 8), layers_per_block=1, norm_num_groups=4
    )
    parts: Any = dict(
        tokenizer=None, text_encoder=None, vae=vae.eval(), transformer=matter(transformer),
        scheduler=EulerAncestralDiscreteScheduler(beta_schedule="scaled_linear"),
    )  # fmt: skip
    mask = torch.ones(2, 8, dtype=torch.long)
    mask[0, 5:] = 0
    call = dict(
        prompt_embeds=torch.randn(2, 8, 32), prompt_attention_mask=mask, negative_prompt=None,
        negative_prompt_embeds=torch.randn(2, 8, 32), negative_prompt_attention_mask=mask.flip(0),
        height=32, width=32, num_frames=8, num_inference_steps=3, guidance_scale=4.5,
        output_type="latent",
    )  # fmt: skip
    return Tiny(quiet(AllegroPipeline(**parts), dtype), call, off=dict(guidance_scale=1.0))


PIPELINES = {"AllegroPipeline": allegro}
