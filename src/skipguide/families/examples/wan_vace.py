"""Wan VACE: Wan's inputs and the latents of a control video with its mask."""

from __future__ import annotations

import torch

from skipguide.families.examples import Config, Example, Size, _wan, noise, video_inputs


def _control(config: Config, size: Size, batch: int) -> torch.Tensor:
    return noise(batch, config["vace_in_channels"], *size.latents)


EXAMPLE = Example(
    narrow=dict(**_wan.NARROW, vace_in_channels=96),
    inputs=video_inputs("text_dim", control_hidden_states=_control),
    layer=9,
    small=dict(**_wan.SMALL, vace_layers=[0, 2], vace_in_channels=72),
)
