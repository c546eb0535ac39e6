# Built by `make comfyui` from src/skipguide/families/image_rows.py; do not edit.
"""The rows of transformers that make images.

They are rows like those of `rows.py`, which takes them in: an image is a video of one frame, whose
attention has no axis of time."""

from __future__ import annotations

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

FAMILIES = (
    # --- Stable Diffusion 3, Flux, Qwen-Image and their relatives --------------------------------
    Family(
        name="sd3",
        makes="image",
        title="Stable Diffusion 3 and 3.5",
        model="SD3Transformer2DModel",
        checkpoint="stabilityai/stable-diffusion-3.5-medium (3.5 Large: 38 blocks)",
        pipelines={
            "StableDiffusion3Pipeline": BATCHED,
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
