"""HunyuanImage 2.1: text to image, separate CFG passes of a guider, of which there is another for
prompts with text in quotes; its refiner, whose images are videos of one frame."""

from __future__ import annotations

import functools
from typing import Any

import torch
from diffusers.guiders.classifier_free_guidance import ClassifierFreeGuidance
from diffusers.models.autoencoders.autoencoder_kl_hunyuanimage import AutoencoderKLHunyuanImage
from diffusers.pipelines.hunyuan_image.pipeline_hunyuanimage import HunyuanImagePipeline
from diffusers.pipelines.hunyuan_image.pipeline_hunyuanimage_refiner import (
    HunyuanImageRefinerPipeline,
)
from diffusers.schedulers.scheduling_flow_match_euler_discrete import (
    FlowMatchEulerDiscreteScheduler,
)

from support.tiny.base import Tiny, denoiser, matter, quiet


def autoencoder() -> AutoencoderKLHunyuanImage:
    """One latent of 4 channels for 2 x 2 pixels."""
    vae = AutoencoderKLHunyuanImage(
        in_channels=3, out_channels=3, latent_channels=4, block_out_channels=(32, 32),
        layers_per_block=1, spatial_compression_ratio=2, sample_size=8,
    )  # fmt: skip
    return vae.eval()


def prompts(prefix: str, quoted: bool) -> dict[str, Any]:
    """Two prompts; where there is text in quotes, it is in the second."""
    mask = torch.ones(2, 8, dtype=torch.long)
    mask[0, 5:] = 0
    glyphs, glyph_mask = torch.zeros(2, 6, 8), torch.zeros(2, 6, dtype=torch.long)
    if quoted:
        glyphs[1], glyph_mask[1, :4] = torch.randn(6, 8), 1
    return {
        f"{prefix}prompt_embeds": torch.randn(2, 8, 16),
        f"{prefix}prompt_embeds_mask": mask,
        f"{prefix}prompt_embeds_2": glyphs,
        f"{prefix}prompt_embeds_mask_2": glyph_mask,
    }


def hunyuan_image(
    quoted: bool, guiders: dict[str, Any], dtype: torch.dtype = torch.float32
) -> Tiny:
    torch.manual_seed(0)
    parts: Any = dict.fromkeys(("text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2"))
    pipe = HunyuanImagePipeline(
        **parts, vae=autoencoder(), transformer=matter(denoiser("hunyuan-image")),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=5.0), **guiders,
    )  # fmt: skip
    call = dict(
        **prompts("", quoted), **prompts("negative_", False), height=8, width=8,
        num_inference_steps=3, output_type="latent",
    )  # fmt: skip
    return Tiny(quiet(pipe, dtype), call, off={}, g="")


def refiner(dtype: torch.dtype = torch.float32) -> Tiny:
    torch.manual_seed(0)
    transformer = denoiser(
        "hunyuan-image", in_channels=8, text_embed_2_dim=None, guidance_embeds=True,
        patch_size=(1, 1, 1), rope_axes_dim=(4, 6, 6),
    )  # fmt: skip
    parts: Any = dict(text_encoder=None, tokenizer=None, vae=None)
    pipe = HunyuanImageRefinerPipeline(
        **parts, transformer=matter(transformer),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=4.0),
        guider=ClassifierFreeGuidance(guidance_scale=3.5),  # type: ignore[arg-type]
    )  # fmt: skip
    texts = {**prompts("", False), **prompts("negative_", False)}
    call = dict(
        **{name: value for name, value in texts.items() if not name.endswith("_2")},
        image=torch.randn(2, 4, 1, 4, 4), height=64, width=64, num_inference_steps=3,
        output_type="latent",
    )  # fmt: skip
    return Tiny(quiet(pipe, dtype), call, off={}, g="")


PIPELINES = {
    "HunyuanImagePipeline": functools.partial(
        hunyuan_image, False, dict(guider=ClassifierFreeGuidance(guidance_scale=3.5))
    ),
    "HunyuanImageRefinerPipeline": refiner,
}
