"""The inputs that Kandinsky 5 and 6 share: latents with channels last, a timestep, text as tokens
and as one vector, the positions of the tokens."""

from __future__ import annotations

import torch

from skipguide.families.examples import Config, Inputs, Size, noise, timesteps

NARROW = dict(
    in_visual_dim=16, out_visual_dim=16, in_text_dim=256, in_text_dim2=64, time_dim=128,
    model_dim=256, ff_dim=1024, axes_dims=(16, 24, 24), visual_cond=False,
)  # fmt: skip
SMALL = dict(
    in_visual_dim=4, out_visual_dim=4, in_text_dim=16, in_text_dim2=8, time_dim=16, model_dim=24,
    ff_dim=32, num_text_blocks=2, axes_dims=(4, 4, 4), visual_cond=True,
)  # fmt: skip


def inputs(config: Config, size: Size, batch: int) -> Inputs:
    """Make the inputs. With `visual_cond` there are the latents of an image and a mask beside those
    of the video."""
    channels = config["in_visual_dim"]
    channels = 2 * channels + 1 if config["visual_cond"] else channels
    lengths = (size.frames, size.height // 2, size.width // 2)
    return dict(
        hidden_states=noise(batch, *size.latents, channels), timestep=timesteps(batch),
        encoder_hidden_states=noise(batch, size.text, config["in_text_dim"]),
        pooled_projections=noise(batch, config["in_text_dim2"]),
        visual_rope_pos=[torch.arange(length) for length in lengths],
    )  # fmt: skip
