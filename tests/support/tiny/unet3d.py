"""ModelScope's text to video and I2VGen-XL: layers of space and of time in turn in one UNet,
batched CFG."""

from __future__ import annotations

import functools
from typing import Any

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.pipelines.deprecated.i2vgen_xl.pipeline_i2vgen_xl import I2VGenXLPipeline
from diffusers.pipelines.deprecated.text_to_video_synthesis import (
    pipeline_text_to_video_synth_img2img,
)
from diffusers.pipelines.deprecated.text_to_video_synthesis.pipeline_text_to_video_synth import (
    TextToVideoSDPipeline,
)
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from diffusers.schedulers.scheduling_dpmsolver_multistep import DPMSolverMultistepScheduler

from support.tiny.base import Tiny, denoiser, quiet
from support.tiny.svd import clip, level, pictures

BETAS: Any = dict(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")
DDIM: Any = dict(clip_sample=False, set_alpha_to_one=False, steps_offset=1)
VIDEO = torch.linspace(0, 1, 3 * 3 * 16 * 16).reshape(1, 3, 3, 16, 16)


def autoencoder(exact: bool = False, channels: int = 4) -> AutoencoderKL:
    """If exact, what it samples is the mean: the deviation of 3e-7 is less than what a mean near 64
    can resolve."""
    blocks: Any = dict(
        down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2,
        block_out_channels=(8, 8), norm_num_groups=4, scaling_factor=1 / 32 if exact else 0.18215,
        latent_channels=channels,
    )  # fmt: skip
    vae = AutoencoderKL(**blocks)
    if exact and vae.quant_conv is not None:
        with torch.no_grad():
            vae.quant_conv.weight.mul_(16)
            vae.quant_conv.weight[channels:] = 0
            bias = torch.tensor([64.0] * channels + [-60.0] * channels)
            vae.quant_conv.bias[:] = bias  # type: ignore[index]
    return vae.eval()


def unet3d(
    pipeline: Any,
    family: str,
    scheduler: Any,
    inputs: dict[str, Any],
    dtype: torch.dtype = torch.float32,
    batch: int = 2,
    image: bool = False,
) -> Tiny:
    torch.manual_seed(0)
    parts: Any = clip(image_size=16, patch_size=4, width=16) if image else {}
    pipe = pipeline(
        vae=autoencoder(exact=image),
        text_encoder=None,
        tokenizer=None,
        unet=level(denoiser(family)),
        scheduler=scheduler,
        **parts,
    )
    call = dict(
        prompt_embeds=torch.randn(batch, 7, 16), negative_prompt_embeds=torch.randn(batch, 7, 16),
        num_inference_steps=3, guidance_scale=4.5, output_type="latent",
    )  # fmt: skip
    short = dict(
        num_inference_steps=3 if "strength" in inputs else 2
    )  # strength leaves the first quarter out
    off = dict(guidance_scale=1.0)
    return Tiny(quiet(pipe, dtype), {**call, **inputs}, off=off, denoisers=("unet",), short=short)


def row(*args: Any, **options: Any) -> Any:
    return functools.partial(unet3d, *args, **options)


PIPELINES = {
    "TextToVideoSDPipeline": row(
        TextToVideoSDPipeline,
        "modelscope",
        DDIMScheduler(**BETAS, **DDIM),
        dict(num_frames=3, height=16, width=16),
    ),
    # one video, 3 of 4 steps: the pipeline adds noise per frame with a timestep per video, which
    # agrees for one only
    "VideoToVideoSDPipeline": row(
        pipeline_text_to_video_synth_img2img.VideoToVideoSDPipeline,
        "modelscope",
        DPMSolverMultistepScheduler(**BETAS),
        dict(video=VIDEO, num_inference_steps=4, strength=0.75),
        batch=1,
    ),
    "I2VGenXLPipeline": row(
        I2VGenXLPipeline,
        "i2vgen-xl",
        DDIMScheduler(
            beta_schedule="squaredcos_cap_v2",
            prediction_type="v_prediction",
            rescale_betas_zero_snr=True,
            **DDIM,
        ),
        dict(image=pictures(16), num_frames=3, height=16, width=16, guidance_scale=9.0),
        image=True,
    ),
}
