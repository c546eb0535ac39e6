"""CLIP with both of its encoders, which say how well a text and an image fit (Radford et al.)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from skipguide.files import checkpoints
from skipguide.metrics.networks import clip

Tensor = torch.Tensor
_RULES = (
    (r"^(vision_model\.|visual_projection\.|logit_scale$)", None),
    (r"\.position_ids$", None),
)


class TextAndImages(nn.Module):
    """CLIP's two encoders; called with images it embeds them, like `clip.ImageEncoder`."""

    def __init__(self, images: clip.ImageEncoder, texts: Any, tokenizer: Any) -> None:
        super().__init__()
        self.size = images.size  # the side of images in pixels
        self.most_tokens: int = texts.config.max_position_embeddings
        self.images, self.texts, self.tokenizer = images, texts, tokenizer

    def forward(self, images: Tensor) -> Tensor:
        """Embed normalized images `(B, 3, size, size)`: `(B, D)`, of length 1."""
        return F.normalize(self.images(images), dim=1)

    @torch.no_grad()
    def embed_text(self, text: str) -> Tensor:
        """Return the embedding `(D,)` of a text, of length 1.

        Words after the 77th token are cut off.
        """
        device = next(self.parameters()).device
        tokens = self.tokenizer(
            text, truncation=True, max_length=self.most_tokens, return_tensors="pt"
        )
        ids = tokens.input_ids.to(device)
        return F.normalize(self.texts(input_ids=ids).text_embeds, dim=1)[0]


def load(path: Path) -> TextAndImages:
    """Load CLIP and its tokenizer from a folder of transformers, as `clip-vit-large-patch14`.

    Raises:
        ValueError: If the folder holds another network, or no tokenizer.
    """
    from transformers import AutoTokenizer, CLIPTextConfig, CLIPTextModelWithProjection

    images = clip.load(path)
    try:
        config = CLIPTextConfig.from_pretrained(path)
        tokenizer = AutoTokenizer.from_pretrained(path)
    except (OSError, ValueError) as error:
        raise ValueError(
            f"{path} must hold CLIP with its config.json and its tokenizer, but they cannot be read"
            f" ({' '.join(str(error).split())[:200]}). Copy the whole folder."
        ) from error
    weights = checkpoints.rename_keys(checkpoints.read(path), _RULES)
    if (projection := weights.get("text_projection.weight")) is not None:
        config.projection_dim = len(projection)  # which some folders say of the whole alone
    texts = checkpoints.build_with_weights(
        lambda: CLIPTextModelWithProjection(config), weights, path
    )
    return TextAndImages(images, texts, tokenizer)
