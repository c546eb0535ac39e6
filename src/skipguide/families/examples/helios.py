"""Helios: Wan's inputs, here without the history of earlier chunks."""

from __future__ import annotations

from skipguide.families.examples import Example, _wan, video_inputs

_SMALL = {name: value for name, value in _wan.SMALL.items() if name != "rope_max_seq_len"}

EXAMPLE = Example(
    narrow=dict(**_wan.NARROW, rope_dim=(16, 24, 24)),
    inputs=video_inputs("text_dim"),
    layer=28,
    small=dict(**_SMALL, rope_dim=(4, 4, 4)),
)
