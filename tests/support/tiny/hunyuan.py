"""HunyuanVideo and what is built on it: separate CFG passes, cond first; dual-stream, then
single-stream blocks."""

from __future__ import annotations

import functools
from typing import Any

import torch
from diffusers.models.autoencoders.autoencoder_kl_hunyuan_video import AutoencoderKLHunyuanVideo
from diffusers.pipelines.hunyuan_video.pipeline_hunyuan_skyreels_image2video import (
    HunyuanSkyreelsImageToVideoPipeline,
)
from diffusers.pipelines.hunyuan_video.pipeline_hunyuan_video import HunyuanVideoPipeline
from diffusers.pipelines.hunyuan_video.pipeline_hunyuan_video_framepack import (
    HunyuanVideoFramepackPipeline,
)
from diffusers.pipelines.hunyuan_video.pipeline_hunyuan_video_image2video import (
    HunyuanVideoImageToVideoPipeline,
)
from diffusers.schedulers.scheduling_flow_match_euler_discrete import (
    FlowMatchEulerDiscreteScheduler,
)
from PIL import Image
from transformers.models.siglip.configuration_siglip import SiglipVisionConfig
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil
from transformers.models.siglip.modeling_siglip import SiglipVisionModel

from support.tiny.base import Tiny, denoiser, matter, quiet

IMAGES = [
    image.resize((16, 16)).convert("RGB")
    for image in (Image.linear_gradient("L"), Image.radial_gradient("L"))
]


def autoencoder() -> AutoencoderKLHunyuanVideo:
    """One latent of 4 channels for 4 x 4 pixels of 4 frames; the first frame has its own."""
    down: Any = ("HunyuanVideoDownBlock3D",) * 3
    up: Any = ("HunyuanVideoUpBlock3D",) * 3
    channels: Any = (8, 8, 8)
    vae = AutoencoderKLHunyuanVideo(
        latent_channels=4, down_block_types=down, up_block_types=up, block_out_channels=channels,
        layers_per_block=1, norm_num_groups=4, spatial_compression_ratio=4,
    )  # fmt: skip
    return vae.eval()


def siglip() -> dict[str, Any]:
    """An image encoder of 4 tokens and its image processor."""
    config = SiglipVisionConfig(
        hidden_size=8,
        intermediate_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        image_size=8,
        patch_size=4,
    )
    processor = SiglipImageProcessorPil(size={"height": 8, "width": 8})
    return dict(image_encoder=SiglipVisionModel(config).eval(), feature_extractor=processor)


def hunyuan(
    pipeline: Any,
    inputs: dict[str, Any],
    config: dict[str, Any],
    dtype: torch.dtype = torch.float32,
    family: str = "hunyuan",
    windows: bool = True,
    **components: Any,
) -> Tiny:
    torch.manual_seed(0)
    if family == "framepack":
        components.update(siglip())
    pipe = pipeline(
        text_encoder=None, tokenizer=None, text_encoder_2=None, tokenizer_2=None, vae=autoencoder(),
        transformer=matter(denoiser(family, **config)),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=7.0), **components,
    )  # fmt: skip
    mask = torch.ones(2, 8, dtype=torch.long)
    mask[0, 5:] = 0
    call = dict(
        prompt_embeds=torch.randn(2, 8, 16), pooled_prompt_embeds=torch.randn(2, 8),
        prompt_attention_mask=mask, negative_prompt_embeds=torch.randn(2, 8, 16),
        negative_pooled_prompt_embeds=torch.randn(2, 8),
        negative_prompt_attention_mask=mask.flip(0), height=16, width=16, num_frames=5,
        num_inference_steps=3, true_cfg_scale=4.5, guidance_scale=1.0, output_type="latent",
    )  # fmt: skip
    off = dict(true_cfg_scale=1.0)
    return Tiny(
        quiet(pipe, dtype), {**call, **inputs}, off=off, g="true_cfg_scale", windows=windows
    )


def row(pipeline: Any, inputs: dict[str, Any], config: dict[str, Any], **options: Any) -> Any:
    return functools.partial(hunyuan, pipeline, inputs, config, **options)


PIPELINES = {
    # guided by its guidance embedding as well, as the checkpoint is
    "HunyuanVideoPipeline": row(HunyuanVideoPipeline, dict(guidance_scale=6.0), {}),
    # the video that comes out is a latent frame shorter
    "HunyuanVideoImageToVideoPipeline": row(
        HunyuanVideoImageToVideoPipeline,
        dict(image=IMAGES, num_frames=9),
        dict(in_channels=9, image_condition_type="latent_concat", guidance_embeds=False),
        image_processor=None,
    ),
    "HunyuanVideoImageToVideoPipeline token_replace": row(
        HunyuanVideoImageToVideoPipeline,
        dict(image=IMAGES),
        dict(image_condition_type="token_replace"),
        image_processor=None,
    ),
    "HunyuanSkyreelsImageToVideoPipeline": row(
        HunyuanSkyreelsImageToVideoPipeline, dict(image=IMAGES), dict(in_channels=8)
    ),
    # two sections of three latent frames, three steps each
    "HunyuanVideoFramepackPipeline": row(
        HunyuanVideoFramepackPipeline,
        dict(image=IMAGES, num_frames=10, latent_window_size=3),
        {},
        family="framepack",
        windows=False,
    ),
}
