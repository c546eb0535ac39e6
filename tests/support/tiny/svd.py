"""Stable Video Diffusion: one image to a video, batched CFG with a scale per frame, a UNet of space
and time."""

from __future__ import annotations

import functools
from typing import Any

import torch
from diffusers.models.autoencoders.autoencoder_kl_temporal_decoder import (
    AutoencoderKLTemporalDecoder,
)
from diffusers.pipelines.stable_video_diffusion.pipeline_stable_video_diffusion import (
    StableVideoDiffusionPipeline,
)
from diffusers.schedulers.scheduling_euler_discrete import EulerDiscreteScheduler
from PIL import Image
from transformers.models.clip.configuration_clip import CLIPVisionConfig
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.clip.modeling_clip import CLIPVisionModelWithProjection

from support.tiny.base import Tiny, denoiser, matter, quiet


def pictures(size: int) -> list[Image.Image]:
    """Two that differ."""
    linear, radial = Image.linear_gradient("L"), Image.radial_gradient("L")
    return [image.resize((size, size)).convert("RGB") for image in (linear, radial)]


def clip(image_size: int, patch_size: int, width: int) -> dict[str, Any]:
    """An image encoder with a projection, and its image processor."""
    config = CLIPVisionConfig(
        hidden_size=16, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2,
        projection_dim=width, image_size=image_size, patch_size=patch_size,
    )  # fmt: skip
    size = {"height": image_size, "width": image_size}
    processor = CLIPImageProcessorPil(size={"shortest_edge": image_size}, crop_size=size)
    return dict(
        image_encoder=CLIPVisionModelWithProjection(config).eval(), feature_extractor=processor
    )


def level(unet: Any) -> Any:
    """Weights that `matter`, with convolutions no louder than linear layers; they would drown the
    layers otherwise."""
    with torch.no_grad():
        for module in matter(unet).modules():
            if isinstance(module, (torch.nn.Conv2d, torch.nn.Conv3d)):
                module.weight.mul_((module.weight.shape[-1] / module.weight[0].numel()) ** 0.5)
    return unet


def svd(dtype: torch.dtype = torch.float32, layers: int = 1, depth: int = 1) -> Tiny:
    """The public layout with one level fewer."""
    torch.manual_seed(0)
    unet = denoiser("svd", layers_per_block=layers, transformer_layers_per_block=depth)
    blocks: Any = dict(block_out_channels=(32, 32), down_block_types=("DownEncoderBlock2D",) * 2)
    scheduler = EulerDiscreteScheduler(
        beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012,
        interpolation_type="linear", prediction_type="v_prediction", sigma_max=700.0,
        sigma_min=0.002, steps_offset=1, timestep_spacing="leading", timestep_type="continuous",
        use_karras_sigmas=True,
    )  # fmt: skip
    pipe = StableVideoDiffusionPipeline(
        vae=AutoencoderKLTemporalDecoder(**blocks).eval(),
        unet=level(unet),
        scheduler=scheduler,
        **clip(image_size=224, patch_size=56, width=16),
    )
    # g is 1 in the first frame, 2 in the second, 3 in the third
    call = dict(
        image=pictures(16), height=16, width=16, num_frames=3, num_inference_steps=3,
        min_guidance_scale=1.0, max_guidance_scale=3.0, output_type="latent",
    )  # fmt: skip
    return Tiny(
        quiet(pipe, dtype),
        call,
        off=dict(max_guidance_scale=1.0),
        g="max_guidance_scale",
        denoisers=("unet",),
        other=dict(image=pictures(16)[::-1]),
        atol=5e-4,  # two units in the last place of the noise that it starts from, near 2,000
    )


PIPELINES = {
    "StableVideoDiffusionPipeline": svd,
    "StableVideoDiffusionPipeline deep": functools.partial(svd, depth=2),
}
