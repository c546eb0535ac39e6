"""Motif-Video: separate CFG passes of a guider, cond first; dual-stream, single-stream and decoder
blocks."""

from __future__ import annotations

import functools
from typing import Any

import torch
from diffusers.guiders.classifier_free_guidance import ClassifierFreeGuidance
from diffusers.pipelines.motif_video.pipeline_motif_video import MotifVideoPipeline
from diffusers.pipelines.motif_video.pipeline_motif_video_image2video import (
    MotifVideoImage2VideoPipeline,
)
from diffusers.schedulers.scheduling_flow_match_euler_discrete import (
    FlowMatchEulerDiscreteScheduler,
)
from transformers.models.siglip.configuration_siglip import SiglipVisionConfig
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil
from transformers.models.t5gemma2.configuration_t5gemma2 import (
    T5Gemma2EncoderConfig,
    T5Gemma2TextConfig,
)
from transformers.models.t5gemma2.modeling_t5gemma2 import T5Gemma2Encoder

from support.tiny import wan
from support.tiny.base import Tiny, denoiser, matter, quiet


def seeing() -> dict[str, Any]:
    """A text encoder whose vision tower makes 4 tokens of an image, and its image processor."""
    sizes: Any = dict(
        hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=2
    )
    text: Any = dict(vocab_size=16, num_key_value_heads=1, head_dim=8, dropout_rate=0.0)
    config = T5Gemma2EncoderConfig(
        text_config=T5Gemma2TextConfig(**sizes, **text),
        vision_config=SiglipVisionConfig(**sizes, image_size=8, patch_size=4),
        mm_tokens_per_image=4,
    )
    processor = SiglipImageProcessorPil(size={"height": 8, "width": 8})
    return dict(text_encoder=T5Gemma2Encoder(config).eval(), feature_extractor=processor)


def motif(
    pipeline: Any,
    inputs: dict[str, Any],
    dtype: torch.dtype = torch.float32,
    components: Any = lambda: dict(text_encoder=None),
    batch: int = 2,
) -> Tiny:
    torch.manual_seed(0)
    transformer = denoiser("motif-video")
    with (
        torch.no_grad()
    ):  # wider gates: all but the last block reach the output through its attention only
        transformer.time_text_embed.timestep_embedder.linear_2.weight.mul_(20)
    pipe = pipeline(
        tokenizer=None, vae=wan.autoencoder(), transformer=matter(transformer),
        scheduler=FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True),
        guider=ClassifierFreeGuidance(guidance_scale=4.5), **components(),
    )  # fmt: skip
    mask = torch.ones(2, 8, dtype=torch.long)
    mask[0, 5:] = 0
    call = dict(
        prompt=None, prompt_embeds=torch.randn(batch, 8, 16), prompt_attention_mask=mask[:batch],
        negative_prompt_embeds=torch.randn(batch, 8, 16),
        negative_prompt_attention_mask=mask.flip(0)[:batch], height=32, width=32, num_frames=5,
        num_inference_steps=3, output_type="latent",
    )  # fmt: skip
    # no argument of the call has to do with CFG: pipe.guider.disable(), or another guider, turns it
    # off
    return Tiny(quiet(pipe, dtype), {**call, **inputs}, off={}, g="")


PIPELINES = {
    "MotifVideoPipeline": functools.partial(motif, MotifVideoPipeline, {}),
    # one prompt: the pipeline takes one image, and does not repeat it for more prompts
    "MotifVideoImage2VideoPipeline": functools.partial(
        motif,
        MotifVideoImage2VideoPipeline,
        dict(image=wan.picture(32)),
        components=seeing,
        batch=1,
    ),
}
