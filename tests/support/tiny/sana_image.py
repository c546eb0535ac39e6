"""SANA: text to image, batched CFG, linear self-attention; SANA-Sprint, guidance-distilled, without
CFG."""

from __future__ import annotations

import functools
from typing import Any

import torch
from diffusers.models.autoencoders.autoencoder_dc import AutoencoderDC
from diffusers.models.controlnets.controlnet_sana import SanaControlNetModel
from diffusers.pipelines.pag.pipeline_pag_sana import SanaPAGPipeline
from diffusers.pipelines.sana.pipeline_sana import SanaPipeline
from diffusers.pipelines.sana.pipeline_sana_controlnet import SanaControlNetPipeline
from diffusers.pipelines.sana.pipeline_sana_sprint import SanaSprintPipeline
from diffusers.pipelines.sana.pipeline_sana_sprint_img2img import SanaSprintImg2ImgPipeline
from diffusers.schedulers.scheduling_dpmsolver_multistep import DPMSolverMultistepScheduler
from diffusers.schedulers.scheduling_scm import SCMScheduler

from support.tiny.base import Tiny, config, denoiser, matter, quiet

IMAGE = torch.linspace(0, 1, 2 * 3 * 32 * 32).reshape(2, 3, 32, 32)


def autoencoder() -> AutoencoderDC:
    """One latent of 4 channels for 8 x 8 pixels; the pipelines take multiples of 32."""
    levels: Any = dict(
        block_types=("ResBlock",) * 4, block_out_channels=(8,) * 4, layers_per_block=(1,) * 4,
        qkv_multiscales=((),) * 4,
    )  # fmt: skip
    both: Any = {
        f"{part}_{name}": v for part in ("encoder", "decoder") for name, v in levels.items()
    }
    vae = AutoencoderDC(latent_channels=4, **both)
    return vae.eval()


def text(width: int) -> dict[str, Any]:
    """Two prompts; the first of them is short."""
    mask = torch.ones(2, 8, dtype=torch.long)
    mask[0, 5:] = 0
    return dict(prompt_embeds=torch.randn(2, 8, width), prompt_attention_mask=mask)


def negative_text(width: int) -> dict[str, Any]:
    """The negative prompts; the second of them is short."""
    found = text(width)
    found["prompt_attention_mask"] = found["prompt_attention_mask"].flip(0)
    return {f"negative_{name}": value for name, value in found.items()}


def controlnet() -> SanaControlNetModel:
    """It has hints for two blocks."""
    sizes = config("sana")
    del sizes["out_channels"]
    return matter(SanaControlNetModel(**{**sizes, "num_layers": 2}))


def sana(
    pipeline: Any, inputs: dict[str, Any], dtype: torch.dtype = torch.float32,
    components: Any = dict,
) -> Tiny:  # fmt: skip
    torch.manual_seed(0)
    width = config("sana")["caption_channels"]
    scheduler = DPMSolverMultistepScheduler(
        prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0
    )
    pipe = pipeline(
        tokenizer=None, text_encoder=None, vae=autoencoder(), transformer=matter(denoiser("sana")),
        scheduler=scheduler, **components(),
    )  # fmt: skip
    call = dict(
        **text(width), **negative_text(width), negative_prompt=None, height=32, width=32,
        num_inference_steps=3, guidance_scale=4.5, output_type="latent",
        use_resolution_binning=False, **inputs,
    )  # fmt: skip
    return Tiny(quiet(pipe, dtype), call, off=dict(guidance_scale=1.0))


def sprint(pipeline: Any, inputs: dict[str, Any], dtype: torch.dtype = torch.float32) -> Tiny:
    torch.manual_seed(0)
    transformer = denoiser("sana", guidance_embeds=True, qk_norm="rms_norm_across_heads")
    pipe = pipeline(
        tokenizer=None, text_encoder=None, vae=autoencoder(), transformer=matter(transformer),
        scheduler=SCMScheduler(),
    )  # fmt: skip
    call = dict(
        **text(config("sana")["caption_channels"]), height=32, width=32, num_inference_steps=2,
        guidance_scale=4.5, output_type="latent", use_resolution_binning=False, **inputs,
    )  # fmt: skip
    return Tiny(quiet(pipe, dtype), call, off={}, g="")


PIPELINES = {
    "SanaPipeline": functools.partial(sana, SanaPipeline, {}),
    "SanaControlNetPipeline": functools.partial(
        sana, SanaControlNetPipeline, dict(control_image=IMAGE),
        components=lambda: dict(controlnet=controlnet()),
    ),
    "SanaPAGPipeline": functools.partial(sana, SanaPAGPipeline, dict(pag_scale=0.0)),
}  # fmt: skip
WITHOUT_CFG = {
    "SanaSprintPipeline": functools.partial(sprint, SanaSprintPipeline, {}),
    "SanaSprintImg2ImgPipeline": functools.partial(
        sprint, SanaSprintImg2ImgPipeline, dict(image=IMAGE, strength=1.0)
    ),
}
