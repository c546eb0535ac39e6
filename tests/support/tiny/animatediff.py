"""AnimateDiff and PIA: a Stable Diffusion UNet with motion modules between its layers, batched
CFG."""

from __future__ import annotations

import functools
from typing import Any

import torch
from diffusers.models.controlnets.controlnet import ControlNetModel
from diffusers.models.controlnets.controlnet_sparsectrl import SparseControlNetModel
from diffusers.models.unets.unet_motion_model import MotionAdapter
from diffusers.pipelines.animatediff.pipeline_animatediff import AnimateDiffPipeline
from diffusers.pipelines.animatediff.pipeline_animatediff_controlnet import (
    AnimateDiffControlNetPipeline,
)
from diffusers.pipelines.animatediff.pipeline_animatediff_sdxl import AnimateDiffSDXLPipeline
from diffusers.pipelines.animatediff.pipeline_animatediff_sparsectrl import (
    AnimateDiffSparseControlNetPipeline,
)
from diffusers.pipelines.animatediff.pipeline_animatediff_video2video import (
    AnimateDiffVideoToVideoPipeline,
)
from diffusers.pipelines.animatediff.pipeline_animatediff_video2video_controlnet import (
    AnimateDiffVideoToVideoControlNetPipeline,
)
from diffusers.pipelines.deprecated.pia.pipeline_pia import PIAPipeline
from diffusers.pipelines.pag.pipeline_pag_sd_animatediff import AnimateDiffPAGPipeline
from diffusers.schedulers.scheduling_ddim import DDIMScheduler

from support.tiny.base import Tiny, config, denoiser, quiet
from support.tiny.svd import level, pictures
from support.tiny.unet3d import autoencoder

UNET: Any = config("animatediff")
# What a ControlNet has in common with the UNet.
SIZES: Any = {
    name: UNET[name]
    for name in ("block_out_channels", "layers_per_block", "norm_num_groups", "cross_attention_dim")
}
XL: Any = dict(
    down_block_types=("DownBlockMotion", "CrossAttnDownBlockMotion"),
    up_block_types=("CrossAttnUpBlockMotion", "UpBlockMotion"), transformer_layers_per_block=(1, 2),
    use_linear_projection=True, addition_embed_type="text_time", addition_time_embed_dim=8,
    projection_class_embeddings_input_dim=64,
)  # fmt: skip


def videos(frames: int) -> list[list[Any]]:
    """Two that differ, of frames that differ."""
    return [[image.rotate(90 * i) for i in range(frames)] for image in pictures(16)]


def controlnet() -> ControlNetModel:
    """For single frames; its zero-initialised outputs matter too."""
    return level(
        ControlNetModel(
            down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
            conditioning_embedding_out_channels=(4, 8),
            attention_head_dim=2,
            **SIZES,
        )
    )


def sparse() -> SparseControlNetModel:
    """For scribbles of some frames; pictures would go through the VAE, which samples them without
    the generator."""
    return level(
        SparseControlNetModel(
            down_block_types=UNET["down_block_types"], use_simplified_condition_embedding=False,
            conditioning_channels=3, conditioning_embedding_out_channels=(4, 8), **SIZES,
            num_attention_heads=2, motion_num_attention_heads=2,
        )
    )  # fmt: skip


def animatediff(
    pipeline: Any,
    inputs: dict[str, Any],
    dtype: torch.dtype = torch.float32,
    changes: dict[str, Any] | None = None,
    control: Any = None,
    xl: bool = False,
) -> Tiny:
    torch.manual_seed(0)
    unet = denoiser("animatediff", **(changes or {}))
    scheduler = DDIMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="linear", clip_sample=False,
        steps_offset=1, timestep_spacing="linspace",
    )  # fmt: skip
    adapter = MotionAdapter(
        block_out_channels=(8, 16),
        motion_layers_per_block=1,
        motion_num_attention_heads=2,
        motion_norm_num_groups=4,
    )  # what the UNet's motion modules come from; FreeNoise asks it for its config
    parts: Any = dict(
        vae=autoencoder(), text_encoder=None, tokenizer=None, unet=level(unet),
        motion_adapter=adapter, scheduler=scheduler,
    )  # fmt: skip
    if control is not None:
        parts.update(controlnet=control())
    call: dict[str, Any] = dict(
        prompt_embeds=torch.randn(2, 7, 16), negative_prompt_embeds=torch.randn(2, 7, 16),
        height=16, width=16, num_inference_steps=3, guidance_scale=4.5, output_type="latent",
    )  # fmt: skip
    if xl:
        parts.update(text_encoder_2=None, tokenizer_2=None)
        call.update(
            pooled_prompt_embeds=torch.randn(2, 16),
            negative_pooled_prompt_embeds=torch.randn(2, 16),
        )
    pipe = quiet(pipeline(**parts), dtype)
    short = dict(
        num_inference_steps=3 if "strength" in inputs else 2
    )  # strength leaves the first quarter out
    off = dict(guidance_scale=1.0)
    return Tiny(pipe, {**call, **inputs}, off=off, denoisers=("unet",), short=short)


def row(pipeline: Any, inputs: dict[str, Any], **options: Any) -> Any:
    return functools.partial(animatediff, pipeline, inputs, **options)


PIPELINES = {
    "AnimateDiffPipeline": row(AnimateDiffPipeline, dict(num_frames=3)),
    # a video per prompt, and the pipeline wants as many of these as there are frames
    "AnimateDiffControlNetPipeline": row(
        AnimateDiffControlNetPipeline,
        dict(num_frames=2, conditioning_frames=videos(2)),
        control=controlnet,
    ),
    "AnimateDiffSDXLPipeline": row(
        AnimateDiffSDXLPipeline, dict(num_frames=3), changes=XL, xl=True
    ),
    "AnimateDiffSparseControlNetPipeline": row(
        AnimateDiffSparseControlNetPipeline,
        dict(num_frames=3, conditioning_frames=pictures(16), controlnet_frame_indices=[0, 2]),
        control=sparse,
    ),
    # 3 of 4 steps
    "AnimateDiffVideoToVideoPipeline": row(
        AnimateDiffVideoToVideoPipeline, dict(video=videos(3), num_inference_steps=4, strength=0.75)
    ),
    "AnimateDiffVideoToVideoControlNetPipeline": row(
        AnimateDiffVideoToVideoControlNetPipeline,
        dict(video=videos(3), conditioning_frames=videos(3), num_inference_steps=4, strength=0.75),
        control=controlnet,
    ),
    # without its own guidance
    "AnimateDiffPAGPipeline": row(AnimateDiffPAGPipeline, dict(num_frames=3, pag_scale=0.0)),
    # latents, a mask and the image's latents
    "PIAPipeline": row(
        PIAPipeline, dict(image=pictures(16), num_frames=3), changes=dict(in_channels=9)
    ),
}
