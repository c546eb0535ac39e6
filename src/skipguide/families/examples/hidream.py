"""HiDream-I1: latents of an image, a timestep, a text by T5, by each layer of Llama, and as one
vector."""

from __future__ import annotations

from skipguide.families.examples import (
    HEADS,
    Config,
    Example,
    Inputs,
    Size,
    noise,
    timesteps,
)


def _inputs(config: Config, size: Size, batch: int) -> Inputs:
    t5, llama = config["caption_channels"]
    layers = max(config["llama_layers"]) + 1
    return dict(
        hidden_states=noise(batch, config["in_channels"], size.height, size.width),
        timesteps=timesteps(batch), encoder_hidden_states_t5=noise(batch, size.text, t5),
        encoder_hidden_states_llama3=noise(layers, batch, size.text, llama),
        pooled_embeds=noise(batch, config["text_emb_dim"]),
    )  # fmt: skip


EXAMPLE = Example(
    narrow=dict(
        **HEADS, num_layers=16, num_single_layers=32, in_channels=16, patch_size=2,
        caption_channels=(256, 256), text_emb_dim=64, axes_dims_rope=(32, 16, 16),
        llama_layers=(*range(32), *[31] * 16),
    ),
    inputs=_inputs,
    layer="single:17",
    narrow_size=Size(1, 48, 48, 64),
    small=dict(
        num_attention_heads=2, attention_head_dim=16, in_channels=4, caption_channels=(16, 16),
        text_emb_dim=8, axes_dims_rope=(4, 6, 6), llama_layers=(0, 1, 0, 1, 1),
        max_resolution=(8, 8),
    ),
    small_size=Size(1, 4, 4, 8),
)  # fmt: skip
