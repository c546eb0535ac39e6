"""The denoising loops of diffusers' Modular pipelines, with the models of the tiny pipelines."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from diffusers.modular_pipelines.hunyuan_video1_5.modular_blocks_hunyuan_video1_5 import (
    HunyuanVideo15CoreDenoiseStep,
)
from diffusers.modular_pipelines.ltx.modular_blocks_ltx import LTXCoreDenoiseStep
from diffusers.modular_pipelines.wan.modular_blocks_wan import WanCoreDenoiseStep
from diffusers.modular_pipelines.wan.modular_blocks_wan22 import Wan22CoreDenoiseStep

from support.tiny import builders
from support.tiny.base import Tiny


class Modular:
    """A Modular pipeline that is called, and returns latents, as the others do."""

    def __init__(self, pipe: Any):
        self.pipe = pipe

    def __getattr__(self, name: str) -> Any:
        return getattr(self.pipe, name)

    def __call__(self, **call: Any) -> dict[str, torch.Tensor]:
        return {"latents": self.pipe(**call, output="latents")}


def modular(name: str, blocks: Any, **call: Any) -> Tiny:
    """The denoising steps of a Modular pipeline, with the components of the tiny pipeline of that
    name."""
    plain, steps = builders()[name](torch.float32), blocks()
    pipe = steps.init_pipeline()
    components = {
        name: getattr(plain.pipe, name)
        for name in pipe._component_specs
        if hasattr(plain.pipe, name)
    }
    pipe.update_components(**components)
    pipe.set_progress_bar_config(disable=True)
    steps.sub_blocks["denoise"].set_progress_bar_config(disable=True)
    inputs = {item.name for item in steps.inputs}
    call = {**{k: v for k, v in plain.call.items() if k in inputs}, **call}
    return Tiny(Modular(pipe), call, off={}, g="", denoisers=plain.denoisers)


LATENTS = torch.randn(2, 4, 2, 4, 4, generator=torch.Generator().manual_seed(0))
MODULAR: dict[str, Callable[[], Tiny]] = {
    "modular Wan": functools.partial(modular, "WanPipeline", WanCoreDenoiseStep, latents=LATENTS),
    # of 999, 909 and 714 the last one is for the second transformer, with a guider of its own
    "modular Wan 2.2": functools.partial(
        modular, "WanPipeline 2.2", Wan22CoreDenoiseStep, latents=LATENTS
    ),
    # the denoising steps have no VAE: one token for 32 x 32 x 8
    "modular LTX": functools.partial(
        modular, "LTXPipeline", LTXCoreDenoiseStep, height=96, width=96, num_frames=9
    ),
    "modular HunyuanVideo 1.5": functools.partial(
        modular,
        "HunyuanVideo15Pipeline",
        HunyuanVideo15CoreDenoiseStep,
        batch_size=2,
        latents=LATENTS[..., :2, :2],
    ),
}
