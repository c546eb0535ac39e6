"""Mochi: text to video, batched CFG, joint attention over video and text."""

from __future__ import annotations

from typing import Any

import torch
from diffusers.models.autoencoders.autoencoder_kl_mochi import AutoencoderKLMochi
from diffusers.pipelines.mochi.pipeline_mochi import MochiPipeline
from diffusers.schedulers.scheduling_flow_match_euler_discrete import (
    FlowMatchEulerDiscreteScheduler,
)

from support.tiny.base import Tiny, denoiser, matter, quiet


def mochi(dtype: torch.dtype = torch.float32) -> Tiny:
    torch.manual_seed(0)
    transformer = denoiser("mochi")
    channels: Any = (32, 32, 32, 32)
    vae = AutoencoderKLMochi(
        encoder_block_out_channels=channels, decoder_block_out_channels=channels,
        layers_per_block=(0, 0, 0, 0, 1), add_attention_block=(False,) * 5,
    )  # fmt: skip
    text: Any = dict(text_encoder=None, tokenizer=None)
    pipe = MochiPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(invert_sigmas=True),
        vae=vae,
        transformer=matter(transformer),
        **text,
    )
    mask = torch.ones(2, 16, dtype=torch.bool)
    mask[0, 9:] = False
    call = dict(
        prompt_embeds=torch.randn(2, 16, 32), prompt_attention_mask=mask,
        negative_prompt_embeds=torch.randn(2, 16, 32), negative_prompt_attention_mask=mask.flip(0),
        height=32, width=32, num_frames=7, num_inference_steps=3, guidance_scale=4.5,
        output_type="latent",
    )  # fmt: skip
    return Tiny(quiet(pipe, dtype), call, off=dict(guidance_scale=1.0))


PIPELINES = {"MochiPipeline": mochi}
