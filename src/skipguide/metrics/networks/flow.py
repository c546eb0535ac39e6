"""The parts that RAFT and AMT share: encoder, all-pairs correlation, bilinear sampling.

Positions and flows are in pixels of the map that they belong to; channel 0 is x (to the right),
channel 1 is y (down).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import cast

import torch
import torch.nn.functional as F
from torch import nn

Tensor = torch.Tensor

LEVELS = 4  # of the correlation pyramid
# The shortest side of a frame whose pyramid has at least two entries a side at its top.
SMALLEST = 8 * 2**LEVELS


class Residual(nn.Module):
    """Convolutions, each normalized and rectified, beside a shortcut.

    They are two of 3 x 3, or with a bottleneck 1 x 1, 3 x 3 and 1 x 1.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        stride: int,
        norm: Callable[[int], nn.Module],
        bottleneck: bool,
    ):
        super().__init__()
        narrow = outputs // 4
        sizes = [(inputs, outputs, 3, stride), (outputs, outputs, 3, 1)]
        if bottleneck:
            sizes = [(inputs, narrow, 1, 1), (narrow, narrow, 3, stride), (narrow, outputs, 1, 1)]
        self.depth = len(sizes)
        for number, (before, after, kernel, step) in enumerate(sizes, 1):
            self.add_module(f"conv{number}", nn.Conv2d(before, after, kernel, step, kernel // 2))
            self.add_module(f"norm{number}", norm(after))
        self.downsample = nn.Identity()
        if stride > 1:
            self.downsample = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride), norm(outputs))

    def forward(self, x: Tensor) -> Tensor:
        y = x
        for number in range(1, self.depth + 1):
            conv, norm = self.get_submodule(f"conv{number}"), self.get_submodule(f"norm{number}")
            y = F.relu(norm(conv(y)))
        return F.relu(self.downsample(x) + y)


class Encoder(nn.Module):
    """Maps `(B, 3, H, W)` to `(B, outputs, H / 8, W / 8)`.

    It has a pair of residual blocks for each of three widths.
    """

    def __init__(
        self,
        widths: Sequence[int],
        outputs: int,
        norm: Callable[[int], nn.Module],
        bottleneck: bool = False,
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, widths[0], 7, 2, 3)
        self.norm1 = norm(widths[0])
        inputs = widths[0]
        for number, width in enumerate(widths, 1):
            first = Residual(inputs, width, 1 if number == 1 else 2, norm, bottleneck)
            self.add_module(
                f"layer{number}", nn.Sequential(first, Residual(width, width, 1, norm, bottleneck))
            )
            inputs = width
        self.conv2 = nn.Conv2d(inputs, outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norm1(self.conv1(x)))
        for name, layer in self.named_children():
            x = layer(x) if name.startswith("layer") else x
        return self.conv2(x)


class Correlation:
    """Inner products of every feature of one map with every feature of another.

    They are kept at LEVELS resolutions of the other map (RAFT, section 3.2). A lookup reads a
    square of `2 radius + 1` entries a side around a position in the other map.
    """

    def __init__(self, volume: Tensor, radius: int) -> None:
        """Take `volume (B, h, w, k, l)`: features of the first map by those of the second."""
        self.shape = volume.shape[:3]
        self.radius = radius
        self.pyramid = [volume.flatten(0, 2)[:, None]]
        for _ in range(LEVELS - 1):
            self.pyramid.append(F.avg_pool2d(self.pyramid[-1], 2, 2))

    def lookup(self, positions: Tensor) -> Tensor:
        """Look up `positions (B, 2, h, w)` in the second map.

        Returns `(B, LEVELS (2 radius + 1)^2, h, w)`.
        """
        steps = torch.linspace(
            -self.radius, self.radius, 2 * self.radius + 1, device=positions.device
        )
        # The first offset, which varies slowest, is that of x, as in the published weights.
        offsets = torch.stack(torch.meshgrid(steps, steps, indexing="ij"), -1)
        centres = positions.permute(0, 2, 3, 1).reshape(-1, 1, 1, 2)
        found = [
            sample_bilinear(level, centres / 2**i + offsets) for i, level in enumerate(self.pyramid)
        ]
        return torch.cat([level.reshape(*self.shape, -1) for level in found], -1).permute(
            0, 3, 1, 2
        )


def correlation(first: Tensor, second: Tensor) -> Tensor:
    """Return inner products over channels / sqrt(C): `(B, C, h, w)` twice -> `(B, h, w, h, w)`."""
    volume = first.flatten(2).transpose(1, 2) @ second.flatten(2) / first.shape[1] ** 0.5
    return volume.reshape(len(first), *first.shape[2:], *second.shape[2:])


def grid(image: Tensor) -> Tensor:
    """Return the position `(1, 2, H, W)` of every pixel of `(B, C, H, W)`."""
    height, width = image.shape[-2:]
    rows, columns = (torch.arange(side, device=image.device) for side in (height, width))
    y, x = torch.meshgrid(rows, columns, indexing="ij")
    return torch.stack([x, y]).float()[None]


def sample_bilinear(image: Tensor, positions: Tensor, padding: str = "zeros") -> Tensor:
    """Sample `image (N, C, H, W)` at `positions (N, h, w, 2)`, bilinear: `(N, C, h, w)`."""
    height, width = image.shape[-2:]
    size = torch.tensor([width - 1, height - 1], device=image.device)
    return F.grid_sample(image, 2 * positions / size - 1, padding_mode=padding, align_corners=True)


def pad_to_multiple(frames: Tensor, divisor: int) -> tuple[Tensor, tuple[slice, ...]]:
    """Pad frames `(F, C, H, W)` by repeating their borders, so that `divisor` divides their sides.

    Also returns the slices at which the frames lie in the result.
    """
    height, width = frames.shape[-2:]
    rows, columns = -height % divisor, -width % divisor
    top, left = rows // 2, columns // 2
    inside = slice(None), slice(top, top + height), slice(left, left + width)
    return F.pad(frames, (left, columns - left, top, rows - top), mode="replicate"), inside


def resize(x: Tensor, factor: float) -> Tensor:
    """Scale the sides of a map `(B, C, H, W)` by `factor`, bilinear."""
    return cast(Tensor, F.interpolate(x, scale_factor=factor, mode="bilinear", align_corners=False))
