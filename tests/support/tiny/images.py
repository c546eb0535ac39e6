"""What tiny pipelines of image models share: an autoencoder, a picture for each prompt, a mask."""

from __future__ import annotations

from typing import Any

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL

from support.tiny.unet3d import autoencoder

IMAGE = torch.linspace(0, 1, 2 * 3 * 16 * 16).reshape(2, 3, 16, 16)
MASK = (torch.arange(16) < 8).float().expand(2, 1, 16, 16)
# strength leaves the first step out
FROM_IMAGE: dict[str, Any] = dict(image=IMAGE, strength=0.75, num_inference_steps=4)


def image_autoencoder(channels: int = 4) -> AutoencoderKL:
    """One latent for 2 x 2 pixels; what it samples is the mean."""
    vae = autoencoder(exact=True, channels=channels)
    vae.register_to_config(shift_factor=0.1)
    return vae


def short(inputs: dict[str, Any]) -> dict[str, Any]:
    """A run of 2 steps."""
    return dict(num_inference_steps=3 if "strength" in inputs else 2)
