"""HunyuanDiT: text to image, batched CFG, long skip connections between blocks, a learned
variance that the pipeline drops before CFG."""

from __future__ import annotations

import functools
from typing import Any

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.pipelines.hunyuandit.pipeline_hunyuandit import HunyuanDiTPipeline
from diffusers.pipelines.pag.pipeline_pag_hunyuandit import HunyuanDiTPAGPipeline
from diffusers.schedulers.scheduling_ddim import DDIMScheduler

from support.tiny.base import Tiny, config, denoiser, matter, quiet


def autoencoder() -> AutoencoderKL:
    """One latent of 4 channels for 8 x 8 pixels, which the pipeline takes for granted."""
    blocks: Any = dict(
        down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(4,) * 4, norm_num_groups=2,
    )  # fmt: skip
    return AutoencoderKL(**blocks).eval()


def prompts(prefix: str, widths: tuple[int, int], lengths: tuple[int, int]) -> dict[str, Any]:
    """Two prompts for each encoder; the first one is short."""
    found: dict[str, Any] = {}
    for name, width, length in zip(("", "_2"), widths, lengths, strict=True):
        mask = torch.ones(2, length, dtype=torch.long)
        mask[0, 4:] = 0
        found[f"{prefix}prompt_embeds{name}"] = torch.randn(2, length, width)
        found[f"{prefix}prompt_attention_mask{name}"] = mask
    return found


def hunyuan_dit(pipeline: Any, inputs: dict[str, Any], dtype: torch.dtype = torch.float32) -> Tiny:
    torch.manual_seed(0)
    sizes = config("hunyuan-dit")
    widths = sizes["cross_attention_dim"], sizes["cross_attention_dim_t5"]
    lengths = sizes["text_len"], sizes["text_len_t5"]
    pipe = pipeline(
        text_encoder=None, tokenizer=None, text_encoder_2=None, tokenizer_2=None,
        vae=autoencoder(), transformer=matter(denoiser("hunyuan-dit")),
        scheduler=DDIMScheduler(clip_sample=False),
        safety_checker=None, feature_extractor=None, requires_safety_checker=False,
    )  # fmt: skip
    call = dict(
        **prompts("", widths, lengths), **prompts("negative_", widths, lengths), height=32,
        width=32, num_inference_steps=3, guidance_scale=4.5, output_type="latent",
        use_resolution_binning=False, **inputs,
    )  # fmt: skip
    return Tiny(quiet(pipe, dtype), call, off=dict(guidance_scale=1.0), variance=True)


PIPELINES = {
    "HunyuanDiTPipeline": functools.partial(hunyuan_dit, HunyuanDiTPipeline, {}),
    "HunyuanDiTPAGPipeline": functools.partial(
        hunyuan_dit, HunyuanDiTPAGPipeline, dict(pag_scale=0.0)
    ),
}
