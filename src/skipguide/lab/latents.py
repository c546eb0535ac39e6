"""Encode the clips that a lab model trains on, once: `folder/latents.safetensors`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import torch

from skipguide.lab import training_loop
from skipguide.lab.autoencoder import VideoAutoencoder

Tensor = torch.Tensor
CHUNK_CLIPS = 16  # clips at a time; more do not fit a processor's cache


def cache_latents(
    folder: Path, num: int, encode_rows: Callable[[slice], dict[str, Tensor]]
) -> Iterator[training_loop.Progress]:
    """Write what `encode_rows` returns for `num` clips, a few at a time, one tensor per name."""
    from safetensors.torch import save_file

    found: dict[str, list[Tensor]] = {}
    for start in range(0, num, CHUNK_CLIPS):
        stop = min(start + CHUNK_CLIPS, num)
        for name, part in encode_rows(slice(start, stop)).items():
            found.setdefault(name, []).append(part)
        yield training_loop.Progress(stop, num, {}, 0.0)
    with training_loop.atomic_path(folder / "latents.safetensors") as part:
        save_file({name: torch.cat(parts).contiguous() for name, parts in found.items()}, part)


def make_encoder(
    vae: VideoAutoencoder, device: torch.device, dtype: torch.dtype | None = None
) -> Callable[[Tensor], Tensor]:
    """Return a function that encodes clips `(B, 3, F, H, W)` like Mochi's and Open-Sora's
    pipelines.

    Latents are float16 with mean 0 and deviation 1. Their autoencoders keep one mean and one
    deviation for each channel in the config; where they keep none, latents are taken as they are.

    Args:
        dtype: in which it computes; None is what is faster here.
    """
    dtype = dtype or training_loop.faster_dtype(device)
    usual = {"latents_mean": 0.0, "latents_std": 1.0}
    mean, std = (
        torch.tensor(value if vae.config[name] is None else vae.config[name]).view(1, -1, 1, 1, 1)
        for name, value in usual.items()
    )

    @torch.no_grad()
    def encode(frames: Tensor) -> Tensor:
        with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
            latents = vae.encode(frames.to(device)).latent_dist.mean
        return ((latents.float().cpu() - mean) / std).half()

    return encode
