"""Krea 2: text to image, separate CFG passes, cond first, c + g (c - u); one stream of text and
image, values that heads share, a gate behind the attention."""

from __future__ import annotations

from typing import Any

import torch
from diffusers.models.autoencoders.autoencoder_kl_qwenimage import AutoencoderKLQwenImage
from diffusers.pipelines.krea2.pipeline_krea2 import Krea2Pipeline
from diffusers.schedulers.scheduling_flow_match_euler_discrete import (
    FlowMatchEulerDiscreteScheduler,
)

from support.tiny.base import Tiny, config, denoiser, matter
from support.tiny.wan import load


def prompts(prefix: str, short: int) -> dict[str, Any]:
    """Two of them, of which one is short."""
    sizes = config("krea-2")
    mask = torch.ones(2, 8, dtype=torch.bool)
    mask[short, 5:] = False
    shape = 2, 8, sizes["num_text_layers"], sizes["text_hidden_dim"]
    return {f"{prefix}prompt_embeds": torch.randn(shape), f"{prefix}prompt_embeds_mask": mask}


def krea2(dtype: torch.dtype = torch.float32) -> Tiny:
    torch.manual_seed(0)
    vae = AutoencoderKLQwenImage(
        base_dim=4, z_dim=4, dim_mult=[1, 1], num_res_blocks=1, temperal_downsample=[False],
        latents_mean=[0.0] * 4, latents_std=[1.0] * 4,
    )  # fmt: skip
    parts: Any = dict(tokenizer=None, text_encoder=None)
    pipe = Krea2Pipeline(
        **parts, vae=vae.eval(), transformer=matter(denoiser("krea-2")),
        text_encoder_select_layers=(1, 2),
        scheduler=FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True),
    )  # fmt: skip
    call = dict(
        **prompts("", 0), **prompts("negative_", 1), height=8, width=8, num_inference_steps=3,
        guidance_scale=3.5, output_type="latent",
    )  # fmt: skip
    load(pipe, dtype, "transformer", "vae")
    return Tiny(pipe, call, off=dict(guidance_scale=0.0), g_plus=1.0)


PIPELINES = {"Krea2Pipeline": krea2}
