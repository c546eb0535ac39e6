"""MiniMax-H3: a Modular pipeline of one call a step, without CFG or a guider; one sequence of text,
sound and video. It is apart from the other tiny pipelines, most of whose tests have CFG."""

from __future__ import annotations

import functools
from typing import Any

import torch
from diffusers.modular_pipelines.minimax_h3.modular_blocks_minimax_h3 import (
    MiniMaxH3CoreDenoiseStep,
    MiniMaxH3FL2VACoreDenoiseStep,
    MiniMaxH3Ref2VACoreDenoiseStep,
)
from diffusers.modular_pipelines.minimax_h3.references import MiniMaxH3ImageReference
from diffusers.schedulers.scheduling_minimax_h3 import MiniMaxH3Scheduler
from PIL import Image

from support.tiny.base import Tiny, denoiser, matter

FRAMES = 124  # the fewest that its blocks take: 37 latent frames, of one row each at 32 x 32


def minimax_h3(
    blocks: Any, role: str, inputs: dict[str, Any], dtype: torch.dtype = torch.float32
) -> Tiny:
    torch.manual_seed(0)
    transformer = matter(denoiser("minimax-h3", in_channels=24, audio_in_channels=32))
    steps = blocks()
    pipe = steps.init_pipeline()
    pipe.update_components(
        **{role: torch.nn.Module.to(transformer, dtype)}, scheduler=MiniMaxH3Scheduler(shift=12.0),
        audio_scheduler=MiniMaxH3Scheduler(shift=3.0),
    )  # fmt: skip
    steps.sub_blocks["denoise"].set_progress_bar_config(disable=True)
    call = dict(
        prompt_embeds=torch.randn(1, 5, 16), text_token_tags=torch.ones(5, dtype=torch.long),
        height=32, width=32, num_frames=FRAMES, num_inference_steps=3,
        output=["latents", "audio_latents"],
    )  # fmt: skip
    return Tiny(
        pipe, {**call, **inputs}, off={}, g="", denoisers=(role,),
        short=dict(num_inference_steps=3),  # which are two: the last one of the list is the end
    )  # fmt: skip


CONDITION: Any = torch.linspace(-1, 1, 24 * 4).reshape(1, 24, 1, 2, 2)  # the latents of a picture
PICTURE = MiniMaxH3ImageReference(Image.linear_gradient("L").resize((32, 32)).convert("RGB"))

WITHOUT_CFG = {
    "MiniMaxH3ModularPipeline": functools.partial(
        minimax_h3, MiniMaxH3CoreDenoiseStep, "transformer", {}
    ),
    "MiniMaxH3ModularPipeline keyframe": functools.partial(
        minimax_h3, MiniMaxH3FL2VACoreDenoiseStep, "transformer",
        dict(keyframe_anchors=("first",), condition_latents=[CONDITION]),
    ),
    "MiniMaxH3ModularPipeline reference": functools.partial(
        minimax_h3, MiniMaxH3Ref2VACoreDenoiseStep, "transformer_ref",
        dict(
            normalized_references=[PICTURE], condition_latents=[CONDITION],
            audio_condition_latents=[],
        ),
    ),
}  # fmt: skip
