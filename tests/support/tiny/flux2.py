"""Flux 2: guidance-distilled; Klein, with CFG in separate passes. The single-stream blocks join the
projections of attention and feed-forward."""

from __future__ import annotations

import functools
from typing import Any

import diffusers
import torch
from diffusers.models.autoencoders.autoencoder_kl_flux2 import AutoencoderKLFlux2
from diffusers.schedulers.scheduling_flow_match_euler_discrete import (
    FlowMatchEulerDiscreteScheduler,
)
from PIL import Image

from support.tiny.base import Tiny, config, denoiser, matter, quiet
from support.tiny.images import FROM_IMAGE, MASK, short

PICTURE = Image.linear_gradient("L").resize((64, 64)).convert("RGB")


def autoencoder() -> AutoencoderKLFlux2:
    """One latent of 4 channels for 2 x 2 pixels, and the statistics of 2 x 2 latents."""
    blocks: Any = dict(
        down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2,
        block_out_channels=(8, 8), norm_num_groups=4, latent_channels=4, layers_per_block=1,
    )  # fmt: skip
    return AutoencoderKLFlux2(**blocks).eval()


def flux2(
    pipeline: str,
    inputs: dict[str, Any],
    dtype: torch.dtype = torch.float32,
    has_cfg: bool = True,
    **changes: Any,
) -> Tiny:
    torch.manual_seed(0)
    pipe = getattr(diffusers, pipeline)(
        text_encoder=None, tokenizer=None, vae=autoencoder(),
        transformer=matter(denoiser("flux-2", **changes)),
        scheduler=FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True),
    )  # fmt: skip
    embeds = (2, 8, config("flux-2")["joint_attention_dim"])
    call = dict(
        prompt_embeds=torch.randn(embeds), height=16, width=16, num_inference_steps=3,
        guidance_scale=4.5, output_type="latent",
    )  # fmt: skip
    if has_cfg:
        call["negative_prompt_embeds"] = torch.randn(embeds)
    off = dict(guidance_scale=1.0) if has_cfg else {}
    return Tiny(quiet(pipe, dtype), {**call, **inputs}, off=off, short=short(inputs), tokens=16)


def row(pipeline: str, inputs: dict[str, Any], **options: Any) -> Any:
    return functools.partial(flux2, pipeline, inputs, **options)


PIPELINES = {
    "Flux2KleinPipeline": row("Flux2KleinPipeline", {}, guidance_embeds=False),
    "Flux2KleinPipeline edit": row(
        "Flux2KleinPipeline", dict(image=[PICTURE]), guidance_embeds=False
    ),
    "Flux2KleinInpaintPipeline": row(
        "Flux2KleinInpaintPipeline", {**FROM_IMAGE, "mask_image": MASK}, guidance_embeds=False
    ),
}

WITHOUT_CFG = {
    "Flux2Pipeline": row("Flux2Pipeline", {}, has_cfg=False),
    "Flux2Pipeline edit": row("Flux2Pipeline", dict(image=[PICTURE]), has_cfg=False),
}
