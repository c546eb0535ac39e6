"""LTX-Video: latents packed as tokens, a timestep, a text with a mask, the size of the video."""

from __future__ import annotations

from skipguide.families.examples import (
    HEADS,
    Config,
    Example,
    Inputs,
    Size,
    noise,
    text_mask,
    timesteps,
)


def _inputs(config: Config, size: Size, batch: int) -> Inputs:
    return dict(
        hidden_states=noise(batch, size.tokens, config["in_channels"]),
        encoder_hidden_states=noise(batch, size.text, config["caption_channels"]),
        timestep=timesteps(batch), encoder_attention_mask=text_mask(size, batch),
        num_frames=size.frames, height=size.height, width=size.width,
    )  # fmt: skip


EXAMPLE = Example(
    narrow=dict(
        **HEADS, num_layers=28, in_channels=128, cross_attention_dim=256, caption_channels=256
    ),
    inputs=_inputs,
    layer=19,
    narrow_size=Size(4, 12, 12, 64),
    small=dict(
        in_channels=8, out_channels=8, num_attention_heads=2, attention_head_dim=16,
        cross_attention_dim=32, caption_channels=32,
    ),
)  # fmt: skip
