"""CLIP's image encoder (Radford et al., ICML 2021), through transformers."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import nn

from skipguide.files import checkpoints

Tensor = torch.Tensor

MEAN, DEVIATION = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
HEAD = 64  # channels of an attention head, in all sizes of CLIP
RULES = (
    (r"^(text_model\.|text_projection\.|logit_scale$)", None),
    (r"\.position_ids$", None),
    (r"^", "vision."),
)


class ImageEncoder(nn.Module):
    """CLIP's image encoder, whose embeddings lie in the space shared with texts."""

    def __init__(self, width: int, depth: int, patch: int, size: int, outputs: int) -> None:
        """Build the encoder; `size` and `patch` are the sides of an image and of a patch in pixels.

        The MLPs are four times as wide as the rest.
        """
        from transformers.models.clip.configuration_clip import CLIPVisionConfig
        from transformers.models.clip.modeling_clip import CLIPVisionModelWithProjection

        super().__init__()
        config = CLIPVisionConfig(
            hidden_size=width, intermediate_size=4 * width, num_hidden_layers=depth,
            num_attention_heads=width // HEAD, patch_size=patch, image_size=size,
            projection_dim=outputs,
        )  # fmt: skip
        self.size = size
        self.vision = CLIPVisionModelWithProjection(config)

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        """Embed normalized images `(B, 3, size, size)`: `(B, outputs)`, of any length."""
        return self.vision(pixel_values=images).image_embeds


def normalize(images: Tensor) -> Tensor:
    """Normalise images `(B, 3, H, W)` in [0, 255] as CLIP sees them."""
    mean, deviation = (
        torch.tensor(values, device=images.device)[:, None, None] for values in (MEAN, DEVIATION)
    )
    return (images / 255 - mean) / deviation


def load(path: Path) -> ImageEncoder:
    """Load the image encoder of a transformers folder, such as `openai/clip-vit-base-patch32`.

    The text encoder is left out. The size of the network follows from the weights.

    Raises:
        ValueError: If the folder holds another network.
    """
    weights = checkpoints.rename_keys(checkpoints.read(path), RULES)
    return checkpoints.build_with_weights(lambda: _build(weights, path), weights, path)


def _build(weights: Mapping[str, Tensor], path: Path) -> ImageEncoder:
    patches = weights.get("vision.vision_model.embeddings.patch_embedding.weight")
    positions = weights.get("vision.vision_model.embeddings.position_embedding.weight")
    projection = weights.get("vision.visual_projection.weight")
    if patches is None or positions is None or projection is None:
        raise ValueError(
            f"{path} must hold CLIP's image encoder in transformers' layout, but has other weights."
            " Use a folder such as openai/clip-vit-base-patch32."
        )
    width, _, patch, _ = patches.shape
    depth = len({key.split(".")[4] for key in weights if ".encoder.layers." in key})
    return ImageEncoder(
        width, depth, patch, patch * round((len(positions) - 1) ** 0.5), len(projection)
    )
