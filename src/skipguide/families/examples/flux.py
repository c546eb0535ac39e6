"""Flux 1: packed latents of an image, a timestep, a text with a pooled vector, positions of both,
the embedded guidance scale."""

from __future__ import annotations

import torch

from skipguide.families.examples import HEADS, Config, Example, Inputs, MakeInputs, Size, noise
from skipguide.families.examples.hunyuan import pooled


def positions(size: Size, axes: int) -> torch.Tensor:
    """Return the place of each latent of an image, `(tokens, axes)`: rows and columns in the second
    and third axis."""
    ids = torch.zeros(size.height, size.width, axes)
    ids[..., 1] = torch.arange(size.height)[:, None]
    ids[..., 2] = torch.arange(size.width)[None]
    return ids.flatten(0, 1)


def packed_inputs(axes: int = 3, has_pooled: bool = True, has_guidance: bool = True) -> MakeInputs:
    """Return a function that makes the inputs of a model of Flux's kind.

    Args:
        axes: of the positions.
        has_pooled: the text comes as one vector too.
        has_guidance: the guidance scale is embedded.
    """

    def inputs(config: Config, size: Size, batch: int) -> Inputs:
        found: Inputs = dict(
            hidden_states=noise(batch, size.tokens, config["in_channels"]),
            encoder_hidden_states=noise(batch, size.text, config["joint_attention_dim"]),
            timestep=torch.full((batch,), 0.5), img_ids=positions(size, axes),
            txt_ids=torch.zeros(size.text, axes),
        )  # fmt: skip
        if has_pooled:
            found["pooled_projections"] = pooled(config, size, batch)
        if has_guidance:
            found["guidance"] = torch.full((batch,), 3.5)
        return found

    return inputs


EXAMPLE = Example(
    narrow=dict(
        **HEADS, num_layers=19, num_single_layers=38, in_channels=64, joint_attention_dim=256,
        pooled_projection_dim=64, guidance_embeds=True, axes_dims_rope=(16, 24, 24),
    ),
    inputs=packed_inputs(),
    layer="single:21",
    narrow_size=Size(1, 24, 24, 64),
    small=dict(
        num_attention_heads=2, attention_head_dim=8, in_channels=16, joint_attention_dim=16,
        pooled_projection_dim=8, axes_dims_rope=(2, 2, 4),
    ),
    small_size=Size(1, 4, 4, 8),
)  # fmt: skip
