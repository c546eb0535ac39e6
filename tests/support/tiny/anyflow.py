"""AnyFlow: text to video by a map between two times, batched CFG.

Its chunk-wise variant, AnyFlowFARPipeline, is not here: the keys and values that it hands to the
denoiser have the batch as their second dimension, and after each chunk it calls the denoiser to
fill them, without a prediction."""

from __future__ import annotations

from typing import Any

import torch
from diffusers.models.autoencoders.autoencoder_kl_wan import AutoencoderKLWan
from diffusers.pipelines.anyflow.pipeline_anyflow import AnyFlowPipeline
from diffusers.schedulers.scheduling_flow_map_euler_discrete import FlowMapEulerDiscreteScheduler

from support.tiny.base import Tiny, denoiser, matter, quiet


def anyflow(dtype: torch.dtype = torch.float32) -> Tiny:
    torch.manual_seed(0)
    transformer = denoiser("anyflow")
    vae = AutoencoderKLWan(
        base_dim=4,
        z_dim=4,
        dim_mult=[1, 1, 1, 1],
        num_res_blocks=1,
        latents_mean=[0.0] * 4,
        latents_std=[1.0] * 4,
    )
    parts: Any = dict(
        tokenizer=None, text_encoder=None, transformer=matter(transformer), vae=vae.eval(),
        scheduler=FlowMapEulerDiscreteScheduler(shift=5.0),
    )  # fmt: skip
    call = dict(
        prompt_embeds=torch.randn(2, 8, 32), negative_prompt_embeds=torch.randn(2, 8, 32),
        height=32, width=32, num_frames=5, num_inference_steps=3, guidance_scale=4.5,
        output_type="latent",
    )  # fmt: skip
    # without CFG the pipeline would still put the negative embeddings before the others
    off = dict(guidance_scale=1.0, negative_prompt_embeds=None)
    return Tiny(quiet(AnyFlowPipeline(**parts), dtype), call, off)


PIPELINES = {"AnyFlowPipeline": anyflow}
