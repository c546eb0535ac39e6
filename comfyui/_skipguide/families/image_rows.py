# Built by `make comfyui` from src/skipguide/families/image_rows.py; do not edit.
"""The rows of transformers that make images.

They are rows like those of `rows.py`, which takes them in: an image is a video of one frame, whose
attention has no axis of time."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ..families import text_attention
from ..families.row_parts import (
    BATCHED,
    DOUBLE_ATTENTION,
    JOINT_STREAMS,
    SEPARATE,
    SHARED_JOINT_ATTENTION,
    TEXT_FIRST,
    single_stack,
)
from ..families.schema import Family


def _skips_layers_of_its_own(call: Mapping[str, Any]) -> bool:
    """Return whether StableDiffusion3Pipeline makes its weak pass at the step that begins."""
    i, steps = call["i"], call["num_inference_steps"]
    start, stop = call["skip_layer_guidance_start"], call["skip_layer_guidance_stop"]
    on = call["skip_guidance_layers"] is not None and call["self"].do_classifier_free_guidance
    return on and steps * start < i < steps * stop


SD3 = replace(
    BATCHED, own_pass=_skips_layers_of_its_own, own_guidance_argument="skip_guidance_layers",
    own_guidance=(("skip_layer_guidance_scale", 0.0),),
)  # fmt: skip

FAMILIES = (
    # --- Stable Diffusion 3, Flux, Qwen-Image and their relatives --------------------------------
    Family(
        name="sd3",
        makes="image",
        title="Stable Diffusion 3 and 3.5",
        model="SD3Transformer2DModel",
        checkpoint="stabilityai/stable-diffusion-3.5-medium (3.5 Large: 38 blocks)",
        pipelines={
            "StableDiffusion3Pipeline": SD3,
            "StableDiffusion3Img2ImgPipeline": BATCHED,
            "StableDiffusion3InpaintPipeline": BATCHED,
            "StableDiffusion3ControlNetPipeline": BATCHED,
            "StableDiffusion3ControlNetInpaintingPipeline": BATCHED,
        },
        stacks=single_stack(
            "transformer_blocks", 24, JOINT_STREAMS, DOUBLE_ATTENTION, returns=TEXT_FIRST
        ),
        latent_layout="bchw",
        text_position="after",
        batched_inputs=(
            "hidden_states", "encoder_hidden_states", "pooled_projections", "timestep",
            "block_controlnet_hidden_states",
        ),
    ),
    # --- CogView, PixArt, SANA, HiDream, HunyuanImage and others ---------------------------------
    Family(
        name="cogview4",
        makes="image",
        title="CogView4",
        model="CogView4Transformer2DModel",
        checkpoint="THUDM/CogView4-6B",
        pipelines={"CogView4Pipeline": SEPARATE, "CogView4ControlPipeline": SEPARATE},
        stacks=single_stack(
            "transformer_blocks", 30, JOINT_STREAMS, SHARED_JOINT_ATTENTION,
            text=text_attention.SHARED,
        ),
        latent_layout="bchw",
        text_position="before",
        negative=text_attention.PLAIN_PROMPT,
    ),
)  # fmt: skip

# Pipelines of diffusers that make images and that guide() and SkipGuidance refuse, and why.
REFUSED_PIPELINES: dict[str, str] = {}
