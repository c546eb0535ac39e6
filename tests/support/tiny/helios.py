"""Helios: separate CFG passes over a chunk of frames and its history; the pyramid grows the latents
as it denoises."""

from __future__ import annotations

import functools
import warnings
from typing import Any

import torch
from diffusers.pipelines.helios.pipeline_helios import HeliosPipeline
from diffusers.pipelines.helios.pipeline_helios_pyramid import HeliosPyramidPipeline
from diffusers.schedulers.scheduling_helios import HeliosScheduler

from support.tiny.base import Tiny, denoiser, matter
from support.tiny.wan import autoencoder, load, prompts


def scheduler(**config: Any) -> HeliosScheduler:
    with warnings.catch_warnings():
        warnings.filterwarnings(
            "ignore", "__array_wrap__", DeprecationWarning
        )  # its __init__ gives tensors to numpy
        return HeliosScheduler(**config)


def helios(
    pipeline: Any,
    stages: dict[str, Any],
    inputs: dict[str, Any],
    dtype: torch.dtype = torch.float32,
    **components: Any,
) -> Tiny:
    torch.manual_seed(0)
    transformer = denoiser("helios")
    pipe = pipeline(
        tokenizer=None, text_encoder=None, vae=autoencoder(), scheduler=scheduler(**stages),
        transformer=matter(transformer), **components,
    )  # fmt: skip
    call = dict(
        **prompts(12, 16),
        num_frames=5,
        num_latent_frames_per_chunk=2,
        guidance_scale=4.5,
        output_type="latent",
    )
    one_run = "num_inference_steps" in inputs and "num_frames" not in inputs
    return Tiny(
        load(pipe, dtype, "transformer"), {**call, **inputs}, off=dict(guidance_scale=1.0),
        windows=one_run,
        short=dict(num_inference_steps=2) if inputs.keys() >= {"num_inference_steps"} else {},
    )  # fmt: skip


FLAT: Any = dict(height=32, width=32, num_inference_steps=3)
# one step at each of 4 x 4, 8 x 8 and 16 x 16 latents
PYRAMID: Any = dict(height=128, width=128, pyramid_num_inference_steps_list=[1, 1, 1])
ONE: Any = dict(stages=1, stage_range=[0, 1], use_dynamic_shifting=True)
# the default of 1/3 makes a singular covariance, which a CPU's float32 Cholesky does not factorise
THREE: Any = dict(gamma=0.33)

PIPELINES = {
    "HeliosPipeline": functools.partial(helios, HeliosPipeline, ONE, FLAT),
    # two chunks, one after the other, with the same timesteps
    "HeliosPipeline long": functools.partial(
        helios, HeliosPipeline, ONE, {**FLAT, "num_frames": 10}
    ),
    "HeliosPyramidPipeline": functools.partial(helios, HeliosPyramidPipeline, THREE, PYRAMID),
    # CFG-Zero*: no prediction at the first two steps of the first stage, then a u + g (c - a u)
    # with a = c.u / u.u
    "HeliosPyramidPipeline zero": functools.partial(
        helios, HeliosPyramidPipeline, THREE, PYRAMID, is_cfg_zero_star=True
    ),
}
