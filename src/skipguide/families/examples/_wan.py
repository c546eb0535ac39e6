"""The config and inputs that Wan and the models built on its transformer share."""

from __future__ import annotations

from typing import Any

from skipguide.families.examples import HEADS

NARROW: dict[str, Any] = dict(
    **HEADS, num_layers=40, in_channels=16, out_channels=16, text_dim=256, freq_dim=64, ffn_dim=1024
)
SMALL: dict[str, Any] = dict(
    num_attention_heads=2, attention_head_dim=12, in_channels=4, out_channels=4, text_dim=16,
    freq_dim=16, ffn_dim=32, rope_max_seq_len=16,
)  # fmt: skip
