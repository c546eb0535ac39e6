"""Relatives of Stable Diffusion: a UNet that sees depth, or pictures in the place of texts, or both
of them."""

from __future__ import annotations

import functools
from typing import Any

import torch
import transformers
from diffusers.models.transformers.prior_transformer import PriorTransformer
from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion_depth2img import (
    StableDiffusionDepth2ImgPipeline,
)
from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion_image_variation import (
    StableDiffusionImageVariationPipeline,
)
from diffusers.pipelines.stable_diffusion.pipeline_stable_unclip import StableUnCLIPPipeline
from diffusers.pipelines.stable_diffusion.pipeline_stable_unclip_img2img import (
    StableUnCLIPImg2ImgPipeline,
)
from diffusers.pipelines.stable_diffusion.stable_unclip_image_normalizer import (
    StableUnCLIPImageNormalizer,
)
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from diffusers.schedulers.scheduling_unclip import UnCLIPScheduler

from support.tiny.base import Tiny
from support.tiny.images import IMAGE as PIXELS
from support.tiny.sd import IMAGE, SIZE, image_unet
from support.tiny.unet3d import BETAS, DDIM

TEXT: Any = dict(text_encoder=None, tokenizer=None)
WIDTH = 8  # of what is known of a picture


def image_encoder(width: int) -> Any:
    """A small CLIP for pictures of 16 x 16."""
    sizes: Any = dict(
        hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2
    )
    config = transformers.CLIPVisionConfig(
        **sizes, image_size=16, patch_size=8, projection_dim=width
    )
    return transformers.CLIPVisionModelWithProjection(config).eval()


def depth(dtype: torch.dtype = torch.float32) -> Tiny:
    """The depth is an input of the call."""
    far = torch.linspace(0, 1, 2 * 16 * 16).reshape(2, 16, 16)
    return image_unet(
        "sd", StableDiffusionDepth2ImgPipeline, {**IMAGE, "depth_map": far}, dtype,
        changes=dict(in_channels=5),
        parts=lambda: {**TEXT, "depth_estimator": None, "feature_extractor": None},
    )  # fmt: skip


def variation(dtype: torch.dtype = torch.float32) -> Tiny:
    """The picture is in the place of a text, and nothing in that of a negative one."""
    small = image_unet(
        "sd", StableDiffusionImageVariationPipeline, {"image": PIXELS, **SIZE}, dtype,
        parts=lambda: dict(
            safety_checker=None, feature_extractor=None, requires_safety_checker=False,
            image_encoder=image_encoder(16),
        ),
    )  # fmt: skip
    for name in ("prompt_embeds", "negative_prompt_embeds"):
        small.call.pop(name)
    small.other["image"] = PIXELS.flip(0)
    return small


def unclip(pipeline: Any, inputs: Any, parts: Any, dtype: torch.dtype = torch.float32) -> Tiny:
    """A picture, with a noise level, is a label beside the text."""
    return image_unet(
        "sd", pipeline, {**inputs, **SIZE}, dtype,
        changes=dict(
            class_embed_type="projection", projection_class_embeddings_input_dim=2 * WIDTH
        ),
        parts=lambda: dict(
            **TEXT, image_normalizer=StableUnCLIPImageNormalizer(WIDTH),
            image_noising_scheduler=DDIMScheduler(**BETAS, **DDIM), **parts(),
        ),
    )  # fmt: skip


def from_text(dtype: torch.dtype = torch.float32) -> Tiny:
    """A prior makes what is known of a picture, in steps of its own before the loop."""
    prior = PriorTransformer(2, 4, num_layers=1, embedding_dim=WIDTH, num_embeddings=7)
    scheduler = UnCLIPScheduler(
        variance_type="fixed_small_log", prediction_type="sample", num_train_timesteps=1000,
        clip_sample_range=5.0,
    )  # fmt: skip
    small = unclip(
        StableUnCLIPPipeline, dict(prior_num_inference_steps=2),
        lambda: dict(
            prior=prior.eval(), prior_scheduler=scheduler, prior_text_encoder=None,
            prior_tokenizer=None,
        ),
        dtype,
    )  # fmt: skip
    texts = torch.randn(4, WIDTH).to(dtype), torch.randn(4, 7, WIDTH).to(dtype)
    small.pipe._encode_prior_prompt = lambda **_: (*texts, torch.ones(4, 7, dtype=torch.bool))
    return small


PIPELINES = {
    "StableDiffusionDepth2ImgPipeline": depth,
    "StableDiffusionImageVariationPipeline": variation,
    "StableUnCLIPPipeline": from_text,
    "StableUnCLIPImg2ImgPipeline": functools.partial(
        unclip, StableUnCLIPImg2ImgPipeline, dict(image_embeds=torch.ones(2, WIDTH)),
        lambda: dict(feature_extractor=None, image_encoder=image_encoder(WIDTH)),
    ),
}  # fmt: skip
