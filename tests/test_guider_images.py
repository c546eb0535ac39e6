"""SkipGuidance in the Modular pipelines that make images: what guide() makes of the others.

SDXL's is in tests/weak/test_image_unets.py."""

from __future__ import annotations

import functools
import importlib
from typing import Any

import pytest
import torch
from diffusers.guiders.classifier_free_guidance import ClassifierFreeGuidance

from skipguide import STG, guide
from skipguide.guider import SkipGuidance
from support import oracle
from support.tiny import builders
from support.tiny.base import Tiny

# (module of diffusers.modular_pipelines, name of its denoising steps, layer), by the pipeline
STEPS = {
    "StableDiffusion3Pipeline": (
        "stable_diffusion_3.modular_blocks_stable_diffusion_3",
        "StableDiffusion3T2ICoreDenoiseStep",
        1,
    ),
    "ZImagePipeline": ("z_image.modular_blocks_z_image", "ZImageCoreDenoiseStep", 1),
    "Krea2Pipeline": ("krea2.modular_blocks_krea2", "Krea2CoreDenoiseStep", 1),
    "QwenImagePipeline": ("qwenimage.modular_blocks_qwenimage", "QwenImageCoreDenoiseStep", 1),
    "Flux2KleinPipeline": (
        "flux2.modular_blocks_flux2_klein_base",
        "Flux2KleinBaseCoreDenoiseStep",
        "dual:1",
    ),
}


def modular(small: Tiny, name: str, guider: Any) -> torch.Tensor:
    """The latents of the denoising steps, in the order of their size, for some unpack them.

    They have no VAE, so that a latent is of 8 x 8 pixels instead of 2 x 2."""
    module, kind, _ = STEPS[name]
    steps = getattr(importlib.import_module(f"diffusers.modular_pipelines.{module}"), kind)()
    pipe = steps.init_pipeline()
    parts = {n: getattr(small.pipe, n) for n in pipe._component_specs if hasattr(small.pipe, n)}
    pipe.update_components(**parts, guider=guider)
    inputs = {item.name for item in steps.inputs}
    call = {key: value for key, value in small.call.items() if key in inputs}
    call |= {side: 4 * call[side] for side in ("height", "width")}
    made = pipe(**call, generator=torch.Generator().manual_seed(0), output="latents")
    return made.flatten().sort().values


@functools.cache
def pipeline(name: str) -> Tiny:
    """The tiny one; where latents are packed as the pipeline gets them, both begin with these."""
    small = builders()[name](torch.float32)
    if name in ("Krea2Pipeline", "QwenImagePipeline"):
        channels = small.pipe.transformer.config.in_channels
        shape = (2, oracle.run(small, **small.short).numel() // (2 * channels), channels)
        small.call["latents"] = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    return small


@pytest.mark.parametrize("name", STEPS)
def test_modular_pipelines_of_images_take_our_guider(name: str) -> None:
    small, layer = pipeline(name), STEPS[name][2]
    # Flux 2's two pipelines of diffusers are this far apart without guidance, too.
    atol = 5e-4 if name.startswith("Flux2") else 1e-5
    g = float(small.call.get("true_cfg_scale") or small.call.get("guidance_scale", 5.0))
    g += small.g_plus
    plain = modular(small, name, ClassifierFreeGuidance(guidance_scale=g))
    with guide(small.pipe, STG([layer], 1.3)):
        ours = oracle.run(small).sort().values
    theirs = modular(small, name, SkipGuidance(layers=[layer], scale=1.3, guidance_scale=g))
    torch.testing.assert_close(theirs, ours, atol=atol, rtol=1e-4)
    assert (theirs - plain).abs().max() > 10 * atol
