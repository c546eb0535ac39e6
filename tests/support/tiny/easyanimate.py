"""EasyAnimate: text, masks and controls to video, batched CFG, joint attention with two kinds of
blocks."""

from __future__ import annotations

import functools
from typing import Any

import torch
from diffusers.models.autoencoders.autoencoder_kl_magvit import AutoencoderKLMagvit
from diffusers.pipelines.easyanimate import pipeline_easyanimate_control
from diffusers.pipelines.easyanimate.pipeline_easyanimate import EasyAnimatePipeline
from diffusers.pipelines.easyanimate.pipeline_easyanimate_inpaint import EasyAnimateInpaintPipeline
from diffusers.schedulers.scheduling_flow_match_euler_discrete import (
    FlowMatchEulerDiscreteScheduler,
)

from support.tiny.base import Tiny, denoiser, matter, quiet

VIDEO = torch.linspace(0, 1, 2 * 3 * 3 * 16 * 16).reshape(2, 3, 3, 16, 16)


class EasyAnimateControlPipeline(pipeline_easyanimate_control.EasyAnimateControlPipeline):
    """The pipeline of diffusers 0.42 calls its own encode_prompt with an argument that this does
    not have."""

    def encode_prompt(self, *args: Any, text_encoder_index: int = 0, **kwargs: Any) -> Any:
        return super().encode_prompt(*args, **kwargs)


def autoencoder() -> AutoencoderKLMagvit:
    """One latent of 4 channels for 4 x 4 pixels of 2 frames; the first frame has its own."""
    vae = AutoencoderKLMagvit(
        latent_channels=4,
        block_out_channels=(8, 8, 8),
        norm_num_groups=4,
        layers_per_block=1,
        down_block_types=(
            "SpatialDownBlock3D",
            "SpatialTemporalDownBlock3D",
            "SpatialTemporalDownBlock3D",
        ),
        up_block_types=("SpatialUpBlock3D", "SpatialTemporalUpBlock3D", "SpatialTemporalUpBlock3D"),
    )
    vae.register_to_config(
        cache_mag_vae=True
    )  # the published configs have it, the class does not know it
    return vae.eval()


def easyanimate(
    pipeline: Any, channels: int, inputs: dict[str, Any], dtype: torch.dtype = torch.float32
) -> Tiny:
    torch.manual_seed(0)
    transformer = denoiser("easyanimate", in_channels=channels)
    pipe = pipeline(
        vae=autoencoder(), text_encoder=None, tokenizer=None, transformer=matter(transformer),
        scheduler=FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True),
    )  # fmt: skip
    mask = torch.ones(2, 8, dtype=torch.long)
    mask[0, 5:] = 0
    call = dict(
        prompt_embeds=torch.randn(2, 8, 32), prompt_attention_mask=mask,
        negative_prompt_embeds=torch.randn(2, 8, 32), negative_prompt_attention_mask=mask.flip(0),
        height=16, width=16, num_frames=3, num_inference_steps=3, guidance_scale=4.5,
        output_type="latent", **inputs,
    )  # fmt: skip
    return Tiny(quiet(pipe, dtype), call, off=dict(guidance_scale=1.0))


mask_video = torch.zeros(2, 1, 3, 16, 16)
mask_video[:, :, 1:] = 255

PIPELINES = {
    "EasyAnimatePipeline": functools.partial(easyanimate, EasyAnimatePipeline, 4, {}),
    "EasyAnimateInpaintPipeline": functools.partial(
        easyanimate, EasyAnimateInpaintPipeline, 9, dict(video=VIDEO, mask_video=mask_video)
    ),
    "EasyAnimateControlPipeline": functools.partial(
        easyanimate, EasyAnimateControlPipeline, 12, dict(control_video=VIDEO)
    ),
}
