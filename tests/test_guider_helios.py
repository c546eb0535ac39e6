"""SkipGuidance in the Modular pipelines of Helios, whose loops run chunk by chunk and, in a
pyramid, stage by stage: each is a run of its own."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from diffusers.guiders.classifier_free_guidance import ClassifierFreeGuidance
from diffusers.modular_pipelines.helios.modular_blocks_helios import HeliosCoreDenoiseStep
from diffusers.modular_pipelines.helios.modular_blocks_helios_pyramid import (
    HeliosPyramidCoreDenoiseStep,
)

from skipguide.guider import SkipGuidance
from support.tiny import builders


@pytest.mark.parametrize(
    ("name", "blocks"),
    [
        ("HeliosPipeline", HeliosCoreDenoiseStep),
        ("HeliosPyramidPipeline", HeliosPyramidCoreDenoiseStep),
    ],
)
def test_equals_diffusers_own_guider_without_a_push_and_full_passes_with_one(
    name: str, blocks: Any
) -> None:
    plain, steps = builders()[name](torch.float32), blocks()
    pipe = steps.init_pipeline()
    parts = {part: getattr(plain.pipe, part, None) for part in pipe._component_specs}
    pipe.update_components(**{part: made for part, made in parts.items() if made is not None})
    given = {**plain.call, "pyramid_num_inference_steps_list": [2, 2, 2]}
    call = {item.name: given[item.name] for item in steps.inputs if item.name in given}

    def run(guider: Any) -> torch.Tensor:
        pipe.update_components(guider=guider)
        chunks = pipe(**call, generator=torch.Generator().manual_seed(0), output="latent_chunks")
        return torch.cat([chunk.flatten() for chunk in chunks])

    off, shared, whole = (
        run(SkipGuidance(layers=[1], scale=scale, guidance_scale=4.0, share_prefix=share))
        for scale, share in ((0.0, True), (1.0, True), (1.0, False))
    )
    assert torch.equal(run(ClassifierFreeGuidance(guidance_scale=4.0)), off)
    assert torch.equal(shared, whole)
    assert (shared - off).abs().max() > 1e-3
