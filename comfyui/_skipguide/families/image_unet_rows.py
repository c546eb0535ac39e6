# Built by `make comfyui` from src/skipguide/families/image_unet_rows.py; do not edit.
"""The rows of UNets that make images: Stable Diffusion 1.5 and 2.1, SDXL, Kolors.

They are rows like those of `rows.py`, which takes them in. Their layers are single transformer
blocks, counted as PAG, SEG and TPG count them, and they attend within the image alone."""

from __future__ import annotations

from dataclasses import replace

from ..families import text_attention
from ..families.row_parts import (
    BATCHED,
    BATCHED_RESCALE,
    NO_CFG,
    PAG,
    PLAIN_ATTENTION,
    VIDEO_STREAM,
)
from ..families.schema import AxisLayers, Family, Stack, UNetLayout

PAG_RESCALE = replace(PAG, rescale_names=("guidance_rescale",))
UNET_2D_LAYOUT = UNetLayout(
    ("resnets", "attentions"),
    {"spatial": AxisLayers("attentions", "transformer_blocks", ("attn1",))},
    is_divided=True,
)
_INPUTS = (
    "sample", "encoder_hidden_states", "encoder_attention_mask", "class_labels", "timestep_cond",
    "added_cond_kwargs", "down_block_additional_residuals", "mid_block_additional_residual",
)  # fmt: skip


def _parts(down: int, mid: int, up: int) -> dict[str, Stack]:
    """Return the parts of a UNet with so many transformer blocks."""
    depths = {"down": ("down_blocks", down), "mid": ("mid_block", mid), "up": ("up_blocks", up)}
    return {
        name: Stack(path, depth, VIDEO_STREAM, PLAIN_ATTENTION, text=text_attention.CROSS)
        for name, (path, depth) in depths.items()
    }


FAMILIES = (
    Family(
        name="sd",
        makes="image",
        title="Stable Diffusion 1.5 and 2.1",
        model="UNet2DConditionModel",
        checkpoint="stable-diffusion-v1-5/stable-diffusion-v1-5",
        pipelines={
            "StableDiffusionPipeline": BATCHED_RESCALE,
            "StableDiffusionImg2ImgPipeline": BATCHED,
            "StableDiffusionInpaintPipeline": BATCHED,
            "StableDiffusionControlNetPipeline": BATCHED,
            "StableDiffusionControlNetImg2ImgPipeline": BATCHED,
            "StableDiffusionControlNetInpaintPipeline": BATCHED,
            "StableDiffusionPAGPipeline": PAG_RESCALE,
            "StableDiffusionPAGImg2ImgPipeline": PAG,
            "StableDiffusionPAGInpaintPipeline": PAG_RESCALE,
            "StableDiffusionControlNetPAGPipeline": PAG,
            "StableDiffusionControlNetPAGInpaintPipeline": PAG,
            "StableDiffusionDepth2ImgPipeline": BATCHED,
            "StableDiffusionImageVariationPipeline": BATCHED,
            "StableUnCLIPPipeline": BATCHED,
            "StableUnCLIPImg2ImgPipeline": BATCHED,
            "LatentConsistencyModelPipeline": NO_CFG,
            "LatentConsistencyModelImg2ImgPipeline": NO_CFG,
        },
        stacks=_parts(6, 1, 9),
        unet=UNET_2D_LAYOUT,
        latent_layout="bchw",
        batched_inputs=_INPUTS,
        denoisers=("unet",),
        negative=text_attention.PLAIN_PROMPT,
    ),
    Family(
        name="sdxl",
        makes="image",
        title="SDXL (with its refiner, Turbo, Lightning) and Kolors",
        model="UNet2DConditionModel",
        checkpoint="stabilityai/stable-diffusion-xl-base-1.0 (the refiner: 16 down, 4 mid, 24 up)",
        pipelines={
            "StableDiffusionXLPipeline": BATCHED_RESCALE,
            "StableDiffusionXLImg2ImgPipeline": BATCHED_RESCALE,
            "StableDiffusionXLInpaintPipeline": BATCHED_RESCALE,
            "StableDiffusionXLControlNetPipeline": BATCHED,
            "StableDiffusionXLControlNetImg2ImgPipeline": BATCHED,
            "StableDiffusionXLControlNetInpaintPipeline": BATCHED_RESCALE,
            "StableDiffusionXLControlNetUnionPipeline": BATCHED,
            "StableDiffusionXLControlNetUnionImg2ImgPipeline": BATCHED,
            "StableDiffusionXLControlNetUnionInpaintPipeline": BATCHED_RESCALE,
            "StableDiffusionXLPAGPipeline": PAG_RESCALE,
            "StableDiffusionXLPAGImg2ImgPipeline": PAG_RESCALE,
            "StableDiffusionXLPAGInpaintPipeline": PAG_RESCALE,
            "StableDiffusionXLControlNetPAGPipeline": PAG,
            "StableDiffusionXLControlNetPAGImg2ImgPipeline": PAG,
            "KolorsPipeline": BATCHED,
            "KolorsImg2ImgPipeline": BATCHED,
            "KolorsPAGPipeline": PAG,
        },
        stacks=_parts(24, 10, 36),
        unet=UNET_2D_LAYOUT,
        latent_layout="bchw",
        batched_inputs=_INPUTS,
        denoisers=("unet",),
        modular=("StableDiffusionXLModularPipeline",),
        negative=text_attention.POOLED_PROMPT,
    ),
)
