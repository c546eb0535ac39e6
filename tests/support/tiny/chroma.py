"""Chroma: Flux's blocks with CFG in separate passes, cond first; the single-stream blocks take the
text and the image as one stream."""

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


def chroma(pipeline: str, inputs: dict[str, Any], dtype: torch.dtype = torch.float32) -> Tiny:
    torch.manual_seed(0)
    transformer = matter(denoiser("chroma"))
    transformer.register_to_config(guidance_embeds=False)  # the inpaint pipeline asks for it
    pipe = getattr(diffusers, pipeline)(
        text_encoder=None, tokenizer=None, vae=image_autoencoder(),
        transformer=transformer,
        scheduler=FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True),
    )  # fmt: skip
    embeds = (2, 8, config("chroma")["joint_attention_dim"])
    mask = torch.ones(2, 8)
    mask[0, 5:] = 0
    call = dict(
        prompt_embeds=torch.randn(embeds), negative_prompt_embeds=torch.randn(embeds),
        prompt_attention_mask=mask, negative_prompt_attention_mask=mask.flip(0), height=16,
        width=16, num_inference_steps=3, guidance_scale=4.5, output_type="latent",
    )  # fmt: skip
    return Tiny(
        quiet(pipe, dtype), {**call, **inputs}, off=dict(guidance_scale=1.0), short=short(inputs)
    )


PIPELINES = {
    "ChromaPipeline": functools.partial(chroma, "ChromaPipeline", {}),
    "ChromaImg2ImgPipeline": functools.partial(chroma, "ChromaImg2ImgPipeline", FROM_IMAGE),
    "ChromaInpaintPipeline": functools.partial(
        chroma, "ChromaInpaintPipeline", {**FROM_IMAGE, "mask_image": MASK}
    ),
}
