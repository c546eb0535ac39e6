"""Flux 1: guidance-distilled, with true CFG in separate passes, cond first, where the call asks for
it; packed latents; dual-stream blocks, then single-stream ones, which return the text first."""

from __future__ import annotations

import functools
from typing import Any

import diffusers
import torch
from diffusers.models.controlnets.controlnet_flux import FluxControlNetModel
from diffusers.schedulers.scheduling_flow_match_euler_discrete import (
    FlowMatchEulerDiscreteScheduler,
)
from PIL import Image

from support.tiny.base import Tiny, config, denoiser, matter, quiet
from support.tiny.images import FROM_IMAGE, IMAGE, MASK, image_autoencoder, short

ENCODERS: Any = dict.fromkeys(("text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2"))
INPAINT = {**FROM_IMAGE, "mask_image": MASK}
KONTEXT = dict(image=IMAGE, max_area=256, _auto_resize=False)


def control_net() -> Any:
    """One of a block of each kind."""
    sizes = {**config("flux"), "num_layers": 1, "num_single_layers": 1}
    return matter(FluxControlNetModel(**sizes))


def flux(
    pipeline: str,
    inputs: dict[str, Any],
    dtype: torch.dtype = torch.float32,
    has_cfg: bool = True,
    control: bool = False,
    parts: Any = dict,
    **changes: Any,
) -> Tiny:
    torch.manual_seed(0)
    more = {**parts(), **(dict(controlnet=control_net()) if control else {})}
    pipe = getattr(diffusers, pipeline)(
        **ENCODERS, vae=image_autoencoder(), transformer=matter(denoiser("flux", **changes)),
        scheduler=FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True), **more,
    )  # fmt: skip
    sizes = config("flux")
    embeds, pooled = (2, 8, sizes["joint_attention_dim"]), (2, sizes["pooled_projection_dim"])
    call = dict(
        prompt_embeds=torch.randn(embeds), pooled_prompt_embeds=torch.randn(pooled),
        height=16, width=16, num_inference_steps=3, guidance_scale=3.5, output_type="latent",
    )  # fmt: skip
    if has_cfg:
        call |= dict(
            negative_prompt_embeds=torch.randn(embeds), true_cfg_scale=4.5,
            negative_pooled_prompt_embeds=torch.randn(pooled),
        )  # fmt: skip
    off = dict(true_cfg_scale=1.0) if has_cfg else {}
    return Tiny(
        quiet(pipe, dtype), {**call, **inputs}, off=off, g="true_cfg_scale", short=short(inputs),
        tokens=16,
    )  # fmt: skip


def row(pipeline: str, inputs: dict[str, Any], **options: Any) -> Any:
    return functools.partial(flux, pipeline, inputs, **options)


def visual_cloze(dtype: torch.dtype = torch.float32) -> Tiny:
    """A picture and one to make of it, twice, after an example of both; in pixels of 16 x 16.

    Texts are encoded by the encoders alone, in the place of which there are embeddings."""
    small = flux(
        "VisualClozeGenerationPipeline", {}, dtype, has_cfg=False, in_channels=48, out_channels=16,
        parts=lambda: dict(resolution=16),
    )  # fmt: skip
    embeds = [small.call.pop(f"{name}prompt_embeds").to(dtype) for name in ("", "pooled_")]
    small.pipe.encode_prompt = lambda **_: (*embeds, torch.zeros(8, 3, dtype=dtype))
    picture = Image.linear_gradient("L").resize((16, 16)).convert("RGB")
    other = picture.rotate(90)
    rows = [[[picture, other], [other, None]], [[other, picture], [picture, None]]]
    for name in ("height", "width"):
        small.call.pop(name)
    texts: Any = dict(task_prompt=["turn"] * 2, content_prompt=["a picture"] * 2)
    small.call.update(**texts, image=rows)
    return small


PIPELINES = {
    "FluxPipeline": row("FluxPipeline", {}),
    # the weights of schnell take no guidance scale
    "FluxPipeline schnell": row("FluxPipeline", {}, guidance_embeds=False),
    "FluxImg2ImgPipeline": row("FluxImg2ImgPipeline", FROM_IMAGE),
    "FluxInpaintPipeline": row("FluxInpaintPipeline", INPAINT),
    "FluxKontextPipeline": row("FluxKontextPipeline", KONTEXT),
    "FluxKontextInpaintPipeline": row(
        "FluxKontextInpaintPipeline", {**INPAINT, "max_area": 256, "_auto_resize": False}
    ),
    "FluxControlNetPipeline": row(
        "FluxControlNetPipeline", dict(control_image=IMAGE), control=True
    ),
}

WITHOUT_CFG = {
    "FluxFillPipeline": row(
        "FluxFillPipeline", INPAINT, has_cfg=False, in_channels=48, out_channels=16
    ),
    "VisualClozeGenerationPipeline": visual_cloze,
    "FluxControlPipeline": row(
        "FluxControlPipeline", dict(control_image=IMAGE), has_cfg=False, in_channels=32,
        out_channels=16,
    ),
    "FluxControlImg2ImgPipeline": row(
        "FluxControlImg2ImgPipeline", {**FROM_IMAGE, "control_image": IMAGE}, has_cfg=False,
        in_channels=32, out_channels=16,
    ),
    "FluxControlInpaintPipeline": row(
        "FluxControlInpaintPipeline", {**INPAINT, "control_image": IMAGE}, has_cfg=False,
        in_channels=32, out_channels=16,
    ),
    "FluxControlNetImg2ImgPipeline": row(
        "FluxControlNetImg2ImgPipeline", {**FROM_IMAGE, "control_image": IMAGE}, has_cfg=False,
        control=True,
    ),
    "FluxControlNetInpaintPipeline": row(
        "FluxControlNetInpaintPipeline", {**INPAINT, "control_image": IMAGE}, has_cfg=False,
        control=True,
    ),
}  # fmt: skip
