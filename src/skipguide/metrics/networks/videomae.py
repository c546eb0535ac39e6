"""VideoMAE V2, the features of the paper's FVD: content-debiased FVD (Ge et al., arXiv:2404.12391).

The network is transformers' VideoMAE with the weights that VideoMAE V2 publishes for its own
classes.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from transformers import VideoMAEConfig, VideoMAEForVideoClassification

from skipguide.files import checkpoints
from skipguide.metrics.networks.clips import prepare_clips

Tensor = torch.Tensor

SIZE = 224
_EPS = 1e-6
_HEADS = {1408: 16}  # the giant model's; the heads of all others are 64 wide
_NAMES = (  # VideoMAE V2's key -> that of transformers
    (r"^patch_embed\.proj\.(.*)$", r"videomae.embeddings.patch_embeddings.projection.\1"),
    (r"^blocks\.(\d+)\.norm1\.(.*)$", r"videomae.encoder.layer.\1.layernorm_before.\2"),
    (r"^blocks\.(\d+)\.norm2\.(.*)$", r"videomae.encoder.layer.\1.layernorm_after.\2"),
    (r"^blocks\.(\d+)\.attn\.q_bias$", r"videomae.encoder.layer.\1.attention.attention.query.bias"),
    (r"^blocks\.(\d+)\.attn\.v_bias$", r"videomae.encoder.layer.\1.attention.attention.value.bias"),
    (r"^blocks\.(\d+)\.attn\.proj\.(.*)$", r"videomae.encoder.layer.\1.attention.output.dense.\2"),
    (r"^blocks\.(\d+)\.mlp\.fc1\.(.*)$", r"videomae.encoder.layer.\1.intermediate.dense.\2"),
    (r"^blocks\.(\d+)\.mlp\.fc2\.(.*)$", r"videomae.encoder.layer.\1.output.dense.\2"),
    (r"^fc_norm\.(.*)$", r"fc_norm.\1"),
    (r"^head\.(.*)$", r"classifier.\1"),
)
_QKV = re.compile(r"blocks\.(\d+)\.attn\.qkv\.weight")


def load(path: Path) -> nn.Module:
    """Load a fine-tuned checkpoint of VideoMAE V2, of any size.

    Raises:
        ValueError: if the file holds something else.
    """
    state = checkpoints.read(path)
    try:
        model = VideoMAEForVideoClassification(_config(state))
        model.load_state_dict(_convert_keys(state))
    except (KeyError, RuntimeError) as error:
        raise ValueError(
            f"weights must be those of a fine-tuned VideoMAE V2, but {path} does not fit ({error})."
            " Use vit_g_hybrid_pt_1200e_ssv2_ft.pth."
        ) from error
    assert model.fc_norm is not None
    model.fc_norm.eps = _EPS  # transformers uses torch's default here, 1e-5
    return model.eval().requires_grad_(False)


def _convert_keys(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename the keys to those of transformers, which splits VideoMAE V2's qkv matrix in three."""
    parts: dict[str, Tensor] = {}
    for key, value in state.items():
        if found := _QKV.fullmatch(key):
            place = f"videomae.encoder.layer.{found[1]}.attention.attention"
            parts.update(
                (f"{place}.{name}.weight", part)
                for name, part in zip(("query", "key", "value"), value.chunk(3), strict=True)
            )
    rest = {key: value for key, value in state.items() if not _QKV.fullmatch(key)}
    return {**checkpoints.rename_keys(rest, _NAMES), **parts}


def _config(state: Mapping[str, Tensor]) -> VideoMAEConfig:
    width, _, tubelet, patch, _ = state["patch_embed.proj.weight"].shape
    # Only the base class declares this argument.
    labels: Any = {"num_labels": len(state["head.bias"])}
    return VideoMAEConfig(
        image_size=SIZE,
        patch_size=patch,
        tubelet_size=tubelet,
        hidden_size=width,
        num_hidden_layers=sum(_QKV.fullmatch(key) is not None for key in state),
        num_attention_heads=_HEADS.get(width, width // 64),
        intermediate_size=len(state["blocks.0.mlp.fc1.bias"]),
        layer_norm_eps=_EPS,
        **labels,
    )


@torch.no_grad()
def features(model: nn.Module, frames: Tensor) -> Tensor:
    """Return features `(B, D)` of clips `(B, 16, 3, H, W)` uint8: the normalised mean over tokens.

    D is 1408 for the giant model.
    """
    return embed(model, prepare_clips(prepare, model, frames))


def prepare(model: nn.Module, frame: Tensor) -> Tensor:
    """Scale a frame `(3, H, W)` uint8 to [0, 1] and resize it to 224 x 224."""
    assert isinstance(model, VideoMAEForVideoClassification)
    image = frame.to(model.device).contiguous()[None].float() / 255
    return F.interpolate(image, (SIZE, SIZE), mode="bilinear", align_corners=False)[0]


@torch.no_grad()
def embed(model: nn.Module, clips: Tensor) -> Tensor:
    """Return features `(B, D)` of prepared clips `(B, 16, 3, 224, 224)`."""
    assert isinstance(model, VideoMAEForVideoClassification)
    assert model.fc_norm is not None
    tokens = model.videomae(clips).last_hidden_state
    return model.fc_norm(tokens.mean(1))
