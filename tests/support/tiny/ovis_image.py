"""Ovis-Image and Bria 3.2: text to image; blocks that return the text first, dual ones and then
single ones."""

from __future__ import annotations

from typing import Any

import torch
from diffusers.pipelines.bria.pipeline_bria import BriaPipeline
from diffusers.pipelines.ovis_image.pipeline_ovis_image import OvisImagePipeline
from diffusers.schedulers.scheduling_flow_match_euler_discrete import (
    FlowMatchEulerDiscreteScheduler,
)

from support.tiny.base import Tiny, config, denoiser, matter, quiet
from support.tiny.images import image_autoencoder


def packed(family: str, pipeline: Any, dtype: torch.dtype) -> Tiny:
    """Latents of 4 x 4, which are 2 x 2 tokens."""
    torch.manual_seed(0)
    width = config(family)["joint_attention_dim"]
    pipe = pipeline(
        tokenizer=None, text_encoder=None, vae=image_autoencoder(),
        transformer=matter(denoiser(family)),
        scheduler=FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True),
    )  # fmt: skip
    call = dict(
        prompt_embeds=torch.randn(2, 8, width), negative_prompt_embeds=torch.randn(2, 8, width),
        negative_prompt=None, height=8, width=8, num_inference_steps=3, guidance_scale=4.5,
        output_type="latent",
    )  # fmt: skip
    return Tiny(quiet(pipe, dtype), call, off=dict(guidance_scale=1.0))


def ovis_image(dtype: torch.dtype = torch.float32) -> Tiny:
    """Separate CFG passes."""
    return packed("ovis-image", OvisImagePipeline, dtype)


def bria(dtype: torch.dtype = torch.float32) -> Tiny:
    """Batched CFG."""
    return packed("bria", BriaPipeline, dtype)


PIPELINES = {"OvisImagePipeline": ovis_image, "BriaPipeline": bria}
