"""Kandinsky 5: latents with channels last, a timestep, a text, positions."""

from __future__ import annotations

import torch

from skipguide.families.examples import Config, Example, Inputs, Size, _kandinsky


def _inputs(config: Config, size: Size, batch: int) -> Inputs:
    found = _kandinsky.inputs(config, size, batch)
    return {**found, "text_rope_pos": torch.arange(size.text)}


EXAMPLE = Example(
    narrow=dict(**_kandinsky.NARROW, num_visual_blocks=32),
    inputs=_inputs,
    layer=22,
    small=_kandinsky.SMALL,
)
