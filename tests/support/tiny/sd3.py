"""Stable Diffusion 3 and 3.5: batched CFG; blocks that return the text first, some of which have a
second attention over the image."""

from __future__ import annotations

import functools
from typing import Any

import torch
from diffusers.models.controlnets.controlnet_sd3 import SD3ControlNetModel
from diffusers.pipelines.controlnet_sd3.pipeline_stable_diffusion_3_controlnet import (
    StableDiffusion3ControlNetPipeline,
)
from diffusers.pipelines.controlnet_sd3.pipeline_stable_diffusion_3_controlnet_inpainting import (
    StableDiffusion3ControlNetInpaintingPipeline,
)
from diffusers.pipelines.pag.pipeline_pag_sd_3 import StableDiffusion3PAGPipeline
from diffusers.pipelines.pag.pipeline_pag_sd_3_img2img import StableDiffusion3PAGImg2ImgPipeline
from diffusers.pipelines.stable_diffusion_3.pipeline_stable_diffusion_3 import (
    StableDiffusion3Pipeline,
)
from diffusers.pipelines.stable_diffusion_3.pipeline_stable_diffusion_3_img2img import (
    StableDiffusion3Img2ImgPipeline,
)
from diffusers.pipelines.stable_diffusion_3.pipeline_stable_diffusion_3_inpaint import (
    StableDiffusion3InpaintPipeline,
)
from diffusers.schedulers.scheduling_flow_match_euler_discrete import (
    FlowMatchEulerDiscreteScheduler,
)

from support.tiny.base import Tiny, config, denoiser, matter, quiet
from support.tiny.images import FROM_IMAGE, IMAGE, MASK, image_autoencoder, short

ENCODERS: Any = dict.fromkeys(
    f"{part}{number}" for part in ("text_encoder", "tokenizer") for number in ("", "_2", "_3")
)


def control_net(extra: int) -> SD3ControlNetModel:
    """One of two blocks, as wide as the denoiser."""
    taken = (
        "sample_size", "in_channels", "attention_head_dim", "num_attention_heads",
        "joint_attention_dim", "caption_projection_dim", "pooled_projection_dim", "out_channels",
        "pos_embed_max_size",
    )  # fmt: skip
    sizes = {name: value for name, value in config("sd3").items() if name in taken}
    return matter(SD3ControlNetModel(**sizes, num_layers=2, extra_conditioning_channels=extra))


def sd3(
    pipeline: Any,
    inputs: dict[str, Any],
    dtype: torch.dtype = torch.float32,
    control: int | None = None,
    **changes: Any,
) -> Tiny:
    torch.manual_seed(0)
    parts = {} if control is None else dict(controlnet=control_net(control))
    pipe = pipeline(
        **ENCODERS, vae=image_autoencoder(changes.get("in_channels", 4)),
        transformer=matter(denoiser("sd3", **changes)),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0), **parts,
    )  # fmt: skip
    sizes = config("sd3")
    embeds, pooled = (2, 8, sizes["joint_attention_dim"]), (2, sizes["pooled_projection_dim"])
    call = dict(
        prompt_embeds=torch.randn(embeds), negative_prompt_embeds=torch.randn(embeds),
        pooled_prompt_embeds=torch.randn(pooled), negative_pooled_prompt_embeds=torch.randn(pooled),
        height=16, width=16, num_inference_steps=3, guidance_scale=4.5, output_type="latent",
    )  # fmt: skip
    return Tiny(
        quiet(pipe, dtype), {**call, **inputs}, off=dict(guidance_scale=1.0), short=short(inputs),
        attentions=("attn2",),
    )  # fmt: skip


def row(*args: Any, **options: Any) -> Any:
    return functools.partial(sd3, *args, **options)


PIPELINES = {
    "StableDiffusion3Pipeline": row(StableDiffusion3Pipeline, {}),
    "StableDiffusion3Img2ImgPipeline": row(StableDiffusion3Img2ImgPipeline, FROM_IMAGE),
    "StableDiffusion3InpaintPipeline": row(
        StableDiffusion3InpaintPipeline,
        {**FROM_IMAGE, "mask_image": MASK},
        in_channels=16,  # it insists on them
        out_channels=16,
    ),
    "StableDiffusion3PAGPipeline": row(StableDiffusion3PAGPipeline, dict(pag_scale=0.0)),
    "StableDiffusion3PAGImg2ImgPipeline": row(
        StableDiffusion3PAGImg2ImgPipeline, {**FROM_IMAGE, "pag_scale": 0.0}
    ),
    "StableDiffusion3ControlNetPipeline": row(
        StableDiffusion3ControlNetPipeline, dict(control_image=IMAGE), control=0
    ),
    "StableDiffusion3ControlNetInpaintingPipeline": row(
        StableDiffusion3ControlNetInpaintingPipeline,
        dict(control_image=IMAGE, control_mask=MASK),
        control=1,
    ),
}
