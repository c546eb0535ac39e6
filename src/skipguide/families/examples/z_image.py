"""Z-Image: lists of the latents of images and of texts, a timestep."""

from __future__ import annotations

import torch

from skipguide.families.examples import Config, Example, Inputs, Size, noise


def _inputs(config: Config, size: Size, batch: int) -> Inputs:
    return dict(
        x=list(noise(batch, config["in_channels"], *size.latents)),
        t=torch.full((batch,), 0.5),
        cap_feats=list(noise(batch, size.text, config["cap_feat_dim"])),
    )


EXAMPLE = Example(
    narrow=dict(
        dim=256, n_layers=30, n_refiner_layers=2, n_heads=4, n_kv_heads=4, in_channels=16,
        cap_feat_dim=256, axes_dims=[16, 24, 24], axes_lens=[1024, 64, 64],
    ),
    inputs=_inputs,
    layer=21,
    narrow_size=Size(1, 48, 48, 64),
    small=dict(
        dim=16, n_layers=4, n_refiner_layers=1, n_heads=2, n_kv_heads=2, in_channels=4,
        cap_feat_dim=16, axes_dims=[2, 2, 4], axes_lens=[128, 16, 16],
    ),
    small_size=Size(1, 8, 8, 8),
)  # fmt: skip
