"""Lumina 2: text to image, separate CFG passes, cond first; one stream of text and image, whose
texts differ in length."""

from __future__ import annotations

import functools
from typing import Any

import torch
from diffusers.pipelines.lumina2.pipeline_lumina2 import Lumina2Pipeline
from diffusers.schedulers.scheduling_flow_match_euler_discrete import (
    FlowMatchEulerDiscreteScheduler,
)

from support.tiny.base import Tiny, config, denoiser, matter, quiet
from support.tiny.sana_image import negative_text, text
from support.tiny.unet3d import autoencoder


def lumina2(inputs: dict[str, Any], dtype: torch.dtype = torch.float32) -> Tiny:
    torch.manual_seed(0)
    width = config("lumina-2")["cap_feat_dim"]
    parts: Any = dict(tokenizer=None, text_encoder=None)
    pipe = Lumina2Pipeline(
        **parts, vae=autoencoder(),
        transformer=matter(denoiser("lumina-2")), scheduler=FlowMatchEulerDiscreteScheduler(),
    )  # fmt: skip
    call = dict(
        **text(width), **negative_text(width), height=32, width=32, num_inference_steps=3,
        guidance_scale=4.5, output_type="latent", **inputs,
    )  # fmt: skip
    return Tiny(quiet(pipe, dtype), call, off=dict(guidance_scale=1.0))


PIPELINES = {
    "Lumina2Pipeline": functools.partial(lumina2, dict(cfg_normalization=False)),
}
