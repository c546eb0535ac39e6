"""Wan 2.2 Animate: Wan's inputs, the latents of a pose video, and four pictures of a face for each
frame of latents but the first."""

from __future__ import annotations

import torch

from skipguide.families.examples import Config, Example, Size, _wan, noise, video_inputs


def _pose(config: Config, size: Size, batch: int) -> torch.Tensor:
    return noise(batch, config["latent_channels"], size.frames - 1, size.height, size.width)


def _face(config: Config, size: Size, batch: int) -> torch.Tensor:
    pixels = config["motion_encoder_size"]
    return noise(batch, 3, 4 * (size.frames - 1), pixels, pixels)


EXAMPLE = Example(
    narrow=dict(
        **{**_wan.NARROW, "in_channels": 36}, latent_channels=16, image_dim=None,
        motion_encoder_size=16, motion_encoder_channel_sizes={"4": 32, "8": 32, "16": 32},
        motion_style_dim=32, motion_dim=8, motion_encoder_dim=32, face_encoder_hidden_dim=64,
    ),
    inputs=video_inputs("text_dim", pose_hidden_states=_pose, face_pixel_values=_face),
    layer=9,
    narrow_size=Size(5, 24, 24, 64),
    small=dict(
        **{**_wan.SMALL, "in_channels": 12}, latent_channels=4, motion_encoder_size=8,
        motion_encoder_channel_sizes={"4": 8, "8": 8}, motion_style_dim=8, motion_dim=4,
        motion_encoder_dim=8, face_encoder_hidden_dim=8, face_encoder_num_heads=2,
        inject_face_latents_blocks=2,
    ),
)  # fmt: skip
