"""CogVideoX: latents with frames first, a timestep, a text."""

from __future__ import annotations

from skipguide.families.examples import HEADS, Example, Size, video_inputs

# ConsisID is built on the same transformer.
NARROW = dict(
    **HEADS, num_layers=42, in_channels=16, text_embed_dim=256, time_embed_dim=128,
    sample_height=24, sample_width=24, sample_frames=13, max_text_seq_length=64,
)  # fmt: skip
SMALL = dict(
    num_attention_heads=2, attention_head_dim=16, in_channels=4, out_channels=4, time_embed_dim=8,
    text_embed_dim=32, max_text_seq_length=8, sample_width=4, sample_height=4, sample_frames=5,
    use_rotary_positional_embeddings=True,
)  # fmt: skip
SMALL_SIZE = Size(2, 4, 4, 8)

EXAMPLE = Example(
    NARROW,
    video_inputs("text_embed_dim", layout="btchw"),
    layer=11,
    small=SMALL,
    small_size=SMALL_SIZE,
)
