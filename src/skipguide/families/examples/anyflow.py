"""AnyFlow: Wan's inputs with frames first, and two times for each frame, from one of which it maps
to the other."""

from __future__ import annotations

import torch

from skipguide.families.examples import Config, Example, Size, _wan, timesteps, video_inputs


def _from(config: Config, size: Size, batch: int) -> torch.Tensor:
    return timesteps(batch, size.frames)


def _to(config: Config, size: Size, batch: int) -> torch.Tensor:
    return timesteps(batch, size.frames) - 100


EXAMPLE = Example(
    narrow=_wan.NARROW,
    inputs=video_inputs("text_dim", layout="btchw", timestep=_from, r_timestep=_to),
    layer=28,
    small={**_wan.SMALL, "text_dim": 32, "rope_max_seq_len": 8},
)
