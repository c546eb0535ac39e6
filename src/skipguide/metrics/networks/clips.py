"""Clips are prepared for a network frame by frame, because whole clips in floats fill the memory.

A module of an extractor has `prepare(model, frame)`: one frame `(3, H, W)` uint8 as its network
wants it; `embed(model, clips)`: features of prepared clips `(B, F, 3, h, w)`; and if it gives
classes `classify(model, clips)`. One that does not see the first frames has `sample(count)`.

A module of an extractor of sounds has `RATE`, and `features(model, samples)` of one sound `(T,)` at
that rate: `(W, D)`, a row for each of its windows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import torch
from torch import nn

Tensor = torch.Tensor


def prepare_clips(
    prepare: Callable[[nn.Module, Tensor], Tensor], model: nn.Module, clips: Iterable[Tensor]
) -> Tensor:
    """Prepare clips `(F, 3, H, W)` uint8 of one length: `(B, F, 3, h, w)`."""
    return torch.stack([stack_frames([prepare(model, frame) for frame in clip]) for clip in clips])


def stack_frames(frames: Sequence[Tensor]) -> Tensor:
    """Stack frames `(3, h, w)` to `(F, 3, h, w)` in their own memory layout, unlike torch.stack."""
    if frames[0].is_contiguous():
        return torch.stack(list(frames))
    return torch.stack([frame.permute(1, 2, 0) for frame in frames]).permute(0, 3, 1, 2)
