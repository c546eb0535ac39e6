# Built by `make comfyui` from src/skipguide/families/more_image_rows.py; do not edit.
"""The rows of further transformers that make images: those whose text comes by cross-attention or
in one stream with the image, and some of a build of their own.

`image_rows.py` has Stable Diffusion 3, Flux and their relatives, and says how such rows differ from
those of videos."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ..families import identity_attention, text_attention
from ..families.row_parts import (
    BATCHED,
    BATCHED_FLOAT32,
    BATCHED_RESCALE,
    GUIDER,
    JOINT_ATTENTION,
    JOINT_STREAMS,
    MASKED_TEXT_INPUTS,
    NO_CFG,
    PAG,
    PLAIN_ATTENTION,
    SEPARATE,
    SEPARATE_FLOAT32,
    SHARED_JOINT_ATTENTION,
    TEXT_FIRST,
    TEXT_INPUTS,
    VIDEO_STREAM,
    dual_and_single_stacks,
    single_stack,
)
from ..families.schema import Family, Stack

PAG_FLOAT32 = replace(PAG, float32_prediction=True)
PAG_RESCALE = replace(PAG, rescale_names=("guidance_rescale",))
# Off at the steps after a part of the run, where the call asks for that.
TRUNCATED = replace(
    SEPARATE,
    cfg_off_flag="do_classifier_free_truncation",
    keeps_length="cfg_normalization",
    negated=True,
)
SINGLE_ATTENTION = {"attn": identity_attention.plain_attention}
IN_ONE_STREAM = "text and image are one stream in its blocks, of which NAG takes the text alone"


def _writes_cache(inputs: Mapping[str, Any]) -> bool:
    """Return whether a call of GLM-Image's denoiser keeps keys and values of images to edit."""
    caches = inputs.get("kv_caches")
    return caches is not None and caches[0].mode == "write"


def _stacks_text_first(dual: int, single: int) -> dict[str, Stack]:
    """Return the stacks of Flux's relatives, whose blocks return the text before the image."""
    return {
        "dual": Stack(
            "transformer_blocks", dual, JOINT_STREAMS, JOINT_ATTENTION, returns=TEXT_FIRST
        ),
        "single": Stack(
            "single_transformer_blocks", single, JOINT_STREAMS, SINGLE_ATTENTION, returns=TEXT_FIRST
        ),
    }


FAMILIES = (
    Family(
        name="sana",
        makes="image",
        title="SANA and SANA-Sprint",
        model="SanaTransformer2DModel",
        checkpoint="Efficient-Large-Model/Sana_1600M_1024px_BF16_diffusers (1.5 4.8B: 60 blocks)",
        pipelines={
            "SanaPipeline": BATCHED_FLOAT32,
            "SanaControlNetPipeline": BATCHED_FLOAT32,
            "SanaPAGPipeline": PAG_FLOAT32,
            "SanaSprintPipeline": NO_CFG,
            "SanaSprintImg2ImgPipeline": NO_CFG,
        },
        stacks=single_stack(
            "transformer_blocks", 20, VIDEO_STREAM, PLAIN_ATTENTION,
            text=text_attention.MASKED_CROSS,
        ),
        latent_layout="bchw",
        batched_inputs=(*MASKED_TEXT_INPUTS, "controlnet_block_samples"),
        learned_variance=True,
        linear_attention=True,
        notes="linear attention; the identity map gives V here too; a skipped block keeps its"
        " ControlNet hint; Sprint is guidance-distilled and runs without CFG",
        negative=text_attention.MASKED_PROMPT,
    ),
    Family(
        name="pixart",
        makes="image",
        title="PixArt alpha and sigma",
        model="PixArtTransformer2DModel",
        checkpoint="PixArt-alpha/PixArt-Sigma-XL-2-1024-MS",
        pipelines={
            "PixArtAlphaPipeline": BATCHED,
            "PixArtSigmaPipeline": BATCHED,
            "PixArtSigmaPAGPipeline": PAG,
        },
        stacks=single_stack(
            "transformer_blocks", 28, VIDEO_STREAM, PLAIN_ATTENTION,
            text=text_attention.MASKED_CROSS,
        ),
        latent_layout="bchw",
        batched_inputs=(*MASKED_TEXT_INPUTS, "added_cond_kwargs"),
        learned_variance=True,
        negative=text_attention.MASKED_PROMPT,
    ),
    Family(
        name="hunyuan-dit",
        makes="image",
        title="HunyuanDiT",
        model="HunyuanDiT2DModel",
        checkpoint="Tencent-Hunyuan/HunyuanDiT-v1.2-Diffusers",
        pipelines={
            "HunyuanDiTPipeline": BATCHED_RESCALE,
            "HunyuanDiTPAGPipeline": PAG_RESCALE,
        },
        stacks=single_stack("blocks", 40, VIDEO_STREAM, PLAIN_ATTENTION),
        latent_layout="bchw",
        batched_inputs=(
            *TEXT_INPUTS, "text_embedding_mask", "encoder_hidden_states_t5",
            "text_embedding_mask_t5", "image_meta_size", "style",
        ),
        learned_variance=True,
        long_skips=True,
        notes="blocks of the second half see what those of the first returned, which the weak pass"
        " takes from the conditional one",
        no_nag="its two texts come from two calls of encode_prompt",
    ),
    Family(
        name="lumina-2",
        makes="image",
        title="Lumina 2",
        model="Lumina2Transformer2DModel",
        checkpoint="Alpha-VLLM/Lumina-Image-2.0",
        pipelines={"Lumina2Pipeline": TRUNCATED},
        stacks=single_stack(
            "layers", 26, VIDEO_STREAM, {"attn": identity_attention.grouped_attention}
        ),
        latent_layout="bchw",
        cached_modules=("context_refiner", "noise_refiner"),
        notes="each image follows its own text, of another length in each sample, so that its"
        " tokens are on no grid; cfg_normalization gives D the length of c",
        no_nag=IN_ONE_STREAM,
    ),
    Family(
        name="hidream",
        makes="image",
        title="HiDream-I1",
        model="HiDreamImageTransformer2DModel",
        checkpoint="HiDream-ai/HiDream-I1-Full",
        pipelines={"HiDreamImagePipeline": replace(BATCHED, negated=True)},
        stacks={
            "dual": Stack(
                "double_stream_blocks", 16, JOINT_STREAMS,
                {"block.attn1": identity_attention.hidream_attention},
            ),
            "single": Stack(
                "single_stream_blocks", 32, VIDEO_STREAM,
                {"block.attn1": identity_attention.hidream_attention}, token_layout="joint",
            ),
        },
        latent_layout="bchw",
        text_position="after",
        batched_inputs=(
            "hidden_states", "timesteps", "encoder_hidden_states_t5", "pooled_embeds",
            "encoder_hidden_states_llama3",
        ),
        batched_second=("encoder_hidden_states_llama3",),
        no_nag=IN_ONE_STREAM,
    ),
    Family(
        name="auraflow",
        makes="image",
        title="AuraFlow",
        model="AuraFlowTransformer2DModel",
        checkpoint="fal/AuraFlow-v0.3",
        pipelines={"AuraFlowPipeline": BATCHED},
        stacks={
            "dual": Stack(
                "joint_transformer_blocks", 4, JOINT_STREAMS, JOINT_ATTENTION, returns=TEXT_FIRST
            ),
            "single": Stack(
                "single_transformer_blocks", 32, VIDEO_STREAM, SINGLE_ATTENTION,
                token_layout="joint",
            ),
        },
        latent_layout="bchw",
        text_position="before",
        batched_inputs=TEXT_INPUTS,
        no_nag=IN_ONE_STREAM,
    ),
    Family(
        name="cogview3-plus",
        makes="image",
        title="CogView3-Plus",
        model="CogView3PlusTransformer2DModel",
        checkpoint="THUDM/CogView3-Plus-3B",
        pipelines={"CogView3PlusPipeline": BATCHED_FLOAT32},
        stacks=single_stack(
            "transformer_blocks", 30, JOINT_STREAMS, SHARED_JOINT_ATTENTION,
            text=text_attention.SHARED,
        ),
        latent_layout="bchw",
        text_position="before",
        batched_inputs=(*TEXT_INPUTS, "original_size", "target_size", "crop_coords"),
        negative=text_attention.PLAIN_PROMPT,
    ),
    Family(
        name="hunyuan-image",
        makes="image",
        title="HunyuanImage 2.1",
        model="HunyuanImageTransformer2DModel",
        checkpoint="hunyuanvideo-community/HunyuanImage-2.1-Diffusers",
        pipelines={"HunyuanImagePipeline": GUIDER, "HunyuanImageRefinerPipeline": GUIDER},
        stacks=dual_and_single_stacks(20, 40, text_attention.DUAL_AND_SINGLE),
        latent_layout="bchw",
        text_position="after",
        notes="without a guider it is the distilled model, which runs without CFG",
        negative=text_attention.HUNYUAN_1_5_PROMPT,
    ),
    Family(
        name="glm-image",
        makes="image",
        title="GLM-Image",
        model="GlmImageTransformer2DModel",
        checkpoint="zai-org/GLM-Image",
        pipelines={"GlmImagePipeline": replace(SEPARATE_FLOAT32, is_early=_writes_cache)},
        stacks=single_stack(
            "transformer_blocks", 30, JOINT_STREAMS, SHARED_JOINT_ATTENTION,
            text=text_attention.SHARED,
        ),
        latent_layout="bchw",
        text_position="before",
        negative=text_attention.PLAIN_PROMPT,
    ),
    Family(
        name="krea-2",
        makes="image",
        title="Krea 2",
        model="Krea2Transformer2DModel",
        checkpoint="krea/Krea-2",
        pipelines={"Krea2Pipeline": replace(SEPARATE, scale_from_cond=True)},
        stacks=single_stack(
            "transformer_blocks", 28, VIDEO_STREAM,
            {"attn": identity_attention.gated_group_attention}, token_layout="joint",
        ),
        modular=("Krea2ModularPipeline",),
        latent_layout="packed",
        text_position="before",
        cached_modules=("text_fusion",),
        notes="its guidance_scale g is g + 1 in the formula: c + g (c - u)",
        no_nag=IN_ONE_STREAM,
    ),
    Family(
        name="ovis-image",
        makes="image",
        title="Ovis-Image",
        model="OvisImageTransformer2DModel",
        checkpoint="AIDC-AI/Ovis-Image-7B",
        pipelines={"OvisImagePipeline": SEPARATE},
        stacks=_stacks_text_first(6, 27),
        latent_layout="packed",
        text_position="before",
    ),
    Family(
        name="bria",
        makes="image",
        title="Bria 3.2",
        model="BriaTransformer2DModel",
        checkpoint="briaai/BRIA-3.2",
        pipelines={
            "BriaPipeline": replace(
                BATCHED, unsupported_flag="normalize", unsupported_hint="normalize=False"
            )
        },
        stacks=_stacks_text_first(19, 38),
        latent_layout="packed",
        text_position="before",
        batched_inputs=TEXT_INPUTS,
    ),
)  # fmt: skip
