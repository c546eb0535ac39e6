"""SANA-WM: latents, a timestep for each frame, a text with a mask, and a camera: its poses with its
lens, and the rays through its pixels."""

from __future__ import annotations

import torch

from skipguide.families.examples import Config, Example, Inputs, Size, noise, text_mask, timesteps


def _inputs(config: Config, size: Size, batch: int) -> Inputs:
    return dict(
        hidden_states=noise(batch, config["in_channels"], *size.latents),
        timestep=timesteps(batch, 1, size.frames),
        encoder_hidden_states=noise(batch, 1, size.text, config["caption_channels"]),
        encoder_attention_mask=text_mask(size, batch),
        camera_conditions=_camera(size).expand(batch, -1, -1),
        chunk_plucker=noise(batch, config["chunk_plucker_channels"], *size.latents),
    )


def _camera(size: Size) -> torch.Tensor:
    """`(1, frames, 20)`: a pose as a matrix of 4 x 4, focal lengths and centre, of a camera that
    moves forward."""
    poses = torch.eye(4).repeat(size.frames, 1, 1)
    poses[:, 2, 3] = torch.arange(size.frames) / 10
    lens = torch.tensor([size.width, size.height, size.width / 2, size.height / 2])
    return torch.cat([poses.flatten(1), lens.expand(size.frames, 4)], dim=1)[None]


EXAMPLE = Example(
    narrow=dict(
        in_channels=128, num_layers=20, hidden_size=256, num_attention_heads=4, linear_head_dim=64,
        chunk_plucker_channels=48, caption_channels=256,
    ),
    inputs=_inputs,
    layer=14,
    narrow_size=Size(4, 8, 8, 64),  # its recurrences make it slow on a CPU,
    small=dict(
        in_channels=4, hidden_size=32, num_attention_heads=2, linear_head_dim=16,
        softmax_every_n=2, chunk_plucker_channels=12, caption_channels=32,
    ),
)  # fmt: skip
