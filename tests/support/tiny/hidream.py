"""HiDream-I1: text to image, batched CFG; dual and single blocks, each with the text of another
layer of Llama, whose batch is the second dimension."""

from __future__ import annotations

from typing import Any

import torch
from diffusers.pipelines.hidream_image.pipeline_hidream_image import HiDreamImagePipeline
from diffusers.schedulers.scheduling_flow_match_euler_discrete import (
    FlowMatchEulerDiscreteScheduler,
)

from support.tiny.base import Tiny, config, denoiser, matter, quiet
from support.tiny.unet3d import autoencoder


def prompts(prefix: str) -> dict[str, Any]:
    sizes = config("hidream")
    t5, llama = sizes["caption_channels"]
    return {
        f"{prefix}prompt_embeds_t5": torch.randn(2, 6, t5),
        f"{prefix}prompt_embeds_llama3": torch.randn(2, 2, 6, llama),
        f"{prefix}pooled_prompt_embeds": torch.randn(2, sizes["text_emb_dim"]),
    }


def hidream(dtype: torch.dtype = torch.float32) -> Tiny:
    torch.manual_seed(0)
    parts: Any = {
        f"{part}{number}": None
        for part in ("text_encoder", "tokenizer")
        for number in ("", "_2", "_3", "_4")
    }
    pipe = HiDreamImagePipeline(
        **parts, vae=autoencoder(), transformer=matter(denoiser("hidream")),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
    )  # fmt: skip
    pipe.default_sample_size = 4  # it scales other sizes to this one's number of pixels
    call = dict(
        **prompts(""), **prompts("negative_"), height=8, width=8, num_inference_steps=3,
        guidance_scale=4.5, output_type="latent",
    )  # fmt: skip
    return Tiny(
        quiet(pipe, dtype),
        call,
        off=dict(guidance_scale=1.0),
        cond="encoder_hidden_states_t5",
        attentions=("block.attn1",),
    )


PIPELINES = {"HiDreamImagePipeline": hidream}
