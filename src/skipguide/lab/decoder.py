"""Train the decoder of lab-mochi-2 further, on whole clips and with the encoder left as it is.

The autoencoder learns mostly on crops and from latents with noise, and a latent that changes would
cost the transformer its training. A decoder alone can learn after the latents are kept.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from skipguide.lab import autoencoder, mochi, training_loop

Tensor = torch.Tensor

BATCH_SIZE = 4  # clips
FIRST_SEED = 10**7  # the autoencoder was trained on the clips of small seeds
SCHEDULE = training_loop.Schedule(
    steps=1600, learning_rate=1.5e-3, adam_rate=5e-4, decay=0.9, ema=0.998
)


def train(
    folder: Path, device: torch.device, schedule: training_loop.Schedule = SCHEDULE
) -> Iterator[training_loop.Progress]:
    """Train from `folder/vae`, or from the checkpoint; the whole autoencoder is `folder/decoder`.

    Raises:
        ValueError: if `folder` has no autoencoder.
    """
    training_loop.require_files(folder, "vae/config.json")
    vae: Any = mochi.load_autoencoder(folder / "vae")
    vae.to(device)
    vae.encoder.requires_grad_(False)
    autoencoder.use_channels_last(vae)
    dtype, kind = training_loop.faster_dtype(device), autoencoder.OPEN_MOCHI

    def loss(step: int) -> tuple[Tensor, dict[str, float]]:
        frames = autoencoder.render_clips(BATCH_SIZE, FIRST_SEED + step, kind).to(device)
        with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
            with torch.no_grad():
                latents = kind.encode(vae, frames).mean
            reconstruction = kind.decode(vae, latents, frames.shape[2])
        error = (reconstruction.float() - frames).square().mean()
        return error, {"psnr": float(-10 * torch.log10(error.detach() / 4))}

    yield from training_loop.fit(vae, loss, schedule, folder / "decoder.ckpt")
    with training_loop.atomic_path(folder / "decoder") as part:
        vae.save_pretrained(part)
