"""CogView4: text to image, separate CFG passes, cond first; joint attention over text and image."""

from __future__ import annotations

import functools
from typing import Any

import torch
from diffusers.pipelines.cogview4.pipeline_cogview4 import CogView4Pipeline
from diffusers.pipelines.cogview4.pipeline_cogview4_control import CogView4ControlPipeline
from diffusers.schedulers.scheduling_flow_match_euler_discrete import (
    FlowMatchEulerDiscreteScheduler,
)

from support.tiny.base import Tiny, config, denoiser, matter, quiet
from support.tiny.unet3d import autoencoder

IMAGE = torch.linspace(0, 1, 2 * 3 * 16 * 16).reshape(2, 3, 16, 16)


def cogview4(
    pipeline: Any, inputs: dict[str, Any], dtype: torch.dtype = torch.float32, **changes: Any
) -> Tiny:
    torch.manual_seed(0)
    pipe = pipeline(
        tokenizer=None, text_encoder=None, vae=autoencoder(exact=True),
        transformer=matter(denoiser("cogview4", **changes)),
        scheduler=FlowMatchEulerDiscreteScheduler(
            use_dynamic_shifting=True, base_shift=0.25, max_shift=0.75, time_shift_type="linear"
        ),
    )  # fmt: skip
    width = config("cogview4")["text_embed_dim"]
    call = dict(
        prompt_embeds=torch.randn(2, 8, width), negative_prompt_embeds=torch.randn(2, 8, width),
        height=16, width=16, num_inference_steps=3, guidance_scale=4.5, output_type="latent",
    )  # fmt: skip
    return Tiny(quiet(pipe, dtype), {**call, **inputs}, off=dict(guidance_scale=1.0))


PIPELINES = {
    "CogView4Pipeline": functools.partial(cogview4, CogView4Pipeline, {}),
    # the image that controls is beside the latents
    "CogView4ControlPipeline": functools.partial(
        cogview4, CogView4ControlPipeline, dict(control_image=IMAGE), in_channels=8
    ),
}
