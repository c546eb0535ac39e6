"""HunyuanVideo 1.5: separate CFG passes of a guider, cond first; dual-stream blocks, two text
encoders, an image."""

from __future__ import annotations

import functools
from typing import Any

import torch
from diffusers.guiders.classifier_free_guidance import ClassifierFreeGuidance
from diffusers.models.autoencoders.autoencoder_kl_hunyuanvideo15 import AutoencoderKLHunyuanVideo15
from diffusers.pipelines.hunyuan_video1_5.pipeline_hunyuan_video1_5 import HunyuanVideo15Pipeline
from diffusers.pipelines.hunyuan_video1_5.pipeline_hunyuan_video1_5_image2video import (
    HunyuanVideo15ImageToVideoPipeline,
)
from diffusers.schedulers.scheduling_flow_match_euler_discrete import (
    FlowMatchEulerDiscreteScheduler,
)
from PIL import Image

from support.tiny.base import Tiny, denoiser, matter, quiet
from support.tiny.hunyuan import siglip


def autoencoder() -> AutoencoderKLHunyuanVideo15:
    """One latent of 4 channels for 4 x 4 pixels of 4 frames; the first frame has its own."""
    channels: Any = (8, 8, 8)
    vae = AutoencoderKLHunyuanVideo15(
        latent_channels=4,
        block_out_channels=channels,
        layers_per_block=1,
        spatial_compression_ratio=4,
    )
    return vae.eval()


def hunyuan15(
    pipeline: Any,
    inputs: dict[str, Any],
    dtype: torch.dtype = torch.float32,
    components: Any = dict,
) -> Tiny:
    torch.manual_seed(0)
    transformer = denoiser("hunyuan-1.5")
    pipe = pipeline(
        text_encoder=None, tokenizer=None, text_encoder_2=None, tokenizer_2=None, vae=autoencoder(),
        transformer=matter(transformer), scheduler=FlowMatchEulerDiscreteScheduler(shift=5.0),
        guider=ClassifierFreeGuidance(guidance_scale=4.5), **components(),
    )  # fmt: skip
    pipe.vision_num_semantic_tokens = 4  # in the place of an image; 729 usually, which take long
    mask = torch.ones(2, 8, dtype=torch.long)
    mask[0, 5:] = 0
    mask_2 = torch.zeros(
        2, 6, dtype=torch.long
    )  # the second encoder reads quoted text only: the first prompt has none
    mask_2[1, :4] = 1
    call = dict(
        prompt_embeds=torch.randn(2, 8, 16), prompt_embeds_mask=mask,
        negative_prompt_embeds=torch.randn(2, 8, 16), negative_prompt_embeds_mask=mask.flip(0),
        prompt_embeds_2=torch.randn(2, 6, 8), prompt_embeds_mask_2=mask_2,
        negative_prompt_embeds_2=torch.randn(2, 6, 8),
        negative_prompt_embeds_mask_2=torch.zeros_like(mask_2), num_frames=5, num_inference_steps=3,
        output_type="latent",
    )  # fmt: skip
    # no argument of the call has to do with CFG: pipe.guider.disable(), or another guider, turns it
    # off
    return Tiny(quiet(pipe, dtype), {**call, **inputs}, off={}, g="")


PIPELINES = {
    "HunyuanVideo15Pipeline": functools.partial(
        hunyuan15, HunyuanVideo15Pipeline, dict(height=8, width=8)
    ),
    # the video is as large as the transformer's target_size
    "HunyuanVideo15ImageToVideoPipeline": functools.partial(
        hunyuan15,
        HunyuanVideo15ImageToVideoPipeline,
        dict(image=Image.linear_gradient("L").resize((16, 16)).convert("RGB")),
        components=siglip,
    ),
}
