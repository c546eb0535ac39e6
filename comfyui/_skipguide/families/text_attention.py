# Built by `make comfyui` from src/skipguide/families/text_attention.py; do not edit.
"""Data of the families: where the video attends to the text, and where a negative prompt comes from
for NAG.

`schema.TextAttention` and `schema.NegativePrompt` say what the fields mean. A row without them has
a reason as its `no_nag`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..families.schema import NegativePrompt, TextAttention

Texts = tuple[TextAttention, ...]

# --- attention ------------------------------------------------------------------------------------

_EMBEDS = {"encoder_hidden_states": "encoder_hidden_states"}
_MASKED = {**_EMBEDS, "attention_mask": "encoder_attention_mask"}
_MASK_OF_BOTH = {"attention_mask": "attention_mask"}
_STREAM = "encoder_hidden_states"
NONE: Mapping[str, Texts] = {}

CROSS: Texts = (TextAttention("attn2", _EMBEDS),)
MASKED_CROSS: Texts = (TextAttention("attn2", _MASKED),)
# An image has keys and values of its own, and its attention is added.
WAN: Texts = (TextAttention("attn2", _EMBEDS, image_values=("add_v_proj",)),)
MOCHI: Texts = (
    TextAttention(
        "attn1", {"attention_mask": "encoder_attention_mask"}, _STREAM, video_only=("ff",)
    ),
)
# One projection W_o for the tokens of the text and of the video.
SHARED: Texts = (TextAttention("attn1", {}, _STREAM, has_text=True),)
# A second attention is over the image alone; its modulation is that of the first.
SD3: Texts = (TextAttention("attn", {}, _STREAM, video_only=("attn2", "ff")),)
DUAL: Texts = (TextAttention("attn", _MASK_OF_BOTH, _STREAM, video_only=("ff",)),)
DUAL_AND_SINGLE: Mapping[str, Texts] = {
    "dual": DUAL,
    "single": (TextAttention("attn", _MASK_OF_BOTH, _STREAM, output=""),),
}

LTX_2: Texts = (
    *MASKED_CROSS,
    TextAttention(
        "audio_attn2",
        {
            "encoder_hidden_states": "audio_encoder_hidden_states",
            "attention_mask": "audio_encoder_attention_mask",
        },
    ),
)

# --- the negative prompt --------------------------------------------------------------------------

_NEGATIVE = "negative_prompt_embeds"
_NEGATIVE_MASK = "negative_prompt_attention_mask"
_TEXT = {"encoder_hidden_states": _NEGATIVE}
_MASKED_TEXT = {**_TEXT, "encoder_attention_mask": _NEGATIVE_MASK}

PLAIN_PROMPT = NegativePrompt(_TEXT, ("", _NEGATIVE))
POOLED_PROMPT = NegativePrompt(_TEXT, ("", _NEGATIVE, "", ""))  # pooled texts stay the prompt's
MASKED_PROMPT = NegativePrompt(_MASKED_TEXT, ("", "", _NEGATIVE, _NEGATIVE_MASK))
HUNYUAN_PROMPT = NegativePrompt(
    _MASKED_TEXT, (_NEGATIVE, "", _NEGATIVE_MASK), as_prompt=True, every_step=True
)
HUNYUAN_1_5_PROMPT = NegativePrompt(
    {
        "encoder_hidden_states": _NEGATIVE,
        "encoder_attention_mask": f"{_NEGATIVE}_mask",
        "encoder_hidden_states_2": f"{_NEGATIVE}_2",
        "encoder_attention_mask_2": f"{_NEGATIVE}_mask_2",
    },
    (_NEGATIVE, f"{_NEGATIVE}_mask", f"{_NEGATIVE}_2", f"{_NEGATIVE}_mask_2"),
    as_prompt=True,
    every_step=True,
)


def _connect_ltx_2(pipe: Any, encoded: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the connectors of LTX-2 make of a text, for its video and its sound."""
    side = getattr(getattr(pipe, "tokenizer", None), "padding_side", "left")
    video, audio, mask = pipe.connectors(
        encoded[_NEGATIVE], encoded[_NEGATIVE_MASK], padding_side=side
    )
    return {"video": video, "audio": audio, "mask": mask}


LTX_2_PROMPT = NegativePrompt(
    {
        "encoder_hidden_states": "video",
        "audio_encoder_hidden_states": "audio",
        "encoder_attention_mask": "mask",
        "audio_encoder_attention_mask": "mask",
    },
    MASKED_PROMPT.encoded,
    finish=_connect_ltx_2,
)

# --- why not --------------------------------------------------------------------------------------

IN_A_UNET = "its attention to the text is spread over the levels of a UNet, which no row describes"
