"""InceptionV3 of the Frechet inception distance (Szegedy et al., CVPR 2016; Heusel et al., 2017).

The weights are `pt_inception-2015-12-05-6726825d.pth`, those of the TensorFlow graph that FID is
computed with, as pytorch-fid converted them. That graph is not the network of the paper in two
points: average pooling leaves the padding out, and the last block pools the maximum.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

from skipguide.files import checkpoints
from skipguide.metrics.networks.clips import prepare_clips

Tensor = torch.Tensor
SIDE = 299
_EPS = 1e-3
# The layers before the blocks: name, stride, padding, and whether the maximum is pooled after it.
_STEM = (
    ("Conv2d_1a_3x3", 2, 0, False), ("Conv2d_2a_3x3", 1, 0, False), ("Conv2d_2b_3x3", 1, 1, True),
    ("Conv2d_3b_1x1", 1, 0, False), ("Conv2d_4a_3x3", 1, 0, True),
)  # fmt: skip


class _Kind(NamedTuple):
    """A kind of block: branches side by side, each a chain of layers, and a pooled branch.

    A layer that is two names is two layers side by side. Where `halves` is set, the last layer of
    each branch and the pooling have a stride of 2, without padding, and nothing follows the
    pooling.
    """

    branches: Sequence[Sequence[str | tuple[str, str]]]
    pool: str = "mean"
    halves: bool = False


_A = _Kind((
    ("branch1x1",), ("branch5x5_1", "branch5x5_2"),
    ("branch3x3dbl_1", "branch3x3dbl_2", "branch3x3dbl_3"),
))  # fmt: skip
_B = _Kind((("branch3x3",), ("branch3x3dbl_1", "branch3x3dbl_2", "branch3x3dbl_3")), "max", True)
_C = _Kind((
    ("branch1x1",), ("branch7x7_1", "branch7x7_2", "branch7x7_3"),
    tuple(f"branch7x7dbl_{i}" for i in range(1, 6)),
))  # fmt: skip
_D = _Kind(
    (("branch3x3_1", "branch3x3_2"), tuple(f"branch7x7x3_{i}" for i in range(1, 5))), "max", True
)
_E = _Kind((
    ("branch1x1",), ("branch3x3_1", ("branch3x3_2a", "branch3x3_2b")),
    ("branch3x3dbl_1", "branch3x3dbl_2", ("branch3x3dbl_3a", "branch3x3dbl_3b")),
))  # fmt: skip
_BLOCKS = {
    **{f"Mixed_5{letter}": _A for letter in "bcd"}, "Mixed_6a": _B,
    **{f"Mixed_6{letter}": _C for letter in "bcde"}, "Mixed_7a": _D, "Mixed_7b": _E,
    "Mixed_7c": _E._replace(pool="max"),
}  # fmt: skip


class _Unit(nn.Module):
    """A convolution, normalized and rectified."""

    def __init__(self, shape: Sequence[int], stride: int, padding: Sequence[int]) -> None:
        super().__init__()
        outputs, inputs, height, width = shape
        self.conv = nn.Conv2d(
            inputs, outputs, (height, width), stride, (padding[0], padding[1]), bias=False
        )
        self.bn = nn.BatchNorm2d(outputs, eps=_EPS)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn(self.conv(x)))


class _Block(nn.Module):
    """Branches side by side, whose channels are joined."""

    def __init__(self, kind: _Kind, shapes: Mapping[str, Sequence[int]]) -> None:
        super().__init__()
        self.kind = kind
        for branch in kind.branches:
            for place, layer in enumerate(branch):
                is_last = kind.halves and place == len(branch) - 1
                for name in (layer,) if isinstance(layer, str) else layer:
                    self.add_module(name, _unit(shapes[name], is_last))
        if not kind.halves:
            self.add_module("branch_pool", _unit(shapes["branch_pool"], False))

    def forward(self, x: Tensor) -> Tensor:
        found = [self._run(branch, x) for branch in self.kind.branches]
        return torch.cat([*found, self._pool(x)], 1)

    def _run(self, branch: Sequence[str | tuple[str, str]], x: Tensor) -> Tensor:
        for layer in branch:
            if isinstance(layer, str):
                x = self.get_submodule(layer)(x)
            else:
                x = torch.cat([self.get_submodule(name)(x) for name in layer], 1)
        return x

    def _pool(self, x: Tensor) -> Tensor:
        if self.kind.halves:
            return F.max_pool2d(x, 3, 2)
        if self.kind.pool == "max":
            pooled = F.max_pool2d(x, 3, 1, 1)
        else:
            pooled = F.avg_pool2d(x, 3, 1, 1, count_include_pad=False)
        return self.get_submodule("branch_pool")(pooled)


def _unit(shape: Sequence[int], halves: bool) -> _Unit:
    """Return a layer that keeps the size of its input, or halves it."""
    return _Unit(shape, 2, (0, 0)) if halves else _Unit(shape, 1, (shape[2] // 2, shape[3] // 2))


class InceptionV3(nn.Module):
    """The network; its features are the mean over the last maps."""

    def __init__(self, shapes: Mapping[str, Sequence[int]]) -> None:
        """Build the network; `shapes` are those of its weights, by their keys."""
        super().__init__()
        convolutions = {
            key.removesuffix(".conv.weight"): shape
            for key, shape in shapes.items()
            if key.endswith(".conv.weight")
        }
        for name, stride, padding, _ in _STEM:
            self.add_module(name, _Unit(convolutions[name], stride, (padding, padding)))
        for name, kind in _BLOCKS.items():
            own = {key.removeprefix(f"{name}."): shape for key, shape in convolutions.items()}
            self.add_module(name, _Block(kind, own))
        classes, width = shapes["fc.weight"]
        self.fc = nn.Linear(width, classes)

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        """Return features `(B, D)` of images `(B, 3, 299, 299)` in [-1, 1]; D is 2048."""
        x = images
        for name, _, _, pools in _STEM:
            x = self.get_submodule(name)(x)
            x = F.max_pool2d(x, 3, 2) if pools else x
        for name in _BLOCKS:
            x = self.get_submodule(name)(x)
        return x.mean((2, 3))


def load(path: Path) -> InceptionV3:
    """Load the network from `pt_inception-2015-12-05-6726825d.pth`.

    The widths of its layers follow from the weights.

    Raises:
        ValueError: If the file holds another network.
    """
    weights = checkpoints.read(path)
    shapes = {key: tuple(value.shape) for key, value in weights.items()}
    try:
        return checkpoints.build_with_weights(lambda: InceptionV3(shapes), weights, path)
    except KeyError as error:
        raise ValueError(
            f"{path} must hold the InceptionV3 of FID, but it has no layer {error.args[0]}. Use"
            " pt_inception-2015-12-05-6726825d.pth."
        ) from error


def prepare(model: nn.Module, frame: Tensor) -> Tensor:
    """Resize an image `(3, H, W)` uint8 to 299 x 299, and scale it to [-1, 1]."""
    pixels = frame.to(next(model.parameters()).device).contiguous()[None].float() / 255
    size = (SIDE, SIDE)
    return F.interpolate(pixels, size, mode="bilinear", align_corners=False)[0] * 2 - 1


def features(model: nn.Module, frames: Tensor) -> Tensor:
    """Return features `(B, D)` of pictures `(B, 1, 3, H, W)` uint8."""
    return embed(model, prepare_clips(prepare, model, frames))


def probabilities(model: nn.Module, frames: Tensor) -> Tensor:
    """Return class probabilities `(B, K)` of pictures `(B, 1, 3, H, W)` uint8."""
    return classify(model, prepare_clips(prepare, model, frames))


def embed(model: nn.Module, clips: Tensor) -> Tensor:
    """Return features `(B, D)` of prepared clips of one frame `(B, 1, 3, 299, 299)`."""
    return model(clips[:, 0])


@torch.no_grad()
def classify(model: nn.Module, clips: Tensor) -> Tensor:
    """Return class probabilities `(B, K)` of prepared clips of one frame; K is 1008.

    As in the Inception Score's own code the bias of the last layer is left out.
    """
    assert isinstance(model, InceptionV3)
    return F.linear(embed(model, clips), model.fc.weight).softmax(1)
