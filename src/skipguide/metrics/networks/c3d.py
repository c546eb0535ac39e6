"""C3D tuned on UCF-101: the classifier of the Inception Score of videos (Tran et al., ICCV 2015).

The protocol is that of TGAN (Saito et al., ICCV 2017), with its files `conv3d_deepnetA_ucf.npz` and
`mean2.npz`."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from skipguide.files import checkpoints
from skipguide.metrics.networks.clips import prepare_clips

Tensor = torch.Tensor

FRAMES = 16
RESIZED, CROPPED = 128, 112
MEAN_SHAPE = (3, FRAMES, RESIZED, 171)  # the mean clip, BGR
CLASSES = 101
CONVOLUTIONS = {
    "1a": 64,
    "2a": 128,
    "3a": 256,
    "3b": 256,
    "4a": 512,
    "4b": 512,
    "5a": 512,
    "5b": 512,
}
LAST = ("1a", "2a", "3b", "4b", "5b")  # the convolutions before a max pooling
HIDDEN = 4096
RULES = ((r"/W$", ".weight"), (r"/b$", ".bias"))  # from chainer's names


class C3D(nn.Module):
    """The classifier, and the mean clip that is subtracted from every input."""

    mean: Tensor

    def __init__(self) -> None:
        super().__init__()
        inputs = 3
        for name, outputs in CONVOLUTIONS.items():
            self.add_module(f"conv{name}", nn.Conv3d(inputs, outputs, 3, padding=1))
            inputs = outputs
        self.fc6, self.fc7 = nn.Linear(512 * 4 * 4, HIDDEN), nn.Linear(HIDDEN, HIDDEN)
        self.fc8 = nn.Linear(HIDDEN, CLASSES)
        self.register_buffer("mean", torch.zeros(3, FRAMES, RESIZED, RESIZED))

    def forward(self, clips: Tensor) -> Tensor:
        """Return probabilities `(B, 101)` of BGR clips `(B, 3, 16, 112, 112)` minus the mean."""
        x = clips
        for name in CONVOLUTIONS:
            x = F.relu(self.get_submodule(f"conv{name}")(x))
            if name in LAST:
                kernel = (1 if name == LAST[0] else 2, 2, 2)
                x = F.max_pool3d(x, kernel, kernel, ceil_mode=True)
        x = F.relu(self.fc7(F.relu(self.fc6(x.flatten(1)))))
        return self.fc8(x).softmax(1)


def probabilities(model: nn.Module, frames: Tensor) -> Tensor:
    """Return probabilities `(B, 101)` of the classes of UCF-101 for clips `(B, 16, 3, H, W)` uint8.

    TGAN's preparation: resize to 128 x 128, bicubic and without antialiasing, whatever the shape;
    convert to BGR; subtract the mean clip; crop the 112 x 112 pixels in the middle.

    Raises:
        ValueError: If clips do not have 16 frames.
    """
    if frames.shape[1] != FRAMES:
        raise ValueError(
            f"C3D needs clips of {FRAMES} frames, but got {frames.shape[1]}. Cut them."
        )
    return torch.cat([classify(model, prepare_clips(prepare, model, [clip])) for clip in frames])


def prepare(model: nn.Module, frame: Tensor) -> Tensor:
    """Resize a frame `(3, H, W)` uint8 to 128 x 128."""
    image = frame.to(model.get_buffer("mean").device).contiguous()[None].float()
    resized = F.interpolate(image, (RESIZED, RESIZED), mode="bicubic", align_corners=False)
    return resized[0]


@torch.no_grad()
def classify(model: nn.Module, clips: Tensor) -> Tensor:
    """Return probabilities `(B, 101)` for prepared clips `(B, 16, 3, 128, 128)`."""
    mean = model.get_buffer("mean")
    return torch.cat([model(_subtract_and_crop(clip, mean)) for clip in clips])


def load(weights: Path, mean: Path) -> C3D:
    """Load C3D from TGAN's `conv3d_deepnetA_ucf.npz` and `mean2.npz`.

    Raises:
        ValueError: If the files hold something else.
    """
    arrays = checkpoints.rename_keys(_arrays(weights), RULES)
    clip = _arrays(mean).get("mean")
    if clip is None or clip.numel() != np.prod(MEAN_SHAPE):
        found = "no array of that name" if clip is None else f"shape {tuple(clip.shape)}"
        raise ValueError(
            f"{mean} must hold `mean`, an array of {MEAN_SHAPE}, but got {found}. Use TGAN's"
            " mean2.npz."
        )
    left = (MEAN_SHAPE[-1] - RESIZED) // 2
    arrays["mean"] = clip.reshape(MEAN_SHAPE)[..., left : left + RESIZED]
    return checkpoints.build_with_weights(C3D, arrays, weights)


def _arrays(file: Path) -> dict[str, Tensor]:
    if not zipfile.is_zipfile(file):
        raise ValueError(
            f"{file} must be an npz archive of numpy, but it is not. Use the files that"
            " `skipguide metrics` names."
        )
    with np.load(file, allow_pickle=False) as archive:
        return {name: torch.from_numpy(archive[name]) for name in archive.files}


def _subtract_and_crop(clip: Tensor, mean: Tensor) -> Tensor:
    centred = clip.flip(1).transpose(0, 1) - mean
    start = (RESIZED - CROPPED) // 2
    return centred[..., start : start + CROPPED, start : start + CROPPED][None]
