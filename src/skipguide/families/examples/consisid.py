"""ConsisID: CogVideoX's inputs, here without a face."""

from __future__ import annotations

from skipguide.families.examples import Example, video_inputs
from skipguide.families.examples.cogvideox import NARROW, SMALL, SMALL_SIZE

EXAMPLE = Example(
    NARROW,
    video_inputs("text_embed_dim", layout="btchw"),
    layer=11,
    small=SMALL,
    small_size=SMALL_SIZE,
)
