# Built by `make comfyui` from src/skipguide/families/image_rows.py; do not edit.
"""The rows of transformers that make images.

They are rows like those of `rows.py`, which takes them in: an image is a video of one frame, whose
attention has no axis of time."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ..families import identity_attention, text_attention
from ..families.row_parts import (
    BATCHED,
    CONCATENATED_ATTENTION,
    DOUBLE_ATTENTION,
    JOINT_ATTENTION,
    JOINT_STREAMS,
    PAG,
    SEPARATE,
    SHARED_JOINT_ATTENTION,
    TEXT_FIRST,
    TRUE_CFG,
    VIDEO_STREAM,
    single_stack,
)
from ..families.schema import CallConvention, Family, Stack


def _skips_layers_of_its_own(call: Mapping[str, Any]) -> bool:
    """Return whether StableDiffusion3Pipeline makes its weak pass at the step that begins."""
    if call.get("skip_guidance_layers") is None or not call["self"].do_classifier_free_guidance:
        return False
    i, steps = call["i"], call["num_inference_steps"]
    start, stop = call["skip_layer_guidance_start"], call["skip_layer_guidance_stop"]
    return steps * start < i < steps * stop


SD3 = replace(
    BATCHED, own_pass=_skips_layers_of_its_own, own_guidance_argument="skip_guidance_layers",
    own_guidance=(("skip_layer_guidance_scale", 0.0),),
)  # fmt: skip
DISTILLED = CallConvention("none")
Z_IMAGE = CallConvention(
    "batched", cond_first=True, float32_prediction=True, cfg_flag="apply_cfg",
    scale_names=("current_guidance_scale",), scale_from_cond=True,
    unsupported_flag="cfg_normalization", negated=True,
)  # fmt: skip
QWEN = replace(TRUE_CFG, keeps_length="always")
QWEN_EDIT = replace(QWEN, cuts_tokens=True)

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
            "StableDiffusion3PAGPipeline": PAG,
            "StableDiffusion3PAGImg2ImgPipeline": PAG,
        },
        stacks=single_stack(
            "transformer_blocks", 24, JOINT_STREAMS, DOUBLE_ATTENTION, returns=TEXT_FIRST,
            text=text_attention.SD3,
        ),
        modular=("StableDiffusion3ModularPipeline",),
        latent_layout="bchw",
        text_position="after",
        batched_inputs=(
            "hidden_states", "encoder_hidden_states", "pooled_projections", "timestep",
            "block_controlnet_hidden_states",
        ),
        negative=text_attention.POOLED_PROMPT,
    ),
    Family(
        name="flux",
        makes="image",
        title="Flux 1",
        model="FluxTransformer2DModel",
        checkpoint="black-forest-labs/FLUX.1-dev",
        pipelines={
            "FluxPipeline": TRUE_CFG,
            "FluxImg2ImgPipeline": TRUE_CFG,
            "FluxInpaintPipeline": TRUE_CFG,
            "FluxKontextPipeline": replace(TRUE_CFG, cuts_tokens=True),
            "FluxKontextInpaintPipeline": replace(TRUE_CFG, cuts_tokens=True),
            "FluxControlNetPipeline": TRUE_CFG,
            "FluxFillPipeline": DISTILLED,
            "VisualClozeGenerationPipeline": DISTILLED,
            "FluxControlPipeline": DISTILLED,
            "FluxControlImg2ImgPipeline": DISTILLED,
            "FluxControlInpaintPipeline": DISTILLED,
            "FluxControlNetImg2ImgPipeline": DISTILLED,
            "FluxControlNetInpaintPipeline": DISTILLED,
        },
        stacks={
            "dual": Stack(
                "transformer_blocks", 19, JOINT_STREAMS, JOINT_ATTENTION, returns=TEXT_FIRST
            ),
            "single": Stack(
                "single_transformer_blocks", 38, JOINT_STREAMS, CONCATENATED_ATTENTION,
                returns=TEXT_FIRST,
            ),
        },
        latent_layout="packed",
        text_position="before",
        notes="embedded guidance runs without CFG: one pass and the weak one; true_cfg_scale > 1 "
        "with a negative prompt is CFG",
    ),
    Family(
        name="flux-2",
        makes="image",
        title="Flux 2 and Klein",
        model="Flux2Transformer2DModel",
        checkpoint="black-forest-labs/FLUX.2-dev",
        pipelines={
            "Flux2Pipeline": replace(DISTILLED, cuts_tokens=True),
            "Flux2KleinPipeline": replace(SEPARATE, cuts_tokens=True),
            "Flux2KleinInpaintPipeline": replace(SEPARATE, cuts_tokens=True),
        },
        stacks={
            "dual": Stack(
                "transformer_blocks", 8, JOINT_STREAMS, JOINT_ATTENTION, returns=TEXT_FIRST
            ),
            "single": Stack(
                "single_transformer_blocks", 48, VIDEO_STREAM,
                {"attn": identity_attention.parallel_attention},
            ),
        },
        modular=("Flux2KleinBaseModularPipeline",),
        latent_layout="packed",
        text_position="before",
        notes="Flux 2 has embedded guidance and no CFG, Klein has CFG unless it is distilled",
    ),
    Family(
        name="chroma",
        makes="image",
        title="Chroma",
        model="ChromaTransformer2DModel",
        checkpoint="lodestones/Chroma1-HD",
        pipelines={
            "ChromaPipeline": SEPARATE,
            "ChromaImg2ImgPipeline": SEPARATE,
            "ChromaInpaintPipeline": SEPARATE,
        },
        stacks={
            "dual": Stack(
                "transformer_blocks", 19, JOINT_STREAMS, JOINT_ATTENTION, returns=TEXT_FIRST
            ),
            "single": Stack(
                "single_transformer_blocks", 38, VIDEO_STREAM, CONCATENATED_ATTENTION
            ),
        },
        latent_layout="packed",
        text_position="before",
    ),
    Family(
        name="qwen-image",
        makes="image",
        title="Qwen-Image",
        model="QwenImageTransformer2DModel",
        checkpoint="Qwen/Qwen-Image",
        pipelines={
            "QwenImagePipeline": QWEN,
            "QwenImageImg2ImgPipeline": QWEN,
            "QwenImageInpaintPipeline": QWEN,
            "QwenImageEditPipeline": QWEN_EDIT,
            "QwenImageEditInpaintPipeline": QWEN_EDIT,
            "QwenImageEditPlusPipeline": QWEN_EDIT,
            "QwenImageLayeredPipeline": replace(QWEN_EDIT, keeps_length="cfg_normalize"),
            "QwenImageControlNetPipeline": QWEN,
            "QwenImageControlNetInpaintPipeline": QWEN,
        },
        stacks=single_stack(
            "transformer_blocks", 60, JOINT_STREAMS, JOINT_ATTENTION, returns=TEXT_FIRST
        ),
        modular=("QwenImageModularPipeline",),
        latent_layout="packed",
        text_position="before",
        notes="the pipelines give the result of CFG, ours included, the length of c at each place",
    ),
    Family(
        name="z-image",
        makes="image",
        title="Z-Image",
        model="ZImageTransformer2DModel",
        checkpoint="Tongyi-MAI/Z-Image-Turbo",
        pipelines={
            "ZImagePipeline": Z_IMAGE,
            "ZImageImg2ImgPipeline": Z_IMAGE,
            "ZImageInpaintPipeline": Z_IMAGE,
        },
        stacks=single_stack(
            "layers", 30, ("x",), {"attention": identity_attention.plain_attention}
        ),
        modular=("ZImageModularPipeline",),
        latent_layout="",
        batched_inputs=("x", "t", "cap_feats"),
        listed_inputs=("x", "cap_feats"),
        cached_modules=("noise_refiner", "context_refiner"),
        notes="its guidance_scale g is g + 1 in the formula: c + g (c - u), and 0 is no CFG, as"
        " Z-Image-Turbo runs; text and image are one sequence",
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
