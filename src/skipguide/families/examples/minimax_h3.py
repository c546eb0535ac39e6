"""MiniMax-H3: text, sound and video as one packed sequence, with the noise level of each row."""

from __future__ import annotations

import math

import torch

from skipguide.families.examples import HEADS, Config, Example, Inputs, Size, noise

VIDEO, TEXT, AUDIO = 0, 1, 2  # the modality of a row


def _inputs(config: Config, size: Size, batch: int) -> Inputs:
    """Return inputs with as many rows of sound as of text, all at one noise level."""
    patch = config["patch_size"]
    grid = [length // p for length, p in zip(size.latents, patch, strict=True)]
    video, length = math.prod(grid), 2 * size.text + math.prod(grid)
    tags = [TEXT] * size.text + [AUDIO] * size.text + [VIDEO] * video
    rows = torch.arange(length)
    return dict(
        hidden_states=noise(batch, video, config["in_channels"] * math.prod(patch)),
        audio_hidden_states=noise(batch, size.text, config["audio_in_channels"]),
        encoder_hidden_states=noise(batch, size.text, config["text_dim"]),
        timestep=torch.full((1,), 0.5), timestep_indices=torch.zeros(length, dtype=torch.long),
        token_tags=torch.tensor(tags), position_ids=_positions(size, grid),
        text_indices=rows[: size.text], audio_indices=rows[size.text : 2 * size.text],
        video_indices=rows[2 * size.text :],
    )  # fmt: skip


def _positions(size: Size, grid: list[int]) -> torch.Tensor:
    """Return (t, h, w) of each row: sound and video begin where the text ends."""
    text = [(t, 0, 0) for t in range(size.text)]
    sound = [(size.text + t, 0, 0) for t in range(size.text)]
    frames, height, width = map(range, grid)
    video = [(size.text + t, h, w) for t in frames for h in height for w in width]
    return torch.tensor([*text, *sound, *video], dtype=torch.float64)


EXAMPLE = Example(
    narrow=dict(
        **HEADS, hidden_size=256, num_layers=50, num_refiner_layers=2, ffn_dim=1024,
        in_channels=24, audio_in_channels=32, patch_size=(1, 2, 2), text_dim=256,
        time_embed_hidden_dim=256, time_embed_dim=128, rope_freq_dim=8,
    ),
    inputs=_inputs,
    layer=35,
    small=dict(
        num_attention_heads=2, attention_head_dim=16, hidden_size=32, num_refiner_layers=1,
        ffn_dim=64, in_channels=4, audio_in_channels=4, text_dim=16, time_embed_hidden_dim=32,
        time_embed_dim=16, rope_freq_dim=2,
    ),
)  # fmt: skip
