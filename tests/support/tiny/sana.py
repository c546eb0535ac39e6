"""SANA-Video and SANA-WM: text, image and camera path to video, batched CFG, linear
self-attention."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import torch
from diffusers.models.autoencoders.autoencoder_kl_ltx2 import AutoencoderKLLTX2Video
from diffusers.models.autoencoders.autoencoder_kl_wan import AutoencoderKLWan
from diffusers.pipelines.sana_video.pipeline_sana_video import SanaVideoPipeline
from diffusers.pipelines.sana_video.pipeline_sana_video_i2v import SanaImageToVideoPipeline
from diffusers.pipelines.sana_wm.pipeline_sana_wm import SanaWMPipeline
from diffusers.schedulers.scheduling_dpmsolver_multistep import DPMSolverMultistepScheduler
from diffusers.schedulers.scheduling_flow_match_euler_discrete import (
    FlowMatchEulerDiscreteScheduler,
)
from PIL import Image

from support.tiny.base import Tiny, denoiser, matter, quiet

IMAGE = torch.linspace(0, 1, 3 * 32 * 32).reshape(
    1, 3, 32, 32
)  # the pipeline takes one image for all prompts


def solver() -> DPMSolverMultistepScheduler:
    return DPMSolverMultistepScheduler(
        prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=8.0
    )


def euler() -> FlowMatchEulerDiscreteScheduler:
    return FlowMatchEulerDiscreteScheduler(shift=8.0)


def sana(
    pipeline: Any, scheduler: Any, inputs: dict[str, Any], dtype: torch.dtype = torch.float32
) -> Tiny:
    torch.manual_seed(0)
    transformer = denoiser("sana-video")
    vae = AutoencoderKLWan(
        base_dim=4,
        z_dim=4,
        dim_mult=[1, 1, 1, 1],
        num_res_blocks=1,
        latents_mean=[0.0] * 4,
        latents_std=[1.0] * 4,
    )
    pipe = pipeline(
        tokenizer=None,
        text_encoder=None,
        vae=vae.eval(),
        transformer=matter(transformer),
        scheduler=scheduler(),
    )
    mask = torch.ones(2, 8, dtype=torch.long)
    mask[0, 5:] = 0
    call = dict(
        prompt_embeds=torch.randn(2, 8, 32), prompt_attention_mask=mask, negative_prompt=None,
        negative_prompt_embeds=torch.randn(2, 8, 32), negative_prompt_attention_mask=mask.flip(0),
        height=32, width=32, frames=5, num_inference_steps=3, guidance_scale=4.5,
        output_type="latent", use_resolution_binning=False, **inputs,
    )  # fmt: skip
    return Tiny(quiet(pipe, dtype), call, off=dict(guidance_scale=1.0))


def sana_wm(dtype: torch.dtype = torch.float32) -> Tiny:
    """In bfloat16 it runs on a GPU only: the transformer refuses to build its camera rays so on a
    CPU."""
    torch.manual_seed(0)
    transformer = denoiser("sana-wm")
    vae = AutoencoderKLLTX2Video(
        latent_channels=4, patch_size=2, block_out_channels=(8,),
        down_block_types=("LTX2VideoDownBlock3D",), decoder_block_out_channels=(8,),
        layers_per_block=(1, 1), decoder_layers_per_block=(1, 1), spatio_temporal_scaling=(True,),
        decoder_spatio_temporal_scaling=(True,), decoder_inject_noise=(False, False),
        downsample_type=("spatiotemporal",), upsample_type=("spatiotemporal",),
        upsample_residual=(True,), upsample_factor=(1,),
    )  # fmt: skip
    parts: Any = dict(
        tokenizer=None, text_encoder=None, vae=vae.eval(), transformer=matter(transformer),
        scheduler=FlowMatchEulerDiscreteScheduler(),
    )  # fmt: skip
    poses = np.tile(np.eye(4, dtype=np.float32), (3, 1, 1))
    poses[:, 2, 3] = (0.0, 0.1, 0.2)
    mask = torch.ones(1, 8, dtype=torch.long)
    short = mask.clone()
    short[:, 5:] = 0
    call = dict(  # one prompt: the pipeline makes latents for one video only
        prompt="",
        prompt_embeds=torch.randn(1, 1, 8, 32),
        prompt_attention_mask=mask,
        negative_prompt_embeds=torch.randn(1, 1, 8, 32),
        negative_prompt_attention_mask=short,
        image=Image.linear_gradient("L").resize((8, 8)).convert("RGB"),
        c2w=poses,
        intrinsics=[8.0, 8.0, 4.0, 4.0],
        height=8,
        width=8,
        num_frames=3,
        num_inference_steps=3,
        guidance_scale=4.5,
        output_type="latent",
    )
    return Tiny(quiet(SanaWMPipeline(**parts), dtype), call, off=dict(guidance_scale=1.0))


PIPELINES = {
    "SanaVideoPipeline": functools.partial(sana, SanaVideoPipeline, solver, {}),
    "SanaImageToVideoPipeline": functools.partial(
        sana, SanaImageToVideoPipeline, euler, dict(image=IMAGE)
    ),
    "SanaWMPipeline": sana_wm,
}
