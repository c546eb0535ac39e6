"""MUSIQ: the quality of an image from its patches at several sizes (Ke et al., ICCV 2021).

With the single-score head of `musiq_spaq_ckpt-358bb6af.pth`, which was trained on SPAQ: 0 (bad) to
100 (excellent).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

from skipguide.files import checkpoints
from skipguide.metrics.networks.padding import pad_same
from skipguide.metrics.networks.transformer import Block

Tensor = torch.Tensor

PATCH = 32  # pixels a side, at every size
LONGER_SIDES = (224, 384)  # of the resized images; the third image keeps its size
GRID = 10  # embedded positions a side, to which the positions of patches are scaled
WIDTH, HEADS, HIDDEN, DEPTH = 384, 6, 1152, 14
STEM = 64  # channels after the first convolution
ATTENTION = tuple(f".attention.{part}." for part in ("query", "key", "value"))
RULES = (
    (r"\.attention\.out\.", ".attn.proj."),
    (r"^transformer_encoder\.transformer\.encoderblock_", "blocks."),
    (r"^transformer_encoder\.posembed_input\.", ""),
    (r"^transformer_encoder\.scaleembed_input\.", ""),
    (r"^transformer_encoder\.", ""),
)


class StandardizedConv(nn.Conv2d):
    """A convolution with kernels of mean 0 and deviation 1, and TensorFlow's "SAME" padding."""

    def forward(self, input: Tensor) -> Tensor:
        weight = self.weight - self.weight.mean((1, 2, 3), keepdim=True)
        weight = weight / (weight.std((1, 2, 3), keepdim=True) + 1e-5)
        return F.conv2d(pad_same(input, self.kernel_size, self.stride), weight, None, self.stride)


class Bottleneck(nn.Module):
    """Convolutions of 1 x 1, 3 x 3 and 1 x 1, each normalized, beside a projection."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        sizes = [("1", inputs, inputs, 1), ("2", inputs, inputs, 3), ("3", inputs, outputs, 1)]
        for name, before, after, kernel in [*sizes, ("_proj", inputs, outputs, 1)]:
            self.add_module(f"conv{name}", StandardizedConv(before, after, kernel, bias=False))
            self.add_module(f"gn{name}", nn.GroupNorm(32, after, eps=1e-4))

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self._unit("1", x))
        y = F.relu(self._unit("2", y))
        return F.relu(self._unit("3", y) + self._unit("_proj", x))

    def _unit(self, name: str, x: Tensor) -> Tensor:
        return self.get_submodule(f"gn{name}")(self.get_submodule(f"conv{name}")(x))


class MUSIQ(nn.Module):
    """The network, which gives one score per image."""

    def __init__(self) -> None:
        super().__init__()
        self.conv_root = StandardizedConv(3, STEM, 7, 2, bias=False)
        self.gn_root = nn.GroupNorm(32, STEM, eps=1e-6)
        self.block1 = Bottleneck(STEM, 4 * STEM)
        self.embedding = nn.Linear(4 * STEM * (PATCH // 4) ** 2, WIDTH)
        self.position_emb = nn.Parameter(torch.zeros(1, GRID * GRID, WIDTH))
        self.scale_emb = nn.Parameter(torch.zeros(len(LONGER_SIDES) + 1, WIDTH))
        self.cls = nn.Parameter(torch.zeros(1, 1, WIDTH))
        self.blocks = nn.ModuleList(Block(WIDTH, HEADS, HIDDEN) for _ in range(DEPTH))
        self.encoder_norm = nn.LayerNorm(WIDTH, eps=1e-6)
        self.head = nn.Linear(WIDTH, 1)

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        """Score images `(B, 3, H, W)` in [0, 1] of any size: `(B,)`."""
        tokens = [
            self._embed_patches(image, scale) for scale, image in enumerate(_sizes(2 * images - 1))
        ]
        x = torch.cat([self.cls.expand(len(images), -1, -1), *tokens], 1)
        for block in self.blocks:
            x = block(x)
        return self.head(self.encoder_norm(x)[:, 0])[:, 0]

    def _embed_patches(self, images: Tensor, scale: int) -> Tensor:
        """Return one token `(B, N, WIDTH)` per patch, from its content, position and image size."""
        padded = pad_same(images, (PATCH, PATCH), (PATCH, PATCH))
        # (B, 3, rows, columns, PATCH, PATCH)
        patches = padded.unfold(2, PATCH, PATCH).unfold(3, PATCH, PATCH)
        rows, columns = patches.shape[2:4]
        x = F.relu(self.gn_root(self.conv_root(patches.permute(0, 2, 3, 1, 4, 5).flatten(0, 2))))
        x = self.block1(F.max_pool2d(pad_same(x, (3, 3), (2, 2)), 3, 2))
        x = self.embedding(x.permute(0, 2, 3, 1).flatten(1)).unflatten(
            0, (len(images), rows * columns)
        )
        places = (GRID * _grid_positions(rows)[:, None] + _grid_positions(columns)).flatten()
        return x + self.position_emb[0, places.to(x.device)] + self.scale_emb[scale]


def _sizes(images: Tensor) -> Iterator[Tensor]:
    """Yield the images resized to LONGER_SIDES without antialiasing, and as they are."""
    sides = images.shape[-2:]
    for longer in LONGER_SIDES:
        size = [round(side * (longer / max(sides))) for side in sides]
        yield F.interpolate(images, size, mode="bicubic", align_corners=False)
    yield images


def _grid_positions(count: int) -> Tensor:
    """Return which of the GRID positions each of `count` patches in a row has."""
    return F.interpolate(torch.arange(float(GRID))[None, None], count)[0, 0].long()


def load(path: Path) -> MUSIQ:
    """Load MUSIQ with the weights of `musiq_spaq_ckpt-358bb6af.pth` (pyiqa's key layout).

    Raises:
        ValueError: If the file holds something else, such as weights with the ten-class head of
            AVA.
    """
    weights = checkpoints.fuse_weights(checkpoints.read(path), ATTENTION, ".attn.qkv.")
    return checkpoints.build_with_weights(MUSIQ, checkpoints.rename_keys(weights, RULES), path)
