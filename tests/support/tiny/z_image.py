"""Z-Image: one call on [cond, uncond], in lists of images and of texts; c + g (c - u), whose g is 0
where there is no CFG."""

from __future__ import annotations

import functools
from typing import Any

import diffusers
import torch
from diffusers.schedulers.scheduling_flow_match_euler_discrete import (
    FlowMatchEulerDiscreteScheduler,
)

from support.tiny.base import Tiny, config, denoiser, matter, quiet
from support.tiny.images import FROM_IMAGE, MASK, image_autoencoder, short


def z_image(pipeline: str, inputs: dict[str, Any], dtype: torch.dtype = torch.float32) -> Tiny:
    torch.manual_seed(0)
    pipe = getattr(diffusers, pipeline)(
        text_encoder=None, tokenizer=None, vae=image_autoencoder(),
        transformer=matter(denoiser("z-image")),
        scheduler=FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True),
    )  # fmt: skip
    width = config("z-image")["cap_feat_dim"]
    call = dict(
        prompt_embeds=[torch.randn(5, width), torch.randn(8, width)],
        negative_prompt_embeds=[torch.randn(7, width), torch.randn(3, width)], height=16, width=16,
        num_inference_steps=3, guidance_scale=3.5, output_type="latent",
    )  # fmt: skip
    return Tiny(
        quiet(pipe, dtype), {**call, **inputs}, off=dict(guidance_scale=0.0), cond="cap_feats",
        g_plus=1.0, short=short(inputs), attentions=("attention",),
    )  # fmt: skip


PIPELINES = {
    "ZImagePipeline": functools.partial(z_image, "ZImagePipeline", {}),
    "ZImageImg2ImgPipeline": functools.partial(z_image, "ZImageImg2ImgPipeline", FROM_IMAGE),
    "ZImageInpaintPipeline": functools.partial(
        z_image, "ZImageInpaintPipeline", {**FROM_IMAGE, "mask_image": MASK}
    ),
}
