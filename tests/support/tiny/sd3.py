"""Stable Diffusion 3 and 3.5: batched CFG; blocks that return the text first, some of which have a
second attention over the image."""

from __future__ import annotations

import functools
from typing import Any

import torch
from diffusers.pipelines.stable_diffusion_3.pipeline_stable_diffusion_3 import (
    StableDiffusion3Pipeline,
)
from diffusers.schedulers.scheduling_flow_match_euler_discrete import (
    FlowMatchEulerDiscreteScheduler,
)

from support.tiny.base import Tiny, config, denoiser, matter, quiet
from support.tiny.unet3d import autoencoder

ENCODERS: Any = dict.fromkeys(
    f"{part}{number}" for part in ("text_encoder", "tokenizer") for number in ("", "_2", "_3")
)


def sd3(
    pipeline: Any, inputs: dict[str, Any], dtype: torch.dtype = torch.float32, **changes: Any
) -> Tiny:
    torch.manual_seed(0)
    pipe = pipeline(
        **ENCODERS, vae=autoencoder(exact=True), transformer=matter(denoiser("sd3", **changes)),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
    )  # fmt: skip
    sizes = config("sd3")
    embeds, pooled = (
        (2, 8, sizes["joint_attention_dim"]),
        (2, sizes["pooled_projection_dim"]),
    )
    call = dict(
        prompt_embeds=torch.randn(embeds), negative_prompt_embeds=torch.randn(embeds),
        pooled_prompt_embeds=torch.randn(pooled), negative_pooled_prompt_embeds=torch.randn(pooled),
        height=16, width=16, num_inference_steps=3, guidance_scale=4.5, output_type="latent",
    )  # fmt: skip
    return Tiny(
        quiet(pipe, dtype), {**call, **inputs}, off=dict(guidance_scale=1.0), attentions=("attn2",)
    )


PIPELINES = {"StableDiffusion3Pipeline": functools.partial(sd3, StableDiffusion3Pipeline, {})}
