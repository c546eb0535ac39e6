"""Open-Sora 1.2 for diffusers: transformer, VAE, scheduler and pipeline, equal to upstream's.

from skipguide.opensora import OpenSoraPipeline

pipe = OpenSoraPipeline.from_pretrained(folder)  # written by `skipguide convert opensora`
frames = pipe("a red fox in the snow").frames[0]
"""

import diffusers

from skipguide.opensora.autoencoder import AutoencoderKLOpenSora
from skipguide.opensora.conditions import OpenSoraCondition, parse_mask_strategy
from skipguide.opensora.pipeline import OpenSoraPipeline, OpenSoraPipelineOutput
from skipguide.opensora.scheduler import OpenSoraRFlowScheduler
from skipguide.opensora.transformer import OpenSoraTransformer3DModel

__all__ = [
    "AutoencoderKLOpenSora",
    "OpenSoraCondition",
    "OpenSoraPipeline",
    "OpenSoraPipelineOutput",
    "OpenSoraRFlowScheduler",
    "OpenSoraTransformer3DModel",
    "parse_mask_strategy",
]

# DiffusionPipeline.from_pretrained looks for the class of a saved pipeline in diffusers only.
if not hasattr(diffusers, "OpenSoraPipeline"):
    diffusers.OpenSoraPipeline = OpenSoraPipeline  # type: ignore[attr-defined]
