"""Kandinsky 6: Kandinsky 5's inputs and the latents of the sound."""

from __future__ import annotations

from skipguide.families.examples import Config, Example, Inputs, Size, _kandinsky, noise


def _inputs(config: Config, size: Size, batch: int) -> Inputs:
    """Return inputs with as many tokens of sound as of text."""
    found = _kandinsky.inputs(config, size, batch)
    sound = noise(batch, size.text, config["in_audio_dim"])
    return {**found, "audio_hidden_states": sound}


EXAMPLE = Example(
    narrow=dict(**_kandinsky.NARROW, num_visual_blocks=60, in_audio_dim=20, out_audio_dim=20),
    inputs=_inputs,
    layer=42,
    small=dict(
        **_kandinsky.SMALL, in_audio_dim=4, out_audio_dim=4, ca_rope=True, cross_gates=True,
        fix_modulation=True, text_token_padding=True, visual_token_type_num_embeddings=2,
    ),
)  # fmt: skip
