"""Parts that the rows of several families are put together from: ways of calling a denoiser, and
shapes of blocks.

`schema.py` says what the fields mean; the rows are in `rows.py` and `image_rows.py`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from skipguide.families import identity_attention, text_attention
from skipguide.families.schema import (
    AxisLayers,
    CallConvention,
    Stack,
    TextAttention,
    UNetLayout,
    ValueProjection,
)

# --- ways of calling ------------------------------------------------------------------------------

BATCHED = CallConvention("batched")
BATCHED_FLOAT32 = CallConvention("batched", float32_prediction=True)
BATCHED_RESCALE = CallConvention("batched", rescale_names=("guidance_rescale",))
LTX = CallConvention("batched", float32_prediction=True, rescale_names=("guidance_rescale",))
SEPARATE = CallConvention("separate")
SEPARATE_FLOAT32 = CallConvention("separate", float32_prediction=True)
TWO_SCALES = CallConvention(
    "separate", float32_prediction=True, scale_names=("current_guidance_scale",)
)  # Wan 2.2's two transformers
TRUE_CFG = CallConvention(
    "separate", cfg_flag="do_true_cfg", scale_names=("true_cfg_scale",)
)  # beside embedded guidance
GUIDER = CallConvention("guider")
NO_CFG = CallConvention("none", float32_prediction=True)
PAG = CallConvention(
    "batched", unsupported_flag="do_perturbed_attention_guidance", unsupported_hint="pag_scale=0"
)
SVD = CallConvention("batched", scale_argument="max_guidance_scale")
COG = CallConvention("batched", float32_prediction=True, dynamic_scale_flag="use_dynamic_cfg")
KANDINSKY = CallConvention("separate", cfg_flag="guidance_scale")
KANDINSKY_6 = CallConvention("separate", scale_names=("guidance_scale", "guidance_scale"))
HELIOS_PYRAMID = CallConvention(
    "separate", float32_prediction=True, unsupported_flag="is_cfg_zero_star"
)
COSMOS = CallConvention("separate", float32_prediction=True, scale_from_cond=True)
LTX2 = CallConvention(
    "batched", float32_prediction=True, scale_names=("guidance_scale", "audio_guidance_scale"),
    rescale_names=("guidance_rescale", "audio_guidance_rescale"),
    extra_guidance_flags=("do_spatio_temporal_guidance", "do_modality_isolation_guidance"),
    own_guidance=(
        ("stg_scale", 0.0), ("audio_stg_scale", 0.0), ("modality_scale", 1.0),
        ("audio_modality_scale", 1.0), ("guidance_rescale", 0.0), ("audio_guidance_rescale", 0.0),
    ),
    audio_names=("audio_latents", "audio_scheduler"),
)  # fmt: skip
# Its audio is thrown away and has no g of its own.
LTX2_HDR = replace(
    LTX2, scale_names=("guidance_scale",) * 2, rescale_names=("guidance_rescale",),
    own_guidance=(("stg_scale", 0.0), ("modality_scale", 1.0), ("guidance_rescale", 0.0)),
)  # fmt: skip

# --- shapes of blocks -----------------------------------------------------------------------------

VIDEO_STREAM = ("hidden_states",)
JOINT_STREAMS = ("hidden_states", "encoder_hidden_states")
TEXT_FIRST = ("encoder_hidden_states", "hidden_states")  # as many blocks return them
PLAIN_ATTENTION = {"attn1": identity_attention.plain_attention}
JOINT_ATTENTION = {"attn": identity_attention.joint_attention}
# Over text and image in one stream, which the block joins.
CONCATENATED_ATTENTION = {"attn": identity_attention.plain_attention}
# With a second attention over the image alone.
DOUBLE_ATTENTION = {**JOINT_ATTENTION, "attn2": identity_attention.plain_attention}
SHARED_JOINT_ATTENTION = {"attn1": identity_attention.shared_joint_attention}
# Inputs of the denoiser that many families have, batch first.
TEXT_INPUTS = ("hidden_states", "encoder_hidden_states", "timestep")
MASKED_TEXT_INPUTS = (*TEXT_INPUTS, "encoder_attention_mask")


def single_stack(
    path: str,
    depth: int,
    streams: tuple[str, ...],
    attention: Mapping[str, ValueProjection],
    **more: Any,
) -> dict[str, Stack]:
    """Return one stack of blocks under the name "blocks".

    Args:
        path, depth, streams, attention: as in Stack.
        more: what else Stack takes.
    """
    return {"blocks": Stack(path, depth, streams, attention, **more)}


def dual_and_single_stacks(
    dual: int, single: int, text: Mapping[str, tuple[TextAttention, ...]] = text_attention.NONE
) -> dict[str, Stack]:
    """Return the stacks of a model with so many dual-stream and then single-stream blocks.

    Args:
        dual, single: their numbers.
        text: where the blocks of each stack attend to the text.
    """
    paths = {"dual": ("transformer_blocks", dual), "single": ("single_transformer_blocks", single)}
    return {
        name: Stack(path, depth, JOINT_STREAMS, JOINT_ATTENTION, text=text.get(name, ()))
        for name, (path, depth) in paths.items()
    }


def spatial_and_temporal_stacks(
    spatial: str, temporal: str, depth: int, token_layout: str = ""
) -> dict[str, Stack]:
    """Return the stacks of a model whose blocks of space and of time run in turn.

    Args:
        spatial, temporal: the paths of the two lists.
        depth: the number of blocks in each.
        token_layout: as in Stack.
    """
    return {
        axis: Stack(path, depth, VIDEO_STREAM, PLAIN_ATTENTION, axis, token_layout)
        for axis, path in (("spatial", spatial), ("temporal", temporal))
    }


UNET_3D_LAYOUT = UNetLayout(
    ("resnets", "temp_convs", "attentions", "temp_attentions"),
    {
        "spatial": AxisLayers("attentions", "transformer_blocks", ("attn1",)),
        "temporal": AxisLayers("temp_attentions", "transformer_blocks", ("attn1", "attn2")),
    },
)


def unet_stacks(down: int, up: int) -> dict[str, Stack]:
    """Return the parts of a UNet with so many transformer layers on the way down and up.

    There is one layer in the middle."""
    depths = {"down": ("down_blocks", down), "mid": ("mid_block", 1), "up": ("up_blocks", up)}
    return {
        name: Stack(path, depth, VIDEO_STREAM, PLAIN_ATTENTION)
        for name, (path, depth) in depths.items()
    }
