"""PixArt alpha and sigma: text to image, batched CFG, a learned variance."""

from __future__ import annotations

import functools
from typing import Any

import torch
from diffusers.pipelines.pag.pipeline_pag_pixart_sigma import PixArtSigmaPAGPipeline
from diffusers.pipelines.pixart_alpha.pipeline_pixart_alpha import PixArtAlphaPipeline
from diffusers.pipelines.pixart_alpha.pipeline_pixart_sigma import PixArtSigmaPipeline
from diffusers.schedulers.scheduling_dpmsolver_multistep import DPMSolverMultistepScheduler

from support.tiny.base import Tiny, config, denoiser, matter, quiet
from support.tiny.sana_image import negative_text, text
from support.tiny.unet3d import autoencoder


def pixart(
    pipeline: Any, inputs: dict[str, Any], dtype: torch.dtype = torch.float32, **changes: Any
) -> Tiny:
    torch.manual_seed(0)
    width = config("pixart")["caption_channels"]
    pipe = pipeline(
        tokenizer=None, text_encoder=None, vae=autoencoder(),
        transformer=matter(denoiser("pixart", **changes)), scheduler=DPMSolverMultistepScheduler(),
    )  # fmt: skip
    call = dict(
        **text(width), **negative_text(width), negative_prompt=None, height=8, width=8,
        num_inference_steps=3, guidance_scale=4.5, output_type="latent",
        use_resolution_binning=False, **inputs,
    )  # fmt: skip
    return Tiny(quiet(pipe, dtype), call, off=dict(guidance_scale=1.0), variance=True)


PIPELINES = {
    # at this size it is told the resolution
    "PixArtAlphaPipeline": functools.partial(pixart, PixArtAlphaPipeline, {}, sample_size=128),
    "PixArtSigmaPipeline": functools.partial(pixart, PixArtSigmaPipeline, {}),
    "PixArtSigmaPAGPipeline": functools.partial(
        pixart, PixArtSigmaPAGPipeline, dict(pag_scale=0.0)
    ),
}
