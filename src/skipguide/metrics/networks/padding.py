"""TensorFlow's "SAME" padding, with which I3D and MUSIQ were trained."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F

Tensor = torch.Tensor


def pad_same(x: Tensor, kernel: Sequence[int], stride: Sequence[int]) -> Tensor:
    """Pad `(B, C, ...)` with zeros so that a kernel gives ceil(side / stride) outputs.

    An odd number of zeros has one more at the end.
    """
    widths: list[int] = []
    for side, size, step in zip(x.shape[2:], kernel, stride, strict=True):
        total = max((-(-side // step) - 1) * step + size - side, 0)
        widths = [total // 2, total - total // 2, *widths]  # F.pad takes the last side first
    return F.pad(x, widths)
