"""LTX-2: LTX-Video's inputs, and latents and text of the sound."""

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
    """Return inputs with as many tokens of sound as of text."""
    return dict(
        hidden_states=noise(batch, size.tokens, config["in_channels"]),
        audio_hidden_states=noise(batch, size.text, config["audio_in_channels"]),
        encoder_hidden_states=noise(batch, size.text, config["caption_channels"]),
        audio_encoder_hidden_states=noise(batch, size.text, config["caption_channels"]),
        timestep=timesteps(batch), sigma=timesteps(batch),
        encoder_attention_mask=text_mask(size, batch),
        audio_encoder_attention_mask=text_mask(size, batch), num_frames=size.frames,
        height=size.height, width=size.width, fps=24.0, audio_num_frames=size.text,
    )  # fmt: skip


EXAMPLE = Example(
    narrow=dict(
        **HEADS, num_layers=48, in_channels=128, cross_attention_dim=256, audio_in_channels=128,
        audio_num_attention_heads=4, audio_attention_head_dim=32, audio_cross_attention_dim=128,
        caption_channels=256, perturbed_attn=True,  # which diffusers' own STG needs
    ),
    inputs=_inputs,
    layer=29,
    narrow_size=Size(4, 12, 12, 64),
    small=dict(
        in_channels=8, out_channels=8, num_attention_heads=2, attention_head_dim=16,
        cross_attention_dim=32, audio_in_channels=8, audio_out_channels=8,
        audio_num_attention_heads=2, audio_attention_head_dim=8, audio_cross_attention_dim=16,
        caption_channels=32, vae_scale_factors=(4, 16, 16), rope_type="split",
        perturbed_attn=False,
    ),
)  # fmt: skip
