"""I3D: the network of the Frechet video distance (Carreira and Zisserman, CVPR 2017).

It was trained on Kinetics-400. The weights are `i3d_pretrained_400.pt`, those of TensorFlow Hub's
i3d-kinetics-400 as VideoGPT and TATS converted them. StyleGAN-V's `i3d_torchscript.pt` has the same
origin, but that file is a program and is not read here.
"""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

from skipguide.files import checkpoints
from skipguide.metrics.networks.clips import prepare_clips
from skipguide.metrics.networks.padding import pad_same

Tensor = torch.Tensor

SIDE = 224
FEWEST_FRAMES = 9  # with fewer, nothing is left for the last pooling
CLASSES = 400
POOLS = {  # module -> kernel and stride of the max pooling before it
    "Conv3d_2b_1x1": ((1, 3, 3), (1, 2, 2)),
    "Mixed_3b": ((1, 3, 3), (1, 2, 2)),
    "Mixed_4b": ((3, 3, 3), (2, 2, 2)),
    "Mixed_5b": ((2, 2, 2), (2, 2, 2)),
}
MIXED = {  # channels of the branches: 1 x 1; 1 x 1 and 3 x 3, twice; max pooling and 1 x 1
    "3b": (64, 96, 128, 16, 32, 32),
    "3c": (128, 128, 192, 32, 96, 64),
    "4b": (192, 96, 208, 16, 48, 64),
    "4c": (160, 112, 224, 24, 64, 64),
    "4d": (128, 128, 256, 24, 64, 64),
    "4e": (112, 144, 288, 32, 64, 64),
    "4f": (256, 160, 320, 32, 128, 128),
    "5b": (256, 160, 320, 32, 128, 128),
    "5c": (384, 192, 384, 48, 128, 128),
}


class Unit(nn.Module):
    """A cubic convolution with "SAME" padding, normalized and rectified."""

    def __init__(self, inputs: int, outputs: int, kernel: int = 1, stride: int = 1) -> None:
        super().__init__()
        self.conv3d = nn.Conv3d(inputs, outputs, kernel, stride, bias=False)
        self.bn = nn.BatchNorm3d(outputs)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(
            self.bn(self.conv3d(pad_same(x, self.conv3d.kernel_size, self.conv3d.stride)))
        )


class Mixed(nn.Module):
    """Four branches side by side."""

    def __init__(self, inputs: int, channels: tuple[int, ...]) -> None:
        super().__init__()
        plain, before1, after1, before2, after2, pooled = channels
        self.b0 = Unit(inputs, plain)
        self.b1a, self.b1b = Unit(inputs, before1), Unit(before1, after1, 3)
        self.b2a, self.b2b = Unit(inputs, before2), Unit(before2, after2, 3)
        self.b3b = Unit(inputs, pooled)

    def forward(self, x: Tensor) -> Tensor:
        pooled = _pool_same(x, (3, 3, 3), (1, 1, 1))
        return torch.cat(
            [self.b0(x), self.b1b(self.b1a(x)), self.b2b(self.b2a(x)), self.b3b(pooled)], 1
        )


class I3D(nn.Module):
    """The network; the mean over time of its logits of Kinetics-400 are the features."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleDict(
            {
                "Conv3d_1a_7x7": Unit(3, 64, 7, 2),
                "Conv3d_2b_1x1": Unit(64, 64),
                "Conv3d_2c_3x3": Unit(64, 192, 3),
            }
        )
        inputs = 192
        for name, channels in MIXED.items():
            self.layers[f"Mixed_{name}"] = Mixed(inputs, channels)
            inputs = channels[0] + channels[2] + channels[4] + channels[5]
        self.logits = nn.ModuleDict({"conv3d": nn.Conv3d(inputs, CLASSES, 1)})

    def forward(self, clips: Tensor) -> Tensor:
        """Return logits `(B, 400)` of clips `(B, 3, F, 224, 224)` in [-1, 1]."""
        x = clips
        for name, layer in self.layers.items():
            x = layer(_pool_same(x, *POOLS[name]) if name in POOLS else x)
        return self.logits["conv3d"](F.avg_pool3d(x, (2, 7, 7), 1)).mean((2, 3, 4))


def features(model: nn.Module, frames: Tensor) -> Tensor:
    """Return features `(B, 400)` of clips `(B, F, 3, H, W)` uint8: the logits, before the softmax.

    Every frame is resized to 224 x 224, bilinear and without antialiasing, whatever its shape;
    values are scaled to [-1, 1].

    Raises:
        ValueError: For fewer than 9 frames.
    """
    if frames.shape[1] < FEWEST_FRAMES:
        raise ValueError(
            f"I3D needs at least {FEWEST_FRAMES} frames, but got {frames.shape[1]}. Use a longer"
            " clip."
        )
    return torch.cat([embed(model, prepare_clips(prepare, model, [clip])) for clip in frames])


def prepare(model: nn.Module, frame: Tensor) -> Tensor:
    """Resize a frame `(3, H, W)` uint8 to 224 x 224 and scale it to [-1, 1]."""
    image = frame.to(next(model.parameters()).device).contiguous()[None].float()
    resized = F.interpolate(image, (SIDE, SIDE), mode="bilinear", align_corners=False)
    return (2 * resized / 255 - 1)[0]


@torch.no_grad()
def embed(model: nn.Module, clips: Tensor) -> Tensor:
    """Return features `(B, 400)` of prepared clips `(B, F, 3, 224, 224)`."""
    return torch.cat([model(clip.transpose(0, 1)[None]) for clip in clips])


def load(path: Path) -> I3D:
    """Load I3D with the weights of `i3d_pretrained_400.pt`.

    Raises:
        ValueError: If the file holds something else.
    """
    rules = ((r"^(Conv3d|Mixed)_", r"layers.\1_"),)
    return checkpoints.build_with_weights(
        I3D, checkpoints.rename_keys(checkpoints.read(path), rules), path
    )


def _pool_same(x: Tensor, kernel: tuple[int, int, int], stride: tuple[int, int, int]) -> Tensor:
    return F.max_pool3d(pad_same(x, kernel, stride), kernel, stride)
