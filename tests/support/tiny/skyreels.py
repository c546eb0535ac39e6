"""SkyReels V2: Wan's blocks and separate CFG passes; diffusion forcing has a timestep per latent
frame."""

from __future__ import annotations

import functools
from typing import Any

import torch
from diffusers.pipelines.skyreels_v2.pipeline_skyreels_v2 import SkyReelsV2Pipeline
from diffusers.pipelines.skyreels_v2.pipeline_skyreels_v2_diffusion_forcing import (
    SkyReelsV2DiffusionForcingPipeline,
)
from diffusers.pipelines.skyreels_v2.pipeline_skyreels_v2_diffusion_forcing_i2v import (
    SkyReelsV2DiffusionForcingImageToVideoPipeline,
)
from diffusers.pipelines.skyreels_v2.pipeline_skyreels_v2_diffusion_forcing_v2v import (
    SkyReelsV2DiffusionForcingVideoToVideoPipeline,
)
from diffusers.pipelines.skyreels_v2.pipeline_skyreels_v2_i2v import SkyReelsV2ImageToVideoPipeline
from transformers.models.clip.modeling_clip import CLIPVisionModelWithProjection

from support.tiny.base import Tiny, denoiser, matter
from support.tiny.wan import (
    CLIP,
    VIDEO,
    autoencoder,
    clip,
    load,
    picture,
    prompts,
    scheduler,
)


def skyreels(
    pipeline: Any,
    inputs: dict[str, Any],
    config: dict[str, Any],
    dtype: torch.dtype = torch.float32,
) -> Tiny:
    torch.manual_seed(0)
    transformer = denoiser("skyreels-v2", **config)
    components = clip(CLIPVisionModelWithProjection) if "image_dim" in config else {}
    pipe = pipeline(
        tokenizer=None, text_encoder=None, transformer=matter(transformer), vae=autoencoder(),
        scheduler=scheduler(8), **components,
    )  # fmt: skip
    # a transformer that attends to an image takes the last 512 tokens for the text
    text = prompts(512 if "image_dim" in config else 12, 16)
    call = dict(
        prompt=None, **text, height=32, width=32, num_frames=5, num_inference_steps=3,
        guidance_scale=4.5, output_type="latent",
    )  # fmt: skip
    load(pipe, dtype, "transformer")  # the VAE stays in float32, as in the documentation
    return Tiny(pipe, {**call, **inputs}, off=dict(guidance_scale=1.0))


def row(pipeline: Any, inputs: dict[str, Any], **config: Any) -> Any:
    return functools.partial(skyreels, pipeline, inputs, config)


PIPELINES = {
    "SkyReelsV2Pipeline": row(SkyReelsV2Pipeline, {}),
    "SkyReelsV2ImageToVideoPipeline": row(
        SkyReelsV2ImageToVideoPipeline, dict(image=picture(32)), **CLIP
    ),
    "SkyReelsV2DiffusionForcingPipeline": row(SkyReelsV2DiffusionForcingPipeline, {}),
    # the first two of four latent frames are a step ahead of the last two, and do not attend to
    # them
    "SkyReelsV2DiffusionForcingPipeline async": row(
        SkyReelsV2DiffusionForcingPipeline, dict(num_frames=13, ar_step=1, causal_block_size=2)
    ),
    "SkyReelsV2DiffusionForcingImageToVideoPipeline": row(
        SkyReelsV2DiffusionForcingImageToVideoPipeline, dict(image=picture(32), num_frames=9)
    ),
    "SkyReelsV2DiffusionForcingVideoToVideoPipeline": row(
        SkyReelsV2DiffusionForcingVideoToVideoPipeline,
        dict(video=VIDEO, num_frames=13, base_num_frames=13, overlap_history=5),
    ),
}
