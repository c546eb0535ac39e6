"""LAION's aesthetic predictor: a linear layer on CLIP's embedding of an image."""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

from skipguide.files import checkpoints
from skipguide.metrics.networks import clip

Tensor = torch.Tensor


class Aesthetic(nn.Module):
    """CLIP's image encoder with a linear head that rates each image."""

    def __init__(self, encoder: clip.ImageEncoder, head: nn.Linear) -> None:
        super().__init__()
        self.encoder, self.head = encoder, head

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        """Rate normalized images `(B, 3, size, size)`: `(B,)`, about 1 (bad) to 10 (beautiful)."""
        return self.head(F.normalize(self.encoder(images), dim=-1))[:, 0]


def load(encoder: Path, head: Path) -> Aesthetic:
    """Load the predictor from a CLIP folder of transformers and `sa_0_4_vit_l_14_linear.pth`.

    The folder is `openai/clip-vit-large-patch14`.

    Raises:
        ValueError: If they hold something else, or the head belongs to another CLIP.
    """
    images = clip.load(encoder)
    linear = checkpoints.build_with_weights(
        lambda: nn.Linear(images.vision.config.projection_dim, 1), checkpoints.read(head), head
    )
    return Aesthetic(images, linear).eval()
