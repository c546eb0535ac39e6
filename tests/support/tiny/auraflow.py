"""AuraFlow: text to image, batched CFG; joint blocks that return the text first, then single ones
on both in one stream."""

from __future__ import annotations

from typing import Any

import torch
from diffusers.pipelines.aura_flow.pipeline_aura_flow import AuraFlowPipeline
from diffusers.schedulers.scheduling_flow_match_euler_discrete import (
    FlowMatchEulerDiscreteScheduler,
)

from support.tiny.base import Tiny, config, denoiser, matter, quiet
from support.tiny.sana_image import negative_text, text
from support.tiny.unet3d import autoencoder


def attend(transformer: Any) -> Any:
    """Make what the attentions add large, which a norm over the residual too would hide."""
    with torch.no_grad():
        for name, parameter in transformer.named_parameters():
            if ".attn.to_out." in name:
                parameter.mul_(8)
    return transformer


def auraflow(dtype: torch.dtype = torch.float32) -> Tiny:
    torch.manual_seed(0)
    width = config("auraflow")["joint_attention_dim"]
    parts: Any = dict(tokenizer=None, text_encoder=None)
    pipe = AuraFlowPipeline(
        **parts, vae=autoencoder(),
        transformer=attend(matter(denoiser("auraflow"))),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=1.73),
    )  # fmt: skip
    call = dict(
        **text(width), **negative_text(width), height=8, width=8, num_inference_steps=3,
        guidance_scale=3.5, output_type="latent",
    )  # fmt: skip
    return Tiny(quiet(pipe, dtype), call, off=dict(guidance_scale=1.0))


PIPELINES = {"AuraFlowPipeline": auraflow}
