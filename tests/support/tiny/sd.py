"""Stable Diffusion 1.5, SDXL and their relatives: a UNet for single images, batched CFG."""

from __future__ import annotations

import functools
import importlib
import warnings
from collections.abc import Callable
from typing import Any

import torch
from diffusers.models.controlnets.controlnet import ControlNetModel
from diffusers.models.controlnets.controlnet_union import ControlNetUnionModel
from diffusers.pipelines.controlnet.pipeline_controlnet import StableDiffusionControlNetPipeline
from diffusers.pipelines.controlnet.pipeline_controlnet_img2img import (
    StableDiffusionControlNetImg2ImgPipeline,
)
from diffusers.pipelines.controlnet.pipeline_controlnet_inpaint import (
    StableDiffusionControlNetInpaintPipeline,
)
from diffusers.pipelines.controlnet.pipeline_controlnet_inpaint_sd_xl import (
    StableDiffusionXLControlNetInpaintPipeline,
)
from diffusers.pipelines.controlnet.pipeline_controlnet_sd_xl import (
    StableDiffusionXLControlNetPipeline,
)
from diffusers.pipelines.controlnet.pipeline_controlnet_sd_xl_img2img import (
    StableDiffusionXLControlNetImg2ImgPipeline,
)
from diffusers.pipelines.controlnet.pipeline_controlnet_union_inpaint_sd_xl import (
    StableDiffusionXLControlNetUnionInpaintPipeline,
)
from diffusers.pipelines.controlnet.pipeline_controlnet_union_sd_xl import (
    StableDiffusionXLControlNetUnionPipeline,
)
from diffusers.pipelines.controlnet.pipeline_controlnet_union_sd_xl_img2img import (
    StableDiffusionXLControlNetUnionImg2ImgPipeline,
)
from diffusers.pipelines.latent_consistency_models import (
    pipeline_latent_consistency_img2img,
    pipeline_latent_consistency_text2img,
)
from diffusers.pipelines.pag.pipeline_pag_controlnet_sd import StableDiffusionControlNetPAGPipeline
from diffusers.pipelines.pag.pipeline_pag_controlnet_sd_inpaint import (
    StableDiffusionControlNetPAGInpaintPipeline,
)
from diffusers.pipelines.pag.pipeline_pag_controlnet_sd_xl import (
    StableDiffusionXLControlNetPAGPipeline,
)
from diffusers.pipelines.pag.pipeline_pag_controlnet_sd_xl_img2img import (
    StableDiffusionXLControlNetPAGImg2ImgPipeline,
)
from diffusers.pipelines.pag.pipeline_pag_sd import StableDiffusionPAGPipeline
from diffusers.pipelines.pag.pipeline_pag_sd_img2img import StableDiffusionPAGImg2ImgPipeline
from diffusers.pipelines.pag.pipeline_pag_sd_inpaint import StableDiffusionPAGInpaintPipeline
from diffusers.pipelines.pag.pipeline_pag_sd_xl import StableDiffusionXLPAGPipeline
from diffusers.pipelines.pag.pipeline_pag_sd_xl_img2img import StableDiffusionXLPAGImg2ImgPipeline
from diffusers.pipelines.pag.pipeline_pag_sd_xl_inpaint import StableDiffusionXLPAGInpaintPipeline
from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import StableDiffusionPipeline
from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion_img2img import (
    StableDiffusionImg2ImgPipeline,
)
from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion_inpaint import (
    StableDiffusionInpaintPipeline,
)
from diffusers.pipelines.stable_diffusion_xl.pipeline_stable_diffusion_xl import (
    StableDiffusionXLPipeline,
)
from diffusers.pipelines.stable_diffusion_xl.pipeline_stable_diffusion_xl_img2img import (
    StableDiffusionXLImg2ImgPipeline,
)
from diffusers.pipelines.stable_diffusion_xl.pipeline_stable_diffusion_xl_inpaint import (
    StableDiffusionXLInpaintPipeline,
)
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from diffusers.schedulers.scheduling_euler_discrete import EulerDiscreteScheduler
from diffusers.schedulers.scheduling_lcm import LCMScheduler
from PIL import Image

from support.tiny.base import Tiny, config, denoiser, quiet
from support.tiny.svd import level, pictures
from support.tiny.unet3d import BETAS, DDIM, autoencoder

SIZE = dict(height=16, width=16)
IMAGE: Any = dict(image=pictures(16), num_inference_steps=4, strength=0.75)  # 3 of 4 steps
MASK: Any = dict(mask_image=[Image.radial_gradient("L").resize((16, 16))] * 2)
CONTROL: Any = dict(control_image=pictures(16))
UNION: Any = dict(control_image=[pictures(16)], control_mode=[3])
WITHOUT_PAG: Any = dict(pag_scale=0.0)


def controlnet(family: str, union: bool = False) -> Any:
    """With the sizes of the family's UNet; its zero-initialised outputs matter too.

    If union, it is one for several kinds of pictures."""
    own = ("up_block_types", "sample_size")  # of the UNet
    shared: Any = {name: value for name, value in config(family).items() if name not in own}
    shared.update(conditioning_embedding_out_channels=(4, 8))
    if union:
        sizes: Any = dict(num_trans_channel=8, num_trans_head=2, num_proj_channel=8)
        return level(ControlNetUnionModel(**shared, **sizes))
    return level(ControlNetModel(**shared))


def image_unet(
    family: str,
    pipeline: Any,
    inputs: dict[str, Any],
    dtype: torch.dtype = torch.float32,
    control: bool = False,
    scheduler: Any = None,
    changes: dict[str, Any] | None = None,
    parts: Callable[[], dict[str, Any]] | None = None,
) -> Tiny:
    torch.manual_seed(0)
    vae = autoencoder()
    vae.register_to_config(force_upcast=False)  # it is in float32, or else meant not to be
    unet, scheduler = level(denoiser(family, **(changes or {}))), scheduler or _scheduler(family)
    made: Any = dict(vae=vae, unet=unet, scheduler=scheduler)
    call: dict[str, Any] = dict(
        prompt_embeds=torch.randn(2, 7, 16), num_inference_steps=3, guidance_scale=4.5,
        output_type="latent",
    )  # fmt: skip
    if control:
        made.update(controlnet=controlnet(family, "control_mode" in inputs))
    made.update(parts() if parts else _without_texts(family, pipeline))
    if family == "sdxl":
        call.update(pooled_prompt_embeds=torch.randn(2, 16))
    call.update({f"negative_{name}": torch.randn_like(call[name]) for name in _texts(call)})
    short = dict(num_inference_steps=3 if "strength" in inputs else 2)
    return Tiny(
        quiet(pipeline(**made), dtype), {**call, **inputs}, off=dict(guidance_scale=1.0),
        denoisers=("unet",), short=short,
    )  # fmt: skip


def _without_texts(family: str, pipeline: Any) -> dict[str, Any]:
    found = dict(text_encoder=None, tokenizer=None)
    if family == "sd":
        return found | dict(
            safety_checker=None, feature_extractor=None, requires_safety_checker=False
        )
    if not pipeline.__name__.startswith("Kolors"):
        return found | dict(text_encoder_2=None, tokenizer_2=None, add_watermarker=False)
    return found


def _texts(call: dict[str, Any]) -> list[str]:
    return [name for name in call if name.endswith("prompt_embeds")]


def _scheduler(family: str) -> Any:
    if family == "sd":
        return DDIMScheduler(**BETAS, **DDIM)
    return EulerDiscreteScheduler(**BETAS, steps_offset=1, timestep_spacing="leading")


def consistency(pipeline: Any, inputs: dict[str, Any], dtype: torch.dtype = torch.float32) -> Tiny:
    """A latent consistency model: it is told its scale, and has no negative prompt."""
    small = image_unet(
        "sd", pipeline, inputs, dtype, scheduler=LCMScheduler(**BETAS),
        changes=dict(time_cond_proj_dim=8),
    )  # fmt: skip
    small.call.pop("negative_prompt_embeds")
    small.off.clear()
    return small


def kolors(module: str, name: str, inputs: dict[str, Any], dtype: Any = torch.float32) -> Tiny:
    """SDXL's UNet with a text of another width. Its text encoder is imported with it, and scripts a
    function, of which torch warns."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        pipeline = getattr(importlib.import_module(f"diffusers.pipelines.{module}"), name)
    text = dict(encoder_hid_dim=16, encoder_hid_dim_type="text_proj")
    small = image_unet("sdxl", pipeline, inputs, dtype, changes=text)
    if name == "KolorsImg2ImgPipeline":  # it does not hand over what is pooled
        pooled = ("pooled_prompt_embeds", "negative_pooled_prompt_embeds")
        encode = small.pipe.encode_prompt
        small.pipe.encode_prompt = lambda **given: encode(
            **given, **{name: small.call[name] for name in pooled}
        )
    return small


sd = functools.partial(functools.partial, image_unet, "sd")
sdxl = functools.partial(functools.partial, image_unet, "sdxl")
WITH_MASK: Any = dict(changes=dict(in_channels=9))  # latents, a mask and those of the image

PIPELINES = {
    "StableDiffusionPipeline": sd(StableDiffusionPipeline, SIZE),
    "StableDiffusionImg2ImgPipeline": sd(StableDiffusionImg2ImgPipeline, IMAGE),
    "StableDiffusionInpaintPipeline": sd(
        StableDiffusionInpaintPipeline, {**IMAGE, **MASK, **SIZE}, **WITH_MASK
    ),
    "StableDiffusionControlNetPipeline": sd(
        StableDiffusionControlNetPipeline, dict(image=pictures(16)), control=True
    ),
    "StableDiffusionControlNetImg2ImgPipeline": sd(
        StableDiffusionControlNetImg2ImgPipeline, {**IMAGE, **CONTROL}, control=True
    ),
    "StableDiffusionControlNetInpaintPipeline": sd(
        StableDiffusionControlNetInpaintPipeline, {**IMAGE, **MASK, **CONTROL}, control=True
    ),
    "StableDiffusionPAGPipeline": sd(StableDiffusionPAGPipeline, {**SIZE, **WITHOUT_PAG}),
    "StableDiffusionPAGImg2ImgPipeline": sd(
        StableDiffusionPAGImg2ImgPipeline, {**IMAGE, **WITHOUT_PAG}
    ),
    "StableDiffusionPAGInpaintPipeline": sd(
        StableDiffusionPAGInpaintPipeline, {**IMAGE, **MASK, **SIZE, **WITHOUT_PAG}
    ),
    "StableDiffusionControlNetPAGPipeline": sd(
        StableDiffusionControlNetPAGPipeline, dict(image=pictures(16), **WITHOUT_PAG), control=True
    ),
    "StableDiffusionControlNetPAGInpaintPipeline": sd(
        StableDiffusionControlNetPAGInpaintPipeline, {**IMAGE, **MASK, **CONTROL, **WITHOUT_PAG},
        control=True,
    ),
    "StableDiffusionXLPipeline": sdxl(StableDiffusionXLPipeline, SIZE),
    "StableDiffusionXLImg2ImgPipeline": sdxl(StableDiffusionXLImg2ImgPipeline, IMAGE),
    "StableDiffusionXLInpaintPipeline": sdxl(
        StableDiffusionXLInpaintPipeline, {**IMAGE, **MASK, **SIZE}
    ),
    "StableDiffusionXLControlNetPipeline": sdxl(
        StableDiffusionXLControlNetPipeline, dict(image=pictures(16)), control=True
    ),
    "StableDiffusionXLControlNetImg2ImgPipeline": sdxl(
        StableDiffusionXLControlNetImg2ImgPipeline, {**IMAGE, **CONTROL}, control=True
    ),
    "StableDiffusionXLControlNetInpaintPipeline": sdxl(
        StableDiffusionXLControlNetInpaintPipeline, {**IMAGE, **MASK, **CONTROL}, control=True
    ),
    "StableDiffusionXLControlNetUnionPipeline": sdxl(
        StableDiffusionXLControlNetUnionPipeline, UNION, control=True
    ),
    "StableDiffusionXLControlNetUnionImg2ImgPipeline": sdxl(
        StableDiffusionXLControlNetUnionImg2ImgPipeline, {**IMAGE, **UNION}, control=True
    ),
    "StableDiffusionXLControlNetUnionInpaintPipeline": sdxl(
        StableDiffusionXLControlNetUnionInpaintPipeline, {**IMAGE, **MASK, **UNION}, control=True
    ),
    "StableDiffusionXLPAGPipeline": sdxl(StableDiffusionXLPAGPipeline, {**SIZE, **WITHOUT_PAG}),
    "StableDiffusionXLPAGImg2ImgPipeline": sdxl(
        StableDiffusionXLPAGImg2ImgPipeline, {**IMAGE, **WITHOUT_PAG}
    ),
    "StableDiffusionXLPAGInpaintPipeline": sdxl(
        StableDiffusionXLPAGInpaintPipeline, {**IMAGE, **MASK, **SIZE, **WITHOUT_PAG}
    ),
    "StableDiffusionXLControlNetPAGPipeline": sdxl(
        StableDiffusionXLControlNetPAGPipeline, dict(image=pictures(16), **WITHOUT_PAG),
        control=True,
    ),
    "StableDiffusionXLControlNetPAGImg2ImgPipeline": sdxl(
        StableDiffusionXLControlNetPAGImg2ImgPipeline, {**IMAGE, **CONTROL, **WITHOUT_PAG},
        control=True,
    ),
    "KolorsPipeline": functools.partial(
        kolors, "kolors.pipeline_kolors", "KolorsPipeline", SIZE
    ),
    "KolorsImg2ImgPipeline": functools.partial(
        kolors, "kolors.pipeline_kolors_img2img", "KolorsImg2ImgPipeline", IMAGE
    ),
    "KolorsPAGPipeline": functools.partial(
        kolors, "pag.pipeline_pag_kolors", "KolorsPAGPipeline", {**SIZE, **WITHOUT_PAG}
    ),
}  # fmt: skip

WITHOUT_CFG = {
    "LatentConsistencyModelPipeline": functools.partial(
        consistency, pipeline_latent_consistency_text2img.LatentConsistencyModelPipeline, SIZE
    ),
    "LatentConsistencyModelImg2ImgPipeline": functools.partial(
        consistency, pipeline_latent_consistency_img2img.LatentConsistencyModelImg2ImgPipeline,
        IMAGE,
    ),
}  # fmt: skip
