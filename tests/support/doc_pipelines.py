"""Tiny pipelines with as many layers as the published checkpoints have, for the code in pages: they
take the place of what `from_pretrained` would read, and any prompt is the same drawn embedding."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from diffusers.pipelines.pipeline_utils import DiffusionPipeline

from skipguide.families import lookup
from support.tiny import builders
from support.tiny.base import Tiny, denoiser, matter
from support.tiny.svd import level

# What the small denoiser of a class needs to be as deep as the public one.
DEPTHS: dict[str, dict[str, Any]] = {
    # eight heads, of which a page skips two
    "MochiPipeline": dict(num_layers=48, num_attention_heads=8, attention_head_dim=8),
    "WanPipeline": dict(num_layers=40),
    "LTX2Pipeline": dict(num_layers=48),
    "StableDiffusion3Pipeline": dict(num_layers=24, dual_attention_layers=(), qk_norm="rms_norm"),
    "StableVideoDiffusionPipeline": dict(
        down_block_types=(
            *("CrossAttnDownBlockSpatioTemporal",) * 3, "DownBlockSpatioTemporal",
        ),
        up_block_types=("UpBlockSpatioTemporal", *("CrossAttnUpBlockSpatioTemporal",) * 3),
        block_out_channels=(32,) * 4, layers_per_block=2, num_attention_heads=(2,) * 4,
    ),
    "StableDiffusionXLPipeline": dict(
        down_block_types=("DownBlock2D", *("CrossAttnDownBlock2D",) * 2),
        up_block_types=(*("CrossAttnUpBlock2D",) * 2, "UpBlock2D"),
        transformer_layers_per_block=(1, 2, 10), block_out_channels=(8, 8, 16),
        attention_head_dim=(1, 1, 2), layers_per_block=2,
    ),
    "OpenSoraPipeline": {},
}  # fmt: skip
# Where a published window holds no step of two.
STEPS = {"StableDiffusion3Pipeline": 6}
# What a call in a page may say itself; the sizes are those of the tiny pipeline.
KEPT = ("guidance_scale", "generator", "output_type", "return_dict")


def doc_pipeline(name: str, **changes: Any) -> Any:
    """A new pipeline of a class whose call takes what pages write, and makes a tiny clip.

    `changes` are of its denoiser."""
    tiny = builders()[name](torch.float32)
    family = lookup.family_of(tiny.pipe)
    part = tiny.denoisers[0]
    if changes := {**DEPTHS[name], **changes}:
        made = denoiser(family.name, **changes)
        tiny.pipe.register_modules(**{part: level(made) if family.unet else matter(made)})
    kind = type(tiny.pipe)
    tiny.pipe.__class__ = type(kind.__name__, (kind,), {"__call__": _small_call(kind, tiny)})
    return tiny.pipe


def _small_call(kind: type, tiny: Tiny) -> Callable[..., Any]:
    real = kind.__call__  # type: ignore[attr-defined]

    @functools.wraps(real)
    def __call__(self: Any, *args: Any, **given: Any) -> Any:
        kept = {name: value for name, value in given.items() if name in KEPT}
        steps = STEPS.get(kind.__name__, tiny.short["num_inference_steps"])
        return real(self, **{**tiny.call, **kept, "num_inference_steps": steps})

    return __call__


def from_pretrained(default: Any) -> Any:
    """The class method in the place of `DiffusionPipeline.from_pretrained`."""

    def load(kind: type, *args: Any, **kwargs: Any) -> Any:
        return default if kind is DiffusionPipeline else doc_pipeline(kind.__name__)

    return classmethod(load)
