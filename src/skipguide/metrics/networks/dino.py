"""DINO: a vision transformer trained without labels (Caron et al., ICCV 2021).

VBench uses ViT-B/16. transformers has the network, but it scales position embeddings differently
from DINO's own code, which VBench runs on frames that are not square. Hence the network is here.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import cast

import torch
import torch.nn.functional as F
from torch import nn

from skipguide.files import checkpoints
from skipguide.metrics.networks.transformer import Block

Tensor = torch.Tensor

HEAD = 64  # channels of an attention head, in all sizes of DINO
NUDGE = 0.1  # patches that DINO adds to a grid's sides before it scales embeddings to them
LAYER = r"^(?:vit\.)?encoder\.layer\."
TRANSFORMERS = (  # from the layout of transformers' ViT, such as facebook/dino-vitb16
    (r"^(?:vit\.)?pooler\.", None),
    (r"^(?:vit\.)?embeddings\.cls_token$", "cls_token"),
    (r"^(?:vit\.)?embeddings\.position_embeddings$", "pos_embed"),
    (r"^(?:vit\.)?embeddings\.patch_embeddings\.projection\.", "patch_embed.proj."),
    (r"^(?:vit\.)?layernorm\.", "norm."),
    (LAYER, "blocks."),
    (r"\.layernorm_before\.", ".norm1."),
    (r"\.layernorm_after\.", ".norm2."),
    (r"\.attention\.output\.dense\.", ".attn.proj."),
    (r"\.intermediate\.dense\.", ".mlp.fc1."),
    (r"\.output\.dense\.", ".mlp.fc2."),
)
ATTENTION = tuple(f".attention.attention.{part}." for part in ("query", "key", "value"))


class DINO(nn.Module):
    """A vision transformer; its features of an image are the class token after the last block."""

    def __init__(self, width: int = 768, depth: int = 12, side: int = 14, patch: int = 16) -> None:
        """Build the network for training images of `side` patches a side."""
        super().__init__()
        self.side, self.patch = side, patch
        self.patch_embed = nn.ModuleDict({"proj": nn.Conv2d(3, width, patch, patch)})
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.pos_embed = nn.Parameter(torch.zeros(1, side * side + 1, width))
        self.blocks = nn.ModuleList(Block(width, width // HEAD, 4 * width) for _ in range(depth))
        self.norm = nn.LayerNorm(width, eps=1e-6)

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        """Return the features `(B, width)` of normalized images `(B, 3, H, W)`.

        Pixels at the end that do not fill a patch are cut off.
        """
        x = self.patch_embed["proj"](images)
        positions = self._positions(x.shape[2], x.shape[3])
        x = (
            torch.cat([self.cls_token.expand(len(x), -1, -1), x.flatten(2).transpose(1, 2)], 1)
            + positions
        )
        for block in self.blocks:
            x = block(x)
        return self.norm(x)[:, 0]

    def _positions(self, rows: int, columns: int) -> Tensor:
        """Return embeddings of the class token and of a grid of this size."""
        if (rows, columns) == (self.side, self.side):
            return self.pos_embed
        known = self.pos_embed[:, 1:].unflatten(1, (self.side, self.side)).permute(0, 3, 1, 2)
        # These factors, and not the size, decide where the kernel samples.
        factors = [(count + NUDGE) / self.side for count in (rows, columns)]
        scaled = cast(Tensor, F.interpolate(known, scale_factor=factors, mode="bicubic"))
        return torch.cat([self.pos_embed[:, :1], scaled.flatten(2).transpose(1, 2)], 1)


def load(path: Path) -> DINO:
    """Load DINO from `dino_vitbase16_pretrain.pth` or from `facebook/dino-vitb16`.

    The size of the network follows from the weights.

    Raises:
        ValueError: If the weights belong to another network.
    """
    weights = checkpoints.read(path)
    weights = checkpoints.rename_keys(
        checkpoints.fuse_weights(weights, ATTENTION, ".attn.qkv."), TRANSFORMERS
    )
    return checkpoints.build_with_weights(functools.partial(_build, weights), weights, path)


def _build(weights: Mapping[str, Tensor]) -> DINO:
    """Build a network of the size of these weights, or ViT-B/16 if they do not tell."""
    if not {"patch_embed.proj.weight", "pos_embed"} <= weights.keys():
        return DINO()
    width, _, patch, _ = weights["patch_embed.proj.weight"].shape
    depth = len({key.split(".")[1] for key in weights if key.startswith("blocks.")})
    return DINO(width, depth, round((weights["pos_embed"].shape[1] - 1) ** 0.5), patch)
