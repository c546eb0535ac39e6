"""GLM-Image: text to image, separate CFG passes, cond first; with images to edit, whose keys and
values the denoiser keeps before the loop."""

from __future__ import annotations

import functools
from typing import Any

import torch
from diffusers.pipelines.glm_image.pipeline_glm_image import GlmImagePipeline
from diffusers.schedulers.scheduling_flow_match_euler_discrete import (
    FlowMatchEulerDiscreteScheduler,
)
from PIL import Image

from support.tiny.base import Tiny, config, denoiser, matter, quiet
from support.tiny.hunyuan_dit import autoencoder

PRIOR = torch.arange(2 * 4).reshape(2, 4)
PICTURE = Image.linear_gradient("L").resize((32, 32)).convert("RGB")
EDITED: dict[str, Any] = dict(
    image=[[PICTURE], [PICTURE.rotate(90)]], prior_token_image_ids=list(PRIOR.flip(0)),
    source_image_grid_thw=[torch.tensor([[1, 2, 2]])] * 2,
)  # fmt: skip


def glm_image(inputs: dict[str, Any], dtype: torch.dtype = torch.float32) -> Tiny:
    torch.manual_seed(0)
    width = config("glm-image")["text_embed_dim"]
    vae = autoencoder()
    vae.register_to_config(latents_mean=[0.0] * 4, latents_std=[1.0] * 4)
    parts: Any = dict.fromkeys(
        ("tokenizer", "processor", "text_encoder", "vision_language_encoder")
    )
    pipe = GlmImagePipeline(
        **parts, vae=vae, transformer=matter(denoiser("glm-image")),
        scheduler=FlowMatchEulerDiscreteScheduler(
            use_dynamic_shifting=True, base_shift=0.25, max_shift=0.75, time_shift_type="linear"
        ),
    )  # fmt: skip
    call = dict(
        prompt_embeds=torch.randn(2, 8, width), negative_prompt_embeds=torch.randn(2, 8, width),
        prior_token_ids=PRIOR, height=32, width=32, num_inference_steps=3, guidance_scale=4.5,
        output_type="latent", **inputs,
    )  # fmt: skip
    return Tiny(quiet(pipe, dtype), call, off=dict(guidance_scale=1.0))


PIPELINES = {
    "GlmImagePipeline": functools.partial(glm_image, {}),
}
# Of the calls before its loop the oracles know nothing: test_more_images.py has a test of its own.
EDITS = functools.partial(glm_image, EDITED)
